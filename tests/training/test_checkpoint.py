"""Checkpoints on a state of a few arrays: what is kept, what counts as damage."""

import contextlib
import errno
import os
import pathlib
import shutil
from typing import NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from radiovae_jax import losses
from radiovae_jax.training import checkpoint, checksums, orbax_errors
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.vae.train_step import TrainState

ROW = 4096
FULL = os.strerror(errno.ENOSPC)
CHECKSUMMED = {
    "bfloat16": 1197312728,
    "empty": 0,
    "flag": 1,
    "float16": 19229010,
    "float32": 2317792932,
    "int32": 1623096539,
    "step": 12345,
    "uint8": 273168,
}


def checksummed() -> dict[str, jax.Array]:
    """Returns the arrays that CHECKSUMMED belongs to."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(8, 6, 4)).astype(np.float32)
    return {
        "float32": jnp.asarray(normal),
        "bfloat16": jnp.asarray(normal, jnp.bfloat16),
        "float16": jnp.asarray(normal[0], jnp.float16),
        "int32": jnp.asarray(rng.integers(-(2**31), 2**31, (8, 5)), jnp.int32),
        "uint8": jnp.asarray(rng.integers(0, 256, (16, 3)), jnp.uint8),
        "step": jnp.asarray(12345, jnp.int32),
        "flag": jnp.asarray(True),
        "empty": jnp.zeros((0, 3)),
    }


def state_at(step: int) -> TrainState:
    """Returns a state whose arrays are drawn from its step."""
    keys = iter(jax.random.split(jax.random.key(step), 4))
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={
            "autoencoder": {"kernel": jax.random.normal(next(keys), (64, ROW))},
            "logvar": jnp.asarray(0.5),
        },
        disc_params={"kernel": jax.random.normal(next(keys), (8, 8))},
        disc_stats={"mean": jnp.zeros(3)},
        ema={"autoencoder": {"kernel": jax.random.normal(next(keys), (64, ROW))}},
        opt_state=(jnp.asarray(step, jnp.int32), {"mu": jnp.ones((5, 7))}),
        disc_opt_state=(),
        lecam=losses.LeCamState.start(),
        skipped=jnp.asarray(2, jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


@contextlib.contextmanager
def opened(workdir, **options):
    with contextlib.closing(Checkpoints(workdir, **options)) as checkpoints:
        yield checkpoints


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory) -> pathlib.Path:
    """A folder with checkpoints of steps 1 and 2; to be copied before it is harmed."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    with opened(workdir) as checkpoints:
        for step in (1, 2):
            data = {"position": step, "seed": 42}
            checkpoints.save(state_at(step), data, {"nmse": 1 / step})
        checkpoints.wait()
    return workdir


@pytest.fixture
def workdir(two_saved, tmp_path) -> pathlib.Path:
    return shutil.copytree(two_saved, tmp_path / "run")


def restored_step(workdir: pathlib.Path) -> int:
    """Restores the newest checkpoint; checks that it is exactly what was saved."""
    with opened(workdir) as checkpoints:
        state, data = checkpoints.restore_latest(state_at(0))
    step = int(state.step)
    assert data.pop("seed", 42) == 42
    assert data == {"position": step}
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))
    return step


def largest(folder: pathlib.Path) -> pathlib.Path:
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_the_best_one_stays_and_never_a_nan(tmp_path):
    with opened(tmp_path, keep=1) as checkpoints:
        for step, nmse in enumerate((0.3, 0.1, float("nan"), float("nan")), 1):
            checkpoints.save(state_at(step), {}, {"nmse": nmse})
            checkpoints.wait()
        assert checkpoints.steps() == [2, 4]
    assert checkpoint.best_step(tmp_path) == 2


def cut(folder):
    path = largest(folder / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(name, change):
    """Returns what changes the text of one file of a checkpoint."""

    def harm(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return harm


def better(text):
    return text.replace("0.5", "0.1")


tear_the_metrics = edit("metrics/metrics", lambda text: '{"nm')


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        lambda folder: largest(folder / "state").unlink(),
        edit("state/_METADATA", lambda text: "{"),
        edit("data/metadata", lambda text: text[:20]),
        tear_the_metrics,
        # Version 0.1 wrote no checksum beside its position.
        edit("data/metadata", lambda text: '{"position": 3}'),
        edit("data/metadata", lambda text: text.replace('n": 2', 'n": 3')),
        edit("data/metadata", lambda text: text.replace('d": 42', 'd": 43')),
        edit("metrics/metrics", better),
    ],
    ids="cut lost structure torn metrics old position seed better".split(),
)
def test_a_damaged_newest_one_is_set_aside_for_the_one_before(workdir, harm, caplog):
    harm(workdir / "checkpoints" / "2")
    assert restored_step(workdir) == 1
    assert "checkpoint 2" in caplog.text
    assert (workdir / "damaged_checkpoints" / "2").is_dir()
    assert not (workdir / "checkpoints" / "2").exists()


def test_whichever_byte_is_flipped_what_comes_back_is_exact(two_saved, tmp_path):
    """Without checksums all twelve come back as if nothing had happened."""
    for number, place in enumerate(np.linspace(0.02, 0.98, 12)):
        workdir = shutil.copytree(two_saved, tmp_path / str(number))
        path = largest(workdir / "checkpoints" / "2" / "state")
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 0x10
        path.write_bytes(data)
        restored_step(workdir)


def test_arrays_that_are_not_as_they_were_saved_are_damage(workdir, caplog):
    """Written with the right form and one bit of one weight flipped on the way."""
    other = state_at(2)
    kernel = np.array(other.params["autoencoder"]["kernel"])
    kernel.view(np.uint32)[3, 5] ^= 1
    other.params["autoencoder"]["kernel"] = jnp.asarray(kernel)
    shutil.rmtree(workdir / "checkpoints" / "2")
    with pytest.MonkeyPatch.context() as monkeypatch, opened(workdir) as checkpoints:
        of_whole = checksums.of_state(state_at(2))
        monkeypatch.setattr(checksums, "of_state", lambda state: of_whole)
        checkpoints.save(other, {"position": 2}, {"nmse": 0.5})
        checkpoints.wait()
    like = {"params": state_at(2).params}
    with pytest.raises(ValueError, match=r"checkpoint 2 of .*there are \[1, 2\]"):
        checkpoint.restore_part(workdir, 2, like)
    assert restored_step(workdir) == 1
    assert "params/autoencoder/kernel" in caplog.text


def test_a_file_in_the_folders_place_is_named_before_any_step(tmp_path):
    (tmp_path / "checkpoints").write_text("not ours")
    with pytest.raises(NotADirectoryError, match=r"/checkpoints is no folder; move"):
        Checkpoints(tmp_path)
    assert (tmp_path / "checkpoints").read_text() == "not ours"


def test_where_no_checkpoint_can_be_read_nothing_is_moved(workdir):
    for step in ("1", "2"):
        cut(workdir / "checkpoints" / step)
    with (
        opened(workdir) as checkpoints,
        pytest.raises(ValueError, match=r"none of the checkpoints \[1, 2\]"),
    ):
        checkpoints.restore_latest(state_at(0))
    assert checkpoint.best_step(workdir) == 2


def test_a_checkpoint_without_checksums_and_counters_is_read(workdir, caplog):
    """As version 0.1 wrote them: the counters of skipped updates begin at 0."""
    shutil.rmtree(workdir / "checkpoints" / "2")
    state = state_at(2)
    fields = {"skipped", "skipped_in_row", "lecam"}
    old = {name: part for name, part in state._asdict().items() if name not in fields}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(old), data=ocp.args.JsonSave({"position": 2})
    )
    caplog.set_level("INFO")
    with opened(workdir) as checkpoints:
        checkpoints._manager.save(2, args=args)
        checkpoints.wait()
        found, data = checkpoints.restore_latest(state_at(0))
    assert data == {"position": 2}
    expected = state._replace(skipped=0 * state.skipped)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert "older than lecam, skipped, skipped_in_row: from 0" in caplog.text
    assert "no checksums of 13 arrays of 13" in caplog.text


def test_a_field_that_this_version_lacks_is_not_dropped(workdir, caplog):
    class Less(NamedTuple):
        step: jax.Array
        params: dict

    whole = state_at(0)
    with opened(workdir) as checkpoints, pytest.raises(ValueError, match="none of the"):
        checkpoints.restore_latest(Less(whole.step, whole.params))
    assert "it has disc_opt_state, disc_params, disc_stats, ema" in caplog.text


def test_a_disk_that_is_full_is_said_once_and_the_older_one_stays(workdir):
    with opened(workdir) as checkpoints, command.full_disk(100_000):
        with pytest.raises(checkpoint.NotWrittenError) as error:
            checkpoints.save(state_at(3), {"position": 3}, {"nmse": 0.1})
            checkpoints.wait()
    message = str(error.value)
    assert "File too large" in message and "steps [1, 2]" in message
    assert "\n" not in message
    for _ in range(2):  # a late writer's folder goes when the next process comes
        assert restored_step(workdir) == 2
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "2"]


@pytest.mark.parametrize(
    "line",
    [
        f"DATA_LOSS: Error writing x: {FULL} [os_error_code='28' a='y']...",
        f"DATA_LOSS: x: {FULL} [tensorstore_spec='{{\"create\": true}}'] z\nmore",
        f"{FULL} [tensorstore_spec='{{}}']",
        FULL,
    ],
)
def test_the_reason_of_a_failed_write_is_the_operating_system_s(line):
    assert orbax_errors.cause(ValueError(line)) == FULL
    wrapped = RuntimeError("a thread of Orbax failed: see above")
    wrapped.__cause__ = OSError(errno.ENOSPC, FULL, "/run/checkpoints/60/data/metadata")
    assert orbax_errors.cause(wrapped) == FULL


def test_a_network_of_another_form_is_told_from_damage(workdir):
    kernel = state_at(2).ema["autoencoder"]["kernel"]
    # Of two arrays the first that differs is named; what is not asked for is none.
    for arrays, words in (
        ({"kernel": kernel[:, :8]}, r"kernel is \(64, 4096\) there and \(64, 8\) by"),
        ({"kernel": kernel, "more": kernel}, r"more is nothing there and \(64, 4096\)"),
        ({"other": kernel}, r"kernel is \(64, 4096\) there and nothing by"),
    ):
        with pytest.raises(ValueError, match=f"config.json does not fit .*{words}"):
            checkpoint.restore_part(workdir, 2, {"ema": {"autoencoder": arrays}})
    logvar = {"params": {"logvar": state_at(2).params["logvar"]}}
    assert checkpoint.restore_part(workdir, 2, logvar) == logvar


def test_a_step_without_its_state_is_none(workdir):
    shutil.rmtree(workdir / "checkpoints" / "2" / "state")
    assert checkpoint.best_step(workdir) == 1
    with pytest.raises(FileNotFoundError, match=r"of step 2; it has those of \[1\]"):
        checkpoint.restore_part(workdir, 2, {})


def test_damaged_metrics_do_not_choose_the_best(workdir):
    for text in ("", "null", "[]", "{}", '{"nmse": "x"}', '{"nmse": 0.1}'):
        (workdir / "checkpoints" / "2" / "metrics" / "metrics").write_text(text)
        assert checkpoint.best_step(workdir) == 1, text


def test_checksums_by_hand():
    # Bits 5, 7, 9 at places 0, 1, 2 weigh 1, 3, 5; 1.0 has the bits 0x3f800000.
    state = {"a": jnp.asarray([5, 7, 9], jnp.int32), "b": (jnp.asarray(1.0),)}
    assert checksums.of_state(state) == {"a": 5 + 21 + 45, "b/0": 0x3F800000}


def test_checksums_are_those_of_the_checkpoints_that_there_are():
    """Numbers of version 0.1, which summed on the host."""
    assert checksums.of_state(checksummed()) == CHECKSUMMED


def test_checksums_see_every_single_bit():
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    changed = [values]
    for place in range(values.size):
        for bit in range(32):
            changed.append(values.copy())
            changed[-1].view(np.uint32).flat[place] ^= np.uint32(1 << bit)
    original, *sums = np.asarray(jax.vmap(checksums.of_array)(np.stack(changed)))
    assert len(sums) == 12 * 32 and original not in sums


# Two processes of one device each: a state whose larger arrays are split over them is
# saved, or restored where one finds damage that the other cannot see.
TOGETHER = """
import sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from training.test_checkpoint import state_at
from radiovae_jax.training.checkpoint import Checkpoints

mesh = Mesh(jax.devices(), "all")

def spread(leaf):
    spec = PartitionSpec("all") if leaf.shape[:1] == (64,) else PartitionSpec()
    place = NamedSharding(mesh, spec)
    values = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, place, lambda part: values[part])

checkpoints = Checkpoints(sys.argv[3])
if not checkpoints.steps():
    for step in (1, 2):
        state = jax.tree.map(spread, state_at(step))
        checkpoints.save(state, {"position": step}, {"nmse": 1 / step})
    checkpoints.wait()
else:
    state, data = checkpoints.restore_latest(jax.tree.map(spread, state_at(0)))
    print("restored", int(state.step), data, checkpoints.steps(), flush=True)
    checkpoints.save(jax.tree.map(spread, state_at(2)), {"position": 2}, {"nmse": 0.5})
    checkpoints.wait()
checkpoints.close()
"""


def two_processes(workdir: pathlib.Path) -> list[str]:
    """Runs TOGETHER; returns what each process says it restored."""
    processes = command.two(TOGETHER, workdir)
    printed = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    lines = [line for said, _ in printed for line in said.splitlines()]
    return [line for line in lines if line.startswith("restored")]


@pytest.fixture(scope="module")
def saved_by_two(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "by_two"
    assert two_processes(workdir) == []
    return workdir


def cut_a_half(folder):
    """Cuts what the second process wrote: the first reads its own half all the same."""
    path = largest(folder / "state" / "ocdbt.process_1")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.processes
@pytest.mark.parametrize("harm", [cut_a_half, cut, tear_the_metrics])
def test_processes_agree_on_what_is_damaged_and_one_moves_it(
    saved_by_two, tmp_path, harm
):
    workdir = shutil.copytree(saved_by_two, tmp_path / "run")
    harm(workdir / "checkpoints" / "2")
    expected = "restored 1 {'position': 1} [1]"
    assert two_processes(workdir) == [expected] * 2
    assert os.listdir(workdir / "damaged_checkpoints") == ["2"]
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "2"]
    assert restored_step(workdir) == 2  # saved again, here read by one process
