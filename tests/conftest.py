"""What all tests share: strict numerics, and the real maps where there are any."""

import fcntl
import os
import pathlib
import shutil

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # XLA and PyTorch start as many threads as they see cores, and PyTorch's take a core
    # while they wait: every worker gets its share of them, before either starts.
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[worker::workers] or cores)

import jax
import pytest
import tiny
from absl import logging

from radiovae_jax.data import synthetic

# A shape that is broadcast by accident is the commonest silent error in a loss, and
# parity with torch is judged in true float32.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Compiling dominates: a program that several tests build is compiled once.
_CACHE = pathlib.Path(__file__).resolve().parents[1] / ".jax_cache"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

_BESIDE = pathlib.Path(__file__).resolve().parents[2] / "shared" / "realmaps"


@pytest.fixture(scope="module")
def quick_compile():
    """Lets LLVM optimise nothing, which takes a third less time to compile a step.

    For whole runs whose files matter, and for JAX compared with JAX. What compares
    numbers with another program is compiled as users have it.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # functions of whole modules, for those that come next


@pytest.fixture(autouse=True)
def verbosity():
    """Undoes what a command that a test calls sets for its whole process."""
    level = logging.get_absl_logger().level
    yield
    logging.get_absl_logger().setLevel(level)


def _real_maps() -> tuple[pathlib.Path, bool]:
    """Returns the folder of the real maps, and whether they are there.

    RADIOVAE_REALMAPS names a folder that holds RadioMapSeer/gain, /png and /antenna;
    without it that is ../shared/realmaps, beside the checkout.
    """
    root = pathlib.Path(os.environ.get("RADIOVAE_REALMAPS", _BESIDE))
    return root, (root / "RadioMapSeer" / "gain").is_dir()


def pytest_report_header() -> str:
    root, there = _real_maps()
    missing = (
        "none, and the tests on them are skipped; RADIOVAE_REALMAPS names the folder "
        "that holds RadioMapSeer/"
    )
    return f"real maps: {root if there else missing}"


@pytest.fixture(scope="session")
def realmaps() -> pathlib.Path:
    """The RadioMapSeer root of the real maps; they are kept beside the project."""
    root, there = _real_maps()
    if not there:
        pytest.skip(f"no real maps in {root}; set RADIOVAE_REALMAPS to their folder")
    return root / "RadioMapSeer"


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A synthetic city in RadioMapSeer's layout: 10 maps of 64x64, 2 transmitters.

    Shared by all tests, so to be copied before it is harmed.
    """
    root = tmp_path_factory.mktemp("data") / "city"
    return synthetic.write_city(root, maps=10, transmitters=2, size=64, seed=0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with run/, 6 steps of tiny.config as main leaves them, and its city/.

    Trained once for all workers of a session, so to be read; `trained_copy` is for the
    tests that write.
    """
    # Not for tests of a function alone.
    from radiovae_jax import training
    from radiovae_jax.reporting import artifacts
    from radiovae_jax.vae import task
    from radiovae_jax.vae.charts import CHARTS

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "trained"
    with open(shared / "trained.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # The city keeps its name in the run's config, so it is written in place.
            folder.mkdir()
            try:
                training.run(task.make, tiny.config(folder / "city"), folder / "run")
                artifacts.after_training(folder / "run", CHARTS, latents=2)
            except BaseException:
                shutil.rmtree(folder)
                raise
    return folder


@pytest.fixture
def trained_copy(trained: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A run/ of one's own, to go on with or to harm; its city is that of `trained`."""
    shutil.copytree(trained / "run", tmp_path / "run", symlinks=True)
    return tmp_path / "run"
