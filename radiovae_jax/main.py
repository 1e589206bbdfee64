"""Trains a run from a config file, or goes on with it.

    python -m radiovae_jax.main --config configs/quickstart.py
    python -m radiovae_jax.main --config configs/radio.py --workdir runs/radio \\
        --config.data.root=/path/to/RadioMapSeer --config.train.batch_size=16

Every field of the config can be given as --config.SECTION.FIELD=VALUE. The same
command in the same workdir continues a run that was stopped.
"""

import functools
import pathlib

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

from absl import app, flags, logging
from ml_collections import config_flags

from radiovae_jax import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, configs/radio.py say; :VARIANT may follow."
)
WORKDIR = cli.define_path(
    "workdir", "", "Folder of the run; runs/NAME_OF_THE_CONFIG by default."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several processes that JAX finds: Cloud TPU, Slurm."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Several processes by hand: HOST:PORT of process 0."
)
PROCESSES = flags.DEFINE_integer("processes", 0, "With --coordinator: how many.")
PROCESS = flags.DEFINE_integer(
    "process", -1, "With --coordinator: which one this is, from 0."
)
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_s", 60, "Seconds after which a silent process ends the others."
)
CONNECT = flags.DEFINE_integer(
    "connect_s", 300, "Seconds after which a process gives up finding the others."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print memory, work and rates of the run; train and write nothing.",
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


LATENTS_SHOWN = 4  # maps whose latents are drawn at the end


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected {argv[1:]}; fields are given as --config.SECTION.FIELD=VALUE"
        )
    # After the flags: --help shall not wait for JAX.
    from radiovae_jax.training import distributed

    cli.log_plainly(logging.INFO)
    try:
        with cli.one_message(
            debug=DEBUG.value, stopped="stopped; a run goes on with the same command"
        ):
            run()
    except SystemExit as end:
        if end.code != cli.INTERRUPTED:  # that all processes do together
            distributed.leave(end.code, str(end.__context__ or ""))
        raise


def run() -> None:
    """Trains, or says what training would take; the first process reports."""
    import jax

    from radiovae_jax.data import datasets
    from radiovae_jax.reporting import artifacts
    from radiovae_jax.training import distributed, dry_run, judging, train
    from radiovae_jax.vae import latent_figures
    from radiovae_jax.vae.charts import CHARTS

    workdir = pathlib.Path(WORKDIR.value or default_workdir())
    join = functools.partial(
        distributed.start,
        automatic=DISTRIBUTED.value,
        coordinator=COORDINATOR.value,
        processes=PROCESSES.value,
        process=PROCESS.value,
        heartbeat_s=HEARTBEAT.value,
        connect_s=CONNECT.value,
    )
    cli.start_jax(join)
    if not distributed.is_first():
        logging.set_verbosity(logging.WARNING)
    if DRY_RUN.value:
        page = dry_run.run(CONFIG.value)
        if distributed.is_first():
            cli.say(page)
        return
    try:
        metrics = train.run(CONFIG.value, workdir)
    except FloatingPointError:
        if distributed.is_first():
            artifacts.after_training(workdir, CHARTS)  # its warnings say more
        raise
    if distributed.is_first():
        # A checkpoint of several processes is read by all of them or by none.
        alone = jax.process_count() == 1
        latents = functools.partial(latent_figures.draw, workdir, count=LATENTS_SHOWN)
        artifacts.after_training(workdir, CHARTS, latents=latents if alone else None)
        db = datasets.db_range(CONFIG.value)
        report(workdir, judging.quality(metrics, db) if metrics else "")


def default_workdir() -> str:
    """Returns runs/radio_native for configs/radio.py:native."""
    path, _, variant = config_flags.get_config_filename(
        flags.FLAGS["config"]
    ).partition(":")
    stem = pathlib.Path(path).stem
    return f"runs/{stem}_{variant}" if variant else f"runs/{stem}"


def report(workdir: pathlib.Path, quality: str) -> None:
    if quality:
        cli.say(f"validation: {quality}")
    pictures = sorted((workdir / "images").glob("reconstructions_*.png"))
    if pictures:
        cli.say(f"picture:    {pictures[-1]}")
    if (workdir / "report.html").exists():
        cli.say(f"report:     {workdir / 'report.html'}, and figures/")
    cli.say(f"run folder: {workdir} (metrics.jsonl, checkpoints/, tensorboard/)")


if __name__ == "__main__":
    cli.with_huge_pages()
    app.run(main, flags_parser=cli.parse)
