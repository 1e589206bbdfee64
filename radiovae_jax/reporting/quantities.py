"""How each logged number looks in figures and report: label, colour, line, unit."""

from collections.abc import Iterable
from typing import NamedTuple

from radiovae_jax.data.radiomap import RADIOMAPSEER_DB, DbRange

# Source: Okabe and Ito 2008, "Color Universal Design".
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
# Source: Paul Tol 2021, "Colour Schemes", muted.
INDIGO, TEAL, OLIVE, WINE = "#332288", "#44AA99", "#999933", "#882255"
ROSE, MAUVE = "#CC6677", "#AA4499"
OTHERS = (BLACK, BLUE, RED, GREEN, PURPLE, ORANGE)  # of what has no entry below
UNIT_OF_MAPS = "dB, or f where maps have no unit"


class Quantity(NamedTuple):
    """How one number looks in every picture."""

    label: str
    colour: str
    style: str = "-"  # of the line, as matplotlib names it
    unit: str = ""
    scale: float = 1.0  # times the logged number gives this unit


QUANTITIES = {
    "rec_loss": Quantity("rec", BLUE, "-", "per pixel"),
    "kl_loss": Quantity("KL", RED, "--", "nats per image"),
    "total_loss": Quantity("total", BLACK, "-", "per image"),
    "nll_loss": Quantity("nll", SKY, "--", "per image"),
    "edge_loss": Quantity("edge", TEAL, "--", "per pixel"),
    "pinn_loss": Quantity("pinn", WINE, "-.", "per pixel"),
    "ssim_loss": Quantity("1 − SSIM", OLIVE, ":"),
    "perceptual_loss": Quantity("LPIPS", ROSE, "-."),
    "logvar": Quantity("logvar", MAUVE, "-."),
    "g_loss": Quantity("generator", GREEN, "-."),
    "disc_loss": Quantity("discriminator", ORANGE, "--"),
    "d_weight": Quantity("d_weight", PURPLE, ":"),
    "feature_matching_loss": Quantity("feature matching", WINE),
    "r1_loss": Quantity("R1", INDIGO, "--"),
    "lecam_loss": Quantity("LeCAM", OLIVE, ":"),
    "loss": Quantity("loss", BLACK),
    "v_loss": Quantity("velocity", BLUE, "--"),
    "c_loss": Quantity("C", GREEN, "-."),
    "n_loss": Quantity("noise", ORANGE, "--"),
    "logits_real": Quantity("logits of maps", INDIGO, "-."),
    "logits_fake": Quantity("logits of reconstructions", MAUVE, ":"),
    "disc_accuracy": Quantity("share", TEAL),
    "psnr": Quantity("PSNR", INDIGO, "-", "dB"),
    "ssim": Quantity("SSIM", TEAL, "--"),
    "nmse": Quantity("NMSE", WINE),
    "rmse_db": Quantity("RMSE", ROSE, "-", "dB"),
    "rmse": Quantity("RMSE", ROSE, "-", "f"),
    "mae_db": Quantity("MAE", OLIVE, "--", "dB"),
    "mae": Quantity("MAE", OLIVE, "--", "f"),
    "sample_diversity": Quantity("mean distance", MAUVE, "-", UNIT_OF_MAPS),
    "grad_norm": Quantity("gradient", INDIGO),  # of each network
    "update_norm": Quantity("update", OLIVE, "--"),
    "param_norm": Quantity("weights", ROSE, ":"),
    **{
        f"{name}_{end}": Quantity(label, colour, style)
        for name in ("recon", "posterior_logvar")
        for end, label, colour, style in (
            ("min", "lowest", INDIGO, "-"),
            ("max", "highest", ROSE, "--"),
        )
    },
    "learning_rate": Quantity("learning rate", BLACK),
    "kl_weight": Quantity("kl_weight", RED),
    "skipped": Quantity("all", INDIGO),
    "skipped_in_row": Quantity("in a row", ROSE, "--"),
    "step_seconds": Quantity("a step", INDIGO, "-", "seconds"),
    "data_seconds": Quantity("of it waiting for data", ROSE, "--", "seconds"),
    "images_per_second": Quantity("images a second", BLACK),
    "validation_seconds": Quantity("validation", MAUVE, "-", "seconds"),
    "checkpoint_seconds": Quantity("saving", WINE, "--", "seconds"),
    "device_bytes": Quantity("device memory", TEAL, "-.", "GiB", 2**-30),
    "host_bytes": Quantity("host memory", OLIVE, ":", "GiB", 2**-30),
}


def look(name: str, db: DbRange = RADIOMAPSEER_DB, *, place: int = 0) -> Quantity:
    """Returns how a column of metrics.jsonl looks, in training as in validation.

    Args:
      db: what f is in dB.
      place: among columns that are drawn together; colours those without an entry.
    """
    short = name.rpartition("/")[2]
    general = short.partition("_")[2]  # NETWORK_grad_norm
    plain = Quantity(short, OTHERS[place % len(OTHERS)])
    quantity = QUANTITIES.get(short) or QUANTITIES.get(general, plain)
    return quantity._replace(unit=quantity.unit.replace(UNIT_OF_MAPS, db.unit))


def labels(names: Iterable[str]) -> dict[str, str]:
    """Returns a label for each of the columns that are drawn together.

    One number in training and validation is told apart by these two words alone.
    """
    names = list(names)
    if len({name.rpartition("/")[2] for name in names}) == 1 < len(names):
        words = {"train": "training", "val": "validation"}
        return {name: words[name.partition("/")[0]] for name in names}
    return {name: full_label(name) for name in names}


def full_label(name: str) -> str:
    """Returns a label that says which number it is, and whether of validation."""
    return look(name).label + ", validation" * name.startswith("val/")
