"""What XLA would run of a training step on a GPU that is not here: memory and work.

    pip install "jax[cuda13]"  # neither a GPU nor its driver is needed
    python benchmarks/plan_gpu.py --config configs/radio.py:native --gpu h200 \\
        --config.train.batch_size=64 --config.loss.perceptual_weights=random

Sizes, widths, batch and dtype are the config's ("auto" is bfloat16 here). The step is
compiled for the GPU, which takes a minute or two, and nothing is executed: it says what
does not fit and what cannot be faster, not how fast it is. The memory is what XLA
plans; the workspace of cuDNN comes on top, for its algorithms are chosen where the GPU
is, and so are some kernels for products. Work is counted in the compiled program: the
products of convolutions and matrices, whose time at the card's peak is a floor, and the
bytes that every kernel reads and writes. The second time is the sum over kernels of
the longer of the two if nothing stays in a cache: an estimate.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import argparse
import os
import sys
from collections.abc import Sequence

import jax
import planned
import records  # this and the next two are beside this file
import timed_step
from absl import logging

from radiovae_jax import cli, files
from radiovae_jax.training import schema

# In a loop the body stands once, whatever it is run.
LOOPS = {"train.accumulate_steps": 1, "autoencoder.attention_chunk": 0}


def parser() -> cli.ConfigParser:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    add("--config", required=True, help="name or path of a config, maybe :VARIANT")
    add("--gpu", choices=planned.GPUS, default="h200", help="the GPU to plan for")
    phases = ("both", *timed_step.PHASES)
    add("--phase", choices=phases, default="both", help="which steps to plan")
    words = "folder for the record and XLA's text, if any"
    add("--out", type=cli.path, metavar="DIR", help=words)
    parser.add_debug()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    args = parser().parse_args(argv)
    cli.log_plainly(logging.WARNING)
    return cli.status(lambda: plan(args), debug=args.debug)


def plan(args: argparse.Namespace) -> None:
    config = schema.read(args.config, args.overrides)
    gpu, out = planned.GPUS[args.gpu], args.out
    timed_step.check_plain(config, LOOPS)
    phases = timed_step.phases_of(config, args.phase)
    if config.train.dtype == "auto":
        config.train.dtype = "bfloat16"
    # What chooses algorithms by trying them needs the card; the plugin's own check
    # of the driver does too.
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_autotune_level=0"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    jax.config.update("jax_platforms", "cpu")
    cli.start_jax()
    if out:
        cli.folder(out, flag="--out")
    for phase, adversarial in phases.items():
        program = planned.compiled(config, gpu, adversarial=adversarial)
        record = records.versions() | planned.record_of(program, gpu)
        batch, dtype = config.train.batch_size, config.train.dtype
        size = "x".join(map(str, timed_step.image_shape(config)[:2]))
        record |= {"size": size, "batch": batch, "dtype": dtype}
        title = f"{phase} step, {size}, {dtype}"
        print(planned.page(title, batch, gpu, record), flush=True)
        if out:
            name = f"{args.gpu}_{phase}_{size}_{batch}_{dtype}"
            name += "_remat" * config.autoencoder.remat
            with files.written(out / f"{name}.hlo.txt") as partial:
                partial.write_text(program.as_text())
            files.write_json(out / f"{name}.json", record)


if __name__ == "__main__":
    sys.exit(main())
