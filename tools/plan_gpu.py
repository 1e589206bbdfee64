"""What XLA would run of a training step on a GPU that is not here: memory and work.

    pip install "jax[cuda13]"  # neither a GPU nor its driver is needed
    python tools/plan_gpu.py --config configs/radio.py:native --gpu h200 \\
        --config.train.batch_size=64 --config.loss.perceptual_weights=random

Sizes, widths, batch and dtype are the config's ("auto" is bfloat16 here). The step is
compiled for the GPU, which takes a minute or two, and nothing is executed: it says what
does not fit and what cannot be faster, not how fast it is. The memory is what XLA
plans; the workspace of cuDNN comes on top, for its algorithms are chosen where the GPU
is. Work is counted in the compiled program: the products of convolutions and matrices,
and the bytes that every kernel reads and writes as if nothing stayed in a cache. The
floor is the sum over kernels of the longer of the two.
"""

import json
import math
import os
import pathlib
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import timed_step  # beside this file
from absl import app, flags, logging
from jax.experimental import topologies
from ml_collections import config_flags

from radiovae_jax import command_line, config_check, experiment, whole_files

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, maybe :VARIANT.")
GPU = flags.DEFINE_enum("gpu", "h200", ["h100", "h200"], "The GPU to plan for.")
PHASE = flags.DEFINE_enum(
    "phase", "both", ["both", "autoencoder", "adversarial"], "Which steps to plan."
)
OUT = flags.DEFINE_string("out", "", "Folder for the record and XLA's text, if any.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")

PHASES = {"autoencoder": False, "adversarial": True}


class Gpu(NamedTuple):
    """NVIDIA's figures of the SXM cards: dense bfloat16 products, no sparsity."""

    name: str
    memory: int  # bytes that CUDA gives
    bandwidth: float  # bytes a second
    peak: float  # FLOP/s in bfloat16; half of it in TF32


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_943_110_144, 3.35e12, 989e12),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4.8e12, 989e12),
}
# What XLA asks of a card besides, as it stands in its own description of both:
# xla/backends/gpu/target_config/specs of openxla/xla.
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


def compiled(config, gpu: Gpu, *, adversarial: bool):
    """Returns one phase's step as XLA compiles it for the GPU.

    Raises:
      ValueError: the CUDA plugin of JAX is not installed.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=TARGET.format(**gpu._asdict()),
            topology="1x1x1",
        )
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"JAX cannot compile for CUDA here ({error}); pip install 'jax[cuda13]'"
        ) from error
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    config.loss.disc_start = 0 if adversarial else config.train.steps
    shape = timed_step.image_shape(config)
    built = experiment.build(config, shape)
    step = timed_step.step_of(built, built.settings, adversarial=adversarial)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: experiment.init_state(config, built, key), key)
    gray = jax.ShapeDtypeStruct((config.train.batch_size, *shape), jnp.uint8)
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (built.perceptual_weights, state, {"gray": gray}, key),
    )
    traced = jax.jit(step, donate_argnums=1).trace(*given)
    return traced.lower(lowering_platforms=("cuda",)).compile()


class Kernel(NamedTuple):
    """One instruction of the compiled program that the GPU executes."""

    kind: str  # "conv", "dot" in a fusion, "copy" or "other"
    dtype: str  # of a product's first factor
    flops: int
    nbytes: int
    layer: str


HALF = {"f32": 2}  # products of float32 are TF32's
SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?\S) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"calls=%?([\w.\-]+)")
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")


def shapes_of(text: str) -> list[tuple[str, list[int]]]:
    return [
        (kind, [int(n) for n in dims.split(",") if n])
        for kind, dims in SHAPE.findall(text)
    ]


def size_of(text: str) -> int:
    """Returns the bytes of all arrays in an instruction's shape."""
    return sum(
        math.prod(dims) * max(1, int(re.sub(r"\D", "", kind) or 8) // 8)
        for kind, dims in shapes_of(text)
    )


def kernels_of(hlo: str) -> list[Kernel]:
    """Reads XLA's text of a compiled program. Names are unique in all of it."""
    shapes, products, entry, inside, body = {}, {}, [], False, ""
    for line in hlo.splitlines():
        if line and not line.startswith(" "):
            inside = line.startswith("ENTRY")
            body = line.split(" (")[0].removeprefix("%")
        found = INSTRUCTION.match(line)
        if not found:
            continue
        name, shape, op, rest = found.groups()
        shapes[name] = shape
        called = CALLED.search(rest)
        if called and called[1] in products and not inside:  # a fusion in a fusion
            products.setdefault(body, []).extend(products[called[1]])
        if op == "dot":
            first = shapes_of(shapes[re.findall(r"%([\w.\-]+)", rest)[0]])[0]
            axes = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", rest)[1].split(",")
            depth = math.prod(first[1][int(axis)] for axis in axes)
            work = 2 * math.prod(shapes_of(shape)[0][1]) * depth
            products.setdefault(body, []).append((first[0], work))
        if inside and op not in FREE:
            entry.append((shape, op, rest))
    return [_kernel(shape, op, rest, shapes, products) for shape, op, rest in entry]


def _kernel(shape, op, rest, shapes, products) -> Kernel:
    arguments = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
    nbytes = size_of(shape) + sum(size_of(shapes[a]) for a in arguments)
    layer = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
    kind, dtype, flops = ("copy" if op == "copy" else "other"), "", 0
    called = CALLED.search(rest)
    if called and called[1] in products:
        kind, dtype = "dot", products[called[1]][0][0]
        flops = sum(work for _, work in products[called[1]])
    if "__cudnn$conv" in rest:
        kind = "conv"
        dtype, flops = _convolution(shape, rest, [shapes[a] for a in arguments])
    return Kernel(kind, dtype, flops, nbytes, layer)


def _convolution(shape: str, rest: str, arguments: list[str]) -> tuple[str, int]:
    """Returns a convolution's type and operations, whichever way it goes."""
    result, first, second = (shapes_of(s)[0] for s in (shape, *arguments[:2]))
    kernel, image = {
        "__cudnn$convBackwardFilter": (result, second),
        "__cudnn$convBackwardInput": (second, first),
    }.get(re.search(r'custom_call_target="([^"]*)"', rest)[1], (second, result))
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
    outputs = kernel[1][labels.index("o")]
    return first[0], 2 * math.prod(image[1]) * math.prod(kernel[1]) // outputs


def record_of(program, gpu: Gpu) -> dict[str, Any]:
    """Returns what is known of a compiled step, in bytes, FLOPs and seconds."""
    memory = program.memory_analysis()
    kernels = kernels_of(program.as_text())
    seconds = sum(
        max(k.flops / (gpu.peak / HALF.get(k.dtype, 1)), k.nbytes / gpu.bandwidth)
        for k in kernels
    )
    convolutions = Counter(k.dtype for k in kernels if k.kind == "conv")
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "kernels": len(kernels),
        "flops": sum(k.flops for k in kernels),
        "accessed_bytes": sum(k.nbytes for k in kernels),
        "convolutions": dict(convolutions),
        "convolutions_float32": sorted(
            k.layer for k in kernels if k.kind == "conv" and k.dtype == "f32"
        ),
        "floor_seconds": seconds,
    }


def line_of(phase: str, batch: int, gpu: Gpu, record: dict[str, Any]) -> str:
    fits = record["peak_bytes"] / gpu.memory
    return (
        f"{phase} step, batch {batch}, {gpu.name}:\n"
        f"  memory {record['peak_bytes'] / 1e9:.1f} GB ({fits:.0%} of the card), of it "
        f"temporary {record['temporary_bytes'] / 1e9:.1f}\n"
        f"  work {record['flops'] / 1e12:.1f} TFLOP in products, "
        f"{record['accessed_bytes'] / 1e9:.0f} GB moved, {record['kernels']} kernels\n"
        f"  convolutions by type {record['convolutions']}\n"
        f"  floor {record['floor_seconds'] * 1e3:.1f} ms: at most "
        f"{batch / record['floor_seconds']:.0f} images/s"
    )


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with command_line.one_message(debug=DEBUG.value):
        command_line.nothing_more(argv)
        config, gpu = CONFIG.value, GPUS[GPU.value]
        config_check.check(config)
        if config.train.dtype == "auto":
            config.train.dtype = "bfloat16"
        # What chooses algorithms by trying them needs the card; the plugin's own check
        # of the driver does too.
        flags_ = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags_} --xla_gpu_autotune_level=0"
        os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
        jax.config.update("jax_platforms", "cpu")
        out = pathlib.Path(OUT.value) if OUT.value else None
        if out:
            command_line.folder(out, flag="--out")
        for phase, adversarial in PHASES.items():
            if PHASE.value not in ("both", phase):
                continue
            program = compiled(config, gpu, adversarial=adversarial)
            record = record_of(program, gpu)
            print(line_of(phase, config.train.batch_size, gpu, record), flush=True)
            if out:
                name = f"{GPU.value}_{phase}_{config.train.batch_size}"
                (out / f"{name}.hlo.txt").write_text(program.as_text())
                with whole_files.written(out / f"{name}.json") as partial:
                    partial.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
