"""A circuit as SVG: values in green above the wires, gradients in red below, errors in ULP under them."""

import dataclasses
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

from jaxbp.circuit.gates import symbol_of
from jaxbp.circuit.layout import TEXT, Edge, Layout, Point, arrange
from jaxbp.circuit.show import brief, severity, shape_of, ulp_text
from jaxbp.circuit.tape import Signal, Tape
from jaxbp.circuit.truth import Truth
from jaxbp.circuit.wiring import Gate, Scope, Wire

GREEN, RED, INK, FAINT, PAPER, HALO = "#0b7a34", "#c62828", "#37424f", "#7b8794", "#ffffff", "#ffd54f"
#: Of an error's text, by its severity.
SEVERITY = (FAINT, "#b26a00", "#c62828")
FONT = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
#: A letter's width in a monospaced font, to its size.
LETTER = 0.61
#: Sizes of the text on a wire, and of what is small beside it.
SIZE, SMALL = 12, 10
HALF = 31.0
MARGIN = 14.0
#: Circuits of up to so many gates have their inputs in one column, as in the notes.
IN_A_COLUMN = 24
#: In larger ones an input that more gates than this read is named beside each of them: lines from one place to all of
#: them would cross the whole picture, and take long to lay out.
FAR_READERS = 4
STYLE = f"text{{font-family:{FONT}}}"


@dataclasses.dataclass(frozen=True)
class Box:
    """A gate, a wire, or both.

    Attributes:
        gate: drawn at its left.
        wire: drawn from there to its right, with its texts.
        head: the width of the gate.
        width: of both.
        mention: whether it only names a wire that is drawn elsewhere.
    """

    gate: Gate | None
    wire: Wire | None
    head: float
    width: float
    mention: bool = False


class Picture:
    """Draws one circuit, not those inside of its gates."""

    def __init__(
        self,
        scope: Scope,
        tape: Tape,
        truth: Truth | None,
        worst: Signal | None,
        link: Callable[[Gate], str] = lambda gate: "",
    ) -> None:
        self.scope, self.tape, self.truth, self.worst, self.link = scope, tape, truth, worst, link
        self.boxes: dict[str, Box] = {}
        self.box_of: dict[Wire, str] = {}
        self.mention_of: dict[tuple[Wire, Gate], str] = {}
        self._collect()
        self.edges = list(self._edges())
        sizes = {name: (box.width, 2 * HALF) for name, box in self.boxes.items()}
        first = [self.box_of[w] for w in scope.inputs if w.readers] if len(scope.gates) <= IN_A_COLUMN else []
        self.layout = arrange(sizes, [edge for edge, _ in self.edges], first)

    def _collect(self) -> None:
        for wire in (*self.scope.inputs, *self.scope.constants):
            self._box(None, wire)
        for gate in self.scope.gates:
            wires = [w for w in gate.outputs if w]
            if len(wires) == 1:
                self._box(gate, wires[0])
            else:
                self._box(gate, None)
                for wire in wires:
                    self._box(None, wire)
        if len(self.scope.gates) > IN_A_COLUMN:
            for wire in (*self.scope.inputs, *self.scope.constants):
                if len(wire.readers) > FAR_READERS:
                    self.mention_of |= {(wire, gate): self._box(None, wire, mention=True) for gate in wire.readers}

    def _box(self, gate: Gate | None, wire: Wire | None, mention: bool = False) -> str:
        head = self._head(gate) if gate else 0.0
        texts = [(text, size) for text, size, _, _ in self._texts(wire, mention)] if wire else []
        line = max((len(text) * size * LETTER for text, size in texts), default=0.0) + 18 if wire else 0.0
        name = f"b{len(self.boxes)}"
        self.boxes[name] = Box(gate, wire, head, head + line, mention)
        if wire and not mention:
            self.box_of[wire] = name
        return name

    def _head(self, gate: Gate) -> float:
        return max(30.0, len(symbol_of(gate.eqn, gate.operands)) * SIZE * LETTER + 14) + (14 if gate.inside else 0)

    def _errors(self, wire: Wire) -> tuple[Any, Any]:
        if self.truth is None:
            return None, None
        return self.truth.errors.get(wire.value), wire.gradient and self.truth.errors.get(wire.gradient)

    def _texts(self, wire: Wire, mention: bool) -> list[tuple[str, int, float, str]]:
        """What stands on a wire, or where it is mentioned: text, size, height below the wire, colour."""
        if mention:
            return [(wire.name if wire.own else brief(wire.value.number), SMALL, -6.0, FAINT)]
        errors = self._errors(wire)
        shown = [ulp_text(e) for e in errors]
        error = " / ".join(text or "–" for text in shown) if any(shown) else ""
        error += " ULP" if error[-1:].isdigit() else ""
        if error and all(e is None or e.lost == 0 for e in errors):
            error = "exact"
        rows = [
            (wire.name if wire.own else "", SMALL, -20.0, FAINT),
            (brief(wire.value.number), SIZE, -6.0, GREEN),
            (self._gradient(wire), SIZE, 14.0, RED),
            (error, SMALL, 26.0, SEVERITY[max(map(severity, errors))]),
        ]
        return [row for row in rows if row[0]]

    def _gradient(self, wire: Wire) -> str:
        if not wire.is_inexact:
            return ""
        if wire.gradient is None:
            return "0" if wire.value.number is not None else "?"
        return brief(wire.gradient.number)

    def _edges(self) -> Any:
        """The lines between boxes, and what each hands back where branches meet."""
        for name, box in self.boxes.items():
            gate = box.gate
            if gate is None:
                continue
            for wire in gate.inputs:
                parts = self.tape.branches.get(wire, [])
                back = [s for g, s in parts if g is gate]
                text = f"+= {brief(back[0].number, 1)}" if len(parts) > 1 and back else ""
                tail = self.mention_of.get((wire, gate), self.box_of[wire])
                yield Edge(tail, name, text, straight=wire.kind == "gate"), wire
            if box.wire is None:
                for wire in gate.outputs:
                    if wire:
                        yield Edge(name, self.box_of[wire], straight=True), wire

    def draw(self) -> ET.Element:
        """The picture as an `svg` element."""
        place: Layout = self.layout
        width, height = place.width + 2 * MARGIN, place.height + 2 * MARGIN
        root = ET.Element(
            "svg",
            xmlns="http://www.w3.org/2000/svg",
            width=f"{width:.0f}",
            height=f"{height:.0f}",
            viewBox=f"0 0 {width:.0f} {height:.0f}",
            role="img",
        )
        _add(root, "title", f"Circuit of {self.scope.title}")
        _add(root, "style", STYLE)
        _add(root, "rect", width="100%", height="100%", fill=PAPER, rx=6)
        canvas = _add(root, "g", transform=f"translate({MARGIN:g},{MARGIN:g})")
        for (edge, _), line, at in zip(self.edges, place.lines, place.texts, strict=True):
            _add(canvas, "path", d=_curve(line), fill="none", stroke=INK, stroke_width=1.3)
            if at:
                halo = {"stroke": PAPER, "stroke_width": 3, "paint_order": "stroke"}
                _label(canvas, edge.text, (at[0], at[1] + 3), TEXT, RED, "middle", **halo)
        for name, box in self.boxes.items():
            self._draw_box(canvas, box, place.centres[name])
        return root

    def _draw_box(self, canvas: ET.Element, box: Box, centre: Point) -> None:
        left, y = centre[0] - box.width / 2, centre[1]
        group = _add(canvas, "g")
        if box.gate:
            _add(group, "title", _told(box.gate))
        if box.wire:
            self._draw_wire(group, box, left, y)
        if box.gate:
            self._draw_gate(group, box, left, y)

    def _draw_wire(self, group: ET.Element, box: Box, left: float, y: float) -> None:
        wire = box.wire
        assert wire is not None
        if not box.gate:
            _add(group, "title", f"{wire.kind} {wire.name}: {shape_of(wire.aval)}")
        start, end = left + box.head, left + box.width
        if self.worst is not None and self._holds(wire, self.worst) and not box.mention:
            _add(
                group,
                "rect",
                x=start - 2,
                y=y - HALF + 1,
                width=end - start,
                height=2 * HALF - 2,
                rx=5,
                fill=HALO,
                fill_opacity=0.55,
            )
        _add(group, "line", x1=start, y1=y, x2=end, y2=y, stroke=INK, stroke_width=1.3)
        if len(wire.readers) > 1:
            if not box.mention:
                _add(group, "circle", cx=end - 1, cy=y, r=3.6, fill=INK)
        elif wire in self.scope.ends:
            _add(
                group,
                "path",
                d=f"M{end - 7:.1f},{y - 4:.1f} L{end:.1f},{y:.1f} L{end - 7:.1f},{y + 4:.1f}",
                fill="none",
                stroke=INK,
                stroke_width=1.3,
            )
        if not box.gate and wire.kind != "gate":
            _add(group, "circle", cx=start + 2, cy=y, r=2.4, fill=FAINT if wire.kind == "constant" else INK)
        for text, size, below, colour in self._texts(wire, box.mention):
            _label(group, text, (start + 6, y + below), size, colour)

    def _holds(self, wire: Wire, signal: Signal) -> bool:
        handed = [s for _, s in self.tape.branches.get(wire, ())]
        return signal in (wire.value, wire.gradient, *handed)

    def _draw_gate(self, group: ET.Element, box: Box, left: float, y: float) -> None:
        gate = box.gate
        assert gate is not None
        target = self.link(gate) if gate.inside else ""
        if target:
            group = _add(group, "a", href=target)
        fill = "#fff3d6" if gate.custom else "#e3ecf7" if gate.inside else "#f1f4f8"
        shape = {"x": left, "y": y - 15, "width": box.head, "height": 30, "rx": 15 if not gate.inside else 5}
        _add(group, "rect", fill=fill, stroke=INK, stroke_width=1.4, **shape)
        text = symbol_of(gate.eqn, gate.operands) + (" ▸" if gate.inside else "")
        _label(group, text, (left + box.head / 2, y + 4), SIZE, INK, "middle")


def _told(gate: Gate) -> str:
    lines = [gate.title]
    if gate.source and gate.source.text:
        lines.append(gate.source.text)
    if gate.place:
        lines.append(gate.place)
    lines += [f"{w.name}: {shape_of(w.aval)}" for w in gate.outputs if w]
    return "\n".join(lines)


def _curve(points: Any) -> str:
    (x, y), *rest = points
    return f"M{x:.1f},{y:.1f} C" + " ".join(f"{px:.1f},{py:.1f}" for px, py in rest)


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: Any) -> ET.Element:
    shown = {key: f"{v:.1f}" if isinstance(v, float) else str(v) for key, v in attributes.items()}
    child = ET.SubElement(parent, tag, {key.replace("_", "-"): text for key, text in shown.items()})
    child.text = text or None
    return child


def _label(
    parent: ET.Element, text: str, at: Point, size: int, colour: str, anchor: str = "start", **more: Any
) -> None:
    x, y = at
    _add(parent, "text", text, x=x, y=y, font_size=size, fill=colour, text_anchor=anchor, **more)
