"""Ctrl-C ends a program in one word, from its first import on."""

import ast
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = [
    path
    for folder in ("radiovae_jax", "tools")
    for path in sorted((PROJECT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]
START = "import os, signal; from radiovae_jax import ctrl_c; ctrl_c.ends_program(); "
CTRL_C = "os.kill(os.getpid(), signal.SIGINT); "
INSIDE = "from radiovae_jax import cli as c\nwith c.one_message(debug=False): "


@pytest.mark.parametrize(
    "program, status, said",
    [
        (f"{START}{CTRL_C}", 130, "\nstopped\n"),
        (f"{START}\ntry: {CTRL_C}\nexcept BaseException: pass", 130, "\nstopped\n"),
        (f"{START}{INSIDE}{CTRL_C}", 130, "\nstopped\n"),
        (f"import signal; signal.signal(2, signal.SIG_IGN); {START}{CTRL_C}", 0, ""),
    ],
)
def test_it_is_one_word_and_status_130(program, status, said):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT
    )
    assert (done.returncode, done.stderr) == (status, said)


def test_the_word_comes_before_anything_that_takes_time():
    program = f"{START}import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT
    )
    assert not {"jax", "numpy", "absl", "flax"} & set(done.stdout.split())


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_begins_with_it(path):
    before = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If) and "ctrl_c.ends_program()" in ast.unparse(node):
            break
        if isinstance(node, ast.Import):
            before += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            before += [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        pytest.fail("it never takes Ctrl-C")
    slow = [n for n in before if n.partition(".")[0] not in sys.stdlib_module_names]
    assert slow == ["radiovae_jax.ctrl_c"]
