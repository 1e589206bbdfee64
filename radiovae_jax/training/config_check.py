"""What a config may say: every field, its kind and its range, checked before anything.

One message names all that is wrong. The files in configs/ say what the fields do.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections

from radiovae_jax import cli, inputs, losses
from radiovae_jax.data import augmentation, sources, splits
from radiovae_jax.vae import objectives


class Rule(NamedTuple):
    """Whether a value is allowed, and what is, in words."""

    allows: Callable[[Any], bool]
    words: str


def whole(low: int, high: int = 2**31 - 1) -> Rule:
    """A whole number within both ends; steps and sizes are of 32 bits on devices."""
    words = f"a whole number from {low} to {high}"
    return Rule(lambda v: is_whole(v) and low <= v <= high, words)


def real(low: int | float, high: int | float = float("inf")) -> Rule:
    """A number within both ends."""

    def allows(value) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and low <= value <= high and abs(value) != float("inf")

    upper = "" if high == float("inf") else f" to {high:g}"
    return Rule(allows, f"a number from {low:g}{upper}")


def one_of(*choices: str) -> Rule:
    return Rule(lambda v: v in choices, "one of " + ", ".join(map(repr, choices)))


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def sequence(rule: Rule, *, shortest: int) -> Rule:
    def allows(values) -> bool:
        right = isinstance(values, list | tuple) and len(values) >= shortest
        return right and all(map(rule.allows, values))

    return Rule(allows, f"a tuple of {rule.words}")


ANY_NUMBER = real(-float("inf"))
TEXT = Rule(lambda v: isinstance(v, str), "a text")
NUMBER_OR_NONE = Rule(
    lambda v: v is None or ANY_NUMBER.allows(v), "a number, or None for the source's"
)
YES_NO = Rule(lambda v: isinstance(v, bool), "True or False")
SEED = whole(0, cli.MAX_SEED)
SIDE = whole(1)
SIZE = Rule(
    lambda v: SIDE.allows(v) or (sequence(SIDE, shortest=2).allows(v) and len(v) == 2),
    "a size or a (height, width)",
)
WEIGHTS = Rule(
    lambda v: sequence(real(0), shortest=3).allows(v) and len(v) == 3,
    "three numbers from 0: of rec, edge and pinn",
)
SOURCE = one_of(*sources.KINDS)._replace(
    words=f"{one_of(*sources.KINDS).words}; 'tfds_images' is any data set of TFDS, by "
    "its name in data.dataset"
)
AVERAGED = one_of("autoencoder", "logvar", "disc_params", "disc_stats")

FIELDS: dict[str, Any] = {
    "seed": SEED,
    "autoencoder": dict(
        in_channels=whole(1),
        out_ch=whole(1),
        ch=whole(1),
        ch_mult=sequence(whole(1), shortest=1),
        num_res_blocks=whole(1),
        attn_resolutions=sequence(SIZE, shortest=0),
        resolution=SIZE,
        mid_attention=YES_NO,
        z_channels=whole(1),
        embed_dim=whole(1),
        double_z=YES_NO,
        dropout=real(0, 0.999),
        remat=YES_NO,
        attention_chunk=whole(0),
    ),
    "loss": dict(
        disc_start=whole(0),
        disc_ramp_steps=whole(0),
        discriminator_before_start=one_of("off", "released"),
        disc_factor=real(0),
        disc_weight=real(0),
        disc_loss=one_of("hinge", "vanilla"),
        disc_conditional=YES_NO,
        disc_in_channels=whole(1),
        disc_num_layers=whole(1),
        disc_ndf=whole(1),
        use_actnorm=YES_NO,
        fresh_reconstruction=YES_NO,
        reconstruction=one_of(*losses.RECONSTRUCTION),
        reduction=one_of(*losses.REDUCTION),
        kl_weight=real(0),
        kl_schedule=one_of("constant", "linear", "cyclical"),
        kl_warmup_steps=whole(0),
        kl_cycles=whole(1),
        kl_ratio=real(1e-6, 1),
        kl_reduction=one_of("same", "sum"),
        free_bits=real(0),
        free_bits_per=one_of("dimension", "entry"),
        objective=one_of(*objectives.TERMS),
        objectives={
            name: dict(total=WEIGHTS, balance=WEIGHTS, pixel_weights=WEIGHTS)
            for name in objectives.TERMS
        },
        pinn_form=one_of("dimensionless", "released"),
        input_range=one_of("unit", "released"),
        mask_range=one_of("unit", "released"),
        perceptual_weight=real(0),
        perceptual_weights=TEXT,
        pixelloss_weight=real(0),
        pixel_weights=one_of("none", "street"),
        ssim_weight=real(0),
        ssim_balance=real(0),
        feature_matching_weight=real(0),
        r1_weight=real(0),
        lecam_weight=real(0),
        lecam_decay=real(0, 0.999999),
        logvar_init=ANY_NUMBER,
        loss_scale=real(0),
    ),
    "optimizer": dict(
        learning_rate=real(0),
        disc_learning_rate=real(0),
        logvar_learning_rate=real(0),
        schedule=one_of("cosine", "polynomial", "constant"),
        end_factor=real(0),
        warmup_steps=whole(0),
        beta1=real(0, 0.999999),
        beta2=real(0, 0.999999),
        eps=real(0),
        weight_decay=real(0),
        clip_norm=real(0),
        clip_weights=real(0),
    ),
    "ema": dict(
        schedule=one_of("warmup", "released"),
        decay=real(0, 1),
        of=sequence(AVERAGED, shortest=1),
    ),
    "data": dict(
        source=SOURCE,
        root=TEXT,
        dataset=TEXT,
        simulation=TEXT,
        split_scheme=one_of(*splits.SCHEMES),
        split_by=one_of(*splits.SPLIT_BY),
        db_floor=NUMBER_OR_NONE,
        db_span=NUMBER_OR_NONE,
        transmitters=whole(0),
        train_split=TEXT,
        val_split=TEXT,
        image_size=whole(0),
        crop=whole(0),
        augment=one_of(*augmentation.AUGMENTATIONS),
        threads=whole(1),
        prefetch=whole(1),
        synthetic=dict(maps=whole(1), transmitters=whole(1), size=whole(1), seed=SEED),
    ),
    "train": dict(
        steps=whole(1),
        init_from=TEXT,
        extend=YES_NO,
        stop_at=whole(0),
        batch_size=whole(1),
        accumulate_steps=whole(1),
        fsdp=whole(1),
        dtype=one_of("auto", "float32", "bfloat16"),
        log_every=whole(1),
        validate_every=whole(1),
        validation_batch_size=whole(1),
        metrics_size=one_of("stored", "seen"),
        checkpoint_every=whole(1),
        keep_checkpoints=whole(1),
        images=whole(1),
        histogram_every=whole(0),
        max_skipped=whole(1),
        rollback=whole(0),
        rollback_factor=real(1e-6, 1),
        stop_on_plateau_steps=whole(0),
        stop_on_kl_below=real(0),
        stop_on_divergence=real(0),
    ),
}

PATHS = (("data", "root"), ("train", "init_from"), ("loss", "perceptual_weights"))


def check(config: ml_collections.ConfigDict) -> None:
    """Checks every field, and writes the home folder for ~ in the config's paths.

    Raises:
      ValueError: names every unknown, missing or impossible field.
    """
    problems = list(_problems(config.to_dict(), FIELDS, ""))
    if not problems:
        problems = [*_contradictions(config), *_lost_terms(config), *_paths(config)]
    if problems:
        raise ValueError(
            "the config does not fit this version:\n  " + "\n  ".join(problems)
        )


def _paths(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Writes the home folder for ~; yields paths that are not of this machine."""
    for section, field in PATHS:
        path = config[section][field]
        try:
            local = str(inputs.local(path, f"{section}.{field}"))
            if path.startswith("~"):
                config[section][field] = local
        except ValueError as error:
            yield str(error)


def _contradictions(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Yields what is allowed by itself and not together."""
    data, train, objective = config.data, config.train, config.loss.objective
    if "autoencoder" not in config.ema.of:
        yield "ema.of must hold 'autoencoder': validation judges its average"
    if (data.db_floor is None) != (data.db_span is None):
        yield (
            f"data.db_floor={data.db_floor} and data.db_span={data.db_span}: give both "
            "(dB at f = 0, and dB over the whole scale) or none"
        )
    elif data.db_span is not None and data.db_span < 0:
        yield f"data.db_span={data.db_span:g} must be a number from 0; 0: no dB"
    if data.crop and data.image_size:
        yield (
            "data.crop and data.image_size exclude each other: crops would be seen at "
            "another scale than the whole maps of the validation; set one of them to 0"
        )
    if train.batch_size % train.accumulate_steps:
        yield (
            f"train.batch_size={train.batch_size} does not split into "
            f"train.accumulate_steps={train.accumulate_steps} equal parts"
        )
    if objective != "base" and data.source == "tfds_images":
        yield (
            f"loss.objective={objective} is made of path gains, and the images of "
            "data.source=tfds_images are none: set loss.objective=base"
        )
    if objective == "dpm2irt4":
        if data.simulation != "IRT4":
            yield "loss.objective=dpm2irt4 maps DPM to IRT4: set data.simulation=IRT4"
        if data.source != "radiomapseer":
            yield (
                f"loss.objective=dpm2irt4 reads pairs of maps and "
                f"data.source={data.source} has none: set data.source=radiomapseer"
            )


def _lost_terms(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Yields what is asked of the loss and would be 0 all the same."""
    loss, steps = config.loss, config.train.steps
    if loss.kl_schedule == "cyclical" and steps < 2 * loss.kl_cycles:
        yield (
            f"loss.kl_cycles={loss.kl_cycles} does not fit train.steps={steps}: a "
            "cycle begins with weight 0, so take two steps or more for each"
        )
    if not loss.disc_factor:
        for name in ("feature_matching_weight", "r1_weight", "lecam_weight"):
            if loss[name]:
                yield (
                    f"loss.{name}={loss[name]:g} is of the discriminator, and "
                    "loss.disc_factor=0 switches that off: set one of them otherwise"
                )
    for name, terms in objectives.TERMS.items():
        for kind in ("total", "balance"):
            weights = objectives.Pixelwise(*loss.objectives[name][kind])._asdict()
            lost = [term for term in weights.keys() - terms if weights[term]]
            if lost:
                yield (
                    f"loss.objectives.{name}.{kind} weighs {', '.join(sorted(lost))}, "
                    f"which {name} does not compute: weigh {', '.join(terms)} alone, "
                    "or choose another loss.objective"
                )


def _problems(values: Mapping, fields: Mapping, prefix: str):
    for name in fields.keys() - values.keys():
        yield f"{prefix}{name} is missing: {_words(fields[name])}"
    for name, value in values.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            yield f"{prefix}{name} is no field{hint}"
        elif isinstance(fields[name], dict):
            if not isinstance(value, dict):
                yield f"{prefix}{name}={value!r} must be a section"
            else:
                yield from _problems(value, fields[name], f"{prefix}{name}.")
        elif not fields[name].allows(value):
            yield f"{prefix}{name}={value!r} must be {fields[name].words}"


def _words(field: Any) -> str:
    return "a section" if isinstance(field, dict) else field.words
