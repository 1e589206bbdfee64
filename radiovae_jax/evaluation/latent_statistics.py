"""Mean, standard deviation, scale factor and KL of each latent channel over a set."""

import numpy as np
from jaxtyping import Float

from radiovae_jax.moments import RunningMoments


def moments(
    mean: Float[np.ndarray, "b p q z"], logvar: Float[np.ndarray, "b p q z"]
) -> RunningMoments:
    """Returns the moments of mean, variance and log-variance, a column for each z."""
    rows = np.concatenate([mean, np.exp(np.float64(logvar)), logvar], axis=-1)
    return RunningMoments.of(rows.reshape(-1, rows.shape[-1]), pairs=False)


def statistics(total: RunningMoments) -> dict[str, list[float]]:
    """Returns numbers of each latent channel, over maps and places.

    Args:
      total: merged of `moments`.

    Returns:
      mean, std: of z drawn from the posteriors, exactly (no sample is drawn): the
        variance of the means plus the mean of the variances.
      scale_factor: 1 / std.
      mode_std: of the means alone.
      kl_nats: KL to N(0, 1) of one latent entry.
    """
    mean, noise, logvar = np.split(total.mean, 3)
    mode_variance = total.variance[: len(mean)]
    std = np.sqrt(mode_variance + noise)
    kl = 0.5 * (mode_variance + np.square(mean) + noise - 1 - logvar)
    numbers = dict(
        mean=mean,
        std=std,
        scale_factor=1 / std,
        mode_std=np.sqrt(mode_variance),
        kl_nats=kl,
    )
    return {name: values.tolist() for name, values in numbers.items()}
