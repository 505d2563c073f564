"""What the devices of a compiled program send each other, read from its text."""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from jaxbp.programs import Program, parse_program

#: By collective, the bytes that each of n devices sends for an operand and a result of so many bytes, as a ring does it
#: (Thakur, Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH).
SENT = {
    "all-reduce": lambda n, operand, result: 2 * (n - 1) / n * result,
    "all-gather": lambda n, operand, result: (n - 1) / n * result,
    "reduce-scatter": lambda n, operand, result: (n - 1) / n * operand,
    "all-to-all": lambda n, operand, result: (n - 1) / n * result,
    "collective-permute": lambda n, operand, result: float(result),
}

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
    parsed = parse_program(program)
    return list(_collectives(parsed, parsed.entry, devices))


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


def _collectives(program: Program, name: str, devices: int, times: int = 1, exact: bool = True) -> Iterator[Collective]:
    own = program.computations[name]
    for x in own.values():
        kind = x.opcode.removesuffix("-start")
        if kind in SENT:
            n = _group_size(x.attributes, devices)
            operands = sum(own[operand].bytes for operand in x.operands)
            # These return their operand beside their result where they start in one place and end in another.
            beside = x.opcode != kind and kind in ("all-gather", "collective-permute")
            if n > 1:
                sent = SENT[kind](n, operands, x.bytes - (operands if beside else 0))
                yield Collective(kind, n, sent, times, exact)
            continue
        for _, called in x.called:
            if called in program.computations:
                known = exact and (x.opcode != "while" or x.times is not None)
                yield from _collectives(program, called, devices, times * (x.times or 1), known)


def _group_size(rest: str, devices: int) -> int:
    """How many devices are in the first group; all where none is written."""
    groups = _GROUPS.search(rest)
    if groups is None:
        return devices
    if groups[1].startswith("["):
        return int(groups[1].strip("[]").split(",")[1])
    members = groups[1].strip("{}")
    return members.count(",") + 1 if members else devices
