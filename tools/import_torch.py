"""Makes a run folder of PyTorch weights.

    python tools/import_torch.py model-30.pt --workdir runs/imported
    python tools/import_torch.py vae.ckpt --workdir runs/imported --with-loss \\
        --config configs/radio.py:native --config.train.batch_size=4
    python tools/import_torch.py vae/ --workdir runs/imported

Reads RadioDiff's model-*.pt, the .ckpt of latent-diffusion and Lightning, .safetensors,
.bin, shards of either, and the folder of a diffusers AutoencoderKL. The network's
fields of the config come from the tensors, the rest from --config;
`python -m radiovae_jax.main` with the same config goes on from there, and
`radiovae_jax.load` reads it. imported.json in the folder says what it was made of.
Needs torch: in a checkout, `pip install -e '.[torch]'`.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from radiovae_jax import cli, files
from radiovae_jax.data import shards
from radiovae_jax.interop import diffusers_weights, torch_files, torch_weights
from radiovae_jax.training import run_folder, schema
from radiovae_jax.training.checkpoint import Checkpoints
from radiovae_jax.vae import experiment

# Each copy: discriminator, logvar, perceptual_loss (LPIPS, which we have already).
LOSSES = ("loss", "loss_pinn", "loss_pinn_dpm2irt4")
StateDict = dict[str, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    return cli.status(lambda: import_file(args), debug=args.debug)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    add("file", type=cli.path, help="file, or diffusers folder")
    add("--workdir", type=cli.path, required=True, help="run folder to make")
    add(
        "--config",
        default="radio",
        help="name or path of the config of all that tensors do not say (radio); "
        "fields of it as --config.SECTION.FIELD=VALUE",
    )
    add(
        "--weights",
        choices=("auto", "ema", "model"),
        default="auto",
        help="ema is the average, model the raw ones, auto (default) the average "
        "where there is one",
    )
    add(
        "--with-loss",
        nargs="?",
        const="loss",
        default="",
        choices=LOSSES,
        metavar="COPY",
        help="take discriminator and logvar too, from loss.* or the named copy "
        f"({', '.join(LOSSES)}); without it both start afresh",
    )
    add(
        "--prefix",
        default="",
        help="take only what lies under this key or prefix, first_stage_model. say",
    )
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="PREFIX",
        help="ignore tensors whose names in the file start so; may be repeated",
    )
    add(
        "--step",
        type=int,
        default=0,
        help="step at which the run goes on (default 0): schedules follow it",
    )
    parser.add_debug()
    args = parser.parse_args(argv)
    args.words = sys.argv[1:] if argv is None else list(argv)
    return args


def import_file(args: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    cli.start_jax()
    given = schema.read(args.config, args.overrides)
    check(args, given)
    taken, facts = torch_files.read(
        args.file, args.weights, prefix=args.prefix, ignore=args.ignore
    )
    sums = {p.name: shards.sha256(p) for p in torch_files.files_of(args.file)}
    for name, digest in sums.items():
        cli.say(f"{name}: sha256 {digest}")
    starts = tuple(f"{copy}." for copy in LOSSES)
    own = {k: v for k, v in taken.state.items() if not k.startswith(starts)}
    structure, params, facts = read_autoencoder(args.file, own, facts)

    config = given.copy_and_resolve_references()
    fields = torch_weights.model_fields(structure, given.autoencoder.resolution)
    del fields["resolution"]  # stays as given, a number or a pair
    with config.ignore_type():
        config.autoencoder.update(fields)
    config.loss.disc_in_channels = structure["out_ch"]
    disc, logvar = {}, np.float32(config.loss.logvar_init)
    if args.with_loss:
        disc, logvar = read_loss(taken.state, args.with_loss, config)
    schema.check(config)
    record = dict(
        command=shlex.join(["tools/import_torch.py", *args.words]),
        sha256=sums,
        weights=taken.address,
        average=taken.average,
    )
    params = {"autoencoder": params, "logvar": logvar}
    with torch_files.replacing(args.workdir) as folder:
        write(folder, config, params, disc, args.step)
        files.write_json(folder / torch_files.RECORD_FILE, record)
        if facts:
            factors = diffusers_weights.factors_of(facts)
            files.write_json(folder / torch_files.FACTORS_FILE, factors)
    for name, value in fields.items():
        if value != given.autoencoder[name]:
            cli.say(f"autoencoder.{name}={given.autoencoder[name]} became {value}")
    cli.say(f"wrote {args.workdir} at step {args.step}; its network:")
    cli.say(json.dumps(run_folder.jsonable(config)["autoencoder"], indent=2))
    cli.say("go on training from it with (and --config.data.root=... for your maps)")
    cli.say("  " + command(args, given, config))


def check(args: argparse.Namespace, config: ml_collections.ConfigDict) -> None:
    """Raises a ValueError where no weights could be imported so."""
    folder = args.workdir
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} holds a run already, or other files; give another --workdir"
        )
    if not 0 <= args.step < config.train.steps:
        raise ValueError(
            f"--step={args.step} is not within 0 and train.steps={config.train.steps}, "
            "before which the run must go on; give another, or more train.steps"
        )
    if config.loss.reconstruction == "bce":
        raise ValueError(
            "--config.loss.reconstruction=bce takes the decoder's output for logits, "
            "and that of PyTorch weights is the image; give l1_mse, l1 or mse"
        )


def read_autoencoder(
    file: pathlib.Path, state: StateDict, facts: dict
) -> tuple[dict, dict, dict]:
    """Returns structure, parameters, and config.json of those of diffusers.

    `facts` is the config.json of a folder; that of a file is looked for beside it.
    """
    names = diffusers_weights.names_of(state)
    if names is not torch_weights.RADIODIFF and not facts:
        try:
            facts = torch_files.read_diffusers_config(file.parent)
        except FileNotFoundError as error:
            raise ValueError(
                f"{file} has the names of diffusers and no config.json beside it, "
                "which alone says what the shapes do not (norm_num_groups, act_fn); "
                "give the folder that save_pretrained wrote"
            ) from error
    state = diffusers_weights.with_quant_convs(state, facts)
    structure = torch_weights.structure_of_torch(state, names)
    if facts:
        diffusers_weights.check_structure(facts, structure)
    params = torch_weights.autoencoder_from_torch(state, names)["params"]
    return structure, params, facts


def read_loss(
    state: StateDict, copy: str, config: ml_collections.ConfigDict
) -> tuple[dict, np.ndarray]:
    """Returns discriminator and logvar of one copy; fits the config to them."""
    starts = tuple(key.partition(".discriminator.")[0] for key in state)
    there = [name for name in LOSSES if f"{name}.logvar" in state and name in starts]
    if copy not in there:
        raise ValueError(
            f"--with-loss {copy}: no {copy}.discriminator.* and {copy}.logvar in the "
            f"file; it has {', '.join(there) or 'none of the losses'}"
        )
    disc, logvar = torch_weights.loss_from_torch(state, copy)
    found = torch_weights.discriminator_structure_of_flax(disc)
    cond = experiment.CONDITIONS * config.loss.disc_conditional
    config.loss.update(
        disc_in_channels=found["in_channels"] - cond,
        disc_ndf=found["ndf"],
        disc_num_layers=found["num_layers"],
        use_actnorm=found["use_actnorm"],
    )
    return disc, logvar


def write(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    params: dict,
    disc: dict,
    step: int,
) -> None:
    """Writes config.json and one checkpoint, with fresh optimisers.

    Args:
      disc: the discriminator; empty for a fresh one.
    """
    # The perceptual weights are not needed here, and may not be at hand.
    without_lpips = config.copy_and_resolve_references()
    without_lpips.loss.perceptual_weight = 0.0
    side = config.autoencoder.resolution
    size = (side, side) if isinstance(side, int) else side
    built = experiment.build(without_lpips, (*size, config.autoencoder.in_channels))
    if not disc:
        key = jax.random.key(config.seed)
        disc = experiment.init_discriminator(built.networks.discriminator, key)
    params, disc = jax.tree.map(jnp.asarray, (params, disc))
    state = experiment.new_state(config, built, params, disc)
    run_folder.claim(workdir, config)
    checkpoints = Checkpoints(workdir)
    # No position: the data begin with the run that goes on from here.
    checkpoints.save(state._replace(step=jnp.int32(step)), {}, None)
    checkpoints.wait()
    checkpoints.close()


def command(args, given, config) -> str:
    """Returns the command that goes on from the imported run."""
    before, after = (schema.flat(c.to_dict()) for c in (given, config))
    changed = {
        name: f"{value}".replace(" ", "")
        for name, value in after.items()
        if before[name] != value
    }
    # What the weights say otherwise replaces what was given.
    fields = args.overrides | changed
    words = [f"--config={args.config}", f"--workdir={args.workdir}"]
    words += [f"--config.{name}={value}" for name, value in fields.items()]
    return "python -m radiovae_jax.main " + shlex.join(words)


if __name__ == "__main__":
    cli.log_plainly(logging.ERROR)  # Orbax has much to say
    sys.exit(main())
