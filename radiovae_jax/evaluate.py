"""Measures a run on a split: a table, a JSON record and a CSV line for every map.

    python -m radiovae_jax.evaluate --workdir runs/radio
    python -m radiovae_jax.evaluate --workdir runs/radio --split test --baseline pca

Rows: the autoencoder from the posterior's mode, the same from one sample of it (a
generator's latents are no modes), and a linear coder. Reconstructions are clipped to
[0, 1]. Published tables mix two scales, f itself and f thresholded at 0.2; both are
given, each by its name.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from radiovae_jax import cli, inputs, provenance
from radiovae_jax.data import datasets, radiomap, sources
from radiovae_jax.data.batch import resize, resized
from radiovae_jax.evaluation import baselines, comparison, record
from radiovae_jax.evaluation.comparison import SCALES
from radiovae_jax.evaluation.measure import Measured, measure
from radiovae_jax.nn import lpips
from radiovae_jax.progress import Bar
from radiovae_jax.reporting import artifacts, plots
from radiovae_jax.training import run_folder, schema
from radiovae_jax.vae import codec, latents
from radiovae_jax.vae.charts import CHARTS

ROWS = ("autoencoder", "autoencoder_sample", "pca")
SAMPLE_SEED = 0
PRIOR_SEED = 1  # of maps from the prior, for their Fréchet distance
SHOWN = 3  # of the best and of the worst maps


def evaluate(
    workdir: pathlib.Path,
    *,
    split: str = "val",
    data_root: str = "",
    weights: str = "ema",
    step: int = 0,
    batch_size: int = 8,
    baseline: str = "none",
    perceptual_weights: str = "",
) -> dict[str, Any]:
    """Returns the record that is written to `evaluation/{split}.json`.

    Raises:
      ValueError, FileNotFoundError: no run, no such split, data that cannot be read.
      OSError: its folder cannot be written.
    """
    workdir = inputs.local(workdir, "workdir")
    config = run_folder.read_config(workdir)
    schema.check(config)
    if data_root:
        data_root = str(inputs.local(data_root, "data_root"))
        # Of a folder that is not there the synthetic source would draw a city.
        if config.data.source == "synthetic" and not pathlib.Path(data_root).is_dir():
            raise FileNotFoundError(
                f"no folder {data_root}; give the one that holds the maps with "
                "--data_root, or leave it out for the config's"
            )
        config.data.root = data_root
    step, (model, params) = run_folder.hold(
        workdir, step, lambda step: codec.load_network(workdir, weights, step=step)
    )
    notes: list[str] = []
    source, regions = open_with_regions(config, split, notes)
    folder = cli.folder(pathlib.Path(workdir) / "evaluation", flag="--workdir")
    wanted = perceptual_weights or config.loss.perceptual_weights
    # A run without LPIPS was trained without the Hub, and is measured without it.
    ask_hub = bool(perceptual_weights or config.loss.perceptual_weight)
    seen = seen_shape(config, source.shape)
    stored = config.train.metrics_size == "stored"
    lpips_weights = perceptual(
        wanted, source.shape if stored else seen, notes, ask_hub=ask_hub
    )
    # VGG takes gray and colours; LPIPS goes over other channels one by one.
    telling = lpips_weights != () and wanted != "random" and seen[2] in (1, 3)
    judge = comparison.Judge(
        rows=ROWS if baseline == "pca" else ROWS[:2],
        regions=regions,
        image_size=config.data.image_size,
        stored=stored,
        perceptual=lpips_weights != (),
        features="vgg16_relu5_3" if telling else "pixels_8x8",
        db=datasets.db_range(config),
    )
    pca = fit_pca(config, model) if baseline == "pca" else ()
    measured = measure(
        coder(model),
        (params, pca),
        source,
        judge,
        batch_size=batch_size,
        lpips_weights=lpips_weights,
        show=SHOWN,
    )
    found = {
        "workdir": str(workdir),
        "step": step,
        "weights": weights,
        "data": source.summary(),
        "split": split,
        "images": len(source),
        "size": list(seen),
        "commit": provenance.commit(),
        "notes": notes,
        **terms(config, judge),
        **record.numbers(measured, judge, wanted),
        "config": run_folder.jsonable(config),
    }
    found["summary"] = record.summary(found)
    record.write(folder, split, found, measured.maps)
    figure = picture(measured, with_buildings="building" in regions, db=judge.db)
    plots.save(figure, folder / f"{split}_best_worst.png")
    return found


def terms(config: ml_collections.ConfigDict, judge: comparison.Judge) -> dict[str, Any]:
    """Returns what the numbers mean, for the record."""
    return {
        "metrics_size": config.train.metrics_size,
        "scales": {
            name: {"threshold": threshold}
            | ({"db_per_unit": share * judge.db.span} if judge.db.span else {})
            for name, (threshold, share) in SCALES.items()
        },
        "regions": list(judge.regions),
        "data_range": 1.0,
        "clipped_to": [0.0, 1.0],
        "sample_seed": SAMPLE_SEED,
        "prior_seed": PRIOR_SEED,
    }


def open_with_regions(
    config: ml_collections.ConfigDict, split: str, notes: list[str]
) -> tuple[sources.Source, tuple[str, ...]]:
    """Opens a split with its buildings where the data set has them."""
    try:
        source = datasets.open_data(config, split, also=("buildings",))
        return source, comparison.REGIONS
    except (FileNotFoundError, ValueError) as error:
        source = datasets.open_data(config, split)
        notes.append(f"no regions, for want of buildings: {error}")
        return source, ("all",)


def seen_shape(config: ml_collections.ConfigDict, stored) -> tuple[int, int, int]:
    return (*resized(*stored[:2], config.data.image_size), stored[2])


def perceptual(
    source: str, shape: tuple[int, ...], notes: list[str], *, ask_hub: bool = True
) -> lpips.LpipsWeights | tuple[()]:
    """Returns LPIPS's weights where they are there and the maps large enough; or ().

    Args:
      ask_hub: False takes of "hub" what this machine has fetched before.
    """
    if source == "none":
        notes.append("no LPIPS: not asked for")
        return ()
    if min(shape[:2]) < lpips.SMALLEST:
        notes.append(
            f"no LPIPS: maps of shape {shape}, and it takes at least "
            f"{lpips.SMALLEST}x{lpips.SMALLEST}"
        )
        return ()
    try:
        weights = lpips.load_weights(source, ask_hub=ask_hub)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).partition(". ")[0].removeprefix("LPIPS weights: ")
        notes.append(f"no LPIPS (--perceptual_weights says where from): {reason}")
        return ()
    if source == "random":
        notes.append("LPIPS is on random weights: its value means nothing")
    return weights


def coder(model) -> comparison.Code:
    """Returns what codes a batch: ((params, pca or ()), image, index) -> Coded."""

    def code(weights, image, index):
        params, pca = weights
        posterior = model.apply(params, image, method="encode")
        key = jax.random.key(SAMPLE_SEED)
        z = latents.sample_each(key, index, posterior.mean, posterior.std)
        recons = {
            "autoencoder": model.apply(params, posterior.mode(), method="decode"),
            "autoencoder_sample": model.apply(params, z, method="decode"),
        }
        noise = latents.sample_each(jax.random.key(PRIOR_SEED), index, 0 * z, 1.0)
        if pca:
            f = baselines.reconstruct(pca, radiomap.model_to_f(image))
            recons["pca"] = radiomap.f_to_model(f)
        prior = model.apply(params, noise, method="decode")
        return comparison.Coded(recons, posterior, prior)

    return code


def fit_pca(config: ml_collections.ConfigDict, model) -> baselines.Pca:
    """Fits patches of the latent's size on the split that the run trained on."""
    source = datasets.open_data(config, config.data.train_split)
    maps = (
        resize(radiomap.gray_to_f(source[i]["gray"])[None], config.data.image_size)
        for i in Bar(range(len(source)), desc="pca", unit="map")
    )
    return baselines.fit_pca(maps, patch=model.downsampling, components=model.embed_dim)


def picture(measured: Measured, *, with_buildings: bool, db: radiomap.DbRange):
    """Returns the best maps, then the worst, with their reconstructions."""
    named = [
        (f"{kind}: {one.name}, NMSE {one.nmse:.3g}", one)
        for kind, ones in (("best", measured.best), ("worst", measured.worst))
        for one in ones
    ]
    names, shown = zip(*named, strict=True)
    return plots.reconstructions(
        np.stack([one.target for one in shown]),
        np.stack([one.recon for one in shown]),
        names=list(names),
        buildings=np.stack([one.buildings > 0 for one in shown])
        if with_buildings
        else None,
        max_rows=len(shown),
        db=db,
    )


def parser() -> cli.Parser:
    parser = cli.Parser(doc=__doc__, prog="python -m radiovae_jax.evaluate")
    add, path = parser.add_argument, dict(type=cli.path, metavar="DIR")
    add("--workdir", required=True, help="folder of the run", **path)
    add("--split", default="val", help="train, val (default), test, or all maps found")
    add("--data_root", default="", help="data, if not where the config says", **path)
    words = "which weights, default ema"
    add("--weights", choices=("ema", "live"), default="ema", help=words)
    words = "which checkpoint; default the best"
    add("--step", type=cli.at_least(0), default=0, metavar="N", help=words)
    words = "maps at a time over all devices, default 8"
    add("--batch_size", type=cli.at_least(1), default=8, metavar="N", help=words)
    words = "a linear row beside: PCA of patches"
    add("--baseline", choices=("none", "pca"), default="none", help=words)
    words = "LPIPS's: hub, a folder, random, or none; the config's if not given"
    add("--perceptual_weights", default="", help=words, **path)
    parser.add_debug()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    args = parser().parse_args(argv)
    cli.log_plainly(logging.ERROR)  # what is worth saying is in the notes
    return cli.status(lambda: _evaluate(args), debug=args.debug)


def _evaluate(args: argparse.Namespace) -> None:
    cli.start_jax()
    fields = {name: value for name, value in vars(args).items() if name != "debug"}
    found = evaluate(**fields | {"perceptual_weights": str(args.perceptual_weights)})
    cli.say(record.table(found))
    place = args.workdir / "evaluation" / args.split
    cli.say(f"written: {place}.json, .csv and _best_worst.png")
    for path in artifacts.renew_report(args.workdir, CHARTS):
        cli.say(f"renewed: {path}")


if __name__ == "__main__":
    sys.exit(main())
