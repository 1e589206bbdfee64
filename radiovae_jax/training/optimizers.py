"""AdamW, with the learning rate applied outside.

The transformation gives a direction; `updates.descend` multiplies it by a rate that is
a function of the global step (see training/schedules.py).
"""

import optax


def adamw(
    *, beta1: float, beta2: float, eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Returns AdamW's direction, before the learning rate. `clip_norm` 0: no clip.

    The decay is stated because optax's default (1e-4) is not PyTorch's (1e-2).

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), decay times learning rate as
    in torch.optim.AdamW.
    """
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(beta1, beta2, eps),
        optax.add_decayed_weights(weight_decay),
    )
