"""Times the training of this tree and of an older commit, step by step, by turns.

    python benchmarks/against.py 083e59a
    python benchmarks/against.py 083e59a --config=configs/radio.py:native \\
        --config.data.root=ROOT --config.train.batch_size=2

Both are trained by their own `radiovae_jax.main` with the same arguments, so this asks
nothing of the code but its command and metrics.jsonl. One of the two processes goes on
at a time (SIGSTOP, SIGCONT), for a few steps and in random order: what slows the
machine down slows both. Printed are the medians of all whole steps.
"""

import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PROJECT = pathlib.Path(__file__).resolve().parents[1]
WARM_UP, TURN, TURNS = 2, 6, 16  # steps, and how often each has its turn
LONG = ("steps", "validate_every", "checkpoint_every")
# The adversarial step of the quickstart's network, unless the command says otherwise.
COMMAND = [sys.executable, "-m", "radiovae_jax.main", "--config=configs/quickstart.py"]
COMMAND += ["--config.loss.disc_start=0", "--config.train.log_every=1"]
COMMAND += [f"--config.train.{field}=100000" for field in LONG]


def start(tree: pathlib.Path, run: pathlib.Path, arguments: tuple[str, ...]):
    """Starts the training of a tree; stops it when a step is taken."""
    city = f"--config.data.root={run.parent / 'city'}"  # drawn by the first of the two
    process = subprocess.Popen(
        [*COMMAND, city, *arguments, f"--workdir={run}"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )
    while not steps(run):
        if process.poll() is not None:
            raise SystemExit(f"the training in {tree} ended; see above")
        time.sleep(1)
    process.send_signal(signal.SIGSTOP)
    return process


def steps(run: pathlib.Path) -> list[float]:
    """Returns the seconds of every step that a run has logged."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["time/step_seconds"] for line in lines]


def main(commit: str, *arguments: str) -> None:
    git = ["git", "-C", str(PROJECT), "worktree"]
    with tempfile.TemporaryDirectory() as name:
        folder, processes = pathlib.Path(name), {}
        trees = {"old": folder / "tree", "new": PROJECT}
        subprocess.run([*git, "add", "--detach", trees["old"], commit], check=True)
        try:
            for which, tree in trees.items():
                processes[which] = start(tree, folder / which, arguments)
            times = {which: [] for which in trees}
            for which in random.Random(0).sample(TURNS * list(trees), TURNS * 2):
                before = len(steps(folder / which))
                processes[which].send_signal(signal.SIGCONT)
                while len(steps(folder / which)) < before + WARM_UP + TURN:
                    time.sleep(0.2)
                processes[which].send_signal(signal.SIGSTOP)
                # The first was stopped in the middle; the second warms the caches.
                times[which] += steps(folder / which)[before + WARM_UP :]
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
            subprocess.run([*git, "remove", "--force", trees["old"]], check=True)
    for which, taken in times.items():
        low, middle, high = (1e3 * q for q in statistics.quantiles(taken, n=4))
        print(f"{which} {middle:.1f} ms ({low:.1f} to {high:.1f}), {len(taken)} steps")
    ratio = statistics.median(times["new"]) / statistics.median(times["old"])
    print(f"new / old: {ratio:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
