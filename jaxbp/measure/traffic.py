"""Kernels that a program compiled for a GPU launches, and bytes that they read and write, from the program's text."""

import dataclasses
import functools
import re
from collections.abc import Iterator

#: What launches nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id"}
#: What reads as much of its first operand as it returns.
_PARTS = {"slice", "dynamic-slice", "gather"}
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body)=%?([\w.\-]+)")
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one call of a program launches and moves.

    Attributes:
        kernels: launches, those of loops as often as these run; library calls and copies count as kernels.
        bytes: read and written by all of them, whether in a cache or not. What is taken out of an array, or put into
            one, counts with its own size.
    """

    kernels: int
    bytes: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.kernels + other.kernels, self.bytes + other.bytes)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """Its attributes; of a parameter its number."""
    root: bool

    @property
    def size(self) -> int:
        """Bytes of all arrays that it returns."""
        return sum(_bytes(*found) for found in _ARRAY.findall(self.shape))


_Computation = dict[str, _Instruction]


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
    computations, entry = _parse(text)
    if entry is None:
        raise ValueError("The text of the compiled program has no ENTRY computation.")
    try:
        return _moved(entry, computations)
    except _UnknownError:
        return None


class _UnknownError(Exception):
    """How often something runs is not known before it does."""


def _parse(text: str) -> tuple[dict[str, _Computation], str | None]:
    computations: dict[str, _Computation] = {}
    entry = name = None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header["name"]
            computations[name] = {}
            entry = name if header["entry"] else entry
        elif name and (found := _INSTRUCTION.match(line)):
            computations[name][found["name"]] = _instruction(found["name"], found["rest"], bool(found["root"]))
    return computations, entry


def _instruction(name: str, rest: str, root: bool) -> _Instruction:
    shape = rest[: _end(rest)] if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode, _, after = rest[len(shape) :].strip().partition("(")
    inside = after[: _end("(" + after) - 2]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return _Instruction(name, shape, opcode, operands, inside if opcode == "parameter" else after[len(inside) :], root)


def _end(text: str) -> int:
    """Where the bracket that the text begins with is closed."""
    depth = 0
    for i, letter in enumerate(text, 1):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)


def _bytes(dtype: str, bits: str, shape: str) -> int:
    entries = functools.reduce(lambda n, length: n * int(length), filter(None, shape.split(",")), 1)
    return entries * int(bits or 8) // 8  # A truth value has a byte.


def _moved(name: str, computations: dict[str, _Computation]) -> Traffic:
    own = computations[name]
    return sum((_moved_by(x, own, computations) for x in own.values()), Traffic(0, 0))


def _moved_by(x: _Instruction, own: _Computation, computations: dict[str, _Computation]) -> Traffic:
    called = dict(_CALLED.findall(x.rest))
    if x.opcode in _FREE:
        return Traffic(0, 0)
    if x.opcode == "while" and (times := _TIMES.search(x.rest)):
        once = _moved(called["body"], computations)
        return Traffic(int(times[1]) * once.kernels, int(times[1]) * once.bytes)
    if x.opcode in ("while", "conditional"):
        raise _UnknownError
    if x.opcode == "call":
        return _moved(called["to_apply"], computations)
    if x.opcode.endswith("-done"):
        return Traffic(0, _written(own[x.operands[0]], computations, x.size))
    fused = computations.get(called.get("calls", ""))
    read = sum(
        own[operand].size if fused is None else _read(fused, places, own[operand].size)
        for places, operand in _numbered(x.operands)
    )
    return Traffic(1, read + (0 if x.opcode.endswith("-start") else _written(x, computations, x.size)))


def _numbered(operands: tuple[str, ...]) -> Iterator[tuple[list[int], str]]:
    """Each operand with its places: what is handed over twice is read once."""
    for operand in dict.fromkeys(operands):
        yield [i for i, other in enumerate(operands) if other == operand], operand


def _read(fused: _Computation, places: list[int], size: int) -> int:
    """Bytes that a fusion reads of an operand."""
    parts = 0
    for name in (x.name for x in fused.values() if x.opcode == "parameter" and int(x.rest) in places):
        for user in (x for x in fused.values() if name in x.operands):
            if user.opcode in _PARTS and user.operands[0] == name:
                parts += user.size
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name and _is_result(user, fused):
                continue  # In place.
            else:
                return size
    return min(parts, size)


def _is_result(x: _Instruction, fused: _Computation) -> bool:
    return any(x is result for result in _results(fused))


def _results(fused: _Computation) -> list[_Instruction]:
    """What a fusion returns, without what only renames it."""

    def source(x: _Instruction) -> _Instruction:
        return source(fused[x.operands[0]]) if x.opcode == "bitcast" else x

    root = next(x for x in fused.values() if x.root)
    return [source(fused[name]) for name in root.operands] if root.opcode == "tuple" else [source(root)]


def _written(x: _Instruction, computations: dict[str, _Computation], size: int) -> int:
    """Bytes that an instruction which returns so many writes."""
    fused = computations.get(dict(_CALLED.findall(x.rest)).get("calls", ""))
    if fused is None:
        return size
    updates = [result for result in _results(fused) if result.opcode == "dynamic-update-slice"]
    return size - sum(result.size - fused[result.operands[1]].size for result in updates)
