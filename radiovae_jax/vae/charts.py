"""How the training of a VAE is shown: charts, figures, what it warns of."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from radiovae_jax.reporting import charts, curves, dashboard, figures
from radiovae_jax.reporting.curves import Charts, Curve, Run
from radiovae_jax.reporting.panels import Panel
from radiovae_jax.reporting.quantities import Quantity, look
from radiovae_jax.vae import diagnosis, latents

# Logged as 0 before the discriminator's phase.
ADVERSARIAL = frozenset(
    f"{part}/{name}"
    for part in ("train", "val")
    for name in (
        "g_loss disc_loss d_weight logits_real logits_fake disc_accuracy "
        "disc_grad_norm disc_update_norm disc_param_norm "
        "feature_matching_loss r1_loss lecam_loss"
    ).split()
)


def switch(config: Mapping[str, Any]) -> float | int:
    """Returns the last step without discriminator; inf: there is none.

    -inf for a config without a loss, of a stage that says no name.
    """
    loss = config.get("loss", {})
    if "disc_start" not in loss:
        return -math.inf
    return loss["disc_start"] if loss["disc_factor"] else math.inf


def weighed(run: Run) -> list[tuple[Quantity, Curve]]:
    """Returns |weight x term| of what the total adds up.

    Zeros are left out: they have no place on a log scale.
    """
    kl = curves.product(run, "train/kl_loss", "train/kl_weight")
    if not len(kl.values):  # an older run, whose weight was constant
        kl = curves.curve(run, "train/kl_loss")
        kl = Curve(kl.steps, diagnosis.weight(run, "kl_weight") * kl.values)
    g = curves.product(run, "train/g_loss", "train/d_weight", "train/disc_factor")
    terms = [
        ("|nll|", curves.curve(run, "train/nll_loss"), "nll_loss"),
        ("kl_weight · kl", kl, "kl_loss"),
        ("|d_weight · disc_factor · g|", g, "g_loss"),
    ]
    return [
        (
            look(name)._replace(label=label, unit=""),
            Curve(steps[values != 0], np.abs(values[values != 0])),
        )
        for label, (steps, values), name in terms
    ]


def balance_title(run: Run) -> str:
    share = diagnosis.clamped(run)
    clamp = f": d_weight at its clamp in {100 * share:.3g}% of lines" if share else ""
    return f"loss balance{clamp}"


REC, KL = ("train/rec_loss", "val/rec_loss"), ("train/kl_loss", "val/kl_loss")
LIKELIHOOD = ("train/total_loss", "train/nll_loss", "val/total_loss")
PIXELWISE = ("train/edge_loss", "train/pinn_loss", "train/ssim_loss")
LPIPS = ("train/perceptual_loss", "val/perceptual_loss")
LOSSES = ("train/g_loss", "train/disc_loss")
LOGITS = ("train/logits_real", "train/logits_fake")
FURTHER = ("train/feature_matching_loss", "train/r1_loss", "train/lecam_loss")
FIGURES = {
    "figure_1_training_phases": lambda run: figures.training_phases(
        run,
        Panel(REC, "reconstruction\n(rec_loss, per pixel)"),
        Panel(KL, "KL\n(nats per image)"),
        Panel(LOSSES, "adversarial losses"),
    ),
    "figure_2_loss_components_comprehensive": lambda run: figures.loss_components(
        run,
        Panel(LIKELIHOOD, "per image", "total and likelihood"),
        Panel(
            (*REC, *PIXELWISE, *LPIPS), "per pixel; LPIPS and SSIM per image", "terms"
        ),
        Panel(KL, "nats per image", "KL, before its weight"),
        Panel((*LOSSES, FURTHER[0], *LOGITS), "", "adversarial"),
    ),
    "figure_3_multi_axis_analysis": lambda run: figures.three_axes(
        run,
        {
            "train/rec_loss": "reconstruction (rec_loss, per pixel)",
            "train/kl_loss": "KL (nats per image)",
            "train/g_loss": "generator (g_loss)",
            "train/total_loss": "total (per image)",
        },
    ),
    "figure_4_normalized_comparison": lambda run: figures.normalized(
        run, *"rec_loss kl_loss total_loss logvar g_loss disc_loss d_weight".split()
    ),
}
CHARTS = Charts(
    columns=charts.OF_MAPS
    | {
        "Reconstruction, rec_loss": REC,
        "KL": KL,
        "Further pixelwise terms": PIXELWISE,
        "LPIPS, unweighted": LPIPS,
        "Total and likelihood": LIKELIHOOD,
        "Adversarial losses": LOSSES,
        "Logits of the discriminator": LOGITS,
        "Discriminator's accuracy": ("train/disc_accuracy",),
        "d_weight": ("train/d_weight",),
        "Further adversarial terms": FURTHER,
        "logvar, learned": ("train/logvar",),
        "Norms, autoencoder": charts.norms("ae"),
        "Norms, discriminator": charts.norms("disc"),
        "Range of reconstructions (maps: ±1)": ("train/recon_min", "train/recon_max"),
        "Range of the posterior's log-variance": (
            "train/posterior_logvar_min",
            "train/posterior_logvar_max",
        ),
        "Diversity of samples": ("val/sample_diversity",),
        "KL weight": ("train/kl_weight",),
        "disc_factor": ("train/disc_factor",),
    },
    checks=diagnosis.CHECKS,
    figures=FIGURES,
    panels=(
        functools.partial(
            dashboard.two_axes,
            left=Panel(REC, "rec_loss (per pixel)", "losses"),
            right=Panel(LOSSES, "adversarial losses"),
        ),
        functools.partial(
            dashboard.computed,
            of=weighed,
            title=balance_title,
            unit="size of the term in the total",
        ),
        dashboard.samples,
    ),
    network="ae",
    latents=latents.examples,
    later="discriminator",
    switch=switch,
    later_columns=ADVERSARIAL,
)
