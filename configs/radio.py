"""The documented run: the RadioDiff VAE on RadioMapSeer at 320x320.

    python -m radiovae_jax.main --config configs/radio.py \
        --config.data.root=/path/to/RadioMapSeer
    python -m radiovae_jax.main --config configs/radio.py:native    # 256, as stored
    python -m radiovae_jax.main --config configs/radio.py:f8        # latents h/8

150,000 steps of batch 8. 55.3 million parameters. The published algorithm done
right; docs/fidelity.md lists where it differs from the released trainer
(radio_reference.py). LPIPS needs its weights: from the Hugging Face hub, or from a
folder with vgg16_weights.h5 and lpips_lin.h5 in loss.perceptual_weights.
"""

import ml_collections
from ml_collections import config_dict

VARIANTS = ("", "native", "f8")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"radio.py has no variant {variant!r}; it has :native (256x256) and :f8 "
            "(latents of an eighth of the size)"
        )
    config = ml_collections.ConfigDict()
    config.seed = 42

    config.autoencoder = ml_collections.ConfigDict(
        dict(
            in_channels=1,
            out_ch=1,
            ch=128,
            ch_mult=(1, 2, 4),  # levels: each beyond the first halves the size
            num_res_blocks=2,
            attn_resolutions=(),  # of `resolution`: where else than in the middle
            resolution=(320, 320),
            mid_attention=True,
            z_channels=3,
            embed_dim=3,
            double_z=True,
            dropout=0.0,
            remat=False,  # True: blocks are computed again on the way back; less memory
            attention_chunk=0,  # > 0: queries at a time; 0: all scores at once
        )
    )

    config.loss = ml_collections.ConfigDict(
        dict(
            disc_start=50001,
            disc_ramp_steps=0,  # > 0: the factor rises over so many steps
            discriminator_before_start="off",  # "released": it decays and normalises
            disc_factor=1.0,
            disc_weight=0.5,
            disc_loss="hinge",  # or "vanilla"
            disc_conditional=False,  # True: sees buildings and transmitter as well
            disc_in_channels=1,
            disc_num_layers=3,
            disc_ndf=64,
            use_actnorm=False,
            fresh_reconstruction=False,  # True: a second forward pass for it
            reconstruction="l1_mse",  # "l1", "mse", "bce" (of logits)
            reduction="sum",  # over an image, then their mean; "mean": over everything
            kl_weight=1e-6,  # beta
            kl_schedule="constant",  # "linear", "cyclical": it rises from 0 to beta
            kl_warmup_steps=10_000,  # linear
            kl_cycles=4,  # cyclical: over the whole training
            kl_ratio=0.5,  # cyclical: share of a cycle that it rises for
            kl_reduction="same",  # "sum": over entries, mean over images
            free_bits=0.0,  # nats that each latent entry may hold for free
            free_bits_per="dimension",  # mean over the batch; "entry": of each image
            # Radio terms: "edge", "edge_pinn", "dpm2irt4" (docs: README, losses).
            objective="base",
            # For each objective: weights of (rec, edge, pinn) in the total and in the
            # balance that d_weight holds, and multiples of the pixel weights.
            objectives=dict(
                base=dict(
                    total=(1.0, 0.0, 0.0),
                    balance=(1.0, 0.0, 0.0),
                    pixel_weights=(1.0, 1.0, 1.0),
                ),
                edge=dict(
                    total=(1.0, 1.0, 0.0),
                    balance=(1.0, 2.5, 0.0),
                    pixel_weights=(1.0, 1.0, 1.0),
                ),
                edge_pinn=dict(
                    total=(1.0, 1.0, 0.0),  # released: pinn is logged, not trained
                    balance=(1.0, 1.0, 0.0),
                    pixel_weights=(1.0, 1.0, 1.0),
                ),
                dpm2irt4=dict(
                    total=(1.0, 1.0, 1.0),
                    balance=(1.0, 1.0, 1.0),
                    pixel_weights=(1.0, 1.5, 2.0),
                ),
            ),
            pinn_form="dimensionless",  # "released": its numbers, hardly a gradient
            input_range="unit",  # "released": takes [-1, 1] for f
            mask_range="unit",  # "released": the transmitter's mask is 0 or 255
            perceptual_weight=1.0,
            perceptual_weights="hub",  # "hub", a folder, or "random" (tests only)
            pixelloss_weight=1.0,
            pixel_weights="none",  # "street": buildings weigh 0
            # Further terms; 0 is off and costs nothing.
            ssim_weight=0.0,  # of 1 - SSIM in the total; nll is a sum over pixels
            ssim_balance=0.0,  # of 1 - SSIM in the balance that d_weight holds
            feature_matching_weight=0.0,  # in units of the adversarial term's; 10
            r1_weight=0.0,  # of the discriminator's gradient at real images
            lecam_weight=0.0,  # of the discriminator's distance from its own past
            lecam_decay=0.99,
            logvar_init=0.0,
            loss_scale=1.0,  # of both gradients
        )
    )

    config.optimizer = ml_collections.ConfigDict(
        dict(
            learning_rate=5e-6,
            disc_learning_rate=5e-6,
            logvar_learning_rate=1e-4,
            schedule="cosine",  # "polynomial", "constant"
            end_factor=0.1,  # of the learning rate, at the last step
            warmup_steps=0,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.01,
            clip_norm=1.0,  # 0: no clipping
            clip_weights=0.0,  # > 0: both networks' parameters stay within +-this
        )
    )
    config.ema = ml_collections.ConfigDict(
        dict(schedule="warmup", decay=0.999, of=("autoencoder",))
    )

    config.data = ml_collections.ConfigDict(
        dict(
            # "tfds", "synthetic", "folder", "sionna", "tfds_images"
            source="radiomapseer",
            root="data/RadioMapSeer",
            dataset="mnist",  # of tfds_images: any image data set prepared in root
            simulation="DPM",  # IRT2, IRT4, carsDPM, carsIRT2, carsIRT4
            split_scheme="radiounet",
            split_by="group",  # of a folder: 0_0 and 0_1 together; "file": each
            transmitters=0,  # of each map; 0: all there are
            train_split="train",
            val_split="val",  # "" switches validation off
            image_size=320,  # bilinear; 0: as stored
            # dB at f = 0, and over the whole scale. None: RadioMapSeer's of itself, the
            # synthetic city and Sionna; not known of folder and tfds_images: no dB.
            db_floor=config_dict.placeholder(float),
            db_span=config_dict.placeholder(float),
            crop=0,  # side of random crops; 0: whole maps
            augment="dihedral",  # "flip", "none"
            threads=8,
            prefetch=16,
            synthetic=dict(maps=40, transmitters=8, size=256, seed=42),
        )
    )

    config.train = ml_collections.ConfigDict(
        dict(
            steps=150_000,
            init_from="",  # folder of a run whose weights this one starts from
            extend=False,  # True: more steps or other rates for a run that is there
            stop_at=0,  # > 0: save and end there; the same command goes on later
            batch_size=8,  # over all devices
            accumulate_steps=1,  # parts that a batch is gone through in, for memory
            fsdp=1,  # > 1: groups of so many devices share one copy of the state
            dtype="auto",  # bfloat16 on accelerators, float32 on CPU
            log_every=100,
            validate_every=5_000,
            validation_batch_size=8,
            metrics_size="stored",  # "seen": at data.image_size instead
            checkpoint_every=5_000,
            keep_checkpoints=2,  # latest ones, besides the best
            images=4,  # rows of the picture, samples from the prior
            histogram_every=5_000,  # of weights and latents, in TensorBoard; 0: none
            max_skipped=10,  # updates in a row that are not finite before it ends
            rollback=0,  # so often it goes back to the last good checkpoint instead,
            rollback_factor=0.5,  # with the learning rates times this, from then on
            # Early ends. 0 switches each off.
            stop_on_plateau_steps=0,  # without a better validation NMSE
            stop_on_kl_below=1e-8,  # nats an image: the latents have collapsed
            stop_on_divergence=0.0,  # times the best validation NMSE; 10, say
        )
    )

    if variant == "native":
        config.data.image_size = 0
        config.autoencoder.resolution = (256, 256)
    if variant == "f8":
        config.autoencoder.ch_mult = (1, 2, 4, 4)
    return config
