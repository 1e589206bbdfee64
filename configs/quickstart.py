"""Five minutes on two cores, without a download: a small model on a synthetic city.

    python -m radiovae_jax.main --config quickstart

Makes the city (64x64 maps in RadioMapSeer's layout, under runs/quickstart_city), trains
without, then with the discriminator, and ends with validation numbers and pictures
under runs/quickstart/images. It shows that everything works; it is no benchmark.
"""

import ml_collections

from radiovae_jax.training import schema


def get_config() -> ml_collections.ConfigDict:
    config = schema.defaults()
    config.autoencoder.update(
        ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, resolution=(64, 64)
    )
    config.loss.update(
        disc_start=200,
        disc_ndf=16,
        disc_num_layers=2,
        perceptual_weight=0.0,
    )
    config.optimizer.update(
        learning_rate=1e-3,
        disc_learning_rate=2e-4,
        logvar_learning_rate=1e-2,
        end_factor=0.05,
        warmup_steps=20,
        beta2=0.99,
    )
    config.ema.decay = 0.98
    config.data.update(
        image_size=0,
        source="synthetic",
        root="runs/quickstart_city",
        threads=2,
        prefetch=4,
        synthetic=dict(transmitters=4, size=64),
    )
    config.train.update(
        steps=300,
        batch_size=4,
        log_every=10,
        validate_every=100,
        checkpoint_every=100,
        histogram_every=100,
    )
    return config
