"""The folder of a run: its config, and the trained model read back from it."""

import errno
import functools
import json
import pathlib
import shlex
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from radiovae_jax import checkpoint, experiment, inputs
from radiovae_jax.models.autoencoder import AutoencoderKL

# Changing these does not change what a step computes: a resumed run may.
FREE = (
    "autoencoder.remat",
    "autoencoder.attention_chunk",
    "data.db_floor",
    "data.db_span",
    "data.root",
    "data.threads",
    "data.prefetch",
    "loss.perceptual_weights",
    "train.extend",
    "train.fsdp",
    "train.stop_at",
    "train.log_every",
    "train.validate_every",
    "train.validation_batch_size",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.images",
    "train.histogram_every",
    "train.max_skipped",
    "train.rollback",
    "train.stop_on_plateau_steps",
    "train.stop_on_kl_below",
    "train.stop_on_divergence",
)
# Fields that came after version 0.1, each with the value that does what 0.1 did: runs
# of that version have none of them in their config.json.
ADDED = {
    "autoencoder.attention_chunk": 0,
    "autoencoder.remat": False,
    "data.dataset": "mnist",
    "data.db_floor": None,
    "data.db_span": None,
    "data.split_by": "file",
    "loss.feature_matching_weight": 0.0,
    "loss.free_bits": 0.0,
    "loss.free_bits_per": "dimension",
    "loss.kl_cycles": 4,
    "loss.kl_ratio": 0.5,
    "loss.kl_reduction": "same",
    "loss.kl_schedule": "constant",
    "loss.kl_warmup_steps": 10_000,
    "loss.lecam_decay": 0.99,
    "loss.lecam_weight": 0.0,
    "loss.r1_weight": 0.0,
    "loss.reconstruction": "l1_mse",
    "loss.reduction": "sum",
    "loss.ssim_balance": 0.0,
    "loss.ssim_weight": 0.0,
    "optimizer.clip_weights": 0.0,
    "train.accumulate_steps": 1,
    "train.extend": False,
    "train.fsdp": 1,
    "train.histogram_every": 5_000,
    "train.max_skipped": 10,
    "train.rollback": 0,
    "train.rollback_factor": 0.5,
    "train.stop_on_divergence": 0.0,
    "train.stop_on_kl_below": 1e-8,
    "train.stop_on_plateau_steps": 0,
}
# Of these the configs have other values now: an older run goes on as it began.
CHANGED = ("data.split_by",)
# A disk or quota that is full, a file system that turned read-only, a file too large.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def continued(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns the config as a run of an older version goes on with it.

    The run was dealt its maps before `CHANGED` fields were there, so it keeps theirs.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        return config
    there, old = flat(json.loads(path.read_text())), read_config(workdir)
    config = config.copy_and_resolve_references()
    for name in CHANGED:
        if name not in there:
            section, field = name.split(".")
            config[section][field] = old[section][field]
    return config


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder for this config, or finds it made for it already.

    Raises:
      ValueError: it holds a run of another config; nothing is touched.
      OSError: it cannot be written.
    """
    path = pathlib.Path(workdir) / "config.json"
    if path.exists():
        saved, new = flat(read_config(workdir).to_dict()), flat(jsonable(config))
        differing = [
            f"{name}: {saved.get(name)} there, {new.get(name)} here"
            for name in sorted(saved.keys() | new.keys())
            if saved.get(name) != new.get(name) and name not in FREE
        ]
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config:\n  "
                + "\n  ".join(differing)
                + "\nGive the same config to continue that run, or another --workdir"
            )
    elif (pathlib.Path(workdir) / "checkpoints").exists():
        raise ValueError(
            f"{workdir} holds checkpoints but no config.json; give another --workdir"
        )
    try:
        pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(jsonable(config), indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise OSError(
            f"{workdir} cannot be made or written as the folder of the run ({error}); "
            "give another --workdir"
        ) from error


def explained(error: OSError, workdir: pathlib.Path) -> OSError:
    """Names the folder of the run where writing failed for want of room."""
    if error.errno not in NO_ROOM:
        return error
    return OSError(
        f"{workdir} takes nothing more ({error.strerror}); its checkpoints are whole. "
        "Make room, or the folder writable, and the same command goes on"
    )


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Says whether a run was saved in this folder."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def read_config(workdir: pathlib.Path | str) -> ml_collections.ConfigDict:
    """Returns the config of a run; of an older version's with the fields since then.

    Raises:
      FileNotFoundError: the folder is not that of a run.
    """
    path = inputs.local(workdir, "workdir") / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it has no config.json. Train one "
            "with python -m radiovae_jax.main --config configs/quickstart.py "
            f"--workdir {shlex.quote(str(workdir))}"
        )
    try:
        values = json.loads(path.read_text())
        for name, value in ADDED.items():
            section, field = name.split(".")
            values[section].setdefault(field, value)
        return ml_collections.ConfigDict(values)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); put the run's config back, or give another "
            "--workdir"
        ) from error


def training_side(
    config: ml_collections.ConfigDict,
) -> tuple[str, int | tuple[int, ...]]:
    """Returns the field that says at which size a run trained, and its value.

    Of maps that are used as they are stored the config only has the size for which
    the autoencoder was laid out.
    """
    fields = {
        "data.crop": config.data.crop,
        "data.image_size": config.data.image_size,
        "data.synthetic.size": config.data.source == "synthetic"
        and config.data.synthetic.size,
        "autoencoder.resolution": config.autoencoder.resolution,
    }
    return next((field, side) for field, side in fields.items() if side)


def load(
    workdir: pathlib.Path | str, weights: str = "ema", *, step: int = 0
) -> tuple[AutoencoderKL, Any]:
    """Returns (model, params) of a run, ready for `encode` and `decode`.

    The model computes in float32 wherever it was trained.

    Args:
      workdir: folder of the run.
      weights: "ema" (the average that validation judges) or "live".
      step: which checkpoint; 0 is the one with the lowest validation NMSE.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: unknown `weights`.
    """
    if weights not in ("ema", "live"):
        raise ValueError(f"weights={weights!r} is not 'ema' or 'live'")
    config = read_config(workdir)
    model = experiment.build_autoencoder(config).clone(dtype=jnp.float32)
    side = model.downsampling
    x = jnp.zeros((1, side, side, model.in_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(1))
    part = {"ema": "ema", "live": "params"}[weights]
    like = {part: {"autoencoder": shapes["params"]}}
    restored = _restore(workdir, step, like)
    return model, {"params": restored[part]["autoencoder"]}


def load_loss(workdir: pathlib.Path | str, *, step: int = 0) -> tuple[Any, Any]:
    """Returns (logvar, {"params", "batch_stats"} of the discriminator) of a run.

    Args:
      step: as for `load`.
    """
    discriminator = experiment.build_discriminator(read_config(workdir))
    init = functools.partial(experiment.init_discriminator, discriminator)
    shapes = jax.eval_shape(init, jax.random.key(0))
    like = {
        "params": {"logvar": jax.ShapeDtypeStruct((), jnp.float32)},
        "disc_params": shapes["params"],
        "disc_stats": shapes["batch_stats"],
    }
    restored = _restore(workdir, step, like)
    disc = {"params": restored["disc_params"], "batch_stats": restored["disc_stats"]}
    return restored["params"]["logvar"], disc


def best_step(workdir: pathlib.Path | str) -> int:
    """Returns the step of the lowest validation NMSE; the latest without one.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
    """
    read_config(workdir)
    return checkpoint.best_step(inputs.local(workdir, "workdir"))


def _restore(workdir: pathlib.Path | str, step: int, like: Any) -> Any:
    """Returns the part of a checkpoint that `like` describes, on one device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )
    workdir = inputs.local(workdir, "workdir")
    step = step or checkpoint.best_step(workdir)
    return checkpoint.restore_part(workdir, step, like)


def jsonable(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as it reads back from JSON: tuples are lists."""
    return json.loads(config.to_json())


def flat(nested: dict, prefix: str = "") -> dict[str, Any]:
    """Returns {"section.field": value}."""
    items: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items
