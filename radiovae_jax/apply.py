"""Uses a trained run on files: maps to latents, latents to maps.

    python -m radiovae_jax.apply reconstruct 0_0.png maps/ --workdir runs/radio
    python -m radiovae_jax.apply encode maps/ --workdir runs/radio
    python -m radiovae_jax.apply decode latents.npz --workdir runs/radio --unit db
    python -m radiovae_jax.apply sample --workdir runs/radio --count 8 --seed 1
    python -m radiovae_jax.apply interpolate 0_0.png 1_0.png --workdir runs/radio
    python -m radiovae_jax.apply predict --buildings b.png --tx 120,80 \\
        --workdir runs/radio_ldm
    python -m radiovae_jax.apply complete --measurements points.csv \\
        --workdir runs/radio

Maps are 8-bit gray PNG, NPY of f in [0, 1] or (--unit db) of path gain in dB, and npz
of Sionna RT. What f is in dB a run's config says (data.db_floor, data.db_span; of
RadioMapSeer 100 f - 147); of other maps it may not be known. A PNG holds f in 255 steps
(RadioMapSeer's 0.39 dB); an NPY holds what came out. Maps
may have any size: sides that the down-sampling does not divide are padded and cut
again, and maps of more than 512x512 pixels go through the network band by band, in
little memory and with the result of one pass. VERB --help shows the flags.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import math
import sys
from collections.abc import Sequence

from absl import logging

from radiovae_jax import apply_commands, cli, stages
from radiovae_jax.data import conditions, datasets, radiomap
from radiovae_jax.diffusion.predictor import Predictor
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec, completion

SUBCOMMANDS = {  # functions of apply_commands
    "reconstruct": "maps -> what the autoencoder makes of them",
    "encode": "maps -> latents.npz: mean, logvar, names, scale",
    "decode": "npz of latents -> maps",
    "sample": "maps from standard normal latents",
    "interpolate": "two maps -> maps between them in latent space",
    "predict": "buildings and transmitters -> maps, by a second stage",
    "complete": "measurements -> a map, by a second stage or a first one alone",
}
MOST_MAPS = 10_000  # that one command draws: they are kept in memory
STOPPED = (
    "stopped; what is written is whole. The same command with --overwrite, or another "
    "--out, begins again"
)


def parser() -> cli.Parser:
    parser = cli.Parser(doc=__doc__, prog="python -m radiovae_jax.apply")
    chosen = parser.add_subparsers(dest="verb", required=True, metavar="SUBCOMMAND")
    for name, words in SUBCOMMANDS.items():
        verb = chosen.add_parser(name, help=words, description=words)
        maps = name in ("reconstruct", "encode", "interpolate")
        if name not in ("sample", "predict", "complete"):
            count = 2 if name == "interpolate" else "+"
            what = "map files, or folders of them" if maps else "npz of latents"
            verb.add_argument("files", nargs=count, type=cli.path, help=what)
        _run_flags(verb, name)
        if maps:
            words = (
                "the size at which the network sees a map. training: resized to "
                "data.image_size and back, as in training and evaluation; stored: as "
                "it is; auto (default): training for square maps up to twice that size"
            )
            verb.add_argument(
                "--size", choices=codec.RESIZE, default="auto", help=words
            )
        _file_flags(verb, name)
        if name == "sample":
            _number(verb, "--count", 1, 4, "number of maps", MOST_MAPS)
            _number(verb, "--seed", 0, 0, "of the noise", cli.MAX_SEED)
            words = "pixels of a side, 0 the training's"
            _number(verb, "--side", 0, 0, words, math.isqrt(radiomap.MOST_PIXELS))
        if name in ("predict", "complete"):
            _condition_flags(verb, name)
        if name == "interpolate":
            _number(verb, "--steps", 2, 8, "number of maps with both ends", MOST_MAPS)
    return parser


def _condition_flags(verb: cli.Parser, name: str) -> None:
    add, predicts = verb.add_argument, name == "predict"
    file = dict(type=cli.path, metavar="FILE")
    words = "mask of the place: gray PNG (255 inside) or NPY of 0 and 1"
    add("--buildings", required=predicts, help=words, **file)
    words = "of a transmitter, in --tx_frame" + "; several times for several" * predicts
    several = dict(action="append", required=True) if predicts else dict(nargs=1)
    add("--tx", type=place, metavar="X,Y", help=words, **several)
    words = (
        "of all points. image (default): column, and row from the top; seer: of "
        "RadioMapSeer's JSON files, y from the bottom; metres: from the lower left"
    )
    add("--tx_frame", choices=conditions.FRAMES, default="image", help=words)
    add("--cars", help="mask, for a model that was trained with cars", **file)
    words = "CSV of x,y,dB (or f, by --unit)"
    words += ", for a model that was trained with them" * predicts
    add("--measurements", required=not predicts, help=words, **file)
    if not predicts:
        words = (
            "conditioned: by a second stage; descent: on z through a first stage's "
            "decoder, of any run; auto (default): by the run's stage"
        )
        methods = ("auto", "conditioned", "descent")
        add("--method", choices=methods, default="auto", help=words)
        words = "of the descent for each sample"
        _number(verb, "--steps", 1, 300, words)
    _number(verb, "--calls", 1, 1, "calls of the network for each sample")
    words, default = "whose mean and deviation are written", 1 if predicts else 8
    _number(verb, "--samples", 1, default, words, MOST_MAPS)
    _number(verb, "--seed", 0, 0, "of the noise", cli.MAX_SEED)


def place(text: str) -> tuple[float, float]:
    """Reads X,Y of --tx."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        message = f"{text!r} is not X,Y"
        raise argparse.ArgumentTypeError(message) from None
    return x, y


def _run_flags(verb: cli.Parser, name: str) -> None:
    add, folder = verb.add_argument, dict(type=cli.path, metavar="DIR")
    add("--workdir", required=True, help="folder of the run", **folder)
    add("--out", help=f"for the results; default WORKDIR/apply/{name}", **folder)
    add("--overwrite", action="store_true", help="replace results that are there")
    add("--weights", choices=("ema", "live"), default="ema", help="default ema")
    _number(verb, "--step", 0, 0, "which checkpoint, 0 the best")
    words = (
        "go band by band: the same result in less memory; auto (default): above "
        "512x512 pixels"
    )
    add("--tiles", choices=codec.STREAM, default="auto", help=words)
    verb.add_debug()


def _file_flags(verb: cli.Parser, name: str) -> None:
    if name != "encode":
        forms = ("npy", "png") if name != "reconstruct" else ("same", "png", "npy")
        forms += ("npz",) if name in ("predict", "complete") else ()
        words = "of the maps written, default %(default)s; png: 8 bits"
        words += "; npz: all of them, as of Sionna" * ("npz" in forms)
        verb.add_argument("--format", choices=forms, default=forms[0], help=words)
    words = (
        "of the numbers in NPY files: f in [0, 1], or path gain in dB, by the run's "
        "data.db_floor and data.db_span; default %(default)s"
    )
    unit = "db" if name in ("predict", "complete") else "f"
    verb.add_argument("--unit", choices=radiomap.UNITS, default=unit, help=words)


def _number(
    verb: cli.Parser,
    flag: str,
    low: int,
    default: int,
    words: str,
    high: int = sys.maxsize,
) -> None:
    kind, words = cli.at_least(low, high), f"{words}; default {default}"
    verb.add_argument(flag, type=kind, default=default, metavar="N", help=words)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    flags = parser().parse_args(argv)
    cli.log_plainly(logging.WARNING)
    return cli.status(lambda: use(flags), debug=flags.debug, stopped=STOPPED)


def use(flags: argparse.Namespace) -> None:
    """Does what the command line asks for.

    Raises:
      ValueError, OSError: what is wrong, and what to do about it.
    """
    cli.start_jax()
    out = flags.out or flags.workdir / "apply" / flags.verb
    config = run_folder.read_config(flags.workdir)

    def prior_of(run: codec.Codec):
        source = datasets.open_data(config, config.data.train_split)
        return completion.prior_of(source, run)

    run = opened(flags, config.stage)
    cli.say(run.description)
    try:
        run.check_unit(flags.unit)
    except ValueError as error:
        raise ValueError(f"--unit=db: {error}; or take --unit=f") from error
    metres = config.condition.pixel_metres if config.stage == "diffusion" else 1.0
    job = apply_commands.Job(run, flags, out, set(), metres, prior_of)
    getattr(apply_commands, flags.verb)(job)
    cli.say(f"written to {out}")


def opened(flags: argparse.Namespace, stage: str) -> codec.Codec | Predictor:
    """Returns the run that a subcommand uses: of the second stage, or of a first."""
    method = getattr(flags, "method", "")  # of `complete` alone
    if method == "auto":
        method = "conditioned" if stage == "diffusion" else "descent"
    if flags.verb == "predict" or method == "conditioned":
        return stages.load_predictor(flags.workdir, flags.weights, step=flags.step)
    workdir, step = flags.workdir, flags.step
    if method == "descent" and stage == "diffusion":
        workdir, step = stages.first_stage_of(workdir), 0
    run = codec.load(workdir, flags.weights, step=step, stream=flags.tiles)
    channels = run.model.in_channels
    if getattr(flags, "format", None) == "png" and channels != 1:
        raise ValueError(
            f"--format=png: a gray PNG cannot hold the {channels} channels of the maps "
            "of this run; take --format=npy"
        )
    return run


if __name__ == "__main__":
    sys.exit(main())
