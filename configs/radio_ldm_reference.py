"""The released second stage's training, as far as its values go: to compare.

    python -m radiovae_jax.main --config radio_ldm_reference --config.data.root=ROOT \\
        --config.first_stage.run=runs/radio_reference

RadioDiff's train_cond_ldm.py at 14c4a8c: decoupled diffusion, latents times 0.3,
batches of 66 in 8 parts, 50,000 steps, rate 5e-5 falling as (1 - i/N)^0.96. The
released network (Swin-B, 225 million parameters) is not rebuilt: the denoiser is
radio_ldm's. Its EMA, which the release keeps and never uses, is what is validated.
"""

import ml_collections

from radiovae_jax.training import schema


def get_config() -> ml_collections.ConfigDict:
    config = schema.defaults("diffusion")
    config.first_stage.scale = "released"
    config.process.update(norm="l1_l2", precondition="released", denoise=True)
    config.condition.planes = ("buildings", "transmitter")
    config.optimizer.update(
        learning_rate=5e-5,
        schedule="polynomial",
        power=0.96,
        end_factor=5e-6,
        weight_decay=1e-4,
    )
    config.ema.update(schedule="released", decay=0.999)
    config.data.update(image_size=0, split_scheme="released", augment="none")
    config.train.update(steps=50_000, batch_size=528, accumulate_steps=8)
    return config
