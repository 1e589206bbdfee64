"""The radio objectives: which terms are summed over pixels, and what they weigh.

    total   = sum_t total_t nll(t) + kl_weight kl + d_weight disc_factor g
    balance = sum_t balance_t nll(t), what d_weight compares g with

with t in rec, edge, pinn. A new term is one function of (batch, recon), one field of
`Pixelwise` and its weights in the config.

Source: RadioDiff and RadioDiff-k, loss.py (`LPIPSWithDiscriminator`, `..._Edge`,
`..._Edge_PINN`, `..._DPM2IRT4`).
"""

from typing import NamedTuple

from jaxtyping import Float

from radiovae_jax import losses, physics
from radiovae_jax.types import Array, Batch, Image

Number = Float[Array, ""] | float | int

# The terms that each objective computes; their weights come from the config.
TERMS = {
    "base": ("rec",),
    "edge": ("rec", "edge"),
    "edge_pinn": ("rec", "edge", "pinn"),
    "dpm2irt4": ("rec", "edge", "pinn"),
}


class Pixelwise(NamedTuple):
    """A number for each term that is summed over pixels."""

    rec: Number
    edge: Number
    pinn: Number


class Objective(NamedTuple):
    """One objective: its name (of `TERMS`) and its numbers."""

    name: str
    total: Pixelwise
    balance: Pixelwise
    pixel_weights: Pixelwise  # multiples of the batch's weights, in the total only
    pinn_form: str  # "dimensionless" or "released"
    input_range: str  # "unit" or "released"


NOTHING = Pixelwise(0.0, 0.0, 0.0)


def elementwise(
    objective: Objective, batch: Batch, recon: Image
) -> dict[str, Float[Array, "b i j c"]]:
    """Returns the objective's terms by name, before the perceptual part.

    An interior term lacks the border of one pixel.
    """
    x = batch.target
    terms = {"rec": losses.reconstruction(x, recon)}
    if "edge" in TERMS[objective.name]:
        terms["edge"] = physics.edge(x, recon, batch.k2_neg_norm)
    if objective.name == "edge_pinn":
        form = physics.EDGE_PINN[objective.pinn_form]
        terms["pinn"] = form(x, recon, input_range=objective.input_range)
    if objective.name == "dpm2irt4":
        form = physics.HELMHOLTZ[objective.pinn_form]
        tx = batch.transmitter
        terms["pinn"] = form(x, recon, tx, input_range=objective.input_range)
    return terms
