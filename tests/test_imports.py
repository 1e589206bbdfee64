"""The map of the project: imports point down, and the core needs only the core."""

import ast
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "radiovae_jax"

# From the ground up; a module imports from its own floor and from those above it here.
FLOORS = """
types files inputs progress ctrl_c provenance cli _moved
losses physics metrics moments sharding nn
data
evaluation
training
reporting
vae diffusion
interop
main evaluate apply report apply_commands stages scripts __init__
""".split("\n")[1:-1]
# On one floor, and yet neither imports the other.
APART = {"vae", "diffusion"}, {"losses", "nn"}, {"physics", "nn"}
# The modules that name the config (ml_collections).
CONFIG = """
main evaluate stages data.datasets diffusion.task vae.task vae.experiment
vae.eval_rows vae.codec
training.schema training.fields training.config_files training.run_folder
training.trainer training.loop training.dry_run training.overview
""".split()
# Libraries that one folder alone imports.
HOMES = {
    "orbax": "training",
    "tensorboardX": "training",
    "grain": "data",
    "tensorflow_datasets": "data",
    "matplotlib": "reporting",
    "torch": "interop",
}
CORE = (
    "losses physics metrics types vae.objectives vae.adversary vae.train_step "
    "vae.state vae.loss_schedules training.schedules training.optimizers "
    "training.updates "
    "nn.cached_grad diffusion.process diffusion.denoiser interop.torch_weights "
    "interop.diffusers_weights"
).split()
ABSENT = (
    "ml_collections grain tensorflow_datasets lpips_j flaxmodels dm_pix matplotlib "
    "tensorboardX orbax PIL h5py huggingface_hub tqdm"
).split()


def floor(module: str) -> int:
    names = {module, module.partition(".")[0]}
    return next(i for i, floor in enumerate(FLOORS) if names & set(floor.split()))


def imported(path: pathlib.Path) -> set[str]:
    """Returns the project's modules that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "radiovae_jax"
        ):
            base = node.module.removeprefix("radiovae_jax").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                file = PACKAGE / (full.replace(".", "/") + ".py")
                found.add(full if file.exists() else base or full)
    return {name for name in found if name}


def modules() -> dict[str, pathlib.Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }


def test_imports_point_down():
    for name, path in modules().items():
        for other in imported(path):
            assert floor(other) <= floor(name), f"{name} imports {other}"
            rooms = {one.partition(".")[0] for one in (name, other)}
            assert rooms not in APART, f"{name} imports {other}"


def test_a_library_has_one_home():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [getattr(node, "module", None) or node.names[0].name]
            for library in {one.partition(".")[0] for one in names} & set(HOMES):
                assert name.startswith(f"{HOMES[library]}."), f"{name}: {library}"


def test_only_the_top_knows_the_config():
    for name, path in modules().items():
        if name not in CONFIG:
            assert "ml_collections" not in path.read_text(), path


def test_the_core_imports_on_a_machine_with_jax_flax_and_optax_alone():
    # A module that is None in sys.modules raises ImportError where it is imported.
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); "
        "import radiovae_jax, radiovae_jax.nn.lpips; "
        "[getattr(radiovae_jax, name) for name in radiovae_jax.__all__]; "
        + "; ".join(f"import radiovae_jax.{name}" for name in CORE)
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_itself_imports_nothing_that_takes_time():
    program = (
        "import sys, radiovae_jax; print(*sys.modules); from radiovae_jax import "
        "losses, physics, DiagonalGaussian; assert radiovae_jax.losses is losses"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not {"jax", "flax", "numpy"} & set(done.stdout.split())


def test_old_import_paths_are_the_same_modules():
    program = (
        "from radiovae_jax import objectives, run_folder, torch_weights; "
        "from radiovae_jax.models import autoencoder; "
        "from radiovae_jax.models.lpips import distance; "
        "import radiovae_jax.train_step, radiovae_jax.checkpoint; "
        "from radiovae_jax.vae import objectives as new, autoencoder as auto; "
        "assert new is objectives and auto is autoencoder; "
        "assert new.__spec__.name == 'radiovae_jax.vae.objectives'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "radiovae_jax.objectives is radiovae_jax.vae.objectives" in done.stderr
    assert "torch_weights" not in done.stderr
