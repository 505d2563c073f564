"""The instructions of a compiled program, read from its text."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Mapping

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+?(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(to_apply|body|condition|calls|(?:true|false)_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_QUOTED = re.compile(r'"[^"]*"')
_METADATA = re.compile(r', metadata=\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}')
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: its name in its computation.
        shape: what it returns, as written: `f32[8,4]{1,0}`, or a tuple.
        opcode: what it does.
        operands: the names of what it takes.
        attributes: all that is written behind those.
        number: of a parameter, which one it is.
        root: whether it is what its computation returns.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    number: int | None
    root: bool

    @property
    def bytes(self) -> int:
        """The size of all arrays that it returns."""
        return sum(
            math.prod(map(int, filter(None, lengths.split(",")))) * max(8, int(bits or 8)) // 8
            for _, bits, lengths in _ARRAY.findall(self.shape)
        )

    @property
    def called(self) -> list[tuple[str, str]]:
        """The computations that it runs, each with its part: `body`, `calls`, `to_apply` ..."""
        return [
            (part, name) for part, names in _CALLED.findall(_QUOTED.sub("", self.attributes)) for name in _names(names)
        ]

    @property
    def times(self) -> int | None:
        """Of a loop, how often it runs; None if the compiler does not know."""
        found = _TIMES.search(self.attributes)
        return int(found[1]) if found else None


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program, by name, and the name of the one where it begins."""

    computations: Mapping[str, Computation]
    entry: str


def parse_program(text: str) -> Program:
    """The program of a `compiled.as_text()`.

    >>> program = parse_program('''ENTRY %main (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} add(%x, %x), metadata={op_name="add"}
    ... }''')
    >>> y = program.computations[program.entry]["y"]
    >>> y.opcode, y.operands, y.bytes, y.root
    ('add', ('x', 'x'), 32, True)
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header["name"]
            computations[name] = {}
            entry = name if header["entry"] else entry
        elif name and (found := _INSTRUCTION.match(line)):
            computations[name][found["name"]] = _instruction(found["name"], found["rest"], bool(found["root"]))
    if not entry:
        raise ValueError("The text of the compiled program has no ENTRY computation.")
    return Program(computations, entry)


def fingerprint(text: str) -> str | None:
    '''A hash of a `compiled.as_text()`, the same for programs that differ in names and source lines alone.

    None where the text leaves out what programs may differ by: a large constant, or the Python function that is called
    back; and where there is none.

    >>> text = """HloModule jit_f
    ... ENTRY %main.1 (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} add(%x, %x), metadata={op_name="add"}
    ... }"""
    >>> fingerprint(text) == fingerprint(text.replace("%x", "%a.1").replace("jit_f", "jit_g").replace('"add"', '"b"'))
    True
    >>> fingerprint(text) == fingerprint(text.replace("add(", "multiply("))
    False
    '''
    if not text or "constant({...})" in text or "callback" in _METADATA.sub("", text):
        return None
    numbers: dict[str, str] = {}
    count = itertools.count()

    def numbered(name: re.Match[str]) -> str:
        if name[0] not in numbers:
            numbers[name[0]] = f"%{next(count)}"
        return numbers[name[0]]

    module, _, rest = text.partition("\n")
    lines = [module.partition(",")[2]]  # Layouts and aliases, without its name.
    within = False
    for line in rest.splitlines():
        header = _COMPUTATION.match(line)
        within = bool(header) or (within and line != "}")
        if header:
            line = f"{header['entry']}%{header['name']}"  # The parameters come again, as instructions.
        if within:  # Between the computations stand tables of files and lines.
            lines.append(re.sub(r"%[\w.\-]+", numbered, _METADATA.sub("", line)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    shape = rest[: _end(rest)] if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode, bracket, after = rest[len(shape) :].strip().partition("(")
    inside = after[: _end(bracket + after) - 2]
    number = int(inside) if opcode == "parameter" else None
    return Instruction(name, shape, opcode, tuple(_names(inside, "%")), after[len(inside) :], number, root)


def _names(text: str, sign: str = "%?") -> list[str]:
    return re.findall(rf"{sign}([\w.\-]+)", text)


def _end(text: str) -> int:
    """Where the bracket that the text begins with is closed."""
    depth = 0
    for i, letter in enumerate(text, 1):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)
