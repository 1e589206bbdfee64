"""Draws the pictures of docs/losses.md, with the functions that the training calls.

    python tools/plot_losses.py                # into docs/
    python tools/plot_losses.py --out DIR

Writes losses_discriminator.png (hinge and vanilla against the logit),
losses_schedules.png (the three weights of the KL term) and losses_physics.png (edge
mask and the radio terms over a synthetic city and a blurred copy of it). It takes ten
seconds.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import functools
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from radiovae_jax import cli, losses, physics
from radiovae_jax.data import radiomap, synthetic
from radiovae_jax.reporting import plots
from radiovae_jax.types import Array
from radiovae_jax.vae import loss_schedules

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
# Okabe and Ito's colours, told apart with colour-deficient sight.
HINGE, VANILLA, GENERATOR = "#0072B2", "#D55E00", "#000000"


def discriminator() -> Figure:
    """Returns the losses of one real and one fake logit, and the generator's."""
    logits = np.linspace(-3, 3, 241, dtype=np.float32)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    real, fake = figure.subplots(1, 2, sharey=True)
    # The loss of one side is what it adds where the other side costs nothing.
    right = np.float32(100)

    def curve(loss: Callable, *, side: str) -> Array:
        def one(logit):
            image = logit.reshape(1, 1, 1, 1)
            other = jnp.full_like(image, right if side == "fake" else -right)
            return loss(image, other) if side == "real" else loss(other, image)

        return jax.vmap(one)(jnp.asarray(logits))

    for axis, side in ((real, "real"), (fake, "fake")):
        for name, colour in (("hinge", HINGE), ("vanilla", VANILLA)):
            values = curve(losses.DISCRIMINATOR[name], side=side)
            axis.plot(logits, values, color=colour, label=f"discriminator, {name}")
        axis.set_title(f"of a {side} patch")
        axis.set_xlabel("logit")
        axis.axvline(0, color="gray", lw=0.5)
        axis.grid(alpha=0.3)
    g = [losses.generator(jnp.full((1, 1, 1, 1), logit)) for logit in logits]
    fake.plot(logits, g, "--", color=GENERATOR, label="generator")
    fake.set_ylim(-2.2, 2.2)
    real.set_ylabel("loss")
    fake.legend(fontsize=9)
    return figure


def kl_schedules() -> Figure:
    """Returns the weights of the KL term over a training of 1,000 steps, beta 1."""
    steps = np.arange(1000)
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    cycles = dict(steps=1000, cycles=4, ratio=0.5)
    panels = {
        "constant": ("kl_weight 1", {}),
        "linear": ("kl_warmup_steps 300", dict(warmup=300)),
        "cyclical": ("kl_cycles 4, kl_ratio 0.5", cycles),
    }
    axes = figure.subplots(1, 3, sharey=True)
    for axis, (name, (words, fields)) in zip(axes, panels.items(), strict=True):
        weight = functools.partial(loss_schedules.KL[name], kl_weight=1.0, **fields)
        weights = jax.vmap(weight)(steps)
        axis.plot(steps, weights, color=HINGE)
        axis.set_title(f"{name}\n{words}", fontsize=10)
        axis.set_xlabel("step of 1,000")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("KL weight")
    return figure


def city() -> tuple[np.ndarray, np.ndarray]:
    """Returns f and the transmitter's mask, [1, 80, 80, 1] each, of a drawn city."""
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic.write_city(
            pathlib.Path(folder) / "city", maps=3, transmitters=1, size=80, seed=3
        )
        path = min((root / "gain" / "DPM").glob("*.png"))
        f = radiomap.gray_to_f(radiomap.read_map(path))[None]
        antenna = radiomap.read_map(root / "png" / "antennas" / path.name)[None]
    return f, np.asarray(physics.transmitter_mask(antenna, "unit"))


def radio_terms() -> Figure:
    """Returns a map, its edges, and what the radio terms say of a blurred copy."""
    f, tx = city()
    blurred = blur(f)
    x, y = (np.float32(radiomap.f_to_model(image)) for image in (f, blurred))
    mask = np.asarray(physics.k2_neg_norm(f, tx), np.float32) / 255
    unit = dict(input_range="unit")
    released = physics.helmholtz_released(x, y, tx, **unit)
    whole = tuple(radiomap.f_to_db(np.array([0.0, 1.0])))
    panels = [
        ("map x (dB)", radiomap.f_to_db(f), whole),
        ("blurred map y (dB)", radiomap.f_to_db(blurred), whole),
        ("y − x (dB)", radiomap.DB_SPAN * (blurred - f), (-20, 20)),
        ("k² of x (per m²)", physics.k2(f, tx), (-4, 4)),
        ("edge weight", physics.edge_weight(mask), (0, 1)),
        ("edge", physics.edge(x, y, mask), (0, 0.05)),
        ("edge_pinn", physics.edge_pinn(x, y, **unit), (0, 0.2)),
        ("edge_pinn, released", physics.edge_pinn_released(x, y, **unit), (0, 0.2)),
        ("helmholtz", physics.helmholtz(x, y, tx, **unit), (0, 0.15)),
        ("helmholtz, released", released, (0, 0.15)),
    ]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(2, 5).ravel()
    for axis, (name, values, limits) in zip(axes, panels, strict=True):
        image(axis, name, np.asarray(values)[0, ..., 0], limits)
    return figure


def blur(f: np.ndarray) -> np.ndarray:
    """Returns it smoothed by (1, 2, 1) / 4 along both sides, the border repeated."""
    padded = np.pad(f, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def image(axis: Axes, name: str, values: np.ndarray, limits: tuple) -> None:
    signed = limits[0] == -limits[1]
    colours = plots.ERROR_COLOURS if signed else plots.MAP_COLOURS
    shown = plots.image(axis, values, name, colours, Normalize(*limits))
    bar = axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.03)
    bar.set_ticks(np.linspace(*limits, 3))
    bar.ax.tick_params(labelsize=8)


PICTURES: dict[str, Callable[[], Figure]] = {
    "losses_discriminator.png": discriminator,
    "losses_schedules.png": kl_schedules,
    "losses_physics.png": radio_terms,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    parser = cli.Parser(doc=__doc__)
    parser.add_argument("--out", type=cli.path, default=DOCS, metavar="DIR")
    parser.add_debug()
    args = parser.parse_args(argv)

    def work() -> None:
        cli.start_jax()
        for name, picture in PICTURES.items():
            print(f"written: {plots.save(picture(), args.out / name)}")

    return cli.status(work, debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
