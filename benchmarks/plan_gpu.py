"""What XLA would run of a training step on a GPU that is not here: memory and work.

    pip install "jax[cuda13]"  # neither a GPU nor its driver is needed
    python benchmarks/plan_gpu.py --config configs/radio.py:native --gpu h200 \\
        --config.train.batch_size=64 --config.loss.perceptual_weights=random
    python benchmarks/plan_gpu.py --config radio_ldm --gpu h200

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
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import hlo  # this, records, timed_step and timing are beside this file
import jax
import jax.numpy as jnp
import records
import timed_step
import timing
from absl import logging
from jax.experimental import topologies

from radiovae_jax import cli, files
from radiovae_jax.data import conditions
from radiovae_jax.diffusion import state, task, train_step
from radiovae_jax.training import schema
from radiovae_jax.vae import experiment

KEY = jax.eval_shape(lambda: jax.random.key(0))
# In a loop the body stands once, whatever it is run.
LOOPS = {"train.accumulate_steps": 1, "autoencoder.attention_chunk": 0}
POOL = 0.75  # of a card's memory, what JAX takes unless it is told
SLOWER = {"f32": 2}  # products of float32 are TF32's


class Gpu(NamedTuple):
    """NVIDIA's figures of the SXM cards: dense bfloat16 products, no sparsity."""

    name: str
    memory: int  # bytes
    bandwidth: float  # bytes a second
    peak: float  # FLOP/s in bfloat16; half of it in TF32


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_943_110_144, 3.35e12, 989e12),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4.8e12, 989e12),
}
# What XLA asks of a card besides. Sizes and names: openxla/xla at 4336d12,
# xla/backends/gpu/target_config/specs, h100_sxm.txtpb and h200.txtpb; the versions are
# those of CUDA 13's wheels. Its units' rates, which are there too, change nothing here.
TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_address_bits: 64
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory} name: "{name}"
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{name}"
"""


def compiled(step, given, gpu: Gpu):
    """Returns a step as XLA compiles it for the GPU.

    Args:
      given: shapes of its arguments, of which it donates the second.

    Raises:
      ValueError: the CUDA plugin of JAX is not installed.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=TARGET.format(**gpu._asdict()),
            topology="1x1x1",
        )
    except NotImplementedError as error:  # no plugin
        raise ValueError(
            f"JAX cannot compile for CUDA here ({error}); pip install 'jax[cuda13]'"
        ) from error
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), given
    )
    traced = jax.jit(step, donate_argnums=1).trace(*given)
    return traced.lower(lowering_platforms=("cuda",)).compile()


def first_stage(config, asked: str):
    """Yields (name, shape of a map, step, shapes of its arguments) of each phase."""
    timed_step.check_plain(config, LOOPS)
    for phase, adversarial in timed_step.phases_of(config, asked).items():
        one = timed_step.in_phase(config, adversarial=adversarial)
        shape = timed_step.image_shape(one)
        built = experiment.build(one, shape)
        step = timed_step.step_of(built, built.settings, adversarial=adversarial)
        state = experiment.state_shapes(one, built)
        raw = {"gray": maps(one, shape)}
        yield phase, shape, step, (built.perceptual_weights, state, raw, KEY)


def second_stage(config, first: str):
    """Yields the same of a second stage.

    Args:
      first: config of the first stage, since its weights are not needed here.
    """
    of_first = schema.read(first)
    of_first.train.dtype = config.train.dtype
    shape = timed_step.image_shape(of_first)
    model = experiment.build_autoencoder(of_first)
    image = jnp.zeros((1, *shape))
    params = jax.eval_shape(model.init, jax.random.key(0), image, jax.random.key(0))
    statistics = jax.ShapeDtypeStruct((model.embed_dim,), jnp.float32)
    stage = state.FirstStage(
        posterior=functools.partial(model.apply, method="encode"),
        image=functools.partial(model.apply, method="decode"),
        frozen=state.Frozen(params, statistics, statistics),
        channels=model.embed_dim,
        factor=model.downsampling,
        image_size=config.data.image_size,
        record={},
    )
    built = task.build(config, stage, shape[:2])
    step = functools.partial(train_step.train_step, built)
    fresh = functools.partial(train_step.init_state, built, image_size=shape[:2])
    fields = ("gray", *conditions.fields(config.condition.planes))
    raw = {field: maps(config, shape) for field in fields}
    given = stage.frozen, jax.eval_shape(fresh, KEY), raw, KEY
    yield config.process.kind, shape, step, given


def maps(config, shape: tuple[int, int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((config.train.batch_size, *shape), jnp.uint8)


def record_of(program, gpu: Gpu) -> dict[str, Any]:
    """Returns what is known of a compiled step, in bytes, FLOPs and seconds."""
    memory = program.memory_analysis()
    kernels = hlo.kernels_of(program.as_text())

    def seconds(kernel: hlo.Kernel) -> float:
        peak = gpu.peak / SLOWER.get(kernel.dtype, 1)
        return max(kernel.flops / peak, kernel.nbytes / gpu.bandwidth)

    by_kind: dict[str, dict[str, float]] = {}
    for kernel in kernels:
        kind = f"{kernel.kind} {kernel.dtype}".strip()
        own = by_kind.setdefault(kind, dict(kernels=0, flops=0, bytes=0, seconds=0.0))
        own["kernels"] += 1
        own["flops"] += kernel.flops
        own["bytes"] += kernel.nbytes
        own["seconds"] += seconds(kernel)
    flops = sum(kernel.flops for kernel in kernels)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": timing.peak_of(memory),
        "kernels": len(kernels),
        "flops": flops,
        "accessed_bytes": sum(kernel.nbytes for kernel in kernels),
        "floor_seconds": flops / gpu.peak,
        "uncached_seconds": sum(map(seconds, kernels)),
        "by_kind": by_kind,
    }


def page(title: str, batch: int, gpu: Gpu, found: dict[str, Any]) -> str:
    """Returns what is printed of a record."""
    pool = POOL * gpu.memory
    floor, uncached = found["floor_seconds"], found["uncached_seconds"]
    rows = [
        f"{title}, batch {batch}, {gpu.name}:",
        f"  memory {found['peak_bytes'] / 1e9:.1f} GB without cuDNN's workspace, of "
        f"it temporary {found['temporary_bytes'] / 1e9:.1f}; JAX takes "
        f"{pool / 1e9:.1f} GB of the card",
        f"  {found['flops'] / 1e12:.1f} TFLOP in products: {floor * 1e3:.1f} ms at "
        f"the peak, {batch / floor:.0f} images/s",
        f"  {found['accessed_bytes'] / 1e9:.1f} GB in and out of {found['kernels']} "
        f"kernels: {uncached * 1e3:.1f} ms if nothing is cached, "
        f"{batch / uncached:.0f} images/s",
    ]
    rows += [
        f"    {kind:<10}{own['kernels']:>6.0f} kernels{own['flops'] / 1e12:>8.2f} TFLOP"
        f"{own['bytes'] / 1e9:>8.1f} GB{own['seconds'] * 1e3:>8.1f} ms"
        for kind, own in sorted(found["by_kind"].items())
    ]
    if found["peak_bytes"] > pool:
        rows.append(
            "  DOES NOT FIT: lower train.batch_size, set remat=True of the network, or "
            "XLA_PYTHON_CLIENT_MEM_FRACTION above 0.75 where the card has more"
        )
    return "\n".join(rows)


def parser() -> cli.ConfigParser:
    parser = cli.ConfigParser(doc=__doc__)
    add = parser.add_argument
    add("--config", required=True, help="name or path of a config, maybe :VARIANT")
    add("--gpu", choices=GPUS, default="h200", help="the GPU to plan for")
    phases = ("both", *timed_step.PHASES)
    add("--phase", choices=phases, default="both", help="which steps to plan")
    words = "config of a second stage's first one, default radio:native"
    add("--first", default="radio:native", metavar="CONFIG", help=words)
    words = "folder for the found and XLA's text, if any"
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
    gpu, out = GPUS[args.gpu], args.out
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
    if config.stage == "vae":
        steps, remat = first_stage(config, args.phase), config.autoencoder.remat
    else:
        steps, remat = second_stage(config, args.first), config.denoiser.remat
    for phase, shape, step, given in steps:
        program = compiled(step, given, gpu)
        found = records.versions() | record_of(program, gpu)
        batch, dtype = config.train.batch_size, config.train.dtype
        size = "x".join(map(str, shape[:2]))
        found |= {"size": size, "batch": batch, "dtype": dtype}
        title = f"{phase} step, {size}, {dtype}"
        print(page(title, batch, gpu, found), flush=True)
        if out:
            name = f"{args.gpu}_{phase}_{size}_{batch}_{dtype}{'_remat' * remat}"
            with files.written(out / f"{name}.hlo.txt") as partial:
                partial.write_text(program.as_text())
            files.write_json(out / f"{name}.json", found)


if __name__ == "__main__":
    sys.exit(main())
