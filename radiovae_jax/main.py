"""Trains a run from a config file, or goes on with it.

    python -m radiovae_jax.main --config quickstart
    python -m radiovae_jax.main --config radio --workdir runs/radio \\
        --config.data.root=/path/to/RadioMapSeer --config.train.batch_size=16

Every field of the config can be given as --config.SECTION.FIELD=VALUE, the last one
counts. The same command in the same workdir continues a run that was stopped.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence

import ml_collections
from absl import logging

from radiovae_jax import cli
from radiovae_jax.training import config_files, schema

LATENTS_SHOWN = 4  # maps whose latents are drawn at the end


def parser() -> cli.ConfigParser:
    parser = cli.ConfigParser(
        doc=f"{__doc__ or ''}\n{config_files.listed()}",
        prog="python -m radiovae_jax.main",
    )
    add = parser.add_argument
    words = "name or path of a config, radio say; :VARIANT may follow"
    add("--config", metavar="CONFIG", default="", help=words)
    words = "folder of the run; runs/NAME_OF_THE_CONFIG by default"
    add("--workdir", type=cli.path, metavar="DIR", help=words)
    words = "several processes that JAX finds: Cloud TPU, Slurm"
    add("--distributed", action="store_true", help=words)
    words = "several processes by hand: HOST:PORT of process 0"
    add("--coordinator", default="", help=words)
    words = "with --coordinator: how many"
    add("--processes", type=int, default=0, metavar="N", help=words)
    words = "with --coordinator: which one this is, from 0"
    add("--process", type=int, default=-1, metavar="N", help=words)
    words = "seconds after which a silent process ends the others, default 60"
    add("--heartbeat_s", type=int, default=60, metavar="N", help=words)
    words = "seconds after which a process gives up finding the others, default 300"
    add("--connect_s", type=int, default=300, metavar="N", help=words)
    words = "print memory, work and rates of the run; train and write nothing"
    add("--dry_run", action="store_true", help=words)
    words = "print the fields of the config, those with WORD in their line"
    add("--print_config", nargs="?", const="", metavar="WORD", help=words)
    parser.add_debug()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    reader = parser()
    args = reader.parse_args(argv)
    if not args.config and args.print_config is None:
        reader.error(f"no --config is given\n{config_files.listed()}")
    try:
        settings = schema.read(args.config or "radio", args.overrides)
        if args.print_config is not None:
            cli.say(schema.describe(settings, args.print_config))
            return 0
    except ValueError as error:
        reader.error(str(error))
    # Not at the top: --help and a misspelt field shall not wait for JAX.
    from radiovae_jax.training import distributed

    cli.log_plainly(logging.INFO)
    stopped = "stopped; a run goes on with the same command"
    try:
        with cli.one_message(debug=args.debug, stopped=stopped):
            run(settings, args)
    except SystemExit as end:
        if end.code != cli.INTERRUPTED:  # that all processes do together
            distributed.leave(end.code, str(end.__context__ or ""))
        return end.code
    return 0


def run(settings: ml_collections.ConfigDict, args: argparse.Namespace) -> None:
    """Trains, or says what training would take; the first process reports."""
    from radiovae_jax import stages
    from radiovae_jax.training import distributed, dry_run

    workdir = args.workdir or default_workdir(args.config)
    join = functools.partial(
        distributed.start,
        automatic=args.distributed,
        coordinator=args.coordinator,
        processes=args.processes,
        process=args.process,
        heartbeat_s=args.heartbeat_s,
        connect_s=args.connect_s,
    )
    cli.start_jax(join)
    if not distributed.is_first():
        logging.set_verbosity(logging.WARNING)
    if args.dry_run:
        page = dry_run.run(stages.make(settings, None), settings)
        if distributed.is_first():
            cli.say(page)
        return
    for one, folder in (*stages.lacking(settings), (settings, workdir)):
        train(one, folder)


def train(settings: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains a stage in its folder; the first process reports."""
    import jax

    from radiovae_jax import stages, training
    from radiovae_jax.data import datasets
    from radiovae_jax.reporting import artifacts
    from radiovae_jax.training import distributed, validation

    charts, make = stages.CHARTS[settings.stage], stages.make(settings, workdir)
    try:
        metrics = training.run(make, settings, workdir)
    except FloatingPointError:
        if distributed.is_first():
            artifacts.after_training(workdir, charts)  # its warnings say more
        raise
    if distributed.is_first():
        # A checkpoint of several processes is read by all of them or by none.
        latents = LATENTS_SHOWN if jax.process_count() == 1 else 0
        artifacts.after_training(workdir, charts, latents=latents)
        db = datasets.db_range(settings)
        report(workdir, validation.quality(metrics, db) if metrics else "")


def default_workdir(name: str) -> pathlib.Path:
    """Returns runs/radio_native for radio:native or configs/radio.py:native."""
    path, _, variant = name.partition(":")
    stem = pathlib.Path(path).stem
    return pathlib.Path("runs", f"{stem}_{variant}" if variant else stem)


def report(workdir: pathlib.Path, quality: str) -> None:
    if quality:
        cli.say(f"validation: {quality}")
    pictures = sorted((workdir / "images").glob("[rp]*_[0-9]*.png"))
    if pictures:
        cli.say(f"picture:    {pictures[-1]}")
    if (workdir / "report.html").exists():
        cli.say(f"report:     {workdir / 'report.html'}, and figures/")
    cli.say(f"run folder: {workdir} (metrics.jsonl, checkpoints/, tensorboard/)")


if __name__ == "__main__":
    cli.with_huge_pages()
    sys.exit(main())
