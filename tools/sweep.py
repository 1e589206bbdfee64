"""Compares plain VAEs: kinds of reconstruction, beta, and annealings of the KL term.

    python tools/sweep.py --out runs/sweep                 # 4 x 4 x 3 = 48 runs
    python tools/sweep.py --out runs/sweep --schedule linear           # 16 of them
    python tools/sweep.py --out runs/sweep --reconstruction bce        # 12 of them
    python tools/sweep.py --out runs/mnist --config.data.source=tfds_images \
        --config.data.root=data --config.data.dataset=mnist \
        --config.data.val_split=test --config.data.augment=none

Trains configs/vae.py on the quickstart's city, or on what --config.SECTION.FIELD=VALUE
says, once for each combination, and writes OUT/sweep.md, .csv, .json and .png: how well
held-out maps are reconstructed, the final ELBO, and how the latent space is organised
(by buildings and transmitter, where the data have these), over at most 512 maps. Each
run is a folder in OUT; one that is finished is not run again, so an interrupted sweep
goes on with the same command, and the table has every run in OUT.

A run of 150 steps takes about a minute of a core, most of it compilation.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import csv
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from radiovae_jax import cli, files, inputs, losses, metrics
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.data.batch import to_batch
from radiovae_jax.progress import Bar
from radiovae_jax.reporting import plots
from radiovae_jax.training import run_folder, schema, train
from radiovae_jax.vae import codec

Overrides = Mapping[str, str] | None
KINDS = ("bce", "mse", "l1", "l1_mse")
BETAS = (0.1, 1.0, 4.0, 10.0)
SCHEDULES = ("constant", "linear", "cyclical")
ACTIVE_VARIANCE = 0.01
SAMPLES = 8  # of each posterior, for the ELBO
# Maps to measure on (MNIST has 70,000), and how many neighbours are taken together, so
# that there are pairs of the same buildings.
MOST, TOGETHER = 512, 8
# Fields of the config that the sweep's own flags set.
OWN = {
    "loss.reconstruction": "--reconstruction",
    "loss.kl_weight": "--beta",
    "loss.kl_schedule": "--schedule",
    "train.steps": "--steps",
    "data.image_size": "--size",
}
# Data sets whose records are of buildings and a transmitter.
PLACED = ("radiomapseer", "tfds", "synthetic", "sionna")

# Name -> heading of the table and label of the panel.
COLUMNS = {
    "rmse_db": "RMSE (dB)",
    "rmse": "RMSE (f)",  # where f is not known in dB
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "rec": "reconstruction (nats)",
    "kl": "KL (nats)",
    "elbo": "ELBO (nats)",
    "active": "active units (share)",
    "silhouette": "silhouette of buildings",
    "mantel": "correlation with transmitter",
}
# The first six that there are.
PANELS = ("rmse_db", "rmse", "elbo", "kl", "active", "silhouette", "mantel", "psnr")
PANELS += ("ssim", "rec")
# Okabe and Ito's colours, told apart with colour-deficient sight.
COLOURS = dict(bce="#0072B2", mse="#D55E00", l1="#009E73", l1_mse="#CC79A7")
LINES = dict(constant=":", linear="-", cyclical="--")


def configure(
    kind: str,
    beta: float,
    schedule: str,
    *,
    steps: int,
    size: int,
    city: pathlib.Path,
    overrides: Overrides = None,
) -> ml_collections.ConfigDict:
    """Returns the config of one run.

    Args:
      overrides: {"section.field": text}, of --config.SECTION.FIELD=VALUE.

    Raises:
      ValueError: there is no such field, or it takes no such value.
    """
    config = schema.read(f"vae:{kind}")
    config.autoencoder.update(ch_mult=(1, 1, 2), resolution=(size, size))
    config.loss.update(
        kl_weight=beta, kl_schedule=schedule, kl_warmup_steps=max(1, steps // 3)
    )
    config.data.update(root=str(city), image_size=size)
    config.train.update(
        steps=steps,
        log_every=max(1, steps // 10),
        validate_every=steps,
        checkpoint_every=steps,
        metrics_size="seen",
    )
    schema.override(config, overrides or {})
    return config


def measure(config: ml_collections.ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers of a finished run: quality of held-out maps, latents of all.

    rec and kl are sums over an image, means over images; elbo is -(rec + kl), whatever
    beta the run was trained with. rec is what the run minimises, the negative logarithm
    of a likelihood up to a constant of its kind: ELBOs compare within a kind.
    """
    model, params = codec.load_network(folder)
    # With the weights as arguments, so that all runs share what is compiled.
    encode, decode, decode_output = (
        jax.jit(functools.partial(model.apply, method=method))
        for method in ("encode", "decode", "decode_output")
    )
    held_out = read(config, config.data.val_split)
    posterior = encode(params, held_out["image"])
    target = radiomap.model_to_f(held_out["image"])
    recon = jnp.clip(radiomap.model_to_f(decode(params, posterior.mode())), 0.0, 1.0)
    rec_of = losses.RECONSTRUCTION[config.loss.reconstruction]
    recs = [
        losses.sum_per_image(
            rec_of(held_out["image"], decode_output(params, posterior.sample(key)))
        )
        for key in jax.random.split(jax.random.key(0), SAMPLES)
    ]
    rec, kl = float(np.mean(recs)), float(posterior.kl().mean())
    db, rmse = datasets.db_range(config), metrics.rmse(target, recon)
    everything = read(config, "all")
    means = np.asarray(encode(params, everything["image"]).mode())
    means = means.reshape(len(means), -1)
    buildings, place = everything["buildings"], everything["transmitter"]
    return dict(
        **{f"rmse{db.suffix}": (db.span or 1.0) * float(rmse.mean())},
        psnr=float(metrics.psnr(target, recon).mean()),
        ssim=float(metrics.ssim(target, recon).mean()),
        rec=rec,
        kl=kl,
        elbo=-(rec + kl),
        active=active_units(means),
        silhouette=silhouette(means, buildings) if len(buildings) else None,
        mantel=mantel(means, place, buildings) if len(buildings) else None,
    )


def read(config: ml_collections.ConfigDict, split: str) -> dict[str, Any]:
    """Returns the images seen, the transmitters' pixels and the buildings' numbers.

    Of `MOST` maps at most, evenly over the split; the latter two are empty where the
    data set knows of neither.
    """
    placed = config.data.source in PLACED
    source = datasets.open_data(config, split, also=("antenna",) if placed else ())
    count = min(len(source), MOST)
    starts = [i // TOGETHER * TOGETHER * len(source) // count for i in range(count)]
    records = [source[start + i % TOGETHER] for i, start in enumerate(starts)]
    raw = {"gray": np.stack([record["gray"] for record in records])}
    batch = to_batch(
        raw,
        image_size=config.data.image_size,
        pixel_weights="none",
        conditional=False,
    )
    antennas = [record["antenna"][..., 0] for record in records if placed]
    pixels = [np.unravel_index(a.argmax(), a.shape) for a in antennas]
    cities = [str(record["name"]).rpartition("_")[0] for record in records if placed]
    return dict(
        image=batch.image,
        transmitter=np.array(pixels, np.float64),
        buildings=np.unique(cities, return_inverse=True)[1],
    )


def active_units(means: Float[np.ndarray, "n u"]) -> float:
    """Returns the share of latent entries whose posterior mean varies over the maps.

    Source: Burda et al. 2016 (arXiv:1509.00519), section 5.2: a unit is active if the
    variance of its mean is above 0.01.
    """
    return float((means.var(axis=0) > ACTIVE_VARIANCE).mean())


def silhouette(means: Float[np.ndarray, "n u"], label: Int[np.ndarray, "n"]) -> float:
    """Returns the mean silhouette of latents labelled by their buildings, in [-1, 1].

    1: maps of the same buildings lie together, far from all others. 0: they do not.

    Source: Rousseeuw 1987, "Silhouettes", Journal of Computational and Applied
    Mathematics 20, eq. 2; a label of one map alone has 0.
    """
    apart = distances(means)
    labels = np.unique(label)
    # Mean distance of every map to the maps of every label, itself left out.
    same = label[:, None] == labels
    others = same.sum(axis=0) - same
    sums = apart @ same
    within = (sums / np.maximum(others, 1))[same]
    between = np.where(same, np.inf, sums / np.maximum(others, 1)).min(axis=1)
    largest = np.maximum(np.maximum(within, between), 1e-12)
    alone = others[same] == 0
    return float(np.where(alone, 0, (between - within) / largest).mean())


def mantel(
    means: Float[np.ndarray, "n u"],
    place: Float[np.ndarray, "n 2"],
    label: Int[np.ndarray, "n"],
) -> float:
    """Returns the correlation of latent distance with the transmitters' distance.

    Over the pairs of maps of the same buildings. 0 where latents do not differ.

    Source: Mantel 1967, "The detection of disease clustering", Cancer Research 27: the
    correlation of two matrices of distances.
    """
    pairs = np.triu(label[:, None] == label, k=1)
    latent, metres = distances(means)[pairs], distances(place)[pairs]
    if not pairs.any() or min(latent.std(), metres.std()) < 1e-12:
        return 0.0
    return float(np.corrcoef(latent, metres)[0, 1])


def distances(points: Float[np.ndarray, "n u"]) -> Float[np.ndarray, "n n"]:
    points = points.astype(np.float64)
    return np.linalg.norm(points[:, None] - points, axis=-1)


def sweep(
    out: pathlib.Path,
    runs: Sequence[tuple[str, float, str]],
    *,
    steps: int,
    size: int,
    overrides: Overrides = None,
) -> None:
    """Trains and measures what is not there yet.

    Raises:
      ValueError: a run that cannot be; before any of them runs.
      OSError: OUT cannot be written.
    """
    given = dict(steps=steps, size=size, city=out / "city", overrides=overrides)
    configs = [configure(*run, **given) for run in runs]
    for config in configs:
        schema.check(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise OSError(
            f"{out} is no folder that can be written ({error.strerror}); give another "
            "--out"
        ) from error
    with Bar(runs, unit="run", file=sys.stdout) as bar:
        for (kind, beta, schedule), config in zip(bar, configs, strict=True):
            folder = out / f"{kind}_{beta:g}_{schedule}"
            bar.set_postfix_str(folder.name)
            result = folder / "sweep.json"
            try:
                if result.exists():
                    run_folder.claim(folder, config)  # refuses that of another config
                    continue
                train.run(config, folder)
            except (ValueError, OSError) as error:  # of the other command's flag
                said = str(error).replace("--workdir", "--out")
                known = ValueError if isinstance(error, ValueError) else OSError
                raise known(said) from error
            record = dict(reconstruction=kind, beta=beta, schedule=schedule)
            record |= same(steps, size, overrides) | measure(config, folder)
            with files.written(result) as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n")


def same(steps: int, size: int, overrides: Overrides) -> dict[str, Any]:
    """Returns what all runs of one table have in common, for their records."""
    given = sorted(
        f"--config.{name}={text}" for name, text in (overrides or {}).items()
    )
    return dict(steps=steps, size=size, config=" ".join(given))


def check_finished(
    out: pathlib.Path,
    *,
    steps: int,
    size: int,
    overrides: Overrides = None,
) -> None:
    """Raises a ValueError if what is in OUT does not go into one table with new runs.

    Before anything runs: a sweep takes hours.
    """
    here = same(steps, size, overrides)
    for record in collect(out):
        there = {name: record[name] for name in here}
        if there != here:
            raise ValueError(
                f"{out} holds runs of --steps {there['steps']} --size {there['size']} "
                f"{there['config']}, and these are of --steps {steps} --size {size} "
                f"{here['config']}: one table needs one of each; give another --out"
            )


def collect(out: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of all finished runs, in the order of the grid.

    Raises:
      ValueError: a damaged record.
    """
    records = [read_record(path) for path in out.glob("*/sweep.json")]
    return sorted(
        records,
        key=lambda r: (
            KINDS.index(r["reconstruction"]),
            r["beta"],
            SCHEDULES.index(r["schedule"]),
        ),
    )


def read_record(path: pathlib.Path) -> dict[str, Any]:
    names = {"reconstruction", "beta", "schedule", "steps", "size", *COLUMNS}
    names -= {"rmse", "rmse_db"}  # one of them
    try:
        # Without "config": of a version that knew the quickstart's city alone.
        record = {"config": ""} | inputs.read_json(path, remedy="")
        missing = sorted(names - record.keys())
    except ValueError as error:
        missing = [str(error)]
    if missing:
        raise ValueError(
            f"{path} is no record of this sweep ({', '.join(missing)}); delete it, and "
            "the same command measures the run again"
        )
    return record


def write(out: pathlib.Path, records: list[dict[str, Any]]) -> None:
    """Writes the table in three formats, and the figure."""
    (out / "sweep.json").write_text(json.dumps(records, indent=2) + "\n")
    with (out / "sweep.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    (out / "sweep.md").write_text(table(records))
    plots.save(draw(records), out / "sweep.png")


def table(records: list[dict[str, Any]]) -> str:
    names = ["reconstruction", "beta", "schedule", *measured(COLUMNS, records)]
    lines = [
        "| " + " | ".join(COLUMNS.get(name, name) for name in names) + " |",
        "|---|--:|---" + "|--:" * (len(names) - 3) + "|",
    ]
    for record in records:
        cells = [record[name] for name in names]
        shown = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def measured(names: Sequence[str], records: list[dict[str, Any]]) -> list[str]:
    """Returns those that the data could be measured by."""
    return [name for name in names if all(r.get(name) is not None for r in records)]


def draw(records: list[dict[str, Any]]) -> Figure:
    """Returns panels of every measure against beta; a line a kind and annealing."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    handles = {}
    betas = sorted({r["beta"] for r in records})
    least = min(filter(None, betas), default=1.0)
    for axis, name in zip(axes, measured(PANELS, records)[:6], strict=True):
        for kind, schedule in itertools.product(KINDS, SCHEDULES):
            found = [
                (r["beta"], r[name])
                for r in records
                if (r["reconstruction"], r["schedule"]) == (kind, schedule)
            ]
            if found:
                (handles[f"{kind}, {schedule}"],) = axis.plot(
                    *zip(*found, strict=True),
                    LINES[schedule],
                    color=COLOURS[kind],
                    marker="o",
                    markersize=4,
                )
        # Logarithmic but for 0, which is a beta too.
        axis.set_xscale("symlog", linthresh=least, linscale=0.5)
        axis.set_xticks(betas, [f"{beta:g}" for beta in betas])
        axis.minorticks_off()
        axis.set_xlabel("beta")
        axis.set_title(COLUMNS[name], fontsize=11)
        axis.grid(alpha=0.3)
        axis.set_yscale("log" if name == "kl" else "linear")
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=6, fontsize=9
    )
    return figure


def parser() -> cli.ConfigParser:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    add(
        "--out",
        type=cli.path,
        default=pathlib.Path("runs/sweep"),
        metavar="DIR",
    )
    add("--steps", type=int, default=150, help="of each run, default 150")
    add("--size", type=int, default=32, help="side of the maps, default 32")
    add("--reconstruction", nargs="+", choices=KINDS, default=KINDS)
    add("--beta", nargs="+", type=float, default=BETAS, help="default 0.1 1 4 10")
    add("--schedule", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_debug()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    args = parse(argv)
    cli.log_plainly(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(args.out / "compiled"))
    return cli.status(lambda: compare(args), debug=args.debug)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    for name in args.overrides.keys() & OWN.keys():
        reader.error(f"--config.{name}: the sweep sets this field by {OWN[name]}")
    return args


def compare(args: argparse.Namespace) -> None:
    """Does what the command line asks for.

    Raises:
      ValueError, OSError, FloatingPointError: what is wrong.
    """
    cli.start_jax()
    runs = list(itertools.product(args.reconstruction, args.beta, args.schedule))
    given = dict(steps=args.steps, size=args.size, overrides=args.overrides)
    check_finished(args.out, **given)
    sweep(args.out, runs, **given)
    records = collect(args.out)
    write(args.out, records)
    cli.say(table(records))
    cli.say(f"written: {args.out}/sweep.md, .csv, .json and .png")


if __name__ == "__main__":
    sys.exit(main())
