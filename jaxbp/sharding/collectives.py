"""What the devices of a compiled program send each other, read from its text."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

#: By collective, the bytes that each of n devices sends for an operand and a result of so many bytes, as a ring does it
#: (Thakur, Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH).
SENT = {
    "all-reduce": lambda n, operand, result: 2 * (n - 1) / n * result,
    "all-gather": lambda n, operand, result: (n - 1) / n * result,
    "reduce-scatter": lambda n, operand, result: (n - 1) / n * operand,
    "all-to-all": lambda n, operand, result: (n - 1) / n * result,
    "collective-permute": lambda n, operand, result: float(result),
}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+?\d+\w*)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")
_CALLED = re.compile(
    r"(?:to_apply|body|condition|calls|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r"replica_groups=(\{\{[\d,]*\}|\[\d+,\d+\])")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: one of `SENT`.
        devices: how many take part in a group of it.
        sent_bytes: what each of them sends, in one go.
        times: how often a call of the program does it; at least so often, if `exact` is False.
        exact: whether the compiler knew how often.
    """

    kind: str
    devices: int
    sent_bytes: float
    times: int = 1
    exact: bool = True


def read_collectives(program: str, devices: int) -> list[Collective]:
    """The collectives in the text of a compiled program for so many devices, those in its loops by how often they run.

    >>> read_collectives('''ENTRY %main (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
    ... }''', 4)
    [Collective(kind='all-reduce', devices=4, sent_bytes=48.0, times=1, exact=True)]
    """
    computations, entry = _computations(program)
    return list(_collectives(computations, entry, devices))


def sent_bytes(collectives: Iterable[Collective]) -> float:
    """What each device sends during a call."""
    return sum(c.sent_bytes * c.times for c in collectives)


def described(collectives: Iterable[Collective]) -> str:
    """How often which collective happens in a call, as `2 all-reduce, 1 all-gather`; at least, if nobody knows."""
    times: dict[str, int] = {}
    loose = set()
    for c in collectives:
        times[c.kind] = times.get(c.kind, 0) + c.times
        loose |= set() if c.exact else {c.kind}
    return ", ".join(f"{'at least ' if kind in loose else ''}{n} {kind}" for kind, n in sorted(times.items()))


def _computations(program: str) -> tuple[dict[str, list[re.Match[str]]], str]:
    """The instructions of each computation by its name, and the name of the one where the program begins."""
    found: dict[str, list[re.Match[str]]] = {}
    entry, current = "", ""
    for line in program.splitlines():
        if begun := _COMPUTATION.match(line):
            current = begun[1]
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (instruction := _INSTRUCTION.match(line)):
            found[current].append(instruction)
    return found, entry


def _collectives(
    computations: dict[str, list[re.Match[str]]], name: str, devices: int, times: int = 1, exact: bool = True
) -> Iterator[Collective]:
    shapes = {instruction[1]: instruction[2] for instruction in computations[name]}
    for instruction in computations[name]:
        _, result, opcode, rest = instruction.groups()
        kind = opcode.removesuffix("-start")
        if kind in SENT:
            n = _group_size(rest, devices)
            operands = sum(_bytes(shapes[operand]) for operand in re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
            # These return their operand beside their result where they start in one place and end in another.
            beside = opcode != kind and kind in ("all-gather", "collective-permute")
            received = _bytes(result) - (operands if beside else 0)
            if n > 1:
                yield Collective(kind, n, SENT[kind](n, operands, received), times, exact)
            continue
        trips = _TRIPS.search(rest) if opcode == "while" else None
        for called in re.findall(r"%?([\w.\-]+)", " ".join(_CALLED.findall(rest))):
            if called in computations:
                known = exact and (opcode != "while" or trips is not None)
                yield from _collectives(computations, called, devices, times * int(trips[1] if trips else 1), known)


def _group_size(rest: str, devices: int) -> int:
    """How many devices are in the first group; all where none is written."""
    groups = _GROUPS.search(rest)
    if groups is None:
        return devices
    if groups[1].startswith("["):
        return int(groups[1].strip("[]").split(",")[1])
    members = groups[1].strip("{}")
    return members.count(",") + 1 if members else devices


def _bytes(shape: str) -> int:
    """Of an array, or of all in a tuple."""
    return sum(
        math.prod(int(n) for n in dims.split(",") if n) * max(1, _bits(dtype) // 8)
        for dtype, dims in _ARRAY.findall(shape)
    )


def _bits(dtype: str) -> int:
    """Of `f32`, `bf16`, `s8`, `f8e4m3fn`, `pred`."""
    bits = _BITS.search(dtype)
    return int(bits[0]) if bits else 8
