"""The stages of the model by the config's `stage`: what a command needs of each.

The second stage gets the first here, as a frozen codec: neither package knows the
other.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from radiovae_jax import inputs
from radiovae_jax.data import datasets, shards
from radiovae_jax.diffusion import charts as diffusion_charts
from radiovae_jax.diffusion import state, train_step
from radiovae_jax.diffusion import task as diffusion_task
from radiovae_jax.diffusion.predictor import Predictor
from radiovae_jax.diffusion.state import FirstStage, Frozen
from radiovae_jax.evaluation import latent_statistics
from radiovae_jax.moments import RunningMoments
from radiovae_jax.reporting.curves import Charts
from radiovae_jax.training import checkpoint, checksums, run_folder, schema
from radiovae_jax.vae import charts as vae_charts
from radiovae_jax.vae import codec, latents
from radiovae_jax.vae import task as vae_task
from radiovae_jax.vae.codec import Codec

ConfigDict = ml_collections.ConfigDict
RELEASED_SCALE = 0.3  # that RadioDiff multiplies all latents by
COMPUTED = ("dtype", "remat", "attention_chunk", "dropout", "name")
MAKE: dict[str, Callable[..., Callable[..., Any]]] = {
    "vae": lambda config, workdir: vae_task.make,
    "diffusion": lambda config, workdir: functools.partial(
        diffusion_task.make, first=first_stage(config, workdir)
    ),
}
CHARTS = {"vae": vae_charts.CHARTS, "diffusion": diffusion_charts.CHARTS}


def make(config: ConfigDict, workdir: pathlib.Path | None) -> Callable[..., Any]:
    """Returns the function (config, shape) -> Task that `training.run` takes.

    Args:
      workdir: where a run of the second stage keeps what it knows of the first.
    """
    return MAKE[config.stage](config, workdir)


def lacking(config: ConfigDict) -> Iterator[tuple[ConfigDict, pathlib.Path]]:
    """Yields config and folder of the first stage that is to be trained before.

    Where `first_stage.config` names one, and it is not there or not at its end.
    """
    if config.stage != "diffusion" or not config.first_stage.config:
        return
    if config.first_stage.run == "pixels":
        return
    folder = pathlib.Path(config.first_stage.run)
    if (folder / "config.json").exists():
        first = run_folder.read_config(folder)
    else:
        first = schema.read(config.first_stage.config)
        for name in ("source", "root", "synthetic"):
            first.data[name] = config.data[name]
    done = checkpoint.whole_steps(folder)
    if not done or max(done) < first.train.steps:
        logging.info("training the first stage of %s first", folder)
        yield first, folder


def charts(workdir: pathlib.Path | str) -> Charts:
    """Returns the charts of a run's report, by the stage in its folder's config."""
    path = pathlib.Path(workdir) / "config.json"
    there = inputs.read_json(path, remedy="put it back") if path.exists() else {}
    return CHARTS.get(there.get("stage"), CHARTS["vae"])


def first_stage(config: ConfigDict, workdir: pathlib.Path | None) -> FirstStage:
    """Returns the frozen first stage of the configured second one.

    Its statistics are those that the run's folder has; else they are computed.

    Raises:
      FileNotFoundError, ValueError: it is not there, is no first stage, or is not the
        one that the run began with.
    """
    name = config.first_stage.run
    if name == "pixels":
        return state.pixels(1, config.data.image_size)
    if not (pathlib.Path(name) / "config.json").exists():
        raise FileNotFoundError(
            f"first_stage.run={name} is no folder of a trained first stage; train one "
            f"with python -m radiovae_jax.main --config radio --workdir {name}"
        )
    run = codec.load(name)
    # A run that starts from the weights of another takes latents as that one did.
    record = kept(workdir, name) or kept(donor_of(config), name)
    identity = identity_of(run)
    if record and record["identity"] != identity:
        raise ValueError(
            f"the first stage in {name} has changed: {workdir} was trained on another "
            f"one ({record['run']}, step {record['step']}); give that one with "
            "--config.first_stage.run, or another --workdir"
        )
    if folder := config.first_stage.latents:
        there = shards.read_manifest(pathlib.Path(folder))["identity"]
        if there.get("weights_sha256") != latents.digest(run.params):
            raise ValueError(
                f"{folder} holds the latents of step {there.get('step')}, "
                f"{there.get('weights')} weights, of another run than {run.description}"
                f"; export them with python tools/export_latents.py {name}"
            )
    if not record:
        record = {"identity": identity, "run": str(name), "step": run.step}
        record |= statistics(config, run)
    return FirstStage(
        posterior=run.posterior,
        image=run.image,
        frozen=Frozen(
            run.params,
            jnp.asarray(record["mean"], jnp.float32),
            jnp.asarray(record["std"], jnp.float32),
        ),
        channels=run.model.embed_dim,
        factor=run.factor,
        # One that takes maps as they are stored takes them resized as well.
        image_size=run.image_size or config.data.image_size,
        record=record,
    )


def load_predictor(
    workdir: pathlib.Path | str,
    weights: str = "ema",
    *,
    step: int = 0,
    config: ConfigDict | None = None,
) -> Predictor:
    """Reads the predictor of a run; public as `radiovae_jax.load_predictor`.

    Args:
      workdir: folder of a run of the second stage.
      weights: "ema" (the average that validation measures) or "live".
      step: which checkpoint; 0 is the one with the lowest validation NMSE.
      config: instead of the folder's, for other data.

    Raises:
      FileNotFoundError: no run, no checkpoint in it, or no first stage.
      ValueError: the run is no second stage, or its first stage has changed.
    """
    if weights not in codec.WEIGHTS:
        raise ValueError(f"weights={weights!r} is not 'ema' or 'live'")
    workdir = inputs.local(workdir, "workdir")
    config = config or run_folder.read_config(workdir)
    if config.stage != "diffusion":
        raise ValueError(
            f"{workdir} is the run of a first stage, which predicts nothing from "
            "buildings; train a second one with --config radio_ldm"
        )
    schema.check(config)
    if not (workdir / state.RECORD).exists():
        raise FileNotFoundError(
            f"{workdir} lacks {state.RECORD}, which says of which first stage its "
            "latents are and how they are spread; copy it from where it was trained"
        )
    first = first_stage(config, workdir)
    size = trained_size(workdir)
    with config.unlocked():
        config.train.dtype = "float32"
    built = diffusion_task.build(config, first, size)
    fresh = functools.partial(train_step.init_state, built, image_size=size)
    part = {"ema": "ema", "live": "params"}[weights]
    like = {part: getattr(jax.eval_shape(fresh, jax.random.key(0)), part)}
    step, restored = run_folder.hold(
        workdir, step, lambda step: checkpoint.restore_part(workdir, step, like)
    )
    return Predictor(
        built=built,
        params=restored[part],
        db=datasets.db_range(config),
        step=step,
        description=f"{workdir}, step {step}, {weights} weights",
    )


def trained_size(workdir: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) of the maps that a second stage was trained on."""
    path = workdir / state.RECORD
    remedy = "copy it from where the run was trained"
    size = inputs.read_json(path, remedy=remedy).get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"{path} says no size of the maps; {remedy}")
    return tuple(size)


def first_stage_of(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a second stage's first one.

    Raises:
      ValueError: it has none.
    """
    run = run_folder.read_config(workdir).first_stage.run
    if run == "pixels":
        raise ValueError(
            "first_stage.run=pixels: this run has no first stage to descend through; "
            "take --method conditioned, or another --workdir"
        )
    return pathlib.Path(run)


def donor_of(config: ConfigDict) -> pathlib.Path | None:
    """Returns the folder of the run that a new one starts from, if any."""
    donor = config.train.init_from
    return pathlib.Path(donor) if donor else None


def kept(workdir: pathlib.Path | None, name: str) -> dict[str, Any]:
    """Returns what a run's folder has of its first stage; {} where it has nothing."""
    path = pathlib.Path(workdir or "") / state.RECORD
    if workdir is None or not path.exists():
        return {}
    remedy = f"put it back, or train in another --workdir from {name}"
    record = inputs.read_json(path, remedy=remedy)
    missing = {"identity", "run", "step", "mean", "std"} - record.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {remedy}")
    return record


def identity_of(run: Codec) -> str:
    """Returns a checksum of the autoencoder's structure and weights."""
    # Not how it is computed; functions by name, as their text has an address.
    fields = {
        name: getattr(value, "__name__", str(value))
        for name, value in vars(run.model).items()
        if not name.startswith("_") and name not in COMPUTED
    }
    whole = {"weights": checksums.of_state(run.params), "model": fields}
    text = json.dumps(whole, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def statistics(config: ConfigDict, run: Codec) -> dict[str, Any]:
    """Returns mean and deviation of each latent channel over training maps.

    And rmse_f: of their reconstructions, whose error samples of latents do not show.
    """
    if config.first_stage.scale == "released":
        channels = run.model.embed_dim
        return {"mean": [0.0] * channels, "std": [1 / RELEASED_SCALE] * channels}
    source = datasets.open_data(config, config.data.train_split)
    found = latents.of_training(source, run, maps=config.first_stage.maps)
    total, squares, count = RunningMoments(), 0.0, 0
    for posterior, off in found:
        total = total.merge(latent_statistics.moments(*posterior))
        squares, count = squares + float(off.sum()), count + len(off)
    found = latent_statistics.statistics(total)
    known = {"maps": count, "rmse_f": (squares / count) ** 0.5}
    return {"mean": found["mean"], "std": found["std"]} | known
