"""Measures a run on a split: a table, a JSON record and a CSV line for every map.

    python -m radiovae_jax.evaluate --workdir runs/radio
    python -m radiovae_jax.evaluate --workdir runs/radio --split test --baseline pca

The reconstruction is that of the posterior's mode, clipped to [0, 1]. Published tables
mix two scales, f itself and f thresholded at 0.2; both are given, each by its name.
"""

import csv
import functools
import json
import math
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import app, flags, logging
from jaxtyping import PyTree
from tqdm import tqdm

from radiovae_jax import (
    baselines,
    checkpoint,
    command_line,
    config_check,
    experiment,
    metrics,
    run_folder,
)
from radiovae_jax.data import pipeline, radiomap
from radiovae_jax.data.batch import resize, resize_back, to_batch

# Name -> (threshold on f, dB of the whole scale).
SCALES = {"raw": (0.0, 100.0), "thresholded_0.2": (0.2, 80.0)}
COLUMNS = ("nmse", "rmse_db", "mae_db", "psnr", "ssim")

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
SPLIT = flags.DEFINE_string("split", "val", "train, val, test, or all maps found.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "Data, if not where the config says.")
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "live"], "Which weights.")
STEP = flags.DEFINE_integer("step", 0, "Which checkpoint; 0 is the best.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Maps at a time.", lower_bound=1)
BASELINE = flags.DEFINE_enum(
    "baseline", "none", ["none", "pca"], "A linear row beside: PCA of patches."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")

Measured = dict[str, dict[str, dict[str, float]]]


def evaluate(
    workdir: pathlib.Path,
    *,
    split: str = "val",
    data_root: str = "",
    weights: str = "ema",
    step: int = 0,
    batch_size: int = 8,
    baseline: str = "none",
) -> dict[str, Any]:
    """Returns the record that is written to `evaluation/{split}.json`.

    Raises:
      ValueError, FileNotFoundError: no run, no such split, data that cannot be read.
    """
    config = run_folder.read_config(workdir)
    config_check.check(config)
    if data_root:
        config.data.root = data_root
    source, regions = open_with_regions(config, split)
    step = step or checkpoint.best_step(workdir)
    model, params = run_folder.load(workdir, weights, step=step)

    def autoencode(params: PyTree, f):
        posterior = model.apply(params, radiomap.f_to_model(f), method="encode")
        recon = model.apply(params, posterior.mode(), method="decode")
        return radiomap.model_to_f(recon)

    rows: dict[str, Measured] = {}
    judge = functools.partial(
        measure, source=source, config=config, regions=regions, batch_size=batch_size
    )
    rows["autoencoder"], maps = judge(autoencode, params)
    if baseline == "pca":
        rows["pca"], _ = judge(baselines.reconstruct, fit_pca(config, model))
    record = {
        "workdir": str(workdir),
        "step": step,
        "weights": weights,
        "data": source.summary(),
        "split": split,
        "images": len(source),
        "size": list(seen_shape(config, source.shape)),
        "metrics_size": config.train.metrics_size,
        "data_range": 1.0,
        "commit": commit(),
        "rows": rows,
        "config": run_folder.jsonable(config),
    }
    write(pathlib.Path(workdir) / "evaluation", split, record, maps)
    return record


def open_with_regions(config: ml_collections.ConfigDict, split: str):
    """Opens a split with its buildings where the data set has them."""
    try:
        source = experiment.open_data(config, split, also=("buildings",))
        return source, ("all", "street", "building")
    except (FileNotFoundError, ValueError) as error:
        logging.info("no regions, for want of buildings: %s", error)
        return experiment.open_data(config, split), ("all",)


def seen_shape(config: ml_collections.ConfigDict, stored) -> tuple[int, int, int]:
    side = config.data.image_size
    return (side, side, stored[2]) if side else tuple(stored)


def measure(
    reconstruct: Callable,
    weights: PyTree,
    *,
    source: pipeline.Source,
    config: ml_collections.ConfigDict,
    regions: tuple[str, ...],
    batch_size: int,
) -> tuple[Measured, list[dict[str, Any]]]:
    """Returns metrics by scale and region, and a row for every map (raw, all).

    Args:
      reconstruct: (weights, f) -> f, at the size that the networks see.
    """
    stored = config.train.metrics_size == "stored"
    image_size = config.data.image_size

    @jax.jit
    def measure_batch(weights, raw):
        batch = to_batch(
            raw, image_size=image_size, pixel_weights="none", conditional=False
        )
        recon = reconstruct(weights, radiomap.model_to_f(batch.image))
        seen = radiomap.model_to_f(batch.target)
        target = radiomap.gray_to_f(raw["gray"]) if stored else seen
        recon = jnp.clip(resize_back(recon, *target.shape[1:3]), 0, 1)
        masks = {"all": jnp.ones((*target.shape[:3], 1))}
        if "buildings" in raw:
            there = resize(
                radiomap.gray_to_f(raw["buildings"]), 0 if stored else image_size
            )
            masks["building"] = (there >= 0.5).astype(jnp.float32)
            masks["street"] = 1.0 - masks["building"]
        sums = {
            scale: {
                region: metrics.update(
                    metrics.init(),
                    radiomap.threshold(target, t),
                    radiomap.threshold(recon, t),
                    raw["mask"] > 0,
                    masks[region],
                )
                for region in regions
            }
            for scale, (t, _) in SCALES.items()
        }
        each = {name: getattr(metrics, name)(target, recon) for name in COLUMNS}
        return sums, each

    totals, maps = None, []
    batches = pipeline.eval_batches(source, batch_size=batch_size)
    for raw in tqdm(batches, total=-(-len(source) // batch_size), unit="batch"):
        arrays = {name: value for name, value in raw.items() if name != "name"}
        sums, each = jax.device_get(measure_batch(weights, arrays))
        totals = sums if totals is None else jax.tree.map(np.add, totals, sums)
        for i in np.flatnonzero(raw["mask"]):
            numbers = {name: float(values[i]) for name, values in each.items()}
            maps.append({"name": str(raw["name"][i]), **numbers})
    return {
        scale: {
            region: metrics.result(totals[scale][region], db_per_unit=db)
            for region in regions
        }
        for scale, (_, db) in SCALES.items()
    }, maps


def fit_pca(config: ml_collections.ConfigDict, model) -> baselines.Pca:
    """Fits patches of the latent's size on the split that the run trained on."""
    source = experiment.open_data(config, config.data.train_split)
    maps = (
        resize(radiomap.gray_to_f(source[i]["gray"])[None], config.data.image_size)
        for i in tqdm(range(len(source)), desc="pca", unit="map")
    )
    return baselines.fit_pca(maps, patch=model.downsampling, components=model.embed_dim)


def write(folder: pathlib.Path, split: str, record: dict, maps: list[dict]) -> None:
    """Writes `split`.json (what is not finite as null) and `split`.csv."""
    folder.mkdir(exist_ok=True)
    finite = jax.tree.map(
        lambda v: None if isinstance(v, float) and not math.isfinite(v) else v, record
    )
    (folder / f"{split}.json").write_text(json.dumps(finite, indent=2) + "\n")
    with (folder / f"{split}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("name", *COLUMNS))
        writer.writeheader()
        writer.writerows(maps)


def commit() -> str:
    """Returns the commit of the code, or "unknown" outside a checkout."""
    here = pathlib.Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def table(record: dict[str, Any]) -> str:
    """Returns the numbers as text; means over images of per-image numbers."""
    height, width, _ = record["size"]
    lines = [
        record["data"],
        f"step {record['step']}, {record['weights']} weights, seen at "
        f"{height}x{width}, metrics at the {record['metrics_size']} size, commit "
        f"{record['commit']}",
        f"{'row':<12}{'scale':<17}{'region':<10}"
        + "".join(f"{name:>10}" for name in (*COLUMNS, "nmse pool")),
    ]
    for row, by_scale in record["rows"].items():
        for scale, by_region in by_scale.items():
            for region, numbers in by_region.items():
                cells = [numbers[name] for name in (*COLUMNS, "nmse_pooled")]
                lines.append(
                    f"{row:<12}{scale:<17}{region:<10}"
                    + "".join(f"{value:>10.4g}" for value in cells)
                )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    with command_line.one_message(debug=DEBUG.value):
        record = evaluate(
            pathlib.Path(WORKDIR.value),
            split=SPLIT.value,
            data_root=DATA_ROOT.value,
            weights=WEIGHTS.value,
            step=STEP.value,
            batch_size=BATCH_SIZE.value,
            baseline=BASELINE.value,
        )
        print(table(record))
        print(f"written: {WORKDIR.value}/evaluation/{SPLIT.value}.json and .csv")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=command_line.parse)
