"""Kernels that a program compiled for a GPU launches, and the bytes that they read and write."""

import dataclasses

from jaxbp.programs import Computation, Instruction, Program, parse_program

#: What launches nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id"}
#: What reads as much of its first operand as it returns.
_PARTS = {"slice", "dynamic-slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one call of a program launches and moves.

    Attributes:
        kernels: launches, those of loops as often as these run; library calls and copies count as kernels.
        bytes: read and written by all of them, whether in a cache or not. What is taken out of an array, or put into
            one, counts with its own size; of a library call or a kernel of one's own, what it takes and returns.
    """

    kernels: int
    bytes: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.kernels + other.kernels, self.bytes + other.bytes)


class _UnknownError(Exception):
    """How often something runs is not known before it does."""


def traffic(text: str) -> Traffic | None:
    """What the program of a `compiled.as_text()` launches and moves; None if it branches or loops until a condition.

    >>> traffic('''
    ... %double (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} add(%x, %x)
    ... }
    ...
    ... ENTRY %main (a: f32[8]) -> f32[8] {
    ...   %a = f32[8]{0} parameter(0)
    ...   ROOT %fusion = f32[8]{0} fusion(%a), kind=kLoop, calls=%double
    ... }''')
    Traffic(kernels=1, bytes=64)
    """
    program = parse_program(text)
    try:
        return _moved(program.entry, program)
    except _UnknownError:
        return None


def _moved(name: str, program: Program) -> Traffic:
    own = program.computations[name]
    return sum((_moved_by(x, own, program) for x in own.values()), Traffic(0, 0))


def _moved_by(x: Instruction, own: Computation, program: Program) -> Traffic:
    called = dict(x.called)
    if x.opcode in _FREE:
        return Traffic(0, 0)
    if x.opcode == "while" and x.times is not None:
        once = _moved(called["body"], program)
        return Traffic(x.times * once.kernels, x.times * once.bytes)
    if x.opcode in ("while", "conditional"):
        raise _UnknownError
    if x.opcode == "call":
        return _moved(called["to_apply"], program)
    if x.opcode.endswith("-done"):
        return Traffic(0, _written(own[x.operands[0]], x.bytes, program))
    fused = _fused(x, program)
    read = 0
    for operand in dict.fromkeys(x.operands):
        places = [i for i, other in enumerate(x.operands) if other == operand]
        read += own[operand].bytes if fused is None else _read(fused, places, own[operand].bytes)
    return Traffic(1, read + (0 if x.opcode.endswith("-start") else _written(x, x.bytes, program)))


def _fused(x: Instruction, program: Program) -> Computation | None:
    """The computation of a fusion, None of anything else."""
    return program.computations.get(dict(x.called).get("calls", ""))


def _read(fused: Computation, places: list[int], size: int) -> int:
    """Bytes that a fusion reads of an operand of that size, which it takes in these places."""
    parts, renamed = 0, [x for x in fused.values() if x.number in places]
    while renamed:
        array = renamed.pop()
        for user in (x for x in fused.values() if array.name in x.operands):
            first = user.operands[0] == array.name
            if first and user.opcode == "bitcast":
                renamed.append(user)
            elif first and user.opcode in _PARTS:
                parts += user.bytes
            elif not (first and user in _updates(fused)):
                return size
    return min(parts, size)


def _updates(fused: Computation) -> list[Instruction]:
    """What of the results of a fusion is an operand of which a part is written, in place."""

    def source(x: Instruction) -> Instruction:
        return source(fused[x.operands[0]]) if x.opcode == "bitcast" else x

    root = next(x for x in fused.values() if x.root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    updates = [x for x in map(source, results) if x.opcode == "dynamic-update-slice"]
    return [x for x in updates if source(fused[x.operands[0]]).opcode == "parameter"]


def _written(x: Instruction, size: int, program: Program) -> int:
    """Bytes that an instruction writes which returns so many."""
    fused = _fused(x, program)
    if fused is None:
        return size
    return size - sum(update.bytes - fused[update.operands[1]].bytes for update in _updates(fused))
