"""Writes the weights of a run for PyTorch.

    python tools/export_torch.py runs/radio radio.pt            # RadioDiff, LDM
    python tools/export_torch.py runs/radio radio.safetensors   # the same names
    python tools/export_torch.py runs/radio vae/                # diffusers

A .pt or .ckpt holds {"state_dict": ...}, as both RadioDiff and latent-diffusion read
it: the autoencoder, loss.discriminator.* and loss.logvar. A folder is what
diffusers.AutoencoderKL.from_pretrained reads. Needs torch: in a checkout,
`pip install -e '.[torch]'`.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from radiovae_jax import cli, inputs
from radiovae_jax.interop import diffusers_weights, torch_files, torch_weights
from radiovae_jax.interop.torch_pickle import REMEDY
from radiovae_jax.training import run_folder
from radiovae_jax.vae import codec

SUFFIXES = ", ".join(torch_files.SUFFIXES)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return cli.status(lambda: export(args), debug=args.debug)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(doc=__doc__)
    add = parser.add_argument
    add("workdir", type=cli.path, help="folder of the run")
    add(
        "out",
        type=cli.path,
        help=f"file ({SUFFIXES}), or a folder (no suffix) for diffusers",
    )
    add(
        "--weights",
        choices=("ema", "live"),
        default="ema",
        help="the average that validation uses (default), or the live weights",
    )
    add(
        "--step",
        type=cli.at_least(0),
        default=0,
        help="which checkpoint (default: the best)",
    )
    add(
        "--latents",
        type=cli.path,
        help='JSON with the latents\' {"mean": [...], "std": [...]} of each channel '
        "for diffusers' factors (default: WORKDIR/latents/statistics.json, else the "
        "factors that the run was imported with)",
    )
    parser.add_debug()
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    cli.start_jax()
    is_file = bool(args.out.suffix)
    check(args, is_file)
    step, (params, loss) = run_folder.hold(
        args.workdir, args.step, lambda step: read(args, step, with_loss=is_file)
    )
    if is_file:
        state = radiodiff_state(params, *loss)
        torch_files.write(args.out, state)
    else:
        state = diffusers_weights.autoencoder_to_diffusers(params)
        torch_files.write_diffusers(args.out, state, diffusers_config(args, params))
    cli.say(f"wrote {len(state)} tensors of step {step} ({args.weights}) to {args.out}")


def check(args: argparse.Namespace, is_file: bool) -> None:
    """Raises a ValueError where nothing could be exported so."""
    if is_file and args.out.suffix not in torch_files.SUFFIXES:
        raise ValueError(
            f"{args.out}: expected a file with one of {SUFFIXES}, or a folder for "
            "diffusers, whose name has no suffix"
        )
    if is_file and args.latents:
        raise ValueError(
            f"{args.out} cannot hold the factors of --latents; leave it out, or name a "
            "folder for diffusers"
        )
    free = not is_file and args.out.is_dir() and not any(args.out.iterdir())
    if args.out.exists() and not free:
        raise ValueError(f"{args.out} exists already; remove it or name another")
    if run_folder.read_config(args.workdir).loss.reconstruction == "bce":
        raise ValueError(
            f"{args.workdir} was trained with loss.reconstruction=bce: its decoder "
            "gives logits, and PyTorch's classes would take them for the image; apply "
            "a sigmoid to their output yourself, or train with another kind"
        )


def read(args: argparse.Namespace, step: int, *, with_loss: bool) -> tuple[dict, Any]:
    """Returns the parameters, and with the loss (logvar, discriminator), of a step."""
    _, params = codec.load_network(args.workdir, args.weights, step=step)
    loss = codec.load_loss(args.workdir, step=step) if with_loss else ()
    return jax.device_get((params, loss))


def radiodiff_state(params: dict, logvar, discriminator: dict) -> dict[str, np.ndarray]:
    """Returns the tensors under the names of RadioDiff's AutoencoderKL."""
    patch = torch_weights.discriminator_to_torch(discriminator)
    return {
        **torch_weights.autoencoder_to_torch(params),
        "loss.logvar": np.asarray(logvar),
        **{f"loss.discriminator.{name}": tensor for name, tensor in patch.items()},
    }


def diffusers_config(args: argparse.Namespace, params: dict) -> dict:
    """Returns config.json, with the factors where they are known."""
    config = run_folder.read_config(args.workdir)
    structure = torch_weights.structure_of_flax(params["params"])
    factors = latent_factors(args, structure["z_channels"])
    resolution = config.autoencoder.resolution
    height = resolution if isinstance(resolution, int) else resolution[0]
    side = config.data.image_size or height
    return diffusers_weights.config_json(structure, sample_size=side, **factors)


def latent_factors(args: argparse.Namespace, z: int) -> dict[str, Any]:
    """Returns the factors as measured; else as imported; else none."""
    measured = args.latents or args.workdir / "latents" / "statistics.json"
    imported = args.workdir / torch_files.FACTORS_FILE
    if args.latents or measured.exists():
        found = inputs.read_json(measured, remedy=REMEDY)
        mean, std = found.get("mean"), found.get("std")
        diffusers_weights.check_numbers(dict(mean=mean, std=std), measured, count=z)
        scaling, shift = diffusers_weights.latent_factors(mean, std)
        return dict(scaling_factor=scaling, shift_factor=shift)
    if imported.exists():
        return diffusers_weights.factors_of(inputs.read_json(imported, remedy=REMEDY))
    return {}


if __name__ == "__main__":
    cli.log_plainly(logging.ERROR)  # Orbax has much to say
    sys.exit(main())
