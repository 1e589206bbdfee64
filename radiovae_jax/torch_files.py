"""Files of PyTorch weights as dicts of NumPy arrays, read safely and written.

torch and safetensors (the extra `torch`) are imported where a file needs them.
"""

import contextlib
import importlib
import json
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from radiovae_jax import diffusers_weights

StateDict = dict[str, np.ndarray]
SUFFIXES = (".pt", ".ckpt", ".safetensors")
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
FACTORS_FILE = "diffusers.json"  # in a run folder: the factors it was imported with


def read(path: pathlib.Path, weights: str) -> tuple[StateDict, dict[str, Any]]:
    """Returns the tensors of a file, and config.json where it is a diffusers folder.

    Args:
      path: a pickle (.pt, .ckpt), a .safetensors file or a diffusers folder.
      weights: of a pickle "ema", "model", or "auto": the average where it has one.

    Raises:
      FileNotFoundError, ValueError: there is nothing that can be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if weights == "ema" and (path.is_dir() or path.suffix == ".safetensors"):
        raise ValueError(f"{path} holds one set of weights; leave --weights=ema out")
    if path.is_dir():
        return read_diffusers(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}
    return numpy_tensors(choose(read_pickle(path), weights), path), {}


def read_diffusers(folder: pathlib.Path) -> tuple[StateDict, dict[str, Any]]:
    config = read_diffusers_config(folder)
    files = sorted(folder.glob("*.safetensors"))
    usual = folder / DIFFUSERS_FILE
    if usual not in files and len(files) != 1:
        raise ValueError(
            f"{folder} has {len(files)} .safetensors files and none of them is "
            f"{usual.name}; leave one there (save_pretrained writes it)"
        )
    return read_safetensors(usual if usual in files else files[0]), config


def read_diffusers_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns config.json, which says what no tensor's shape tells.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is of another network.
    """
    path = folder / "config.json"
    if not path.exists():
        hint = f"; give {folder / 'vae'}" if (folder / "vae").is_dir() else ""
        raise FileNotFoundError(
            f"{folder} is not the folder of a diffusers AutoencoderKL: it has no "
            f"config.json{hint}"
        )
    config = read_json(path)
    diffusers_weights.check_config(config)
    return config


def read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path} is damaged: no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {content!r:.80}")
    return content


def read_safetensors(path: pathlib.Path) -> StateDict:
    safetensors = wanted("safetensors.torch")
    try:
        state = safetensors.load_file(path)
    except OSError:
        raise
    except Exception as error:  # SafetensorError has no narrower base
        raise ValueError(f"{path} is damaged, or no .safetensors: {error}") from error
    return numpy_tensors(state, path)


def read_pickle(path: pathlib.Path) -> dict[Any, Any]:
    """Loads tensors and plain containers, and nothing that could run code."""
    torch = wanted("torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in the unpickler
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if not needed:
            reason = str(error).partition(". ")[0] or "it ends too early"
            raise ValueError(
                f"{path} is damaged, or no file of PyTorch: {reason}"
            ) from error
        raise ValueError(
            f"{path} holds a {needed[1]}; only tensors and plain containers are "
            "loaded, since a pickle can run any code. Where you trust it, save its "
            "tensors again with torch.save({'state_dict': ...})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors; save the "
            "model's state_dict()"
        )
    return content


def choose(content: dict[Any, Any], weights: str) -> dict[Any, Any]:
    """Picks the weights out of a checkpoint: its average, its model, or all of it.

    Raises:
      ValueError: what is asked for is not in it.
    """
    under = "ema_model."
    ema = content.get("ema")
    average = below(ema, under) if isinstance(ema, dict) else {}
    if weights == "ema" and not average:
        raise ValueError(
            f"there is no average (ema, {under}*) in it; found "
            f"{sorted(map(str, content))}"
        )
    if average and weights != "model":
        print("taking the average (ema)")
        return average
    if ema is not None and weights == "auto":
        print(f"its ema has no {under}* and cannot be used")
    for name in ("model", "state_dict"):
        if isinstance(content.get(name), dict):
            print(f"taking {name!r}")
            return content[name]
    return content


def below(state: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """Returns what lies under a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix)
    }


def numpy_tensors(state: Mapping[Any, Any], path: pathlib.Path) -> StateDict:
    """Returns float32 (and integer) arrays of a dict of tensors."""
    torch = wanted("torch")
    other = [
        str(key)
        for key, value in state.items()
        if not (isinstance(key, str) and torch.is_tensor(value))
    ]
    if other:
        raise ValueError(
            f"{path} holds no state dict: {', '.join(other[:5])} are not tensors with "
            "names; expected ema, model or state_dict at its top, or tensors alone"
        )
    return {name: numpy_tensor(tensor, name) for name, tensor in state.items()}


def numpy_tensor(tensor: Any, name: str) -> np.ndarray:
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{name} is no plain tensor ({tensor.layout}, {tensor.dtype})"
        ) from error


def under_prefix(state: StateDict, prefix: str) -> StateDict:
    """Returns the tensors of the autoencoder, where they lie below a prefix.

    Raises:
      ValueError: there is nothing under it, or more than one autoencoder.
    """
    prefix = prefix and prefix.removesuffix(".") + "."
    mark = "encoder.conv_in.weight"
    if not prefix and mark not in state:
        found = [name.removesuffix(mark) for name in state if name.endswith(mark)]
        if len(found) > 1:
            raise ValueError(f"more than one encoder: give --prefix, one of {found}")
        prefix = found[0] if found else ""
    if not prefix:
        return state
    inner = below(state, prefix)
    if not inner:
        raise ValueError(f"no tensor is named {prefix}*; found {sorted(state)[:5]}")
    print(f"taking {len(inner)} of {len(state)} tensors, those under {prefix}")
    return inner


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a name that takes the place of `path` once all is written to it.

    `path` does not exist, or is an empty folder; after a failure nothing is left.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = pathlib.Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def write(path: pathlib.Path, state: StateDict) -> None:
    """Writes a state dict under one of SUFFIXES; a pickle holds it as state_dict."""
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            wanted("safetensors.numpy").save_file(state, temporary)
            return
        torch = wanted("torch")
        tensors = {name: torch.tensor(array) for name, array in state.items()}
        torch.save({"state_dict": tensors}, temporary)


def write_diffusers(
    folder: pathlib.Path, state: StateDict, config: Mapping[str, Any]
) -> None:
    """Writes a folder for `diffusers.AutoencoderKL.from_pretrained`."""
    safetensors = wanted("safetensors.numpy")
    with replacing(folder) as temporary:
        temporary.mkdir()
        path = temporary / DIFFUSERS_FILE
        safetensors.save_file(state, path, metadata={"format": "pt"})
        text = json.dumps(config, indent=2) + "\n"
        (temporary / "config.json").write_text(text)


def wanted(module: str) -> Any:
    """Imports a module of the extra `torch`, or says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module.partition('.')[0]} is not installed: pip install "
            "'radiovae-jax[torch]'"
        ) from error
