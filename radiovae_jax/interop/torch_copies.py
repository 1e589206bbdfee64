"""The copies of an autoencoder in a checkpoint: its raw weights and its average (EMA).

Trainers nest and name them in many ways: {"model", "ema"}, state_dict_ema, `ema_model.`
before every name, `module.` of DDP, `_orig_mod.` of torch.compile, LitEma's names
without dots. A copy is found by its first convolution, and is an average where the way
to it says ema.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from radiovae_jax import inputs

FIRST = "encoder.conv_in.weight"
# What DDP, torch.compile, FSDP and checkpointing put into names, wherever they wrap.
WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
EMA = re.compile(r"(?<![A-Za-z])ema(?![a-z])|EMA|(?<![A-Za-z])Ema")
LIT_EMA = "model_ema."
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


class Copy(NamedTuple):
    """One copy of the autoencoder, with what lies beside it (loss.*, say)."""

    address: str  # the keys and the prefix that lead to it; "" at the top
    average: bool
    state: dict[str, Any]

    def __str__(self) -> str:
        kind = "an average" if self.average else "raw weights"
        return f"{inputs.printable(self.address) or 'the top'} ({kind})"


def take(
    content: Mapping[Any, Any],
    weights: str,
    *,
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> Copy:
    """Picks one copy of the autoencoder out of a checkpoint, and says which.

    Args:
      weights: "ema", "model" (raw), or "auto": the average where there is one.
      prefix: of the address, or of the names, of the copy to take.
      ignore: starts of names that are left out before.

    Raises:
      ValueError: what is asked for is not there, or is there twice.
    """
    copies = find(content, ignore)
    listed = ", ".join(map(str, copies))
    if not copies:
        raise ValueError(
            f"these are not the weights of a KL autoencoder: no {FIRST} in the dicts "
            f"of its top levels; found {contents(content)}. Save the model's "
            "state_dict()"
        )
    prefix = WRAPPERS.sub("", prefix and prefix.removesuffix(".") + ".")
    inside = [copy for copy in copies if is_under(copy, prefix)]
    if not inside:
        raise ValueError(f"no {FIRST} under {prefix}*; found {listed}")
    averages = [copy for copy in inside if copy.average]
    raw = [copy for copy in inside if not copy.average]
    if len(raw) > 1:  # lucidrains' EMA keeps the model beside its average once more
        raw = [copy for copy in raw if "online_model" not in copy.address] or raw
    if weights == "ema" and not averages:
        raise ValueError(f"there is no average (a name with ema); found {listed}")
    if weights == "model" and not raw:
        raise ValueError(f"there are no raw weights; found {listed}")
    wanted = raw if weights == "model" else averages or raw
    if len(wanted) > 1:
        ways = [f"{copy.address}." for copy in wanted if copy.address]
        top = "" if len(ways) == len(wanted) else ", or --ignore all but the top's"
        raise ValueError(
            f"more than one encoder: give --prefix, one of {ways}{top}; found {listed}"
        )
    for way in ways_of_averages(content):
        if not any(f"{copy.address}.".startswith(f"{way}.") for copy in copies):
            why = f"no {FIRST} in its top levels; give it in a file of its own"
            print(f"{inputs.printable(way)} is not read: {why}")
    print(f"found {listed}; taking {wanted[0]}")
    return wanted[0]


def ways_of_averages(content: Mapping[Any, Any], depth: int = 4) -> Iterator[str]:
    """Yields the way to every dict or list whose key says that it is an average."""
    for key, value in content.items():
        if not isinstance(value, dict | list):
            continue
        if EMA.search(str(key)) or "shadow" in str(key):
            yield str(key)
        elif isinstance(value, dict) and depth > 1:
            yield from (f"{key}.{way}" for way in ways_of_averages(value, depth - 1))


def is_under(copy: Copy, prefix: str) -> bool:
    """Whether a prefix, which ends in a dot, leads to the copy from any level."""
    address, prefix = f".{copy.address}.", f".{prefix}"
    return address.startswith(prefix) or address.endswith(prefix)


def find(content: Mapping[Any, Any], ignore: Sequence[str] = ()) -> list[Copy]:
    """Returns every copy of an autoencoder in the top levels of a checkpoint."""
    found, unused = [], set(ignore)
    for keys, mapping in mappings(content):
        named = {name: v for name, v in mapping.items() if isinstance(name, str)}
        unused -= {start for start in unused if below(named, start)}
        state = plain_names(named, ignore)
        prefixes = {
            name.removesuffix(FIRST)
            for name in state
            if f".{name}".endswith(f".{FIRST}")
        }
        for prefix in sorted(prefixes):
            others = tuple(p for p in prefixes - {prefix} if p.startswith(prefix))
            rest = {n: v for n, v in state.items() if not n.startswith(others)}
            found += of_one(".".join([*keys, prefix]).strip("."), below(rest, prefix))
    for start in sorted(unused):
        print(inputs.printable(f"--ignore={start}: no tensor is named {start}*"))
    return found


def of_one(address: str, state: dict[str, Any]) -> list[Copy]:
    """Returns the copy, and LitEma's average of it where that lies beside it."""
    says_ema = EMA.search(address) and "online_model" not in address
    if says_ema or "n_averaged" in state:  # of torch's AveragedModel
        # Names without a dot are the average's own: decay, num_updates, n_averaged.
        return [Copy(address, True, {n: v for n, v in state.items() if "." in n})]
    dotless = below(state, LIT_EMA)
    raw = {n: v for n, v in state.items() if not n.startswith(LIT_EMA)}
    copies = [Copy(address, False, raw)]
    if dotless.keys() - {"decay", "num_updates"}:
        own = [name for name in raw if name.startswith(PARTS)]
        fit = sum(name.replace(".", "") in dotless for name in own)
        if fit < len(own):
            raise ValueError(
                f"the file holds {LIT_EMA}*, an average under names without dots, "
                f"which fit {fit} of the autoencoder's {len(own)}; give "
                f"--ignore={LIT_EMA} to import the weights beside it"
            )
        # What has no average (buffers, LPIPS) is the model's.
        average = {n: dotless.get(n.replace(".", ""), v) for n, v in raw.items()}
        copies.append(Copy(f"{address}.{LIT_EMA}".strip("."), True, average))
    return copies


def mappings(
    content: Mapping[Any, Any], levels: int = 2
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yields the dicts of so many levels, each with the keys that lead to it."""
    yield (), content
    for key, value in content.items():
        if levels and isinstance(value, Mapping):
            for keys, inner in mappings(value, levels - 1):
                yield (str(key), *keys), inner


def plain_names(state: Mapping[str, Any], ignore: Sequence[str]) -> dict[str, Any]:
    """Returns the names without wrappers' parts, and without those to ignore."""
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if name.startswith(tuple(ignore)):
            continue
        short = WRAPPERS.sub("", name)
        if short in plain:
            raise ValueError(
                f"{inputs.printable(short)} is there twice, once as "
                f"{inputs.printable(name)}; give --ignore with the start of one"
            )
        plain[short] = value
    return plain


def below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns what lies under a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def contents(content: Mapping[Any, Any]) -> str:
    """Returns the first names of each level, with what they are."""
    names = [
        f"{'.'.join([*keys, str(key)])} ({type(value).__name__})"
        for keys, mapping in mappings(content)
        for key, value in list(mapping.items())[:5]
    ]
    return ", ".join(map(inputs.printable, names[:9])) or "nothing"
