"""A circuit as self-contained HTML: its picture, folded gates that open, the table and where the digits were lost."""

import html
import itertools
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

from jaxbp.circuit.svg import Picture
from jaxbp.circuit.table import rows_of
from jaxbp.circuit.tape import Signal, Tape
from jaxbp.circuit.truth import Truth
from jaxbp.circuit.wiring import Gate, Scope

#: Circuits on one page must not share the names of their parts.
COUNTER = itertools.count(1)
COLUMNS = ("name", "gate", "of", "value", "gradient", "value ULP", "own", "gradient ULP", "type", "line")
STYLE = """
.jaxbp-circuit { font: 14px/1.45 system-ui, sans-serif; color: #24292f; background: #fff; padding: 0.6em 0.8em;
  border: 1px solid #d0d7de; border-radius: 8px; }
.jaxbp-circuit .jaxbp-picture { overflow-x: auto; margin: 0.4em 0; }
.jaxbp-circuit p { margin: 0.3em 0; max-width: 75em; }
.jaxbp-circuit .jaxbp-legend { color: #59636e; font-size: 12px; }
.jaxbp-circuit .jaxbp-lost { background: #fff4c7; border-left: 4px solid #ffb300; padding: 0.35em 0.7em; }
.jaxbp-circuit details { border-left: 2px solid #d0d7de; padding-left: 0.8em; margin: 0.4em 0; }
.jaxbp-circuit details:has(> :target) > summary { background: #fff4c7; }
.jaxbp-circuit summary { cursor: pointer; color: #24292f; }
.jaxbp-circuit table { border-collapse: collapse; font: 12px/1.4 ui-monospace, Menlo, Consolas, monospace;
  margin: 0.4em 0; display: block; overflow-x: auto; }
.jaxbp-circuit th, .jaxbp-circuit td { padding: 0.15em 0.7em; text-align: left; border-bottom: 1px solid #eaeef2;
  white-space: nowrap; color: #24292f; background: #fff; }
.jaxbp-circuit .jaxbp-value { color: #0b7a34; }
.jaxbp-circuit .jaxbp-gradient { color: #c62828; }
"""
LEGEND = (
    'On each wire: <span class="jaxbp-value">value</span>, below it the <span class="jaxbp-gradient">gradient</span> '
    "and the error of value / gradient in ULP against exact arithmetic."
)
EXPLAINED = (
    "Errors are accumulated: against the same circuit in exact arithmetic, up to there. <i>own</i> is what the gate "
    "alone rounds away from the value, given its inputs as they are. += marks gradients that meet where wires branch."
)
#: A picture may be shown this much smaller than it is drawn, if so it fits on a wide page.
SHRINK, PAGE = 0.62, 1200

OWN_RULE = " Its derivative is a rule of its own; these gradients are those of what it computes."


def fragment(
    scope: Scope, tape: Tape, truth: Truth | None, worst: Signal | None, sentences: Sequence[str], lost: bool
) -> str:
    """The circuit as a piece of HTML with its own style."""
    page = _Page(tape, truth, worst)
    parts = [f"<style>{STYLE}</style>", '<div class="jaxbp-circuit">', f"<p><b>{html.escape(scope.title)}</b></p>"]
    for i, sentence in enumerate(sentences):
        kind = ' class="jaxbp-lost"' if lost and i == 0 else ""
        parts.append(f"<p{kind}>{html.escape(sentence)}</p>")
    parts += [page.picture(scope), f'<p class="jaxbp-legend">{LEGEND}</p>', *page.folded(scope)]
    parts += [
        "<details><summary>All numbers</summary>",
        f'<p class="jaxbp-legend">{EXPLAINED}</p>',
        _table(scope, truth),
        "</details>",
        "</div>",
    ]
    return "\n".join(parts)


def document(title: str, body: str) -> str:
    """A page of its own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title></head>\n<body>\n{body}\n</body></html>\n"
    )


class _Page:
    def __init__(self, tape: Tape, truth: Truth | None, worst: Signal | None) -> None:
        self.tape, self.truth, self.worst = tape, truth, worst
        self.prefix = f"jaxbp-circuit-{next(COUNTER)}"
        self.ids: dict[Gate, str] = {}

    def link(self, gate: Gate) -> str:
        return "#" + self.ids.setdefault(gate, f"{self.prefix}-{len(self.ids) + 1}")

    def picture(self, scope: Scope) -> str:
        svg = Picture(scope, self.tape, self.truth, self.worst, self.link).draw()
        # A wide picture shrinks to the page as long as it can be read; a wider one scrolls.
        width = float(svg.attrib["width"])
        least = width if SHRINK * width > PAGE else SHRINK * width
        svg.set("style", f"max-width:100%;min-width:{least:.0f}px;height:auto")
        return f'<div class="jaxbp-picture">{ET.tostring(svg, encoding="unicode")}</div>'

    def folded(self, scope: Scope) -> list[str]:
        """What is inside of gates, to be opened."""
        parts = []
        for gate in scope.gates:
            if gate.inside:
                picture = self.picture(gate.inside)
                note = OWN_RULE if gate.custom else ""
                names = ", ".join(w.name for w in gate.outputs if w)
                count = len(gate.inside.gates)
                parts.append(
                    f"<details><summary>{html.escape(names)}: inside {html.escape(gate.title)}, "
                    f"{count} gate{'s' * (count != 1)}.{note}</summary>"
                    # Followed by a link, what is inside of closed details opens them.
                    f'<div id="{self.link(gate)[1:]}">{picture}</div>'
                )
                parts += [*self.folded(gate.inside), "</details>"]
        return parts


def _table(scope: Scope, truth: Truth | None) -> str:
    rows = rows_of(scope, truth, folded=False)
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "\n".join(f"<tr>{''.join(_cell(row, name) for name in COLUMNS)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(row: dict[str, Any], name: str) -> str:
    kind = f' class="jaxbp-{name}"' if name in ("value", "gradient") else ""
    text = html.escape(str(row[name])).replace("  ", "&nbsp;&nbsp;")
    return f"<td{kind}>{text}</td>"
