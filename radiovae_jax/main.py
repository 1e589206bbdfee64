"""Trains a run from a config file, or goes on with it.

    python -m radiovae_jax.main --config configs/quickstart.py
    python -m radiovae_jax.main --config configs/radio.py --workdir runs/radio \\
        --config.data.root=/path/to/RadioMapSeer --config.train.batch_size=16

Every field of the config can be given as --config.SECTION.FIELD=VALUE. The same
command in the same workdir continues a run that was stopped.
"""

import pathlib

from absl import app, flags, logging
from ml_collections import config_flags

from radiovae_jax import command_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, configs/radio.py say; :VARIANT may follow."
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/NAME_OF_THE_CONFIG by default."
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected {argv[1:]}; fields are given as --config.SECTION.FIELD=VALUE"
        )
    # After the flags: --help shall not wait for JAX.
    from radiovae_jax import train

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(command_line.not_chatter)
    workdir = pathlib.Path(WORKDIR.value or default_workdir())
    with command_line.one_message(debug=DEBUG.value):
        report(workdir, train.run(CONFIG.value, workdir))


def default_workdir() -> str:
    """Returns runs/radio_native for configs/radio.py:native."""
    path, _, variant = config_flags.get_config_filename(
        flags.FLAGS["config"]
    ).partition(":")
    stem = pathlib.Path(path).stem
    return f"runs/{stem}_{variant}" if variant else f"runs/{stem}"


def report(workdir: pathlib.Path, metrics: dict[str, float]) -> None:
    if metrics:
        print(
            f"validation: PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}, "
            f"NMSE {metrics['nmse']:.5f}, RMSE {metrics['rmse_db']:.2f} dB"
        )
    pictures = sorted((workdir / "images").glob("reconstructions_*.png"))
    if pictures:
        print(f"picture:    {pictures[-1]}")
    print(f"run folder: {workdir} (metrics.jsonl, checkpoints/, tensorboard/)")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
