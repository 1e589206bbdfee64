"""The record of an evaluation: as JSON and CSV, and as text."""

import csv
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from radiovae_jax import files, inputs
from radiovae_jax.evaluation import calibration, evaluator, latent_statistics
from radiovae_jax.evaluation.evaluator import (
    FEATURES,
    PRIOR,
    SCALES,
    EvalSpec,
    Evaluation,
)

NAMED = 5  # maps, for each scale and region; the record has all

WHOLE = 10_000  # letters: no name is so long that a CSV cuts it


def numbers(
    measured: Evaluation,
    spec: EvalSpec,
    perceptual_weights: str,
    *,
    scale: float | None = None,
) -> dict[str, Any]:
    """Returns what was measured, and what the numbers mean, for the record.

    Args:
      scale: of the samples' deviation, fitted on another split.
    """
    own: dict[str, Any] = {}
    if measured.latent is not None:
        own["latent"] = {
            "shape": list(measured.latent_shape),
            "kl_nats_per_image": measured.kl,
            "kl_nats_per_entry": measured.kl / math.prod(measured.latent_shape),
            "of_each_channel": latent_statistics.statistics(measured.latent),
        }
    if measured.calibrated is not None:
        own["calibration"] = calibration.result(measured.calibrated, scale=scale)
    lpips_of = {
        "weights": perceptual_weights if spec.perceptual else "none",
        "rows": measured.perceptual,
    }
    frechet = {
        "features": spec.features,
        "features_are": FEATURES[spec.features],
        "dimensions": measured.feature_count,
        "images": len(measured.maps.names),
        "covariance_is_singular": len(measured.maps.names) <= measured.feature_count,
        "rows": measured.frechet,
    }
    return {
        "scales": {
            name: {"threshold": threshold}
            | ({"db_per_unit": share * spec.db.span} if spec.db.span else {})
            for name, (threshold, share) in SCALES.items()
        },
        "regions": list(spec.regions),
        "data_range": 1.0,
        "clipped_to": [0.0, 1.0],
        "rows": measured.table,
        "power": {
            scale: {region: found._asdict() for region, found in by_region.items()}
            for scale, by_region in measured.powered.items()
        },
        "lpips": lpips_of,
        "frechet": frechet,
        **own,
    }


def scale(path: pathlib.Path, which: Mapping[str, Any]) -> float | None:
    """Returns the scale of the deviation that was fitted on another split.

    Args:
      path: the record of that split; None is returned where there is none.
      which: fields, such as the step and the samples, that must be the same.
    """
    if not path.exists():
        return None
    found = inputs.read_json(path, remedy="evaluate that split again, or remove it")
    if any(found.get(name) != value for name, value in which.items()):
        return None
    return found.get("calibration", {}).get("fitted_scale")


def write(
    folder: pathlib.Path, split: str, record: dict, maps: evaluator.PerMap
) -> None:
    """Writes `split`.json (what is not finite as null) and `split`.csv, each whole.

    The CSV has one line a map; its columns are named by their place in the record,
    row/scale/region/metric. The folder is there.
    """
    with (
        files.written(folder / f"{split}.csv") as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("name", *maps.columns))
        for name, values in zip(maps.names, maps.values, strict=True):
            writer.writerow((inputs.printable(name, letters=WHOLE), *values))
    files.write_json(folder / f"{split}.json", record)


def table(record: dict[str, Any]) -> str:
    """Returns the numbers as text: means over maps, then of all pixels together."""
    in_db = all("db_per_unit" in scale for scale in record["scales"].values())
    suffix = "_db" if in_db else ""
    names = evaluator.columns(suffix)
    pooled = evaluator.pooled_columns(suffix)
    lines = [
        record["data"],
        f"step {record['step']}, {record['weights']} weights, {conditions(record)}",
        f"{'':<47} {' mean over maps of each ':-^49} {' all pixels as one ':-^29}",
        f"{'row':<20}{'scale':<17}{'region':<10}"
        + "".join(f"{name:>10}" for name in names)
        + "".join(f"{name.removesuffix('_pooled'):>10}" for name in pooled),
    ]
    for row, by_scale in record["rows"].items():
        for scale, by_region in by_scale.items():
            for region, found in by_region.items():
                cells = "".join(f"{found[name]:>10.4g}" for name in (*names, *pooled))
                lines.append(f"{row:<20}{scale:<17}{region:<10}{cells}")
    return "\n".join([*lines, *summary(record)])


def conditions(record: dict[str, Any]) -> str:
    """Returns at which sizes, and by which code, the numbers were made."""
    height, width, _ = record["size"]
    return (
        f"seen at {height}x{width}, metrics at the {record['metrics_size']} size, "
        f"commit {record['commit']}"
    )


def explained(power: Mapping[str, Any]) -> list[str]:
    """Returns lines on the maps that the mean NMSE leaves out, where it does."""
    lines = []
    for scale, by_region in power.items():
        for region, found in by_region.items():
            images, names = found["images"], found["without"]
            if names:
                more = " ..." if len(names) > NAMED else ""
                lines.append(
                    f"{scale}, {region}: NMSE over {images - len(names)} of {images} "
                    f"maps; without power: {', '.join(names[:NAMED])}{more}"
                )
    return lines


def summary(record: dict[str, Any]) -> list[str]:
    """Returns lines on maps without NMSE, LPIPS, Fréchet, the latent, and the notes."""

    def of_rows(rows: dict[str, float]) -> str:
        return ", ".join(f"{row} {value:.4g}" for row, value in rows.items())

    lines = explained(record["power"])
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
    if "latent" in record:
        latent = record["latent"]
        channels = latent["of_each_channel"]
        each = zip(channels["mean"], channels["std"], channels["kl_nats"], strict=True)
        lines.append(
            f"latent {'x'.join(map(str, latent['shape']))}: KL "
            f"{latent['kl_nats_per_image']:.5g} nats an image, "
            f"{latent['kl_nats_per_entry']:.3g} an entry; channels (mean, std, KL): "
            + ", ".join(f"({mean:.3g}, {std:.3g}, {kl:.3g})" for mean, std, kl in each)
        )
    if "calibration" in record:
        spread = record["calibration"]
        lines.append(
            f"street: the {spread['interval']:.0%} interval of the samples' deviation "
            f"covers {spread['coverage']:.1%}; it would at "
            f"{spread['fitted_scale']:.3g} times the deviation"
        )
        if "scale" in spread:
            lines[-1] += (
                f"; at {spread['scale']:.3g} times, fitted on the validation split, "
                f"{spread['scaled_coverage']:.1%}"
            )
    if "ms_a_map" in record:
        each = (f"{name} {ms:.3g}" for name, ms in record["ms_a_map"].items())
        lines.append(f"milliseconds a map, {record['timed_on']}: {', '.join(each)}")
    return lines + record["notes"]
