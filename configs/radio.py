"""The documented run: the RadioDiff VAE on RadioMapSeer at 320x320.

    python -m radiovae_jax.main --config radio --config.data.root=/path/to/RadioMapSeer
    python -m radiovae_jax.main --config radio:native    # 256, as stored
    python -m radiovae_jax.main --config radio:f8        # latents h/8

150,000 steps of batch 8. 55.3 million parameters. The published algorithm done
right; docs/fidelity.md lists where it differs from the released trainer
(radio_reference.py). LPIPS needs its weights: from the Hugging Face hub, or from a
folder with vgg16_weights.h5 and lpips_lin.h5 in loss.perceptual_weights. Its fields are
the defaults: docs/config.md, or --print_config.
"""

import ml_collections

from radiovae_jax.training import schema

VARIANTS = ("", "native", "f8")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = schema.defaults()
    if variant == "native":
        config.data.image_size = 0
        config.autoencoder.resolution = (256, 256)
    if variant == "f8":
        config.autoencoder.ch_mult = (1, 2, 4, 4)
    return config
