"""How the training of the second stage is shown: charts, figure 5."""

import functools

from radiovae_jax.reporting import charts, dashboard
from radiovae_jax.reporting.curves import Charts
from radiovae_jax.reporting.panels import Panel

LOSS, PARTS = ("train/loss", "val/loss"), ("train/c_loss", "train/n_loss")
CHARTS = Charts(
    columns=charts.OF_MAPS
    | {
        "Loss": LOSS,
        "Velocity": ("train/v_loss", "val/v_loss"),
        "Decoupled: error of C and of the noise": (*PARTS, "val/c_loss", "val/n_loss"),
        "Norms, denoiser": charts.norms("denoiser"),
    },
    panels=(
        functools.partial(
            dashboard.two_axes,
            left=Panel(LOSS, "loss", "loss"),
            right=Panel(PARTS, "errors of C and of the noise"),
        ),
    ),
    network="denoiser",
)
