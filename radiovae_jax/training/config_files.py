"""Config files: `quickstart` and `radio:native` by name, any other by its path.

A file has a docstring, `get_config() -> ConfigDict` and, where it has variants,
`VARIANTS`, the words that may follow its name: get_config(variant).
"""

import ast
import inspect
import pathlib
import runpy
from typing import Any

import ml_collections

from radiovae_jax import inputs

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# A wheel has them in the package, a checkout beside it.
FOLDER = next(
    folder
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    if folder.is_dir() or folder.parent != _PACKAGE
)
OWN = pathlib.Path("configs")  # where a user keeps others


def find(name: str) -> tuple[pathlib.Path, str]:
    """Returns (path, variant) of a config by its name or path; :VARIANT may follow."""
    text, _, variant = name.partition(":")
    path = inputs.local(name if "://" in name else text, "--config")
    names = [path, *(f / f"{text}.py" for f in (FOLDER, OWN) if path.name == text)]
    found = [path for path in names if path.is_file()]
    if not found:
        raise ValueError(f"--config={name}: no such file or name\n{listed()}")
    return found[0], variant


def read(name: str) -> ml_collections.ConfigDict:
    """Returns the config that a file makes.

    Raises a ValueError for no such config or variant, or a file that cannot be run.
    """
    path, variant = find(name)
    try:
        module = runpy.run_path(str(path))
        get_config = module["get_config"]
        config = get_config(*_checked(variant, module, path.stem))
    except SystemExit as error:  # a config's own sys.exit("...")
        raise ValueError(f"--config={name}: {error}") from error
    except Exception as error:  # it is code: anything may come out of it
        raise ValueError(f"--config={name}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"--config={name}: get_config() returns no ConfigDict")
    return config.copy_and_resolve_references()


def _checked(variant: str, module: dict[str, Any], name: str) -> list[str]:
    takes = inspect.signature(module["get_config"]).parameters
    known = [word for word in module.get("VARIANTS", ()) if word]
    if variant and (not takes or (known and variant not in known)):
        there = ", ".join(f":{word}" for word in known) or "none"
        raise ValueError(f"{name} has no variant {variant!r}; it has {there}")
    return [variant] if variant else []


def listed() -> str:
    """Returns a line for each config that is here: name, variants, what it is."""
    own = [] if OWN.resolve() == FOLDER else sorted(OWN.glob("*.py"))
    lines = [_line(path, path.stem) for path in sorted(FOLDER.glob("*.py"))]
    lines += [_line(path, str(path)) for path in own]
    return "\n".join([f"configs, --config NAME (in {FOLDER}) or PATH:", *lines])


def _line(path: pathlib.Path, name: str) -> str:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return f"  {name}"
    variants = [
        f":{word}"
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "VARIANTS"
        for word in ast.literal_eval(node.value)
        if word
    ]
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    return f"  {' '.join([name, *variants]):<30} {summary}".rstrip()
