"""The record of an evaluation: as JSON and CSV, and as text."""

import csv
import math
import pathlib
from typing import Any

from radiovae_jax import comparison, latents, whole_files
from radiovae_jax.comparison import COLUMNS, FEATURES, POOLED
from radiovae_jax.measure import PRIOR, Lines, Measured, Table


def numbers(
    measured: Measured, judge: comparison.Judge, perceptual_weights: str
) -> dict[str, Any]:
    """Returns what was measured, for the record."""
    statistics = latents.statistics(measured.latent)
    latent = {
        "shape": list(measured.latent_shape),
        "kl_nats_per_image": measured.kl,
        "kl_nats_per_entry": measured.kl / math.prod(measured.latent_shape),
        "of_each_channel": statistics,
    }
    lpips_of = {
        "weights": perceptual_weights if judge.perceptual else "none",
        "rows": measured.perceptual,
    }
    frechet = {
        "features": judge.features,
        "features_are": FEATURES[judge.features],
        "dimensions": measured.feature_count,
        "images": len(measured.maps.names),
        "covariance_is_singular": len(measured.maps.names) <= measured.feature_count,
        "rows": measured.frechet,
    }
    return {
        "rows": measured.table,
        "lpips": lpips_of,
        "frechet": frechet,
        "latent": latent,
    }


def write(folder: pathlib.Path, split: str, record: dict, maps: Lines) -> None:
    """Writes `split`.json (what is not finite as null) and `split`.csv, each whole.

    The CSV has one line a map; its columns are named by their place in the record,
    row/scale/region/metric. The folder is there.
    """
    with (
        whole_files.written(folder / f"{split}.csv") as partial,
        partial.open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("name", *maps.columns))
        for name, values in zip(maps.names, maps.values, strict=True):
            writer.writerow((name, *values))
    whole_files.write_json(folder / f"{split}.json", record)


def table(record: dict[str, Any]) -> str:
    """Returns the numbers as text: means over maps, then of all pixels together."""
    lines = [
        record["data"],
        f"step {record['step']}, {record['weights']} weights, {conditions(record)}",
        f"{'':<47} {' mean over maps of each ':-^49} {' all pixels as one ':-^29}",
        f"{'row':<20}{'scale':<17}{'region':<10}"
        + "".join(f"{name:>10}" for name in COLUMNS)
        + "".join(f"{name.removesuffix('_pooled'):>10}" for name in POOLED),
    ]
    for row, by_scale in record["rows"].items():
        for scale, by_region in by_scale.items():
            for region, found in by_region.items():
                cells = "".join(f"{found[name]:>10.4g}" for name in (*COLUMNS, *POOLED))
                lines.append(f"{row:<20}{scale:<17}{region:<10}{cells}")
    return "\n".join([*lines, *summary(record)])


def conditions(record: dict[str, Any]) -> str:
    """Returns at which sizes, and by which code, the numbers were made."""
    height, width, _ = record["size"]
    return (
        f"seen at {height}x{width}, metrics at the {record['metrics_size']} size, "
        f"commit {record['commit']}"
    )


def explained(rows: Table) -> list[str]:
    """Returns a line on an infinite NMSE, where there is one in the table."""
    found = [numbers for scales in rows.values() for numbers in scales.values()]
    if not any(math.isinf(v["nmse"]) for regions in found for v in regions.values()):
        return []
    return [
        "NMSE inf: a map is 0 all over that region (no signal under a roof, say) and "
        "leaves nothing to compare the error with; RMSE tells"
    ]


def summary(record: dict[str, Any]) -> list[str]:
    """Returns lines on infinite NMSE, LPIPS, Fréchet, the latent, and the notes."""

    def of_rows(rows: dict[str, float]) -> str:
        return ", ".join(f"{row} {value:.4g}" for row, value in rows.items())

    lines = explained(record["rows"])
    if record["lpips"]["rows"]:
        label = " on RANDOM weights" if record["lpips"]["weights"] == "random" else ""
        lines.append(f"LPIPS{label}: {of_rows(record['lpips']['rows'])}")
    frechet = record["frechet"]
    few = ", fewer maps than numbers: compare on this very set alone"
    prior = f" ({PRIOR}: decoded from N(0, 1))" if PRIOR in frechet["rows"] else ""
    lines.append(
        f"Fréchet distance of {frechet['features']} ({frechet['dimensions']} numbers "
        f"of {frechet['images']} maps"
        f"{few if frechet['covariance_is_singular'] else ''}): "
        f"{of_rows(frechet['rows'])}{prior}"
    )
    latent = record["latent"]
    channels = latent["of_each_channel"]
    each = zip(channels["mean"], channels["std"], channels["kl_nats"], strict=True)
    lines.append(
        f"latent {'x'.join(map(str, latent['shape']))}: KL "
        f"{latent['kl_nats_per_image']:.5g} nats an image, "
        f"{latent['kl_nats_per_entry']:.3g} an entry; channels (mean, std, KL): "
        + ", ".join(f"({mean:.3g}, {std:.3g}, {kl:.3g})" for mean, std, kl in each)
    )
    return lines + record["notes"]
