"""Where numbers are made and with what: for a record, and as lines above a table."""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib

from radiovae_jax import provenance

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
