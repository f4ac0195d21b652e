"""Reads a program that XLA compiled for a GPU: how many kernels it launches, and how many bytes they move.

The text of a program is a list of computations. A fusion is one kernel, and its computation is what the kernel does. A
loop is a computation that runs a known number of times.
"""

import math
import re
from typing import NamedTuple

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2} | {
    "s8": 1,
    "u8": 1,
    "pred": 1,
}
_KERNELS = ("fusion", "custom-call", "copy", "sort", "dot", "convolution", "scatter", "all-reduce", "all-gather")
_PARTS = ("slice", "dynamic-slice", "gather")  # operations that read a part of their first operand


class Operation(NamedTuple):
    """`name = shape kind(operands)`, and the rest of its line."""

    name: str
    shape: str
    kind: str
    operands: list[str]
    rest: str


class Counts(NamedTuple):
    """Kernels that are launched, and bytes that they read and write."""

    kernels: int
    bytes: int

    def times(self, turns: int) -> "Counts":
        return Counts(turns * self.kernels, turns * self.bytes)

    def plus(self, other: "Counts") -> "Counts":
        return Counts(self.kernels + other.kernels, self.bytes + other.bytes)


def count(text: str) -> Counts:
    """Counts the kernels of a program, those of loops once per turn, and the bytes of their operands and results.

    A kernel reads each operand once, or only a part if it does nothing but slice the operand. What stays in a cache is
    counted all the same. A loop whose number of turns XLA does not know counts once.
    """
    computations, entry = _parse(text)
    return _count(computations, entry)


def _count(computations: dict[str, list[Operation]], name: str) -> Counts:
    total, shapes = Counts(0, 0), {o.name: o.shape for o in computations[name]}
    for o in computations[name]:
        if o.kind == "while":
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', o.rest)
            total = total.plus(_count(computations, _called("body", o)).times(int(turns[1]) if turns else 1))
        elif o.kind in ("call", "async-start"):
            total = total.plus(_count(computations, _called("to_apply|calls", o)))
        elif o.kind in _KERNELS:
            total = total.plus(Counts(1, _moved(computations, o, [shapes.get(x, "") for x in o.operands])))
    return total


def _moved(computations: dict[str, list[Operation]], kernel: Operation, operands: list[str]) -> int:
    body = computations[_called("calls", kernel)] if kernel.kind == "fusion" else []
    read = [_size(shape) for shape in operands]
    for o in body:
        if o.kind == "parameter":
            users = [user for user in body if o.name in user.operands]
            if users and all(user.kind in _PARTS and user.operands[0] == o.name for user in users):
                number = int(o.operands[0])
                read[number] = min(read[number], sum(_size(user.shape) for user in users))
    return sum(read) + _size(kernel.shape)


def _parse(text: str) -> tuple[dict[str, list[Operation]], str]:
    """The operations of each computation, and the name of the first computation to run."""
    computations, entry = {}, ""
    for head, name, body in re.findall(r"\n(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)\n\}", text, re.S):
        lines = (re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", line) for line in body.split("\n"))
        computations[name] = [_operation(line) for line in lines if line]
        entry = name if head else entry
    return computations, entry


def _operation(line: re.Match) -> Operation:
    name, shape, kind, rest = line.groups()
    inside = rest.split(")")[0]
    return Operation(name, shape, kind, [inside] if kind == "parameter" else re.findall(r"%([\w.\-]+)", inside), rest)


def _called(attribute: str, operation: Operation) -> str:
    found = re.search(rf"(?:{attribute})=%?([\w.\-]+)", operation.rest)
    assert found, operation
    return found[1]


def _size(shape: str) -> int:
    return sum(
        _BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in re.findall(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]", shape)
    )
