"""Every field of the config: its default, its rule, its meaning, in one table.

`schema.py` reads, checks and describes configs by it; docs/config.md is made of it. A
default is the documented run's, configs/radio.py, or what only the second stage has
configs/radio_ldm.py's. What a table of the stages or of a module that imports JAX
allows is written out here, and a test compares.
"""

from collections.abc import Iterator

import ml_collections

from radiovae_jax import cli
from radiovae_jax.data import splits
from radiovae_jax.training.rules import (
    ANY_NUMBER,
    EXTEND,
    FREE,
    NUMBER_OR_NONE,
    SIZE,
    TEXT,
    YES_NO,
    Field,
    later,
    one_of,
    pick,
    real,
    section,
    sequence,
    whole,
)

# The terms that each objective computes, as vae/objectives.py has them.
OBJECTIVES = {
    "base": ("rec",),
    "edge": ("rec", "edge"),
    "edge_pinn": ("rec", "edge", "pinn"),
    "dpm2irt4": ("rec", "edge", "pinn"),
}
TERMS = OBJECTIVES["dpm2irt4"]
OF_DISCRIMINATOR = ("feature_matching_weight", "r1_weight", "lecam_weight")
SEED = whole(0, cli.MAX_SEED)
SOURCES = one_of("radiomapseer", "tfds", "synthetic", "folder", "sionna", "tfds_images")
SOURCES = SOURCES._replace(
    words=f"{SOURCES.words}; 'tfds_images' is any data set of TFDS, by its name in "
    "data.dataset"
)
PLANES = one_of(
    "buildings", "transmitter", "distance", "log_distance", "cars", "measurements"
)
AVERAGED = one_of("autoencoder", "logvar", "disc_params", "disc_stats")
SCHEMES = one_of(*splits.SCHEMES)
WIDTHS, SIZES = sequence(whole(1), shortest=1), sequence(SIZE, shortest=0)
WEIGHTS = sequence(real(0), shortest=3, longest=3)._replace(
    words="three numbers from 0: of rec, edge and pinn"
)


def _objective(name: str, total: tuple, balance: tuple, pixel_weights: tuple):
    return section(
        f"loss.objectives.{name}",
        total=Field(total, WEIGHTS, "of rec, edge and pinn in the total"),
        balance=Field(balance, WEIGHTS, "of the three, balanced by d_weight"),
        pixel_weights=Field(pixel_weights, WEIGHTS, "multiples of the pixel weights"),
    )


FIELDS: dict[str, Field] = {
    "stage": later(
        *pick("vae diffusion"), "what is trained: the first stage, or the second"
    ),
    "seed": Field(42, SEED, "of the first weights, the noise and the order of maps"),
    **section(
        "autoencoder",
        in_channels=Field(1, whole(1), "channels of the maps"),
        out_ch=Field(1, whole(1), "channels of the reconstruction"),
        ch=Field(128, whole(1), "width of the first level"),
        ch_mult=Field(
            (1, 2, 4),
            WIDTHS,
            "widths in ch; each level beyond the first halves the size",
        ),
        num_res_blocks=Field(2, whole(1), "residual blocks a level; decoder: 1 more"),
        attn_resolutions=Field(
            (), SIZES, "sizes, of `resolution` halved, with attention"
        ),
        resolution=Field((320, 320), SIZE, "(h, w) that attn_resolutions refer to"),
        mid_attention=Field(True, YES_NO, "attention in the middle"),
        z_channels=Field(3, whole(1), "channels of the encoder's output"),
        embed_dim=Field(3, whole(1), "channels of the latent"),
        double_z=Field(True, YES_NO, "mean and log-variance; the KL term needs both"),
        dropout=Field(0.0, real(0, 0.999), "share of the features left out"),
        remat=later(False, YES_NO, "compute blocks again in the backward pass", FREE),
        attention_chunk=later(0, whole(0), "queries at a time; 0: all at once", FREE),
    ),
    **section(
        "loss",
        disc_start=Field(50001, whole(0), "first step with the discriminator"),
        disc_ramp_steps=Field(0, whole(0), "steps over which disc_factor rises from 0"),
        discriminator_before_start=Field(
            *pick("off released"),
            "released: before disc_start it decays and normalises, without a gradient",
        ),
        disc_factor=Field(1.0, real(0), "of adversarial losses; 0: no discriminator"),
        disc_weight=Field(0.5, real(0), "of the generator's term, times d_weight"),
        disc_loss=Field(*pick("hinge vanilla"), "of the discriminator"),
        disc_conditional=Field(
            False, YES_NO, "the discriminator sees buildings and transmitter too"
        ),
        disc_in_channels=Field(1, whole(1), "channels of the discriminator's maps"),
        disc_num_layers=Field(3, whole(1), "layers of the discriminator that halve"),
        disc_ndf=Field(64, whole(1), "width of the discriminator's first layer"),
        use_actnorm=Field(False, YES_NO, "ActNorm in place of BatchNorm"),
        fresh_reconstruction=Field(
            False, YES_NO, "a second forward pass for the discriminator"
        ),
        reconstruction=later(*pick("l1_mse l1 mse bce"), "rec term; bce: of logits"),
        reduction=later(*pick("sum mean"), "sum: of an image, then mean over images"),
        kl_weight=Field(1e-6, real(0), "beta, the weight of the KL term"),
        kl_schedule=later(*pick("constant linear cyclical"), "its rise from 0 to beta"),
        kl_warmup_steps=later(10_000, whole(0), "linear: steps that it rises over"),
        kl_cycles=later(4, whole(1), "cyclical: cycles in the whole training"),
        kl_ratio=later(0.5, real(1e-6, 1), "cyclical: share of a cycle that rises"),
        kl_reduction=later(*pick("same sum"), "as `reduction`; sum: over an image"),
        free_bits=later(0.0, real(0), "nats that each latent entry holds for free"),
        free_bits_per=later(
            *pick("dimension entry"), "of the mean over the batch; entry: of each image"
        ),
        objective=Field("base", one_of(*OBJECTIVES), "the radio terms, docs/losses.md"),
        pinn_form=Field(*pick("dimensionless released"), "released: hardly a gradient"),
        input_range=Field(*pick("unit released"), "released: pinn takes [-1, 1] for f"),
        mask_range=Field(*pick("unit released"), "released: transmitters are 0 or 255"),
        perceptual_weight=Field(1.0, real(0), "of LPIPS in the rec term; 0: without"),
        perceptual_weights=Field(
            "hub", TEXT, "LPIPS's weights: hub, a folder, or random (tests)", FREE
        ),
        pixelloss_weight=Field(1.0, real(0), "of the pixel term in the rec term"),
        pixel_weights=Field(*pick("none street"), "street: buildings weigh 0"),
        ssim_weight=later(0.0, real(0), "of 1 - SSIM in the total, beside a sum"),
        ssim_balance=later(0.0, real(0), "of 1 - SSIM, balanced by d_weight"),
        feature_matching_weight=later(
            0.0, real(0), "of feature matching, in units of the adversarial term's; 10"
        ),
        r1_weight=later(0.0, real(0), "of the discriminator's gradient at real images"),
        lecam_weight=later(
            0.0, real(0), "of the discriminator's distance from its past"
        ),
        lecam_decay=later(0.99, real(0, 0.999999), "of that past's average"),
        logvar_init=Field(0.0, ANY_NUMBER, "the learned log-scale's first value"),
        loss_scale=Field(1.0, real(0), "multiplies both gradients"),
    ),
    **_objective("base", (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    **_objective("edge", (1.0, 1.0, 0.0), (1.0, 2.5, 0.0), (1.0, 1.0, 1.0)),
    # Released: pinn is logged, not trained.
    **_objective("edge_pinn", (1.0, 1.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)),
    **_objective("dpm2irt4", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.5, 2.0)),
    **section(
        "optimizer",
        learning_rate=Field(5e-6, real(0), "of the autoencoder, at its peak", EXTEND),
        disc_learning_rate=Field(5e-6, real(0), "of the discriminator", EXTEND),
        logvar_learning_rate=Field(1e-4, real(0), "of logvar; 0: it stays", EXTEND),
        schedule=Field(
            *pick("cosine polynomial constant"),
            "of the learning rates, but logvar's is constant",
            EXTEND,
        ),
        end_factor=Field(0.1, real(0), "of the rate, at the last step", EXTEND),
        power=later(0.95, real(0), "of the polynomial schedule", EXTEND),
        warmup_steps=Field(0, whole(0), "cosine: steps that the rate rises", EXTEND),
        beta1=Field(0.9, real(0, 0.999999), "Adam's, of the mean"),
        beta2=Field(0.999, real(0, 0.999999), "Adam's, of the mean square"),
        eps=Field(1e-8, real(0), "Adam's, of the root"),
        weight_decay=Field(0.01, real(0), "AdamW's"),
        clip_norm=Field(1.0, real(0), "longest gradient; 0: no clipping"),
        clip_weights=later(0.0, real(0), "> 0: all parameters stay within +-this"),
    ),
    **section(
        "ema",
        schedule=Field(
            *pick("warmup released"),
            "warmup: min(decay, (1+n)/(10+n)) each step; released: every ten steps",
        ),
        decay=Field(0.999, real(0, 1), "of the exponential moving average"),
        of=Field(("autoencoder",), sequence(AVERAGED, shortest=1), "what it averages"),
    ),
    **section(
        "data",
        source=Field("radiomapseer", SOURCES, "kind of the data set"),
        root=Field("data/RadioMapSeer", TEXT, "its folder", FREE),
        dataset=later("mnist", TEXT, "of tfds_images: a set prepared in root"),
        simulation=Field("DPM", TEXT, "or IRT2, IRT4, carsDPM, carsIRT2, carsIRT4"),
        split_scheme=Field("radiounet", SCHEMES, "of maps; released: with its leak"),
        split_by=Field(
            "group",
            one_of(*splits.SPLIT_BY),
            "of a folder: 0_0 and 0_1 together; file: each by itself",
            older="file",
        ),
        db_floor=later(None, NUMBER_OR_NONE, "dB at f = 0; None: the source's", FREE),
        db_span=later(None, NUMBER_OR_NONE, "dB from f = 0 to 1; 0: no dB", FREE),
        transmitters=Field(0, whole(0), "of each map; 0: all there are"),
        train_split=Field("train", TEXT, "split to train on"),
        val_split=Field("val", TEXT, "split to validate on; empty: no validation"),
        image_size=Field(320, whole(0), "maps are resized to, bilinear; 0: as stored"),
        crop=Field(0, whole(0), "side of random crops; 0: whole maps"),
        augment=Field(*pick("dihedral flip none"), "of the training maps"),
        threads=Field(8, whole(1), "that read maps", FREE),
        prefetch=Field(16, whole(1), "batches read ahead", FREE),
    ),
    **section(
        "data.synthetic",
        maps=Field(40, whole(1), "of the city that is drawn in root"),
        transmitters=Field(8, whole(1), "of each of its maps"),
        size=Field(256, whole(1), "side of its maps, in pixels"),
        seed=Field(42, SEED, "of its streets and buildings"),
    ),
    **section(
        "train",
        steps=Field(150_000, whole(1), "of the whole training", EXTEND),
        init_from=Field("", TEXT, "folder of a run whose best weights it starts from"),
        extend=later(False, YES_NO, "more steps or other rates for a begun run", FREE),
        stop_at=Field(0, whole(0), "> 0: save, end; the same command goes on", FREE),
        batch_size=Field(8, whole(1), "images of a step, over all devices"),
        accumulate_steps=later(1, whole(1), "micro-batches of a batch, for memory"),
        fsdp=later(1, whole(1), "so many devices share one copy of the state", FREE),
        dtype=Field(
            *pick("auto float32 bfloat16"),
            "auto: bfloat16 on accelerators, float32 on a CPU",
        ),
        log_every=Field(100, whole(1), "steps between lines of metrics.jsonl", FREE),
        validate_every=Field(5_000, whole(1), "steps between validations", FREE),
        validation_batch_size=Field(8, whole(1), "images at a time, all devices", FREE),
        metrics_size=Field(
            *pick("stored seen"),
            "of the maps for metrics; seen: data.image_size",
        ),
        checkpoint_every=Field(5_000, whole(1), "steps between checkpoints", FREE),
        keep_checkpoints=Field(2, whole(1), "latest ones, besides the best", FREE),
        images=Field(4, whole(1), "rows of the picture; samples from the prior", FREE),
        histogram_every=later(5_000, whole(0), "of weights and latents; 0: none", FREE),
        max_skipped=later(
            10, whole(1), "updates in a row, not finite, that end it", FREE
        ),
        rollback=later(0, whole(0), "times it goes back to a checkpoint instead", FREE),
        rollback_factor=later(0.5, real(1e-6, 1), "of the learning rates, each time"),
        stop_on_plateau_steps=later(
            0, whole(0), "steps without a better val NMSE that end it; 0: off", FREE
        ),
        stop_on_kl_below=later(1e-8, real(0), "nats an image: latents collapsed", FREE),
        stop_on_divergence=later(0.0, real(0), "times the best val NMSE; 0: off", FREE),
    ),
}

DIFFUSION: dict[str, Field] = {
    **section(
        "first_stage",
        run=Field("runs/radio", TEXT, "folder of its run; pixels: there is none", FREE),
        config=later(
            "", TEXT, "config that trains it where it is not there; empty: refuse", FREE
        ),
        latents=later(
            "", TEXT, "folder of its exported training latents; empty: encode", FREE
        ),
        scale=Field(
            *pick("statistics released"),
            "of latents: to mean 0, deviation 1 by channel; released: times 0.3",
        ),
        maps=Field(2000, whole(1), "training maps that the statistics are of"),
    ),
    **section(
        "process",
        kind=Field(
            *pick("decoupled rectified mean_flow regression"),
            "how noise becomes a latent; regression: no noise at all",
        ),
        weights=Field(*pick("exp ncsn none"), "decoupled: of both errors, by the time"),
        norm=Field(*pick("l2 l1_l2"), "decoupled: squares, or half of both (released)"),
        precondition=Field(
            *pick("mended released none"), "decoupled: what the outputs add to"
        ),
        denoise=Field(False, YES_NO, "decoupled: the release's last step of 1e-4"),
        form=Field(*pick("improved published"), "mean_flow: form of its loss"),
        power=Field(1.0, real(0), "mean_flow: of the adaptive weight"),
        share=Field(0.5, real(0, 1), "mean_flow: of the images with r < t"),
    ),
    **section(
        "denoiser",
        width=Field(96, whole(32), "of the first level; a multiple of 32"),
        mult=Field(
            (1, 2, 2, 3),
            sequence(whole(1), shortest=1),
            "widths of the levels in `width`; each beyond the first halves the size",
        ),
        blocks=Field(2, whole(1), "residual blocks a level, on either side"),
        attention_side=Field(16, whole(0), "levels of at most so many rows attend"),
        condition_width=Field(64, whole(32), "of the encoded condition; of 32 too"),
        dropout=Field(0.0, real(0, 0.999), "share of the features left out"),
        remat=Field(False, YES_NO, "compute blocks again in the backward pass", FREE),
    ),
    **section(
        "condition",
        planes=Field(
            ("buildings", "transmitter", "distance", "log_distance"),
            sequence(PLANES, shortest=1),
            "what the network sees of a place",
        ),
        pixel_metres=Field(1.0, real(1e-6), "side of a stored pixel"),
        buildings_missing=later(
            0.0, real(0, 1), "probability of each building not to be in the condition"
        ),
        measurements=Field(300, whole(1), "most measured pixels of a map"),
        measurements_none=Field(0.25, real(0, 1), "probability of none"),
    ),
}
FIELDS |= DIFFUSION
# Fields and sections that one stage alone has; all others are everyone's.
OWN = {
    "vae": (
        *("autoencoder.", "loss.", "optimizer.disc_learning_rate", "ema.of"),
        *("optimizer.logvar_learning_rate", "optimizer.clip_weights"),
        "train.stop_on_kl_below",
    ),
    "diffusion": tuple({f"{name.partition('.')[0]}.": 0 for name in DIFFUSION}),
}


def of(stage: str) -> dict[str, Field]:
    """Returns the fields of a config of this stage."""
    others = tuple(n for other, own in OWN.items() if other != stage for n in own)
    return {name: f for name, f in FIELDS.items() if not name.startswith(others)}


PATHS = (
    *("data.root", "train.init_from", "loss.perceptual_weights"),
    *("first_stage.run", "first_stage.latents"),
)


def contradictions(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Yields what is allowed by itself and not together, or would be 0 all the same."""
    data, train = config.data, config.train
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
    yield from CONTRADICTIONS[config.stage](config)


def _of_diffusion(config: ml_collections.ConfigDict) -> Iterator[str]:
    for name in ("width", "condition_width"):
        if config.denoiser[name] % 32:
            yield (
                f"denoiser.{name}={config.denoiser[name]} is no multiple of the 32 "
                "groups of GroupNorm"
            )
    if config.data.crop:
        yield "data.crop is not for the second stage: set it to 0"
    if config.first_stage.latents and config.data.augment != "none":
        yield (
            f"first_stage.latents are of maps as they are, and data.augment="
            f"{config.data.augment} turns them: set data.augment=none, or let the "
            "first stage encode on the way"
        )
    if config.data.source not in ("radiomapseer", "tfds", "synthetic", "sionna"):
        yield (
            f"data.source={config.data.source} has no buildings to predict a map from: "
            "use radiomapseer, tfds, synthetic or sionna"
        )


def _of_vae(config: ml_collections.ConfigDict) -> Iterator[str]:
    data, train, loss = config.data, config.train, config.loss
    if "autoencoder" not in config.ema.of:
        yield "ema.of must hold 'autoencoder': validation measures its average"
    if loss.objective != "base" and data.source == "tfds_images":
        yield (
            f"loss.objective={loss.objective} is made of path gains, and the images of "
            "data.source=tfds_images are none: set loss.objective=base"
        )
    if loss.objective == "dpm2irt4" and data.simulation != "IRT4":
        yield "loss.objective=dpm2irt4 maps DPM to IRT4: set data.simulation=IRT4"
    if loss.objective == "dpm2irt4" and data.source != "radiomapseer":
        yield (
            "loss.objective=dpm2irt4 reads pairs of maps and "
            f"data.source={data.source} has none: set data.source=radiomapseer"
        )
    if loss.kl_schedule == "cyclical" and train.steps < 2 * loss.kl_cycles:
        yield (
            f"loss.kl_cycles={loss.kl_cycles} does not fit train.steps={train.steps}: "
            "a cycle begins with weight 0, so take two steps or more for each"
        )
    for name in OF_DISCRIMINATOR:
        if loss[name] and not loss.disc_factor:
            yield (
                f"loss.{name}={loss[name]:g} is of the discriminator, and "
                "loss.disc_factor=0 switches that off: set one of them otherwise"
            )
    for name, terms in OBJECTIVES.items():
        for kind in ("total", "balance"):
            weights = zip(TERMS, loss.objectives[name][kind], strict=True)
            lost = [term for term, weight in weights if weight and term not in terms]
            if lost:
                yield (
                    f"loss.objectives.{name}.{kind} weighs {', '.join(lost)}, which "
                    f"{name} does not compute: weigh {', '.join(terms)} alone, or "
                    "choose another loss.objective"
                )


CONTRADICTIONS = {"vae": _of_vae, "diffusion": _of_diffusion}
