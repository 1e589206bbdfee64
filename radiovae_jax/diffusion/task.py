"""The second stage as the engine takes it, built from a config and a first stage."""

import functools

import jax
import ml_collections

from radiovae_jax.data import sources
from radiovae_jax.data.batch import resized
from radiovae_jax.diffusion import process, state, train_step, validate, warm_start
from radiovae_jax.diffusion.denoiser import Denoiser
from radiovae_jax.diffusion.process import Process
from radiovae_jax.diffusion.state import Built, Condition, FirstStage, TrainState
from radiovae_jax.nn import layers
from radiovae_jax.training import optimizers, schedules
from radiovae_jax.training.task import Numbers, Raw, Task
from radiovae_jax.types import PRNGKey

ConfigDict = ml_collections.ConfigDict
PHASE = "diffusion"


def make(config: ConfigDict, shape: tuple[int, int, int], first: FirstStage) -> Task:
    """Builds the stage that a config describes.

    Args:
      shape: (h, w, c) of the maps on disk.
      first: the frozen first stage.

    Raises:
      ValueError: something in the config cannot be done.
    """
    size = image_size(config, shape, first)
    built = build(config, first, size)
    check(built, size)
    return of(config, built, size)


def build(config: ConfigDict, first: FirstStage, size: tuple[int, int]) -> Built:
    """Makes process, network, optimiser and schedules.

    Args:
      size: (height, width) of the training's maps as the first stage gets them; it
        decides which levels attend, also where maps of another size are predicted.
    """
    o, ema = config.optimizer, config.ema
    made, condition = build_process(config), config.condition.to_dict()
    network = config.denoiser.to_dict()
    rows = [size[0] / first.factor / 2**i for i in range(len(network["mult"]))]
    most = network.pop("attention_side")
    return Built(
        process=made,
        denoiser=Denoiser(
            heads=made.heads,
            channels=first.channels,
            downsampling=first.factor,
            log_time=made.log_time,
            attention_levels=sum(side <= most for side in rows),
            dtype=layers.compute_dtype(config.train.dtype),
            **network | {"mult": tuple(network["mult"])},
        ),
        first=first,
        condition=Condition(**condition | {"planes": tuple(condition["planes"])}),
        opt=optimizers.adamw(
            beta1=o.beta1,
            beta2=o.beta2,
            eps=o.eps,
            weight_decay=o.weight_decay,
            clip_norm=o.clip_norm,
        ),
        learning_rate=schedules.learning_rate(
            o.schedule,
            peak=o.learning_rate,
            end_factor=o.end_factor,
            steps=config.train.steps,
            warmup=o.warmup_steps,
            power=o.power,
        ),
        ema_decay=schedules.ema(ema.schedule, maximum=ema.decay, after=10_000),
        accumulate_steps=config.train.accumulate_steps,
    )


def build_process(config: ConfigDict) -> Process:
    """Returns the process that config.process names, with the options it takes."""
    settings = config.process
    names = {
        "decoupled": ("weights", "norm", "precondition", "denoise"),
        "mean_flow": ("form", "power", "share"),
    }.get(settings.kind, ())
    return process.KINDS[settings.kind](**{name: settings[name] for name in names})


def image_size(
    config: ConfigDict, shape: tuple[int, int, int], first: FirstStage
) -> tuple[int, int]:
    """Returns (height, width) of the maps as the first stage gets them."""
    if config.data.image_size != first.image_size:
        raise ValueError(
            f"data.image_size={config.data.image_size}, and the first stage was "
            f"trained at {first.image_size}: set data.image_size={first.image_size}"
        )
    if shape[2] != 1:
        raise ValueError(
            f"maps of {shape[2]} channels: the second stage predicts maps of one"
        )
    return resized(*shape[:2], first.image_size)


def check(built: Built, size: tuple[int, int]) -> None:
    """Raises a ValueError for sizes that the networks do not divide."""
    if any(side % built.multiple for side in size):
        raise ValueError(
            f"maps of {size[0]}x{size[1]} are no multiple of {built.multiple}: the "
            f"first stage reduces them by {built.first.factor}, and denoiser.mult has "
            f"{len(built.denoiser.mult)} levels; use fewer levels, or another "
            "data.image_size"
        )


def of(config: ConfigDict, built: Built, size: tuple[int, int]) -> Task:
    """Returns the stage of what was built."""
    train, data = config.train, config.data
    db = sources.db_range(data.source, data.db_floor, data.db_span)
    step = functools.partial(train_step.train_step, built)
    return Task(
        constants=built.first.frozen,
        phase=lambda step: PHASE,
        init=functools.partial(train_step.init_state, built, image_size=size),
        step={PHASE: step},
        validate=functools.partial(
            validate.sums, built, metrics_size=train.metrics_size
        ),
        residuals={PHASE: functools.partial(residuals, built)},
        metrics=functools.partial(validate.numbers, db=db),
        figures=functools.partial(validate.figures, db=db, max_rows=train.images),
        weights=lambda held: held.params["params"],
        bar=bar,
        slowed=lambda factor: of(config, slowed(built, factor), size),
        step_gathers=("params",),
        validation_gathers=("ema",),
        dtype=str(built.denoiser.dtype),
        parameters=lambda held: {
            "denoiser": held.params,
            "first stage, fixed": built.first.frozen.params,
        },
        phases=f"{train.steps:,} steps of {config.process.kind}",
        schedules={"learning_rate": built.learning_rate},
        corners={"warm-up done": max(config.optimizer.warmup_steps - 1, 0)},
        keeps={state.RECORD: {**built.first.record, "size": list(size)}},
        warm_start=functools.partial(
            warm_start.prepared, ours=warm_start.network(config)
        ),
    )


def residuals(built: Built, frozen, state: TrainState, raw: Raw, key: PRNGKey):
    """Returns what the forward pass of a micro-batch leaves for its backward pass."""
    drawn = train_step.examples(built, frozen, raw, key)

    def loss_of(params):
        return train_step.loss(built, params, drawn, key)

    return jax.vjp(loss_of, state.params, has_aux=True)[1]


def slowed(built: Built, factor: float) -> Built:
    """Returns it with the learning rate multiplied."""
    rate = built.learning_rate
    return built._replace(learning_rate=lambda step: factor * rate(step))


def bar(values: Numbers) -> dict[str, float]:
    """Returns the numbers that the progress bar shows: of mean flow the velocity's."""
    names = ("v_loss", "c_loss", "n_loss")
    shown = {
        name: values[f"train/{name}"] for name in names if f"train/{name}" in values
    }
    return {"loss": values["train/loss"]} | shown
