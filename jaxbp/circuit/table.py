"""A circuit as text: its wires on the left, and a table of names, gates, values, gradients and errors."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxbp.circuit.gates import symbol_of
from jaxbp.circuit.show import brief, shape_of, ulp_text
from jaxbp.circuit.truth import Truth
from jaxbp.circuit.wiring import Gate, Scope, Wire

#: More wires side by side than this are not drawn.
LANES = 16
#: For terminals.
COLOURS, RESET = {"value": "\x1b[32m", "gradient": "\x1b[31m"}, "\x1b[0m"


def walk(scope: Scope, folded: bool = True, depth: int = 0) -> Iterator[tuple[Wire, Gate | None, int]]:
    """Each wire, the gate that it comes from and how deep it lies, in topological order; with `folded=False` also those
    inside of a gate, before the gate's own.
    """
    producer = {w: gate for gate in scope.gates for w in gate.outputs if w}
    done: set[Gate] = set()
    for wire in scope.wires:
        gate = producer.get(wire)
        if gate and gate.inside and not folded and gate not in done:
            done.add(gate)
            yield from walk(gate.inside, folded, depth + 1)
        yield wire, gate, depth


def rows_of(scope: Scope, truth: Truth | None, folded: bool = True) -> list[dict[str, Any]]:
    """A row of texts for each wire."""
    return [_row(wire, gate, truth, depth) for wire, gate, depth in walk(scope, folded)]


def _row(wire: Wire, gate: Gate | None, truth: Truth | None, depth: int) -> dict[str, Any]:
    gradient = wire.gradient

    def error(signal: Any, own: bool = False) -> str:
        return ulp_text((truth.own if own else truth.errors).get(signal)) if truth and signal else ""

    return {
        "name": "  " * depth + wire.name,
        "gate": symbol_of(gate.eqn, gate.operands) + (" ▸" if gate.inside else "") if gate else wire.kind,
        "of": ", ".join(w.name for w in gate.inputs) if gate else "",
        "value": brief(wire.value.number),
        "gradient": "" if not wire.is_inexact else "0" if gradient is None else brief(gradient.number),
        "value ULP": error(wire.value),
        "own": error(wire.value, own=True) if gate else "",
        "gradient ULP": error(gradient),
        "type": shape_of(wire.aval),
        "line": gate.place if gate else "",
    }


def text_of(scope: Scope, truth: Truth | None, folded: bool = True, coloured: bool = False) -> str:
    """The table with its wires, aligned; values in green and gradients in red if it is to be coloured."""
    rows = rows_of(scope, truth, folded)
    columns = ["name", "gate", "value", "gradient", "value ULP", "own", "gradient ULP", "line"]
    columns = [c for c in columns if any(row[c] for row in rows)]
    lanes = [""] * len(rows) if not folded and any(g.inside for g in scope.gates) else wires_of(scope)
    table = [["", *columns], *([lane, *(str(row[c]) for c in columns)] for lane, row in zip(lanes, rows, strict=True))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = {1 + columns.index(c) for c in ("value ULP", "own", "gradient ULP") if c in columns}
    colours = [COLOURS.get(name, "") if coloured else "" for name in ("", *columns)]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        shown = [f"{colour}{cell}{RESET}" if colour else cell for cell, colour in zip(cells, colours, strict=True)]
        lines.append("  ".join(cell for cell in shown if cell).rstrip())
    return "\n".join(lines)


def wires_of(scope: Scope) -> list[str]:
    """The wires as a column of text: one line for each, with the wires that it comes from joined to it."""
    order = scope.wires
    producer = {w: gate for gate in scope.gates for w in gate.outputs if w}
    last = {w: i for i, w in enumerate(order)}
    for i, wire in enumerate(order):
        for source in producer[wire].inputs if wire in producer else ():
            last[source] = i
    last |= dict.fromkeys(scope.ends, len(order))
    lanes: list[Wire | None] = []
    lines = []
    for i, wire in enumerate(order):
        sources = producer[wire].inputs if wire in producer else []
        used = {lanes.index(w): w for w in sources}
        ended = {j for j, w in used.items() if last[w] == i}
        free = sorted(ended) + [j for j, w in enumerate(lanes) if w is None]
        own = free[0] if free else len(lanes)
        if own == len(lanes):
            lanes.append(None)
        lines.append(_lane(lanes, set(used), ended, own))
        for j in ended:
            lanes[j] = None
        lanes[own] = wire if last[wire] > i or wire in scope.ends else None
        while lanes and lanes[-1] is None:
            lanes.pop()
    return lines if max(map(len, lines), default=0) < 2 * LANES else [""] * len(lines)


def _lane(lanes: Sequence[Wire | None], used: set[int], ended: set[int], own: int) -> str:
    low, high = min(used | {own}), max(used | {own})
    text = ""
    for j, wire in enumerate(lanes):
        inside = low <= j <= high
        if j == own:
            mark = "●"
        elif j in used:
            ends = ("╰", "╯", "┴") if j in ended else ("├", "┤", "┼")
            mark = ends[0 if j == low else 1 if j == high else 2]
        elif wire is not None:
            mark = "│"
        else:
            mark = "─" if inside and used else " "
        text += mark + ("─" if low <= j < high and used else " ")
    return text.rstrip()
