"""What a run is warned of."""

import pytest
import showcase

from radiovae_jax.reporting import curves, diagnosis
from radiovae_jax.vae.charts import CHARTS

CLAMP = "d_weight is at its clamp"


def found(lines):
    run = curves.of(lines, showcase.CONFIG, CHARTS)
    return {warned.what: warned.why for warned in diagnosis.warnings(run)}


def changed(**columns):
    """Returns the made-up run with columns that are functions of the step."""
    lines = showcase.lines(200, 1000)
    for line in lines:
        for name, value in columns.items():
            line[name.replace("__", "/")] = value(line["step"])
    return lines


def validated(*nmse):
    return [{"step": i, "val/nmse": value} for i, value in enumerate(nmse)]


def test_the_documented_run_is_at_its_clamp_and_else_fine():
    assert found(showcase.lines()).keys() == {CLAMP}
    assert found(changed(train__d_weight=lambda s: 4000.0)) == {}


def test_what_is_usual_at_first_is_called_harmless():
    warned = found(changed(train__disc_accuracy=lambda s: 0.5))
    assert len(warned) == 2
    assert all(
        "usual" in why and "harmless" in why for why in map(str.lower, warned.values())
    )


@pytest.mark.parametrize(
    "what, columns, says",
    [
        ("KL collapse", {"train__kl_loss": lambda s: 9e-9}, "free_bits"),
        ("Skipped updates", {"train__skipped": lambda s: float(s > 9e4)}, "1 updates"),
        (
            "Numbers that are not finite",
            {"train__total_loss": lambda s: None if s == 70_000 else 1.0},
            "First at step 70,000: train/total_loss (1)",
        ),
        (
            "The discriminator is at chance",
            {"train__disc_accuracy": lambda s: 0.51},
            "51% of its logits",
        ),
        (
            "The discriminator is at chance",
            {"train__logits_fake": lambda s: 0.59},
            "0.01 apart",
        ),
        (
            "posterior_logvar_min out of range",
            {"train__posterior_logvar_min": lambda s: -30.0},
            "100% of the latest",
        ),
        (
            "recon_max out of range",
            {"train__recon_max": lambda s: 1.6},
            "outside [-1, 1]",
        ),
    ],
)
def test_it_warns_of(what, columns, says):
    columns = {"train__d_weight": lambda s: 4000.0} | columns
    warned = found(changed(**columns))
    assert warned.keys() == {what}
    assert says in warned[what]


@pytest.mark.parametrize(
    "columns",
    [
        {"train__kl_loss": lambda s: 2e-8},
        {"train__disc_accuracy": lambda s: 0.6},
        # For most of the run, but not in its latest quarter.
        {"train__disc_accuracy": lambda s: 0.5 if s < 140_000 else 0.7},
        {"train__recon_max": lambda s: 1.4},
        {"train__recon_max": lambda s: 1.6 if s < 150_000 else 1.0},
    ],
)
def test_it_does_not_warn_of_what_is_usual_or_past(columns):
    assert found(changed(train__d_weight=lambda s: 4000.0, **columns)) == {}


def test_validation_is_worse_after_three_that_miss_the_best_by_five_percent():
    worse = "Validation is getting worse"
    assert worse in found(validated(0.5, 0.1, 0.11, 0.12, 0.13))
    assert worse not in found(validated(0.5, 0.1, 0.11, 0.12))
    assert worse not in found(validated(0.5, 0.1, 0.104, 0.12, 0.13))
    assert worse not in found(validated(0.5, 0.4, 0.3, 0.2, 0.1))
