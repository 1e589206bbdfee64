"""Pickles of PyTorch (.pt, .ckpt, .bin): tensors are read, no code is run.

torch.load(weights_only=True) refuses a file for one class beside its tensors, and
Lightning's checkpoints hold callbacks, hyper-parameters and NumPy's numbers. For these
an unpickler of our own puts an inert object in the place of whatever is no tensor.
"""

import contextlib
import importlib
import pathlib
import pickle
import types
import warnings
import zipfile
from typing import Any

from radiovae_jax import inputs

REMEDY = "copy or download it again"
# What rebuilds dense tensors and their containers. Nothing else is ever called.
REBUILDING = {
    "collections": ("OrderedDict",),
    "torch._utils": (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    ),
}
PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")  # in a zip, or alone


class StandIn:
    """Takes the place of an object of any class: is made, filled, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _nothing(self, *args: Any) -> None:
        pass

    # All that a pickle does to an object it made.
    __setstate__ = __setitem__ = append = extend = add = _nothing


def load(path: pathlib.Path) -> Any:
    """Returns what a file of torch.save holds; stand-ins for what is no tensor.

    Raises: as `inputs.check_file`; and a ValueError for what is no such file.
    """
    torch = wanted("torch")
    check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols, and of weights_only=False
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                with path.open("rb") as file:
                    if file.read(2) not in PICKLED:  # torch.load unpacks tars too
                        raise
            return _load_with_stand_ins(torch, path)
    except OSError:
        raise
    except Exception as error:  # damaged bytes can fail anywhere in the unpickler
        reason = " ".join(str(error).partition(". ")[0].split())
        raise ValueError(
            f"{path} is damaged, or no file of PyTorch: "
            f"{inputs.printable(reason or 'it ends too early', letters=200)}; {REMEDY}"
        ) from error


def check(path: pathlib.Path) -> None:
    """Checks that it is a file, and its bytes where it has checksums: torch does not.

    Files of PyTorch before 1.6 are no zips and have none; files saved under
    torch.serialization.set_crc32_options(False) hold zeros in their place.
    """
    inputs.check_file(path, remedy=REMEDY)
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK"):
            return
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if not any(member.CRC for member in archive.infolist()):
            return
    inputs.check_zip(path, what="file of PyTorch", remedy=REMEDY)


def _load_with_stand_ins(torch: Any, path: pathlib.Path) -> Any:
    left_out: dict[str, type] = {}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name in REBUILDING.get(module, ()):
                function = getattr(importlib.import_module(module), name)
                # In a shell, since a pickle may set attributes of what it finds.
                return lambda *args: function(*args)
            if module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype):
                return getattr(torch, name)
            known = f"{module}.{name}"
            if known not in left_out:
                left_out[known] = type(known, (StandIn,), {})
            if name == "getattr":  # to a nested class or a method: a class again
                return lambda *args: StandIn
            return left_out[known]

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    module = types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
    options = dict(weights_only=False, pickle_module=module)  # ours calls even less
    content = torch.load(path, map_location="cpu", **options)
    names = sorted(inputs.printable(name) for name in left_out)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    print(
        f"{inputs.printable(path)}: left out what is no tensor and could run code when "
        f"it is loaded ({', '.join(names[:5])}{more})"
    )
    return content


def wanted(module: str) -> Any:
    """Imports a module of the extra `torch`, or says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module.partition('.')[0]} is not installed: in a checkout, "
            "pip install -e '.[torch]'"
        ) from error
