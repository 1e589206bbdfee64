"""The released RadioDiff trainer, point by point, for comparison with its numbers.

    python -m radiovae_jax.main --config radio_reference \
        --config.data.root=/path/to/RadioMapSeer

Use it to reproduce, radio.py to train: the released trainer leaks validation and test
maps into training, lets weight decay act on an idle discriminator and never learns
logvar. docs/fidelity.md lists every point; the test of the trajectory runs this config
against eight iterations of the released code.
"""

import ml_collections

from radiovae_jax.training import schema


def get_config() -> ml_collections.ConfigDict:
    config = schema.defaults()
    config.autoencoder.resolution = (256, 256)
    config.loss.update(
        discriminator_before_start="released",
        fresh_reconstruction=True,
        loss_scale=0.5,
    )
    config.optimizer.update(
        logvar_learning_rate=0.0,
        schedule="polynomial",
        end_factor=5e-7,
        clip_norm=0.0,
    )
    config.ema.update(
        schedule="released",
        decay=0.995,
        of=("autoencoder", "logvar", "disc_params", "disc_stats"),
    )
    config.data.update(image_size=0, split_scheme="released", augment="none")
    config.train.update(batch_size=2, dtype="float32")
    return config
