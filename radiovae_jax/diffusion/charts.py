"""How the training of the second stage is shown: charts, figure 5."""

import functools

from radiovae_jax.reporting import dashboard
from radiovae_jax.reporting.curves import Charts
from radiovae_jax.reporting.panels import Panel

CHARTS = Charts(
    columns={
        "PSNR": ("val/psnr",),
        "SSIM": ("val/ssim",),
        "NMSE": ("val/nmse",),
        "RMSE and MAE": ("val/rmse_db", "val/mae_db"),
        "Loss": ("train/loss", "val/loss"),
        "Velocity": ("train/v_loss", "val/v_loss"),
        "Decoupled: error of C and of the noise": (
            "train/c_loss",
            "val/c_loss",
            "train/n_loss",
            "val/n_loss",
        ),
        "Norms, denoiser": (
            "train/denoiser_grad_norm",
            "train/denoiser_update_norm",
            "train/denoiser_param_norm",
        ),
    },
    panels=(
        functools.partial(
            dashboard.two_axes,
            left=Panel(("train/loss", "val/loss"), "loss", "loss"),
            right=Panel(
                ("train/c_loss", "train/n_loss"), "errors of C and of the noise"
            ),
        ),
    ),
    network="denoiser",
)
