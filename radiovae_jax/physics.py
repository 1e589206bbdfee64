"""Radio physics of a path gain map: dB, watt, wave number, and the terms made of them.

A map is f in [0, 1]: P = -147 + 100 f in dB, u = 10^((23 - 30 + P) / 10) in watt for a
transmitter of 23 dBm. RadioDiff-k takes u for the field of Helmholtz's equation and
calls k2 = lap(u) / u (Helmholtz's k^2 with the other sign). On a grid of 1 m:

    k2 = sum over the 4 neighbours j of u_j / u - 4

Two terms ask for it of a reconstruction y of the map x:

    helmholtz    |lap(u_y) - k2(u_x) u_y|      does y obey the wave number of x?
    edge_pinn    (k2(u_x) - k2(u_y))^2         have both the same wave number?

**The released forms** measure in watt and clip: u is 1e-6 at most and 1e-15 in the
shade. On real DPM maps with an error of 2 dB the first is above its floor at 0.13% of
the pixels, and trains nothing. The second, a ratio, is at its ceiling on 83% of the
street; beside walls its gradient is up to 60,000 times the pixel loss's.

**The dimensionless forms** (default) are the same equations in another unit, and
saturate smoothly. Every multiple of a solution u solves Helmholtz's equation, so the
residual is measured in the reconstruction's own power; its level is the pixel loss's
affair. The pixel's power u would do in the open, but beside a wall u is a millionth of
its neighbour's, and gradients grow as that ratio. The power that the stencil spans,
m = (u_1 + ... + u_4 + 4 u) / 8, is u in the open and the street's beside a wall. With
the contrast c = log(mean_j u_j / u):

    lap(u) / u = 4 (e^c - 1),   m / u = (e^c + 1) / 2

    helmholtz    r = |lap(u_y) - k2(u_x) u_y| / m(u_y)
                   = 8 sigmoid(c_y) |e^(c_x - c_y) - 1|
    edge_pinn    K = lap(u) / m(u) = 8 tanh(c / 2) = k2 / (1 + k2 / 8), in (-8, 8)
                 r = (K(u_x) - K(u_y))^2

each then r / (1 + r / ceiling) with the released ceilings, 0.15 and 0.2: slope 1 for
small errors, no dead zone for large ones. Both depend on the map's shape alone. No
power is ever formed: c is a function of differences of f, as good in float32 at -147 dB
as at 0 dB. On real DPM maps with an error of 2 dB 99% of the street pixels have a
gradient of more than 1% of the pixel loss's; none anywhere more than 130 times it.

Every term here is *before* the perceptual part and takes images in the model's range,
of RadioMapSeer's f: maps of another dB range go through `to_radiomapseer` first.

Source: Wang et al. 2025 (RadioDiff-k^2, arXiv:2504.15623) and its released loss.py
for the equations; the unit and the saturation are this project's.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from radiovae_jax import losses
from radiovae_jax.types import Array, Image


class DbRange(NamedTuple):
    """What f is in dB: floor + span * f. A span of 0: f has no unit."""

    floor: float
    span: float

    @property
    def unit(self) -> str:
        """What errors are shown in."""
        return "dB" if self.span else "f"

    @property
    def suffix(self) -> str:
        """What the names of RMSE and MAE end in."""
        return "_db" if self.span else ""

    def words(self, error_f: float | np.floating) -> str:
        """Returns an error in f as words: in dB where f has a unit."""
        return f"{self.span * error_f:.2f} dB" if self.span else f"{error_f:.4f} in f"


# Yapar et al. 2022 (arXiv:2212.11777).
RADIOMAPSEER_DB = DB_RANGE = DB_FLOOR, DB_SPAN = DbRange(-147.0, 100.0)
NO_DB = DbRange(0.0, 0.0)
TRANSMITTED_DBM, MILLIWATT_DB = 23.0, 30.0
# log(u) per unit of f: 100 dB are 23 nats.
NATS = DB_SPAN * math.log(10.0) / 10.0

EDGE_PINN_CEILING, HELMHOLTZ_CEILING = 0.2, 0.15
FLOOR = 1e-7
# A released division is by u + this, and its field starts at this.
WATT_OFFSET = 1e-9
# exp of these is finite in float32, and so are the products that gradients take.
MAX_RATIO_NATS, MAX_MISSING_NATS = 80.0, 40.0

Interior = Float[Array, "b h-2 w-2 c"]
Mask = Float[Array, "b h w 1"]


def gain_to_db(
    f: Float[Array, "*s"], db: DbRange = RADIOMAPSEER_DB
) -> Float[Array, "*s"]:
    """Returns the path gain in dB; of RadioMapSeer's f, -147 + 100 f."""
    return db.floor + db.span * f


def db_to_gain(
    gain_db: Float[Array, "*s"], db: DbRange = RADIOMAPSEER_DB
) -> Float[Array, "*s"]:
    """Returns f, unclipped; of RadioMapSeer's dB, (dB + 147) / 100."""
    return (gain_db - db.floor) / db.span


def db_to_watt(gain_db: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns the received power of a 23 dBm transmitter, in watt."""
    dbw = TRANSMITTED_DBM - MILLIWATT_DB + gain_db
    return jnp.power(10.0, dbw / 10.0)


def watt_to_db(power_w: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Returns the path gain in dB at which 23 dBm are received as `power_w`."""
    return 10.0 * jnp.log10(power_w) - (TRANSMITTED_DBM - MILLIWATT_DB)


def model_to_gain(x: Image, input_range: str) -> Image:
    """Returns f, at least in float32, of an image in [-1, 1].

    Args:
      input_range: "unit" maps it to [0, 1], -147 to -47 dB. "released" leaves it as it
        is, -247 to -47 dB, as RadioDiff-k does: every dB counts twice.
    """
    x = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    if input_range not in ("unit", "released"):
        raise ValueError(f"input_range {input_range!r}; expected 'unit' or 'released'")
    return (x + 1.0) / 2.0 if input_range == "unit" else x


def to_radiomapseer(x: Image, input_range: str, db: DbRange) -> Image:
    """Returns the image that shows RadioMapSeer's f of the gains that x shows.

    Args:
      input_range: how the terms will read the image, see `model_to_gain`.
      db: what the f of x is in dB.
    """
    if db == RADIOMAPSEER_DB:
        return x
    f = rescaled(model_to_gain(x, input_range), db)
    return 2.0 * f - 1.0 if input_range == "unit" else f


def rescaled(f: Image, db: DbRange) -> Image:
    """Returns RadioMapSeer's f of maps whose f is floor + span f in dB."""
    return f if db == RADIOMAPSEER_DB else db_to_gain(gain_to_db(f, db))


def transmitter_mask(antenna: UInt8[Array, "b h w 1"], mask_range: str) -> Mask:
    """Returns the mask of the transmitter's pixel, as floats.

    Args:
      antenna: as stored in png/antennas, 255 at the transmitter.
      mask_range: "unit" gives 0 and 1; "released" the stored 0 and 255, with which
        the factor (1 - mask) of the released residual is -254 at the transmitter and
        its clip sets that to the floor: no gradient there either.
    """
    if mask_range not in ("unit", "released"):
        raise ValueError(f"mask_range {mask_range!r}; expected 'unit' or 'released'")
    stored = jnp.asarray(antenna, jnp.float32)
    return stored / 255.0 if mask_range == "unit" else stored


def interior(x: Float[Array, "b h w c"]) -> Interior:
    """Cuts a border of one pixel off."""
    return x[:, 1:-1, 1:-1]


def laplacian(u: Float[Array, "b h w c"]) -> Interior:
    """Returns the 5-point Laplacian on the interior; pixels are 1 m wide."""
    return neighbours(u).sum(axis=0) - 4.0 * interior(u)


def neighbours(u: Float[Array, "b h w c"]) -> Float[Array, "4 b h-2 w-2 c"]:
    """Returns what lies above, below, left and right of the interior."""
    above, below = u[:, :-2, 1:-1], u[:, 2:, 1:-1]
    left, right = u[:, 1:-1, :-2], u[:, 1:-1, 2:]
    return jnp.stack([above, below, left, right])


def k2(f: Image, tx: Mask) -> Interior:
    """Returns (lap(u) + tx u) / u on the interior, in 1/m^2.

    By differences of f, since 1 / u^2, which the derivative of the quotient has,
    overflows float32 in the shade. A neighbour counts as 350 dB stronger at most.
    """
    ratios = jnp.expm1(jnp.minimum(_log_ratios(f), MAX_RATIO_NATS))
    return ratios.sum(axis=0) + interior(tx)


def k2_neg_norm(f: Image, tx: Mask) -> UInt8[Array, "b h w c"]:
    """Returns RadioDiff-k's mask: 0 where k2 is most negative, 255 where it is not.

    min(k2, 0) of each image, stretched to [0, 1], times 255, truncated; the border is
    255. A map without negative k2 (a flat one) is 255 everywhere.

    **It is made of the true map**: a model that is given it is given the answer's
    edges. In float32 some values are one level off the stored ones, which float64 made.
    """
    negative = jnp.minimum(k2(f, tx), 0.0)
    low, high = (
        end(negative, axis=(1, 2, 3), keepdims=True) for end in (jnp.min, jnp.max)
    )
    # XLA may multiply by the reciprocal, and x * (1 / x) < 1 would be truncated to 254.
    stretched = jnp.where(negative < high, (negative - low) / (high - low), 1.0)
    return _framed((255.0 * stretched).astype(jnp.uint8), 255)


def edge_weight(k2_neg_norm: Image) -> Image:
    """Returns 1 - k2_neg_norm (in [0, 1]): 1 on the sharpest edges, 0 off them."""
    return 1.0 - k2_neg_norm


def edge(x: Image, recon: Image, k2_neg_norm: Image) -> Image:
    """Returns the reconstruction term of both images times the edge weight.

    Source: RadioDiff-k, `LPIPSWithDiscriminator_Edge`.
    """
    weight = edge_weight(k2_neg_norm)
    return losses.reconstruction(x * weight, recon * weight)


def edge_pinn(x: Image, recon: Image, *, input_range: str) -> Interior:
    """Returns (K(x) - K(recon))^2, saturating at 0.2 (see the module's docstring).

    The transmitter adds the same to both wave numbers, so neither form has its mask.
    """
    target, found = (
        8.0 * jnp.tanh(0.5 * _contrast(model_to_gain(image, input_range)))
        for image in (x, recon)
    )
    return _saturate((target - found) ** 2, EDGE_PINN_CEILING)


def edge_pinn_released(x: Image, recon: Image, *, input_range: str) -> Interior:
    """Returns (k2(x) - k2(recon))^2 clipped to [1e-7, 0.2 - 1e-7].

    Source: RadioDiff-k, `LPIPSWithDiscriminator_Edge_PINN`.
    """
    no_tx = jnp.zeros((*x.shape[:3], 1))
    target, found = (
        k2(model_to_gain(image, input_range), no_tx) for image in (x, recon)
    )
    return jnp.clip((target - found) ** 2, FLOOR, EDGE_PINN_CEILING - FLOOR)


def helmholtz(x: Image, recon: Image, tx: Mask, *, input_range: str) -> Image:
    """Returns |lap(u_y) - k2(u_x) u_y| / m(u_y), saturating at 0.15.

    0 at the transmitter, where the equation has a source, and on the border.
    """
    target, found = (
        _contrast(model_to_gain(image, input_range)) for image in (x, recon)
    )
    # Beyond 170 dB of missing contrast the term is flat anyway.
    missing = losses.absolute(jnp.expm1(jnp.minimum(target - found, MAX_MISSING_NATS)))
    free = jnp.clip(1.0 - interior(tx), 0.0, 1.0)
    residual = 8.0 * jax.nn.sigmoid(found) * missing * free
    return _framed(_saturate(residual, HELMHOLTZ_CEILING), 0.0)


def helmholtz_released(x: Image, recon: Image, tx: Mask, *, input_range: str) -> Image:
    """Returns 1e-9 + |lap(u_y) - k2 u_y| (1 - tx), clipped to [1e-7, 0.15 - 1e-7].

    In watt; k2 = lap(u_x) / (u_x + 1e-9). The border is 1e-7.

    Source: RadioDiff-k, `LPIPSWithDiscriminator_DPM2IRT4`.
    """
    u_x, u_y = (
        db_to_watt(gain_to_db(model_to_gain(image, input_range)))
        for image in (x, recon)
    )
    k2_x = laplacian(u_x) / (interior(u_x) + WATT_OFFSET)
    residual = losses.absolute(laplacian(u_y) - k2_x * interior(u_y))
    residual = WATT_OFFSET + residual * (1.0 - interior(tx))
    return jnp.clip(_framed(residual, WATT_OFFSET), FLOOR, HELMHOLTZ_CEILING - FLOOR)


def weights_for(term: Float[Array, "b i j c"], weights: Image) -> Image:
    """Returns the pixel weights of a term: without their border if it has none."""
    return weights if weights.shape[1] == term.shape[1] else interior(weights)


EDGE_PINN = {"dimensionless": edge_pinn, "released": edge_pinn_released}
HELMHOLTZ = {"dimensionless": helmholtz, "released": helmholtz_released}


def _log_ratios(f: Image) -> Float[Array, "4 b h-2 w-2 c"]:
    """Returns log(u_j / u) of the four neighbours."""
    return NATS * (neighbours(f) - interior(f)[None])


def _contrast(f: Image) -> Interior:
    """Returns log(mean of the neighbours' power / own power)."""
    return jax.nn.logsumexp(_log_ratios(f), axis=0) - math.log(4.0)


def _saturate(r: Float[Array, "b i j c"], ceiling: float) -> Float[Array, "b i j c"]:
    return r / (1.0 + r / ceiling)


def _framed(inner: Array, value: float | int) -> Array:
    """Puts a border of one pixel around it."""
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jnp.pad(inner, border, constant_values=value)
