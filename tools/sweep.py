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
import itertools
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Float, Int
from matplotlib.figure import Figure

import radiovae_jax
from radiovae_jax import cli, files, inputs, losses, metrics, training
from radiovae_jax.data import datasets, radiomap
from radiovae_jax.progress import Bar
from radiovae_jax.reporting import plots
from radiovae_jax.training import run_folder, schema
from radiovae_jax.vae import task
from radiovae_jax.vae.codec import Codec

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

# Name -> heading of the table and title of the panel.
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
KEYS = ("reconstruction", "beta", "schedule", "steps", "size")  # of a record
# Of these the figure has the first six that there are.
PANELS = "rmse_db rmse elbo kl active silhouette mantel psnr ssim rec".split()
# Okabe and Ito's colours, told apart with colour-deficient sight.
COLOURS = dict(bce="#0072B2", mse="#D55E00", l1="#009E73", l1_mse="#CC79A7")
LINES = dict(constant=":", linear="-", cyclical="--")


class Sweep(NamedTuple):
    """What all runs of one table have in common."""

    out: pathlib.Path
    steps: int
    size: int
    overrides: Mapping[str, str] = {}  # {"section.field": text}

    def record(self) -> dict[str, Any]:
        given = [f"--config.{name}={text}" for name, text in self.overrides.items()]
        return dict(steps=self.steps, size=self.size, config=" ".join(sorted(given)))


def configure(
    sweep: Sweep, kind: str, beta: float, schedule: str
) -> ml_collections.ConfigDict:
    """Returns the config of one run; a ValueError where there can be none."""
    steps, size = sweep.steps, sweep.size
    own = {
        "autoencoder.ch_mult": (1, 1, 2),
        "autoencoder.resolution": (size, size),
        "loss.kl_weight": beta,
        "loss.kl_schedule": schedule,
        "loss.kl_warmup_steps": max(1, steps // 3),
        "data.root": sweep.out / "city",
        "data.image_size": size,
        "train.steps": steps,
        "train.log_every": max(1, steps // 10),
        "train.validate_every": steps,
        "train.checkpoint_every": steps,
        "train.metrics_size": "seen",
    }
    texts = {name: str(value) for name, value in own.items()}
    return schema.read(f"vae:{kind}", texts | dict(sweep.overrides))


def measure(config: ml_collections.ConfigDict, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers of a finished run: quality of held-out maps, latents of all.

    rec and kl are sums over an image, means over images; elbo is -(rec + kl), whatever
    beta the run was trained with. rec is what the run minimises, the negative logarithm
    of a likelihood up to a constant of its kind: ELBOs compare within a kind.
    """
    run = radiovae_jax.load_codec(folder)
    held_out = read(config, run, config.data.val_split)
    posterior = run.posterior(run.params, held_out["image"])
    target = radiomap.model_to_f(held_out["image"])
    recon = run.image(run.params, posterior.mode())
    recon = jnp.clip(radiomap.model_to_f(recon), 0.0, 1.0)
    rec_of = losses.RECONSTRUCTION[config.loss.reconstruction]
    recs = [
        losses.sum_per_image(
            rec_of(held_out["image"], run.output(run.params, posterior.sample(key)))
        )
        for key in jax.random.split(jax.random.key(0), SAMPLES)
    ]
    rec, kl = float(np.mean(recs)), float(posterior.kl().mean())
    rmse = metrics.rmse(target, recon)
    everything = read(config, run, "all")
    means = np.asarray(run.posterior(run.params, everything["image"]).mode())
    means = means.reshape(len(means), -1)
    buildings, place = everything["buildings"], everything["transmitter"]
    return dict(
        **{f"rmse{run.db.suffix}": (run.db.span or 1.0) * float(rmse.mean())},
        psnr=float(metrics.psnr(target, recon).mean()),
        ssim=float(metrics.ssim(target, recon).mean()),
        rec=rec,
        kl=kl,
        elbo=-(rec + kl),
        active=active_units(means),
        silhouette=silhouette(means, buildings) if len(buildings) else None,
        mantel=mantel(means, place, buildings) if len(buildings) else None,
    )


def read(config: ml_collections.ConfigDict, run: Codec, split: str) -> dict[str, Any]:
    """Returns the images seen, the transmitters' pixels and the buildings' numbers.

    Of `MOST` maps at most, evenly over the split; the latter two are empty where the
    data set knows of neither.
    """
    placed = config.data.source in PLACED
    source = datasets.open_data(config, split, also=("antenna",) if placed else ())
    count = min(len(source), MOST)
    starts = [i // TOGETHER * TOGETHER * len(source) // count for i in range(count)]
    records = [source[start + i % TOGETHER] for i, start in enumerate(starts)]
    antennas = [record["antenna"][..., 0] for record in records if placed]
    pixels = [np.unravel_index(a.argmax(), a.shape) for a in antennas]
    cities = [str(record["name"]).rpartition("_")[0] for record in records if placed]
    return dict(
        image=run.batch({"gray": np.stack([r["gray"] for r in records])}).image,
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


def train_all(sweep: Sweep, runs: Sequence[tuple[str, float, str]]) -> None:
    """Trains and measures what is not there yet; all configs are checked before."""
    configs = [configure(sweep, *run) for run in runs]
    cli.folder(sweep.out, flag="--out")
    with Bar(runs, unit="run", file=sys.stdout) as bar:
        for (kind, beta, schedule), config in zip(bar, configs, strict=True):
            folder = sweep.out / f"{kind}_{beta:g}_{schedule}"
            bar.set_postfix_str(folder.name)
            result = folder / "sweep.json"
            try:
                if result.exists():
                    run_folder.claim(folder, config)  # refuses that of another config
                    continue
                training.run(task.make, config, folder)
            except (ValueError, OSError) as error:  # of the other command's flag
                known = ValueError if isinstance(error, ValueError) else OSError
                raise known(str(error).replace("--workdir", "--out")) from error
            record = dict(reconstruction=kind, beta=beta, schedule=schedule)
            files.write_json(result, record | sweep.record() | measure(config, folder))


def check_finished(sweep: Sweep) -> None:
    """Raises a ValueError if OUT's runs do not go into one table with new ones."""
    words = "--steps {steps} --size {size} {config}"
    here = sweep.record()
    for record in collect(sweep.out):
        there = {name: record[name] for name in here}
        if there != here:
            raise ValueError(
                f"{sweep.out} holds runs of {words.format(**there)}, and these are of "
                f"{words.format(**here)}; give another --out"
            )


def collect(out: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of all finished runs, in the order of the grid."""

    def place(record):
        kind, schedule = record["reconstruction"], record["schedule"]
        return KINDS.index(kind), record["beta"], SCHEDULES.index(schedule)

    return sorted(map(read_record, out.glob("*/sweep.json")), key=place)


def read_record(path: pathlib.Path) -> dict[str, Any]:
    remedy = "delete it, and the same command measures the run again"
    # Without "config": of a version that knew the quickstart's city alone.
    record = {"config": ""} | inputs.read_json(path, remedy=remedy)
    missing = {*KEYS, *COLUMNS} - {"rmse", "rmse_db"} - record.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; {remedy}")
    return record


def write(out: pathlib.Path, records: list[dict[str, Any]]) -> None:
    """Writes the table in three formats, and the figure."""
    files.write_json(out / "sweep.json", records)
    with files.written(out / "sweep.csv") as partial:
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    with files.written(out / "sweep.md") as partial:
        partial.write_text(table(records))
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


def measured(names: Iterable[str], records: list[dict[str, Any]]) -> list[str]:
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


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    cli.log_plainly(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(args.out / "compiled"))
    return cli.status(lambda: compare(args), debug=args.debug)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    out = pathlib.Path("runs/sweep")
    add("--out", type=cli.path, default=out, metavar="DIR")
    add("--steps", type=int, default=150, help="of each run, default 150")
    add("--size", type=int, default=32, help="side of the maps, default 32")
    add("--reconstruction", nargs="+", choices=KINDS, default=KINDS)
    add("--beta", nargs="+", type=float, default=BETAS, help="default 0.1 1 4 10")
    add("--schedule", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_debug()
    args = parser.parse_args(argv)
    for name in args.overrides.keys() & OWN.keys():
        parser.error(f"--config.{name}: the sweep sets this field by {OWN[name]}")
    return args


def compare(args: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    cli.start_jax()
    sweep = Sweep(args.out, args.steps, args.size, args.overrides)
    check_finished(sweep)
    runs = itertools.product(args.reconstruction, args.beta, args.schedule)
    train_all(sweep, list(runs))
    records = collect(args.out)
    write(args.out, records)
    cli.say(table(records))
    cli.say(f"written: {args.out}/sweep.md, .csv, .json and .png")


if __name__ == "__main__":
    sys.exit(main())
