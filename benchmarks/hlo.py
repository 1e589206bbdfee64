"""Reads XLA's text of a program compiled for a GPU: what every kernel costs.

XLA's own count gives the convolutions of cuDNN no operations and no bytes.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


class Kernel(NamedTuple):
    """One instruction of the compiled program that the GPU executes."""

    kind: str  # "conv", "dot" (alone or in a fusion), "copy", "other" or "unknown"
    dtype: str  # of a product's first factor
    flops: int
    nbytes: int  # of operands and results
    layer: str


SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?\S) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
TARGET = re.compile(r'custom_call_target="([^"]*)"')
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")
# What runs a computation more than once, or maybe.
OPAQUE = ("while", "conditional")
GEMM = "__cublas$"


class Program(NamedTuple):
    """What stands in the text: shapes by instruction, instructions by computation."""

    shapes: dict[str, str]
    computations: dict[str, list[tuple[str, str, str]]]  # (shape, op, what follows)


def kernels_of(text: str, *, strict: bool = True) -> list[Kernel]:
    """Returns the kernels of a program. Names are unique in all of its text.

    Args:
      strict: False returns what cannot be counted as "unknown", without operations and
        bytes, why it cannot as its layer.

    Raises:
      ValueError: something whose operations this cannot count.
    """
    program, entry, body = Program({}, {}), "", ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            body = line.removeprefix("ENTRY ").split(" (")[0].removeprefix("%")
            program.computations[body] = []
            entry = body if line.startswith("ENTRY") else entry
        elif found := INSTRUCTION.match(line):
            name, *instruction = found.groups()
            program.shapes[name] = instruction[0]
            program.computations[body].append(tuple(instruction))
    return list(_kernels(program, entry, strict=strict))


def _kernels(program: Program, body: str, *, strict: bool) -> Iterator[Kernel]:
    """Yields what a computation starts on the GPU, and those that it calls."""
    for shape, op, rest in program.computations[body]:
        if op == "call":  # a run of kernels that are started together
            yield from _kernels(program, CALLED.search(rest)[1], strict=strict)
        elif op not in FREE:
            try:
                yield _kernel(program, shape, op, rest)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                reason = str(error)
                if not isinstance(error, ValueError):  # XLA writes something else now
                    reason = f"XLA's text of a {op!r} is not understood: {error!r}"
                if strict:
                    raise ValueError(reason) from error
                yield Kernel("unknown", "", 0, 0, reason)


def _products_in(program: Program, body: str) -> list[tuple[str, int]]:
    """Returns type and operations of the products in a fusion, and in those in it."""
    found = []
    for shape, op, rest in program.computations[body]:
        if op == "dot":
            found.append(_product(shape, rest, program.shapes))
        elif op in (*OPAQUE, "convolution", "custom-call"):
            raise ValueError(f"the operations of a fused {op!r} cannot be counted")
        elif op == "fusion":
            found += _products_in(program, CALLED.search(rest)[1])
    return found


def size_of(shape: str) -> int:
    """Returns the bytes of all arrays in an instruction's shape."""
    return sum(
        math.prod(dims) * max(1, int(re.sub(r"\D", "", kind) or 8) // 8)
        for kind, dims in _arrays(shape)
    )


def _arrays(shape: str) -> list[tuple[str, list[int]]]:
    """Returns type and dimensions of the arrays in an instruction's shape."""
    return [
        (kind, [int(n) for n in dims.split(",") if n])
        for kind, dims in SHAPE.findall(shape)
    ]


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", rest.split(")")[0])


def _kernel(program: Program, shape: str, op: str, rest: str) -> Kernel:
    arguments = [program.shapes[name] for name in _operands(rest)]
    nbytes = size_of(shape) + sum(map(size_of, arguments))
    layer = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
    target = TARGET.search(rest)
    target = target[1] if target else op
    if op in OPAQUE or (op.endswith("-start") and op != "copy-start"):
        raise ValueError(f"the operations of {op!r} ({layer}) cannot be counted")
    if op == "dot" or target.startswith(GEMM):
        work = [_product(shape, rest, program.shapes)]
        kind = "dot"
    elif target.startswith("__cudnn$conv"):
        work = [_convolution(target, shape, rest, arguments)]
        kind = "conv"
    elif op in ("custom-call", "convolution"):
        raise ValueError(f"the operations of {target!r} ({layer}) cannot be counted")
    else:
        work = _products_in(program, CALLED.search(rest)[1]) if op == "fusion" else []
        kind = "dot" if work else "copy" if op == "copy" else "other"
    dtype = work[0][0] if work else ""
    return Kernel(kind, dtype, sum(flops for _, flops in work), nbytes, layer)


def _product(shape: str, rest: str, shapes: dict[str, str]) -> tuple[str, int]:
    """Returns the type and the operations of a product of matrices.

    XLA's own names the axes that it sums over, cuBLAS's in its configuration.
    """
    dtype, first = _arrays(shapes[_operands(rest)[0]])[0]
    named = re.search(
        r'lhs_contracting_dim(?:s=\{|ension(?:s|_numbers)":\[)([\d,"]+)', rest
    )
    axes = named[1].replace('"', "").split(",")
    depth = math.prod(first[int(axis)] for axis in axes)
    return dtype, 2 * math.prod(_arrays(shape)[0][1]) * depth


def _convolution(
    target: str, shape: str, rest: str, arguments: list[str]
) -> tuple[str, int]:
    """Returns a convolution's type and operations, whichever way it goes."""
    result, first, second = (_arrays(s)[0] for s in (shape, *arguments[:2]))
    kernel, image = {
        "__cudnn$convBackwardFilter": (result, second),
        "__cudnn$convBackwardInput": (second, first),
    }.get(target, (second, result))
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
    outputs = kernel[1][labels.index("o")]
    return first[0], 2 * math.prod(image[1]) * math.prod(kernel[1]) // outputs
