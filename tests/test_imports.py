"""The map of the project: imports point down, and the core needs only the core."""

import ast
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "radiovae_jax"

# From the leaves up; a module imports from its own room and from those above it here.
ROOMS = [
    {"types", "whole_files", "inputs", "progress", "ctrl_c", "run_lock", "partners"},
    {"losses", "physics", "slopes", "torch_tables", "data.radiomap", "data.splits"},
    {"torch_structure"},
    {
        "schedules",
        "optimizers",
        "sharding",
        "distributed",
        "microbatches",
        "monitor",
        "metrics",
        "models",
        "moments",
        "provenance",
        "data",
        "colours",
        "plots",
        "latent_plots",
    },
    {
        "baselines",
        "command_line",
        "interruption",
        "run_record",
        "checksums",
        "orbax_errors",
        "comparison",
        "shards",
    },
    {"latents", "latent_files", "bands", "tiling"},
    {"measure", "record"},
    {"resources", "stopping"},
    {"objectives"},
    {"adversary"},
    {"train_step"},
    {"validate", "checkpoint", "logbook", "torch_weights"},
    {"diffusers_weights", "curves", "torch_copies", "torch_pickle"},
    {"torch_files", "panels", "diagnosis"},
    {"figures", "dashboard", "report_charts"},
    {"report_page", "overview"},
    {"experiment", "datasets", "config_check"},
    {"run_folder", "judging"},
    {"warm_start", "loop", "coder", "verbs"},
    {"train"},
    {"dry_run", "showing"},
    {"main", "report", "evaluate", "apply", "__init__"},
]
CORE = (
    "losses physics objectives schedules optimizers metrics microbatches monitor "
    "adversary train_step slopes types "
    "torch_weights diffusers_weights"
).split()
ABSENT = (
    "ml_collections grain tensorflow_datasets lpips_j flaxmodels dm_pix matplotlib "
    "tensorboardX orbax PIL h5py huggingface_hub tqdm"
).split()


def room(module: str) -> int:
    names = [module, module.partition(".")[0]]
    return next(
        level
        for name in names
        for level, members in enumerate(ROOMS)
        if name in members
    )


def imported(path: pathlib.Path) -> set[str]:
    """Returns the project's modules that a file imports at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "radiovae_jax"
        ):
            base = node.module.removeprefix("radiovae_jax").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                file = PACKAGE / (full.replace(".", "/") + ".py")
                found.add(full if file.exists() else base or full)
    return {name for name in found if name}


def test_imports_point_down():
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for other in imported(path):
            assert room(other) <= room(name), f"{name} imports {other}"


def test_losses_know_no_model_and_models_know_no_loss():
    assert not any(
        name.startswith("models") for name in imported(PACKAGE / "losses.py")
    )
    for path in (PACKAGE / "models").glob("*.py"):
        assert "losses" not in imported(path)


def test_only_the_top_knows_the_config():
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in (
            "experiment",
            "datasets",
            "config_check",
            "run_folder",
            "loop",
            "train",
            "dry_run",
            "overview",
            "main",
            "evaluate",
        ):
            assert "ml_collections" not in path.read_text(), path


def test_the_core_imports_on_a_machine_with_jax_flax_and_optax_alone():
    # A module that is None in sys.modules raises ImportError where it is imported.
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); "
        "import radiovae_jax, radiovae_jax.models.lpips; "
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
