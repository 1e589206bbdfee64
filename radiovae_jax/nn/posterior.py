"""The diagonal Gaussian that the encoder's moments describe."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from radiovae_jax.types import Array, PerImage, PRNGKey

LOGVAR_RANGE = (-30.0, 20.0)


class DiagonalGaussian(NamedTuple):
    """A Gaussian over latents with independent entries.

    A deterministic one has logvar -inf: it samples its mean, and its `kl` and `nll`
    are 0 by the convention of the source.

    Source: `DiagonalGaussianDistribution` of latent-diffusion (Rombach et al. 2022),
    ldm/modules/distributions/distributions.py.
    """

    mean: Float[Array, "b p q z"]
    logvar: Float[Array, "b p q z"]

    @classmethod
    def from_moments(
        cls, moments: Float[Array, "b p q zz"], *, deterministic: bool = False
    ) -> "DiagonalGaussian":
        """Splits the last axis into mean and log-variance, clipped to [-30, 20]."""
        mean, logvar = jnp.split(moments, 2, axis=-1)
        if deterministic:
            return cls(mean, jnp.full_like(mean, -jnp.inf))
        return cls(mean, jnp.clip(logvar, *LOGVAR_RANGE))

    @property
    def std(self) -> Float[Array, "b p q z"]:
        return jnp.exp(0.5 * self.logvar)

    @property
    def var(self) -> Float[Array, "b p q z"]:
        return jnp.exp(self.logvar)

    def sample(self, key: PRNGKey) -> Float[Array, "b p q z"]:
        """Draws mean + std * noise (reparametrised: differentiable in the moments)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> Float[Array, "b p q z"]:
        return self.mean

    def kl(self, other: "DiagonalGaussian | None" = None) -> PerImage:
        """Returns KL(self || other) in nats per image; `other` defaults to N(0, 1)."""
        if other is None:
            elementwise = self.mean**2 + self.var - 1.0 - self.logvar
        else:
            elementwise = (
                (self.mean - other.mean) ** 2 / other.var
                + self.var / other.var
                - 1.0
                - self.logvar
                + other.logvar
            )
        return 0.5 * self._sum(elementwise)

    def nll(self, sample: Float[Array, "b p q z"]) -> PerImage:
        """Returns -log density of `sample` in nats per image."""
        squared = (sample - self.mean) ** 2
        return 0.5 * self._sum(jnp.log(2.0 * jnp.pi) + self.logvar + squared / self.var)

    def _sum(self, elementwise: Float[Array, "b p q z"]) -> PerImage:
        random = jnp.isfinite(self.logvar)
        return jnp.where(random, elementwise, 0.0).sum(axis=(1, 2, 3))
