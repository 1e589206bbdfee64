"""What is written of measurements: machine and versions, and a step's times."""

import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jaxlib
import numpy as np
import timing  # beside this file

from radiovae_jax import provenance

OURS = "radiovae_jax"
# What changes the times without standing in the command.
SETTINGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "GLIBC_TUNABLES")


def versions() -> dict[str, Any]:
    """Returns what a record needs to be cited: versions, commit, command."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "commit": provenance.commit(),
        "command": sys.argv,
        "environment": {
            name: os.environ[name] for name in SETTINGS if name in os.environ
        },
    }


def described(torch_mode: str) -> dict[str, Any]:
    """Returns where and with what numbers are made.

    Args:
      torch_mode: torch.compile's; empty where PyTorch is not timed.
    """
    found = versions() | {
        "device": jax.devices()[0].device_kind,
        "platform": " ".join(jax.devices()[0].client.platform_version.split()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
    }
    if torch_mode:
        import diffusers
        import torch

        found |= {
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "torch_mode": torch_mode,
            "diffusers": diffusers.__version__,
            "torch_threads": torch.get_num_threads(),
        }
    return found


def processor() -> str:
    """Returns the name of the processor, where Linux tells."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def header(record: Mapping[str, Any]) -> str:
    """Returns where and with what the numbers were made, in lines."""
    torch = f", torch {record['torch']}" if "torch" in record else ""
    return (
        f"{record['device']}, {record['cores']} cores of "
        f"{record['processor']}, commit {record['commit']}\n"
        f"jax {record['jax']}, jaxlib {record['jaxlib']}, Python {record['python']}"
        f"{torch}; {record['platform']}"
    )


def speeds(
    times: Mapping[str, list[float]], peers: Collection[str], released: str
) -> dict[str, Any]:
    """Returns the median seconds of all, and how many times ours they take.

    Args:
      times: the seconds of every step, by name.
      peers: the names that are compared like for like as well.
      released: the name of ours that does the same work as the peers.
    """
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "step_seconds": seconds,
        "quartiles": {
            name: np.quantile(taken, [0.25, 0.75]).tolist()
            for name, taken in times.items()
        },
        "ratio_to_ours": {name: s / seconds[OURS] for name, s in seconds.items()},
        "ratio_like_for_like": {
            name: seconds[name] / seconds[released] for name in peers
        },
    }


def floors(
    program: timing.Program, seconds: float, batch: int, peak: float, bandwidth: float
) -> dict[str, Any]:
    """Returns the work of a step that took so long, beside what the device can do.

    Args:
      peak: FLOP/s of a large matrix product.
      bandwidth: bytes/s of a large copy.
    """
    return {
        "images_per_second": batch / seconds,
        "flops_per_image": program.flops / batch,
        "matrix_peak_flops": peak,
        "share_of_peak": program.flops / seconds / peak,
        "bytes_per_second": bandwidth,
        "floor_seconds": {
            "flops": program.flops / peak,
            "bytes": program.bytes_accessed / bandwidth,
        },
    }


def memory_of(name: str) -> str:
    """Says what was measured: XLA plans, of PyTorch it is what its allocator gave."""
    return "memory allocated: " if name.startswith("torch") else "memory planned: "


def table(phase: str, record: dict[str, Any]) -> str:
    """Returns a phase's record in lines."""
    rows = [
        f"{phase} step: {record['size'][0]}x{record['size'][1]}, batch "
        f"{record['batch']}, {record['dtype']}"
    ]
    for name, seconds in record["step_seconds"].items():
        ratio = record["ratio_to_ours"][name]
        rate = record["batch"] / seconds
        row = f"  {name:<20}{seconds * 1e3:>10.1f} ms {rate:>9.1f} images/s"
        row += f"{ratio:>8.2f} times ours"
        if name in record["ratio_like_for_like"]:
            row += f", {record['ratio_like_for_like'][name]:.2f} like for like"
        rows.append(row)
    rows += [
        f"  {'first step differs from ours: ' + name:<44}{apart:>10.1e}"
        for name, apart in record["first_step_differs_by"].items()
    ]
    rows += [
        f"  {'first step: ' + name:<44}{seconds:>10.1f} s"
        for name, seconds in record["first_step_seconds"].items()
    ]
    rows += [
        f"  {'in a row, each of ' + name:<44}{seconds * 1e3:>10.1f} ms"
        for name, seconds in record["in_a_row_seconds"].items()
    ]
    floors = record["floor_seconds"]
    rows += [
        f"  {'trace time':<44}{record['trace_seconds']:>10.1f} s",
        f"  {'compile time':<44}{record['compile_seconds']:>10.1f} s",
        f"  {'FLOPs an image':<44}{record['flops_per_image'] / 1e9:>10.2f} G",
        f"  {'matrix peak':<44}{record['matrix_peak_flops'] / 1e12:>10.2f} TFLOP/s",
        f"  {'share of the matrix peak':<44}{record['share_of_peak']:>10.1%}",
        f"  {'floor by FLOPs':<44}{floors['flops'] * 1e3:>10.1f} ms",
        f"  {'floor by bytes':<44}{floors['bytes'] * 1e3:>10.1f} ms",
    ]
    rows += [
        f"  {memory_of(name) + name:<44}{found / 2**20:>10.0f} MiB"
        for name, found in record["peak_bytes"].items()
        if found is not None
    ]
    rows += [
        f"  {name:<44}{seconds * 1e3:>10.1f} ms"
        for name, seconds in record["parts_seconds"].items()
    ]
    return "\n".join(rows)
