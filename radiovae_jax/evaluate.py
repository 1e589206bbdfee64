"""Measures a run on a split: a table, a JSON record and a CSV line for every map.

    python -m radiovae_jax.evaluate --workdir runs/radio
    python -m radiovae_jax.evaluate --workdir runs/radio --split test --baseline pca
    python -m radiovae_jax.evaluate --workdir runs/radio_ldm --split test \\
        --calls 1,2,5 --samples 8 --baseline predictors

Rows of a first stage: the autoencoder from the posterior's mode, the same from one
sample of it (a generator's latents are no modes), and a linear coder. Of a second one:
one sample of so many calls of the network, the mean of several samples, the first
stage's reconstruction (the floor), and predictions without a network. All are clipped
to [0, 1]. Published tables mix two scales, f itself and f thresholded at 0.2; both are
given, each by its name.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging

from radiovae_jax import cli, inputs, provenance, stages
from radiovae_jax.data import datasets, pipeline, radiomap, sources
from radiovae_jax.data.batch import resized
from radiovae_jax.diffusion import eval_rows as diffusion_rows
from radiovae_jax.evaluation import baselines, evaluator, record
from radiovae_jax.evaluation.evaluator import EvalSpec, Evaluation
from radiovae_jax.nn import lpips
from radiovae_jax.progress import Bar
from radiovae_jax.reporting import artifacts, plots, prediction_plots
from radiovae_jax.training import run_folder, schema
from radiovae_jax.vae import codec, eval_rows

PREDICTOR_BATCH = 32  # maps at a time when predictors are fitted
# Fields that other values may be given for: what is evaluated, not what was trained.
OTHER_DATA = (
    "data.",
    "condition.pixel_metres",
    "train.metrics_size",
    "first_stage.run",
)
SHOWN = 3  # of the best and of the worst maps
NO_LOSS = ml_collections.ConfigDict(
    dict(perceptual_weights="hub", perceptual_weight=0.0)
)


class Measured(NamedTuple):
    """What is measured of a run.

    Attributes:
      rows, reconstruct, weights: what `evaluator.evaluate` takes.
      also: fields of each record that the rows are made of.
      settings: for the record.
      titles: of the maps in the picture, see `picture`.
      timed: more settings, measured when the rest is done.
      floor: see EvalSpec.
    """

    rows: tuple[str, ...]
    reconstruct: evaluator.Reconstruct
    weights: Any
    step: int
    image_size: int
    db: radiomap.DbRange
    settings: dict[str, Any]
    titles: Mapping[str, str] = MappingProxyType({})
    timed: Callable[[sources.Source], dict[str, Any]] = lambda source: {}
    also: tuple[str, ...] = ()
    floor: float = 0.0


def _first_stage(config, workdir, weights, step, baseline) -> Measured:
    if baseline not in ("none", "pca"):
        raise ValueError(f"--baseline={baseline} is of a second stage; pca of this one")
    run = codec.load(workdir, weights, step=step)
    pca = eval_rows.fit_pca(config, run) if baseline == "pca" else ()
    return Measured(
        rows=eval_rows.ROWS if pca else eval_rows.ROWS[:2],
        reconstruct=eval_rows.reconstruct(run),
        weights=(run.params, pca),
        step=run.step,
        image_size=run.image_size,
        db=run.db,
        settings={
            "sample_seed": eval_rows.SAMPLE_SEED,
            "prior_seed": eval_rows.PRIOR_SEED,
        },
    )


def _second_stage(
    config,
    workdir,
    weights,
    step,
    baseline,
    *,
    calls,
    samples,
    measurements,
    batch_size,
) -> Measured:
    if baseline not in ("none", "predictors"):
        raise ValueError(
            f"--baseline={baseline} is of a first stage; predictors of this one"
        )
    if measurements and "measurements" not in config.condition.planes:
        raise ValueError(f"{workdir} was trained without measurements: leave them out")
    run = stages.load_predictor(workdir, weights, step=step, config=config)
    names = tuple(baselines.PREDICTORS) if baseline == "predictors" else ()
    also = ("buildings", "antenna") if names else ()
    fitted = {}
    for name in names:
        source = datasets.open_data(config, config.data.train_split, also=also)
        batches = pipeline.eval_batches(source, batch_size=PREDICTOR_BATCH)
        bar = Bar(batches, total=-(-len(source) // PREDICTOR_BATCH), desc=name)
        real = ({k: b[k][b["mask"] > 0] for k in ("gray", *also)} for b in bar)
        fitted[name] = baselines.PREDICTORS[name].fit(real)
    first = run.built.first
    titles = {f"{calls[0]} call{'s' * (calls[0] > 1)}": "recon"}
    if samples > 1:
        titles[f"mean of {samples}"] = "mean"
    return Measured(
        rows=diffusion_rows.rows(calls, samples, names),
        reconstruct=diffusion_rows.reconstruct(
            run.built, calls=calls, samples=samples, measurements=measurements
        ),
        weights=diffusion_rows.Weights(first.frozen, run.params, fitted),
        step=run.step,
        image_size=first.image_size,
        db=run.db,
        settings={
            "calls": list(calls),
            "samples": samples,
            "measurements": measurements,
            "sample_seed": diffusion_rows.SAMPLE_SEED,
        },
        titles=titles,
        timed=functools.partial(
            diffusion_rows.timed, run, calls=calls, batch_size=batch_size
        ),
        also=also,
        floor=first.record.get("rmse_f", 0.0),
    )


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
    calls: tuple[int, ...] = (1,),
    samples: int = 1,
    measurements: int = 0,
    name: str = "",
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the record that is written to `evaluation/{name or split}.json`.

    Args:
      overrides: {"section.field": text}, of the fields that OTHER_DATA names.

    Raises:
      ValueError, FileNotFoundError: no run, no such split, data that cannot be read.
      OSError: its folder cannot be written.
    """
    workdir = inputs.local(workdir, "workdir")
    config = run_folder.read_config(workdir)
    if wrong := [field for field in overrides if not field.startswith(OTHER_DATA)]:
        raise ValueError(
            f"--config.{wrong[0]} is what the run was trained with; an evaluation "
            f"takes {', '.join(OTHER_DATA)}"
        )
    schema.override(config, overrides)
    schema.check(config)
    name = name or split
    if data_root:
        data_root = str(inputs.local(data_root, "data_root"))
        # Of a folder that is not there the synthetic source would draw a city.
        if config.data.source == "synthetic" and not pathlib.Path(data_root).is_dir():
            raise FileNotFoundError(
                f"no folder {data_root}; give the one that holds the maps with "
                "--data_root, or leave it out for the config's"
            )
        config.data.root = data_root
    notes: list[str] = []
    measures = _first_stage
    if config.stage == "vae" and (calls != (1,) or samples > 1 or measurements):
        raise ValueError(
            f"--calls, --samples and --measurements are of a second stage, and "
            f"{workdir} is a first one: leave them out"
        )
    if config.stage == "diffusion":
        measures = functools.partial(
            _second_stage,
            calls=calls,
            samples=samples,
            measurements=measurements,
            batch_size=batch_size,
        )
    run = measures(config, workdir, weights, step, baseline)
    source, regions = open_with_regions(config, split, notes, also=run.also)
    folder = cli.folder(pathlib.Path(workdir) / "evaluation", flag="--workdir")
    trained_with = config.get("loss", NO_LOSS)
    wanted = perceptual_weights or trained_with.perceptual_weights
    # A run without LPIPS was trained without the Hub, and is measured without it.
    ask_hub = bool(perceptual_weights or trained_with.perceptual_weight)
    height, width, channels = source.shape
    size = [*resized(height, width, run.image_size), channels]  # for the network
    stored = config.train.metrics_size == "stored"
    lpips_weights = perceptual(
        wanted, source.shape if stored else size, notes, ask_hub=ask_hub
    )
    # VGG takes gray and colours; LPIPS goes over other channels one by one.
    telling = lpips_weights != () and wanted != "random" and channels in (1, 3)
    spec = EvalSpec(
        rows=run.rows,
        regions=regions,
        image_size=run.image_size,
        stored=stored,
        perceptual=lpips_weights != (),
        features="vgg16_relu5_3" if telling else "pixels_8x8",
        db=run.db,
        floor=run.floor,
    )
    measured = evaluator.evaluate(
        run.reconstruct,
        run.weights,
        source,
        spec,
        batch_size=batch_size,
        lpips_weights=lpips_weights,
        show=SHOWN,
    )
    which = {"step": run.step, "weights": weights, **run.settings}
    # Of the same data, where the name says it: real_val for real_test.
    other = folder / f"{name.removesuffix(split)}{config.data.val_split}.json"
    scale = None if split == config.data.val_split else record.scale(other, which)
    found = {
        "workdir": str(workdir),
        **which,
        "data": source.summary(),
        "split": split,
        "images": len(source),
        "size": size,
        "commit": provenance.commit(),
        "notes": notes,
        "metrics_size": config.train.metrics_size,
        **run.timed(source),
        **record.numbers(measured, spec, wanted, scale=scale),
        "config": run_folder.jsonable(config),
    }
    found["summary"] = record.summary(found)
    record.write(folder, name, found, measured.maps)
    regional = "building" in regions
    figure = picture(measured, run.titles, with_buildings=regional, db=run.db)
    plots.save(figure, folder / f"{name}_best_worst.png")
    if run.titles:
        figure = prediction_plots.prediction_error(found)
        plots.save(figure, folder / f"{name}_prediction_error.png")
    return found


def open_with_regions(
    config: ml_collections.ConfigDict,
    split: str,
    notes: list[str],
    also: tuple[str, ...] = (),
) -> tuple[sources.Source, tuple[str, ...]]:
    """Opens a split with its buildings where the data set has them."""
    try:
        source = datasets.open_data(config, split, also=("buildings", *also))
        return source, evaluator.REGIONS
    except (FileNotFoundError, ValueError) as error:
        source = datasets.open_data(config, split, also=also)
        notes.append(f"no regions, for want of buildings: {error}")
        return source, ("all",)


def perceptual(
    source: str, shape: tuple[int, ...], notes: list[str], *, ask_hub: bool = True
) -> lpips.LpipsWeights | tuple[()]:
    """Returns LPIPS's weights where they are there and the maps large enough; or ().

    Of "hub", without `ask_hub`, those that this machine has fetched before.
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


def picture(
    measured: Evaluation,
    titles: Mapping[str, str],
    *,
    with_buildings: bool,
    db: radiomap.DbRange,
):
    """Returns the best maps, then the worst, with what was made of them.

    Args:
      titles: of predictions: title -> name in Shown.images; {}: reconstructions.
    """
    shown = [*measured.best, *measured.worst]
    kinds = ["best"] * len(measured.best) + ["worst"] * len(measured.worst)
    names = [
        f"{kind}: {one.name}, NMSE {one.nmse:.3g}"
        for kind, one in zip(kinds, shown, strict=True)
    ]
    maps = {
        key: np.stack([one.images[key] for one in shown]) for key in shown[0].images
    }
    buildings = maps["buildings"] > 0
    if not titles or "antenna" not in maps:
        return plots.reconstructions(
            maps["target"],
            maps["recon"],
            names=names,
            buildings=buildings if with_buildings else None,
            max_rows=len(names),
            db=db,
        )
    flat = maps["antenna"][..., 0].reshape(len(names), -1).argmax(axis=1)
    places = np.unravel_index(flat, maps["antenna"].shape[1:3])
    return plots.predictions(
        {"truth": maps["target"]} | {t: maps[key] for t, key in titles.items()},
        buildings=buildings,
        tx=np.stack(places[::-1], axis=1),
        names=names,
        target_f=maps["target"],
        deviation_f=maps.get("deviation"),
        db=db,
    )


def parser() -> cli.Parser:
    hint = f"other data: --config.FIELD=VALUE of {', '.join(OTHER_DATA)}"
    prog = "python -m radiovae_jax.evaluate"
    parser = cli.ConfigParser(doc=__doc__, prog=prog, hint=hint)
    add, path = parser.add_argument, dict(type=cli.path, metavar="DIR")
    add("--workdir", required=True, help="folder of the run", **path)
    add("--split", default="val", help="train, val (default), test, or all maps found")
    add("--data_root", help="data, if not where the config says", **path)
    words = "which weights, default ema"
    add("--weights", choices=("ema", "live"), default="ema", help=words)
    words = "which checkpoint; default the best"
    add("--step", type=cli.at_least(0), default=0, metavar="N", help=words)
    words = "maps at a time over all devices, default 8"
    add("--batch_size", type=cli.at_least(1), default=8, metavar="N", help=words)
    words = "rows beside: PCA of patches, or (second stage) predictions without network"
    choices = ("none", "pca", "predictors")
    add("--baseline", choices=choices, default="none", help=words)
    words = "LPIPS's: hub, a folder, random, or none; the config's if not given"
    add("--perceptual_weights", help=words, **path)
    words = "of a second stage: calls of the network, a row each; default 1"
    add("--calls", type=cli.counts, default=(1,), metavar="N,N", help=words)
    words = "of a second stage: samples whose mean is a row, default 1"
    add("--samples", type=cli.at_least(1), default=1, metavar="N", help=words)
    words = "of a second stage: measured pixels of each map, default 0"
    add("--measurements", type=cli.at_least(0), default=0, metavar="N", help=words)
    words = "of the files written; default the split"
    add("--name", default="", metavar="NAME", help=words)
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
    for name in ("data_root", "perceptual_weights"):
        fields[name] = str(fields[name] or "")
    found = evaluate(**fields)
    cli.say(record.table(found))
    place = args.workdir / "evaluation" / (args.name or args.split)
    pictures = " and ".join(
        sorted(p.name for p in place.parent.glob(f"{place.name}_*.png"))
    )
    cli.say(f"written: {place}.json, .csv, {pictures}")
    for path in artifacts.renew_report(args.workdir, stages.charts(args.workdir)):
        cli.say(f"renewed: {path}")


if __name__ == "__main__":
    sys.exit(main())
