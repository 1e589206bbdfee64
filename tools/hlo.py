"""Reads XLA's text of a program compiled for a GPU: what every kernel costs.

XLA's own count gives the convolutions of cuDNN no operations and no bytes.
"""

import math
import re
from typing import NamedTuple


class Kernel(NamedTuple):
    """One instruction of the compiled program that the GPU executes."""

    kind: str  # "conv", "dot" (alone or in a fusion), "copy" or "other"
    dtype: str  # of a product's first factor
    flops: int
    nbytes: int  # of operands and results
    layer: str


SHAPE = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?\S) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"calls=%?([\w.\-]+)")
TARGET = re.compile(r'custom_call_target="([^"]*)"')
FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")
# What holds other computations: its body would count once, or not at all.
OPAQUE = ("while", "conditional", "call", "async-start")
GEMM = "__cublas$"


def kernels_of(text: str) -> list[Kernel]:
    """Returns the kernels of a program. Names are unique in all of its text.

    Raises:
      ValueError: something whose operations this cannot count.
    """
    shapes, products, entry, inside, body = {}, {}, [], False, ""
    for line in text.splitlines():
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
        if op == "dot" and not inside:
            products.setdefault(body, []).append(_product(shape, rest, shapes))
        if inside and op not in FREE:
            entry.append((shape, op, rest))
    return [_kernel(shape, op, rest, shapes, products) for shape, op, rest in entry]


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


def _kernel(
    shape: str, op: str, rest: str, shapes: dict[str, str], products: dict
) -> Kernel:
    arguments = [shapes[name] for name in _operands(rest)]
    nbytes = size_of(shape) + sum(map(size_of, arguments))
    layer = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
    kind, dtype, flops = ("copy" if op == "copy" else "other"), "", 0
    called, target = CALLED.search(rest), TARGET.search(rest)
    if op in OPAQUE or (op == "custom-call" and not target):
        raise ValueError(f"the operations of {op!r} ({layer}) cannot be counted")
    if op == "dot":
        kind, (dtype, flops) = "dot", _product(shape, rest, shapes)
    elif op == "custom-call" and target[1].startswith("__cudnn$conv"):
        kind, (dtype, flops) = "conv", _convolution(target[1], shape, rest, arguments)
    elif op == "custom-call" and target[1].startswith(GEMM):
        kind, (dtype, flops) = "dot", _product(shape, rest, shapes)
    elif op == "custom-call":
        raise ValueError(f"the operations of {target[1]!r} ({layer}) cannot be counted")
    elif called and called[1] in products:
        kind, dtype = "dot", products[called[1]][0][0]
        flops = sum(work for _, work in products[called[1]])
    return Kernel(kind, dtype, flops, nbytes, layer)


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
