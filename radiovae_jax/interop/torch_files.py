"""Files of PyTorch weights as dicts of NumPy arrays, read safely and written.

torch and safetensors (the extra `torch`) are imported where a file needs them.
"""

import contextlib
import io
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from radiovae_jax import files, inputs
from radiovae_jax.interop import diffusers_weights, torch_copies, torch_pickle
from radiovae_jax.interop.torch_copies import Copy
from radiovae_jax.interop.torch_pickle import REMEDY, wanted

StateDict = dict[str, np.ndarray]
SUFFIXES = (".pt", ".ckpt", ".safetensors")
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
FACTORS_FILE = "diffusers.json"  # in a run folder: the factors it was imported with
RECORD_FILE = "imported.json"  # there too: the files, their sha256, the copy taken
INDEX = re.compile(r".+\.(?:safetensors|bin)\.index.*\.json")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def read(
    path: pathlib.Path, weights: str, *, prefix: str = "", ignore: Sequence[str] = ()
) -> tuple[Copy, dict[str, Any]]:
    """Returns the copy to take of a file, and config.json of a diffusers folder.

    Args:
      path: a pickle (.pt, .ckpt, .bin), a .safetensors file, one or the index of a
        set of shards, or a diffusers folder.
      weights, prefix, ignore: as for `torch_copies.take`.

    Raises:
      FileNotFoundError, ValueError: there is nothing that can be read.
    """
    facts = read_diffusers_config(path) if path.is_dir() else {}
    shards = files_of(path)
    contents = list(map(read_file, shards))
    whole = {name: value for content in contents for name, value in content.items()}
    if len(whole) < sum(map(len, contents)):
        raise ValueError(f"two of {', '.join(map(str, shards))} hold the same names")
    taken = torch_copies.take(whole, weights, prefix=prefix, ignore=ignore)
    return taken._replace(state=numpy_tensors(taken.state, path)), facts


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that hold the tensors: the file itself, or all its shards."""
    if path.is_dir():
        path = file_in(path)
    if INDEX.fullmatch(path.name):
        of_each = inputs.read_json(path, remedy=REMEDY).get("weight_map")
        names = list(of_each.values()) if isinstance(of_each, dict) else []
        plain = [n for n in names if isinstance(n, str) and pathlib.Path(n).name == n]
        if not plain or plain != names:
            raise ValueError(
                f"{path} is damaged: its weight_map names no files beside it; {REMEDY}"
            )
        return [path.parent / name for name in sorted(set(plain))]
    if shard := SHARD.fullmatch(path.name):
        stem, _, count, suffix = shard.groups()
        return [
            path.with_name(f"{stem}-{i:05}-of-{count}{suffix}")
            for i in range(1, int(count) + 1)
        ]
    return [path]


def file_in(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file of weights in a folder, their index, or the first of shards."""
    for suffix in (".safetensors", ".bin"):
        usual = (folder / DIFFUSERS_FILE).with_suffix(suffix)
        if usual.exists():
            return usual
        found = sorted(folder.glob(f"*{suffix}"))
        indices = sorted(folder.glob(f"*{suffix}.index*.json"))
        if found and len({SHARD.sub(r"\1\4", file.name) for file in found}) == 1:
            return [*indices, *found][0]
        if found:
            raise ValueError(
                f"{folder} has {len(found)} {suffix} files and none of them is "
                f"{usual.name} (save_pretrained writes it); give the file itself"
            )
    raise ValueError(f"{folder} has no .safetensors or .bin file; give the file itself")


def read_diffusers_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns config.json, checked: it says what no tensor's shape tells."""
    path = folder / "config.json"
    if not path.exists():
        hint = f"; give {folder / 'vae'}" if (folder / "vae").is_dir() else ""
        raise FileNotFoundError(
            f"{folder} is not the folder of a diffusers AutoencoderKL: it has no "
            f"config.json{hint}"
        )
    config = inputs.read_json(path, remedy=REMEDY)
    diffusers_weights.check_config(config)
    return config


def read_file(path: pathlib.Path) -> dict[Any, Any]:
    """Loads tensors and plain containers, and nothing that could run code."""
    if path.suffix == ".safetensors":
        safetensors = wanted("safetensors.torch")
        inputs.check_file(path, remedy=REMEDY)
        try:
            return safetensors.load_file(path)
        except OSError:
            raise
        except Exception as error:  # SafetensorError has no narrower base
            raise ValueError(
                f"{path} is damaged, or no .safetensors ({error}); {REMEDY}"
            ) from error
    content = torch_pickle.load(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {inputs.printable(type(content).__name__)}, not a dict of "
            "tensors; save the model's state_dict()"
        )
    return content


def numpy_tensors(state: Mapping[str, Any], path: pathlib.Path) -> StateDict:
    """Returns float32 (and integer) arrays of the tensors; other values are left out.

    Raises:
      ValueError: there are none, or some that NumPy cannot hold.
    """
    torch = wanted("torch")
    tensors = {n: v for n, v in state.items() if isinstance(v, torch.Tensor)}
    if state and not tensors:
        kinds = sorted({inputs.printable(type(v).__name__) for v in state.values()})
        raise ValueError(
            f"{path} holds no tensors where the weights' names are but "
            f"{', '.join(kinds[:5])}; save the model's state_dict()"
        )
    return {name: numpy_tensor(value, name) for name, value in tensors.items()}


def numpy_tensor(tensor: Any, name: str) -> np.ndarray:
    if 4 * tensor.numel() > inputs.MOST_ARRAY:  # a view may repeat a few numbers
        raise ValueError(f"{name} promises {tensor.numel() / 2**28:.3g} GiB")
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"{name} is no plain tensor ({tensor.layout}, {tensor.dtype})"
        ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a name that takes the place of `path` once all is written to it.

    `path` does not exist, or is an empty folder; after a failure nothing is left.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sweep(path.parent, path.name)  # what a killed process left
    temporary = files.partial(path)
    try:
        with files.room_for(path):
            yield temporary
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: pathlib.Path, state: StateDict) -> None:
    """Writes a state dict under one of SUFFIXES; a pickle holds it as state_dict."""
    if path.suffix == ".safetensors":
        content = wanted("safetensors.numpy").save(state)
    else:
        torch, buffer = wanted("torch"), io.BytesIO()
        tensors = {name: torch.tensor(array) for name, array in state.items()}
        torch.save({"state_dict": tensors}, buffer)
        content = buffer.getvalue()
    # By ourselves: what the libraries raise on a full disk is no OSError.
    path.parent.mkdir(parents=True, exist_ok=True)
    files.sweep(path.parent, path.name)
    with files.written(path) as temporary:
        temporary.write_bytes(content)


def write_diffusers(
    folder: pathlib.Path, state: StateDict, config: Mapping[str, Any]
) -> None:
    """Writes a folder for `diffusers.AutoencoderKL.from_pretrained`."""
    content = wanted("safetensors.numpy").save(state, metadata={"format": "pt"})
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / DIFFUSERS_FILE).write_bytes(content)
        text = json.dumps(config, indent=2) + "\n"
        (temporary / "config.json").write_text(text)
