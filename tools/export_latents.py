"""Writes the latents of a data set, for a diffusion model or another next stage.

    python tools/export_latents.py runs/radio --split train
    python tools/export_latents.py runs/radio --split train --sample --seed 1
    python tools/export_latents.py runs/radio --split all --format npz --out latents/

Fills WORKDIR/latents/SPLIT with shards, statistics.json (mean, std and scale factor
1/std of each channel) and manifest.json (config, commit, step, shapes, checksums). The
same command goes on after an interruption, and the files are those of an unbroken run.
It goes on with the step that it began with, whatever the best one is by now.
Other weights, options, or names of maps are refused in the same folder; what the map
files hold is not compared, so remove the folder after changing one.

A record holds mean and logvar [p, q, z] of one map (or with --sample a draw z), its
name, buildings, and the transmitter's mask and position, where the data set has them;
what it has none of is printed, and a single file that is missing is an error.
.npz files hold whole shards, for np.load. In .array_record files each record is the
bytes of an npz of one map; PyTorch users read any of them with

    from array_record.python.array_record_data_source import ArrayRecordDataSource
    source = ArrayRecordDataSource(sorted(glob.glob("FOLDER/*.array_record")))
    record = np.load(io.BytesIO(source[i]))
    scale = json.load(open("FOLDER/statistics.json"))  # mean, std of each channel
    z = (record["mean"] - scale["mean"]) / scale["std"]

(pip install array-record, which Grain brings along); len(source) is their number.
WORKDIR/latents/statistics.json, which tools/export_torch.py reads, is a copy of the
training split's statistics, or of another's as long as there is none of these weights.
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
from absl import logging

from radiovae_jax import cli, files, inputs, provenance, sharding
from radiovae_jax.data import datasets, shards, sources
from radiovae_jax.data.batch import resized
from radiovae_jax.reporting import artifacts
from radiovae_jax.training import run_folder, schema
from radiovae_jax.vae import codec, latents
from radiovae_jax.vae.charts import CHARTS


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    stopped = "stopped; the same command goes on"
    return cli.status(lambda: export(args), debug=args.debug, stopped=stopped)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(doc=__doc__)
    add = parser.add_argument
    whole, some = cli.at_least(0), cli.at_least(1)
    seed = cli.at_least(0, cli.MAX_SEED)
    add("workdir", type=cli.path, help="folder of the run")
    add("--split", default="train", help="train (default), val, test, or all maps")
    add("--out", type=cli.path, help="folder (default: WORKDIR/latents/SPLIT)")
    add("--data_root", type=cli.path, help="data, if not where the config says")
    add("--sample", action="store_true", help="a draw instead of mean and logvar")
    add("--seed", type=seed, default=0, help="of the draw (default: 0)")
    formats, weights = ("both", *shards.FORMATS), ("ema", "live")
    add("--format", choices=formats, default="both", help="default: both")
    add("--weights", choices=weights, default="ema", help="default: ema, the average")
    add("--step", type=whole, default=0, help="which checkpoint (default: the best)")
    add("--batch_size", type=some, default=8, help="maps at a time (default: 8)")
    add("--shard_size", type=some, default=512, help="maps a file (default: 512)")
    parser.add_debug()
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    cli.start_jax()
    config = run_folder.read_config(args.workdir)
    schema.check(config)
    if args.data_root:
        config.data.root = str(args.data_root)
    source, fields = open_with_condition(config, args.split)
    resized(*source.shape[:2], config.data.image_size)  # said before the folder is made
    folder = args.out or args.workdir / "latents" / args.split
    begun = 0 if args.step else shards.unfinished(folder).get("step", 0)
    try:
        run = codec.load(args.workdir, args.weights, step=args.step or begun)
    except FileNotFoundError as error:
        if not begun:
            raise
        raise FileNotFoundError(
            f"{folder} holds a part of the latents of step {begun}, and {error}; "
            "remove that folder, or give another --out, to begin with the best step"
        ) from error
    cli.folder(folder, flag="--out")
    mesh = sharding.make_mesh(jax.device_count())
    batch_size = sharding.nearest(args.batch_size, mesh.size)
    identity = {
        "config": {
            name: value
            for name, value in schema.flat(run_folder.jsonable(config)).items()
            if name not in run_folder.FREE or name == "data.root"
        },
        "commit": provenance.commit(),
        "step": run.step,
        "weights": args.weights,
        "weights_sha256": latents.digest(run.params),
        "split": args.split,
        "maps": len(source),
        "names_sha256": sources.names_digest(source),
        "condition": fields,
        "latents": {"sample": args.sample, "seed": args.seed if args.sample else None},
        "format": args.format,
        "batch_size": batch_size,
        "shard_size": args.shard_size,
    }
    encode = latents.encoder(run, seed=args.seed, mesh=mesh)
    manifest = latents.export(
        source,
        encode,
        folder,
        identity,
        keep=("z",) if args.sample else ("mean", "logvar"),
        batch_size=batch_size,
        shard_size=args.shard_size,
        formats=shards.FORMATS if args.format == "both" else (args.format,),
        db_range=run.db._asdict() if run.db.span else None,
    )
    copy = hand_on(args.workdir / "latents" / latents.STATISTICS, manifest, config)
    cli.say(describe(folder, manifest))
    cli.say(f"{copy} now holds these statistics" if copy else "statistics.json: kept")
    for path in artifacts.renew_report(args.workdir, CHARTS):
        cli.say(f"renewed: {path}")


def open_with_condition(
    config: ml_collections.ConfigDict, split: str
) -> tuple[sources.Source, list[str]]:
    """Returns a split with as much of the condition as it has, and those fields.

    Says why others are left out; a folder in which files are missing is an error.
    """
    plain = source = datasets.open_data(config, split)
    fields: list[str] = []
    for field in latents.CONDITION:
        try:
            source = datasets.open_data(config, split, also=(*fields, field))
            fields.append(field)
        except (FileNotFoundError, ValueError) as error:
            absent = isinstance(error, FileNotFoundError)
            if absent and (folder := plain.path(field, 0).parent).is_dir():
                raise FileNotFoundError(f"{error}: move {folder} away") from error
            cli.say(f"records without {field}: {error}")
    return source, fields


def hand_on(
    path: pathlib.Path, manifest: dict[str, Any], config: ml_collections.ConfigDict
) -> pathlib.Path | None:
    """Writes the statistics that exports scale by; None where better ones are there.

    A model of latents is scaled by what it is trained on, so the training split's
    stay until the weights change.
    """
    identity = manifest["identity"]
    said = ("split", "step", "weights", "weights_sha256", "maps")
    ours = manifest["statistics"] | {name: identity[name] for name in said}
    if path.exists() and ours["split"] != config.data.train_split:
        there = inputs.read_json(path, remedy="remove it, or put it back")
        same = there.get("weights_sha256") == ours["weights_sha256"]
        if same and there.get("split") == config.data.train_split:
            return None
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, ours)
    return path


def describe(folder: pathlib.Path, manifest: dict[str, Any]) -> str:
    """Returns what was written, as text."""
    identity, numbers = manifest["identity"], manifest["statistics"]
    fields = manifest["shards"][0]["fields"].items()
    channels = zip(
        *(numbers[name] for name in ("mean", "std", "scale_factor")), strict=True
    )
    record = ", ".join(f"{name} {of['dtype']} {of['shape']}" for name, of in fields)
    lines = [
        manifest["data"],
        f"{manifest['count']} maps in {len(manifest['shards'])} shards, step "
        f"{identity['step']}, {identity['weights']} weights: {folder}",
        f"a record: {record}",
    ]
    for i, (mean, std, factor) in enumerate(channels):
        lines.append(f"channel {i}: mean {mean:.5g}, std {std:.5g}, 1/std {factor:.5g}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.log_plainly(logging.ERROR)  # Orbax has much to say
    sys.exit(main())
