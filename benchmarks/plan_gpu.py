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

import os
import pathlib

import jax
import planned
import records  # this and the next two are beside this file
import timed_step
from absl import app, flags, logging
from ml_collections import config_flags

from radiovae_jax import cli, files
from radiovae_jax.training import config_check

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, maybe :VARIANT.")
GPU = flags.DEFINE_enum("gpu", "h200", list(planned.GPUS), "The GPU to plan for.")
PHASE = flags.DEFINE_enum(
    "phase", "both", ["both", *timed_step.PHASES], "Which steps to plan."
)
OUT = cli.define_path("out", "", "Folder for the record and XLA's text, if any.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")

# In a loop the body stands once, whatever it is run.
LOOPS = {"train.accumulate_steps": 1, "autoencoder.attention_chunk": 0}


def main(argv: list[str]) -> None:
    cli.log_plainly(logging.WARNING)
    with cli.one_message(debug=DEBUG.value):
        cli.nothing_more(argv)
        config, gpu = CONFIG.value, planned.GPUS[GPU.value]
        config_check.check(config)
        timed_step.check_plain(config, LOOPS)
        phases = timed_step.phases_of(config, PHASE.value)
        if config.train.dtype == "auto":
            config.train.dtype = "bfloat16"
        # What chooses algorithms by trying them needs the card; the plugin's own check
        # of the driver does too.
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_autotune_level=0"
        os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
        jax.config.update("jax_platforms", "cpu")
        cli.start_jax()
        out = pathlib.Path(OUT.value) if OUT.value else None
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
                name = f"{GPU.value}_{phase}_{size}_{batch}_{dtype}"
                name += "_remat" * config.autoencoder.remat
                with files.written(out / f"{name}.hlo.txt") as partial:
                    partial.write_text(program.as_text())
                files.write_json(out / f"{name}.json", record)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse)
