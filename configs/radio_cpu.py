"""Real maps without an accelerator: an hour on two cores, 128x128, 32 channels.

    python -m radiovae_jax.main --config radio_cpu \
        --config.data.root=/path/to/RadioMapSeer

For whoever has RadioMapSeer (or a few maps of it) and no GPU. Neither discriminator
nor LPIPS: the lowest error in the time there is. Maps are reduced to 128x128, and the
metrics are those at that size. The README says what it reached.
"""

import ml_collections

from radiovae_jax.training import schema


def get_config() -> ml_collections.ConfigDict:
    config = schema.defaults()
    config.autoencoder.update(
        ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, resolution=(128, 128)
    )
    config.loss.update(disc_factor=0.0, perceptual_weight=0.0)
    config.optimizer.update(
        learning_rate=1.5e-3,
        disc_learning_rate=2e-4,
        logvar_learning_rate=1e-2,
        end_factor=0.01,
        warmup_steps=100,
        beta2=0.99,
    )
    config.ema.decay = 0.998
    config.data.update(image_size=128, threads=2, prefetch=8)
    config.train.update(
        steps=9000,
        batch_size=2,
        metrics_size="seen",
        validate_every=500,
        validation_batch_size=2,
        checkpoint_every=500,
    )
    return config
