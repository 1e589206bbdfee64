"""The second stage on RadioMapSeer: decoupled diffusion in the first stage's latents.

    python -m radiovae_jax.main --config radio:native --config.data.root=ROOT \\
        --workdir runs/radio
    python -m radiovae_jax.main --config radio_ldm --config.data.root=ROOT \\
        --config.first_stage.run=runs/radio
    python -m radiovae_jax.main --config radio_ldm:rectified ...  # or another process

Maps of 256x256 from buildings and transmitter, in latents of 64x64; a denoiser of 27
million parameters, 100,000 steps of batch 16. It has not been trained to its end here.
"""

import ml_collections

from radiovae_jax.training import schema

VARIANTS = ("", "rectified", "mean_flow", "regression")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = schema.defaults("diffusion")
    config.process.kind = variant or "decoupled"
    config.optimizer.update(
        learning_rate=1e-4, weight_decay=1e-4, warmup_steps=1000, end_factor=0.05
    )
    config.ema.decay = 0.9995
    config.data.image_size = 0
    config.train.update(steps=100_000, batch_size=16)
    return config
