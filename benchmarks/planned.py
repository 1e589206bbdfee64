"""What XLA plans of a training step for a GPU that is not here; see plan_gpu.py."""

from typing import Any, NamedTuple

import hlo  # this, timed_step and timing are beside this file
import jax
import jax.numpy as jnp
import timed_step
import timing
from jax.experimental import topologies

from radiovae_jax.vae import experiment

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
    except NotImplementedError as error:  # no plugin
        raise ValueError(
            f"JAX cannot compile for CUDA here ({error}); pip install 'jax[cuda13]'"
        ) from error
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    config = timed_step.in_phase(config, adversarial=adversarial)
    shape = timed_step.image_shape(config)
    built = experiment.build(config, shape)
    step = timed_step.step_of(built, built.settings, adversarial=adversarial)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = experiment.state_shapes(config, built)
    gray = jax.ShapeDtypeStruct((config.train.batch_size, *shape), jnp.uint8)
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (built.perceptual_weights, state, {"gray": gray}, key),
    )
    traced = jax.jit(step, donate_argnums=1).trace(*given)
    return traced.lower(lowering_platforms=("cuda",)).compile()


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


def page(title: str, batch: int, gpu: Gpu, record: dict[str, Any]) -> str:
    """Returns what is printed of a record."""
    pool = POOL * gpu.memory
    floor, uncached = record["floor_seconds"], record["uncached_seconds"]
    rows = [
        f"{title}, batch {batch}, {gpu.name}:",
        f"  memory {record['peak_bytes'] / 1e9:.1f} GB without cuDNN's workspace, of "
        f"it temporary {record['temporary_bytes'] / 1e9:.1f}; JAX takes "
        f"{pool / 1e9:.1f} GB of the card",
        f"  {record['flops'] / 1e12:.1f} TFLOP in products: {floor * 1e3:.1f} ms at "
        f"the peak, {batch / floor:.0f} images/s",
        f"  {record['accessed_bytes'] / 1e9:.1f} GB in and out of {record['kernels']} "
        f"kernels: {uncached * 1e3:.1f} ms if nothing is cached, "
        f"{batch / uncached:.0f} images/s",
    ]
    rows += [
        f"    {kind:<10}{own['kernels']:>6.0f} kernels{own['flops'] / 1e12:>8.2f} TFLOP"
        f"{own['bytes'] / 1e9:>8.1f} GB{own['seconds'] * 1e3:>8.1f} ms"
        for kind, own in sorted(record["by_kind"].items())
    ]
    if record["peak_bytes"] > pool:
        rows.append(
            "  DOES NOT FIT: lower train.batch_size, set autoencoder.remat=True, or "
            "XLA_PYTHON_CLIENT_MEM_FRACTION above 0.75 where the card has more"
        )
    return "\n".join(rows)
