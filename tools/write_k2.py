"""Writes RadioDiff-k's k^2 masks beside the maps of a RadioMapSeer root.

    python tools/write_k2.py --root /path/to/RadioMapSeer --simulation IRT4

reads gain/IRT4/{map}_{tx}.png and png/antennas/{map}_{tx}.png and writes
gain/IRT4_k2_neg_norm/{map}_{tx}.png: 0 where k^2 is most negative, 255 where it is not
negative, and a border of 255. Masks that are there are left alone, so a run that was
interrupted goes on. A mask is made of the true map: it gives its edges away.

It takes 12 ms a map of 256x256 on one core; without masks they are computed during the
training.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import sys
from collections.abc import Sequence

import jax
import numpy as np

from radiovae_jax import cli, physics
from radiovae_jax.data import radiomap
from radiovae_jax.data.radiomapseer import SIMULATIONS, RadioMapSeer
from radiovae_jax.progress import Bar

FIELD = "k2_neg_norm"


def write(root: radiomap.Path, simulation: str) -> tuple[int, int]:
    """Writes what is missing; returns how many were written and how many there are.

    Raises:
      FileNotFoundError: root, its simulation or a transmitter's file is missing.
      ValueError: a damaged file.
      OSError: the masks' folder cannot be made or written.
    """
    maps = RadioMapSeer(
        root, simulation=simulation, split="all", fields=("gray", "antenna")
    )
    paths = [maps.path(FIELD, index) for index in range(len(maps))]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    for index in Bar(missing, desc=f"{simulation} k^2", unit="map"):
        record = maps[index]
        drawn = mask(record["gray"], record["antenna"])
        try:
            paths[index].parent.mkdir(exist_ok=True)
            radiomap.write_png(paths[index], drawn)
        except OSError as error:
            raise OSError(
                f"{paths[index]} cannot be written ({error.strerror or error}): "
                f"{paths[index].parent} must be a folder that can be, with room in it. "
                "Masks that are there are whole, and the same command goes on"
            ) from error
    return len(missing), len(paths)


def mask(gray: np.ndarray, antenna: np.ndarray) -> np.ndarray:
    """Returns the mask of one map, all [h, w, 1] uint8, by way of float64."""
    with jax.enable_x64(True):
        f = gray[None].astype(np.float64) / 255.0
        tx = antenna[None].astype(np.float64) / 255.0
        return np.asarray(_k2_neg_norm(f, tx))[0]


_k2_neg_norm = jax.jit(physics.k2_neg_norm)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    parser = cli.Parser(doc=__doc__)
    add = parser.add_argument
    add("--root", required=True, type=cli.path, help="folder with gain/ and png/")
    add("--simulation", default="IRT4", help=f"one of {', '.join(SIMULATIONS)}")
    parser.add_debug()
    args = parser.parse_args(argv)
    # The masks are small; a GPU would only cost its start.
    jax.config.update("jax_platforms", "cpu")

    def work() -> None:
        cli.start_jax()
        written, there = write(args.root, args.simulation)
        folder = args.root / "gain"
        cli.say(f"{written} masks written, {there} of {args.simulation} in {folder}")

    return cli.status(work, debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
