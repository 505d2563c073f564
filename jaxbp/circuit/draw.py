"""`draw_circuit`: any JAX function as a circuit of gates, with values, gradients and their errors."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxbp.circuit import page, table
from jaxbp.circuit.blame import Loss, verdict, worst_loss
from jaxbp.circuit.names import argument_names
from jaxbp.circuit.record import records_of
from jaxbp.circuit.stages import Stages
from jaxbp.circuit.svg import Picture
from jaxbp.circuit.tape import Signal, Tape
from jaxbp.circuit.truth import Truth
from jaxbp.circuit.wiring import Gate, Scope, Wire, wire_up
from jaxbp.errors import UsageError
from jaxbp.jaxprs import is_float


class Circuit:
    """A function at given arguments, as gates and wires; made by `draw_circuit`.

    Attributes:
        scope: its gates and wires.
        loss: the step that loses the digits of the worst result; None where none are lost.
        verdict: a sentence on where the digits were lost.
        notes: sentences on what is not shown, and why.
    """

    def __init__(
        self, scope: Scope, tape: Tape, truth: Truth, cotangents: Mapping[Wire, np.ndarray | None], notes: list[str]
    ) -> None:
        results = [w.value for w in scope.ends] + [w.gradient for w in scope.inputs if w.gradient]
        self.scope = scope
        self.loss: Loss | None = worst_loss(truth, results)
        self.verdict = verdict(truth, self.loss, results)
        self.notes = [*notes, *_failures(scope), *truth.reasons]
        self._tape, self._truth, self._cotangents = tape, truth, cotangents

    @property
    def _worst(self) -> Signal | None:
        return self.loss.signal if self.loss else None

    @functools.cached_property
    def _stages(self) -> Stages:
        return Stages(self.scope, self._tape, self._cotangents)

    @property
    def values(self) -> dict[str, Any]:
        """The value of each wire, by name; those inside of gates are in `scope`."""
        return {w.name: w.value.number for w in self.scope.wires}

    @property
    def gradients(self) -> dict[str, Any]:
        """The gradient of each wire that is a float, by name; None where it could not be computed."""
        return {
            w.name: w.gradient.number if w.gradient else np.zeros(w.aval.shape, w.aval.dtype)
            for w in self.scope.wires
            if w.is_inexact
        }

    @property
    def given(self) -> dict[str, Any]:
        """The variables that the Python of `to_stages` expects."""
        return self._stages.given

    def to_stages(self) -> str:
        """Staged backpropagation as Python: forward lines, and in reverse backward lines with `+=` where branches meet.

        `exec(circuit.to_stages(), namespace := dict(circuit.given))` leaves the gradient with respect to `x` in
        `namespace["dx"]`.
        """
        return "\n".join(self._stages.lines) + "\n"

    def to_rows(self, folded: bool = True) -> list[dict[str, Any]]:
        """A row for each wire: name, gate, value, gradient and errors, as texts."""
        return table.rows_of(self.scope, self._truth, folded)

    def to_json(self, folded: bool = True) -> str:
        """The same for other programs, with numbers and not texts, and the sentences."""
        wires = records_of(self.scope, self._truth, folded)
        whole = {"title": self.scope.title, "wires": wires, "verdict": self.verdict, "notes": self.notes}
        return json.dumps(whole, indent=2, ensure_ascii=False)

    def to_text(self, folded: bool = True, coloured: bool = False) -> str:
        """The table that `str` gives; with `folded=False` also what is inside of gates; `coloured` for a terminal."""
        lines = [f"Circuit of {self.scope.title}", "", table.text_of(self.scope, self._truth, folded, coloured)]
        return "\n".join([*lines, *(["", *self.sentences] if self.sentences else [])])

    @property
    def sentences(self) -> list[str]:
        """The verdict, and what else there is to say."""
        return [text for text in (self.verdict, *self.notes) if text]

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Circuit of {self.scope.title}: {len(self.scope.gates)} gates>"

    def to_svg(self) -> str:
        """The picture; gates that have a circuit inside are folded."""
        svg = Picture(self.scope, self._tape, self._truth, self._worst).draw()
        return ET.tostring(svg, encoding="unicode") + "\n"

    def to_html(self) -> str:
        """A page with the picture, gates that open, and a table of all numbers. It needs nothing else."""
        return page.document(f"Circuit of {self.scope.title}", self._repr_html_())

    def _repr_html_(self) -> str:
        lost = self.loss is not None
        return page.fragment(self.scope, self._tape, self._truth, self._worst, self.sentences, lost)


def draw_circuit(
    f: Callable[..., Any], *args: Any, ct: Any = None, advance: Callable[[str], None] = lambda name: None
) -> Circuit:
    """Draw a function as the notes on backpropagation do: gates, values forwards in green, gradients backwards in red.

    Every equation of the function's jaxpr is a gate, in topological order. Functions that it calls (`jax.jit`,
    `jax.custom_vjp`, ...) and loops are folded into one gate; those that are not loops open in HTML. Names of wires
    are those of the user's source. Gates are evaluated one at a time: a jitted function, fused, may round differently.

    **Gradients** are those that `jax.grad` returns: through custom rules where there are some. Of an output that is no
    scalar it is the gradient of the sum of its entries, unless `ct` says otherwise.

    **Errors** are in ULP against the same gates in exact arithmetic, at the same inputs and constants, and with the
    true derivative in place of custom rules. They are *accumulated*: what is lost up to there. A gate's *own* error
    compares with the exact operation on the very floats that it was given. The digits are said to be lost where the
    accumulated error jumps on the way to the worst result: in a difference of two numbers that agree in their leading
    digits the own error is 0 and the jump is large.

    Args:
        f: a function that JAX can trace.
        args: its arguments: pytrees of numbers and arrays. Python's floats are float32, unless x64 is enabled.
        ct: the cotangent, of the output's structure and shapes; ones if not given.
        advance: told of each step, for a progress bar.

    Returns:
        A `Circuit`: `str()` is a table for the terminal, `to_svg()` a picture, `to_html()` a page, `to_stages()` the
        staged backward pass as Python; a notebook shows it by itself.

    Raises:
        UsageError: an argument is no array, the function cannot be traced, or `ct` does not fit its output.
        MissingExtraError: a package is not installed; the extra `bench` has them.

    >>> import jax
    >>> circuit = draw_circuit(lambda x, y, z: (x + y) * z, -2.0, 5.0, -4.0)
    >>> [(row["gate"], row["value"], row["gradient"]) for row in circuit.to_rows()]
    [('input', '-2', '-4'), ('input', '5', '-4'), ('input', '-4', '3'), ('+', '3', '-4'), ('×', '-12', '1')]
    >>> print(draw_circuit(jax.grad(jax.nn.sigmoid), 20.0).loss.step.gate.title)
    sub
    """
    names, leaves, treedef = _arguments(f, args)
    closed, shapes = _traced(f, leaves, treedef)
    title = getattr(f, "__name__", type(f).__name__).strip("<>")
    scope = wire_up(title, closed, names, "f")
    values = [Signal(x, label=w.name) for x, w in zip(leaves, scope.inputs, strict=True)]
    tape = Tape(advance)
    try:
        tape.forward(scope, values)
    except Exception as error:
        raise UsageError(f"{title} cannot be evaluated gate by gate: {_said(error)}") from error
    notes, seeds, cotangents = _seeds(scope, shapes, ct)
    tape.backward(scope, seeds)
    steps = [*tape.steps, *tape.aside]
    given = [*values, *(w.value for w in scope.constants), *(s for s in seeds if s)]
    given += [s for step in steps for s in step.inputs if s.step is None]
    return Circuit(scope, tape, Truth(tape.steps, tape.aside, list(dict.fromkeys(given)), advance), cotangents, notes)


def _arguments(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[list[str], list[np.ndarray], Any]:
    if not callable(f):
        raise UsageError(f"draw_circuit takes a function and its arguments, got {type(f).__name__} for the function.")
    names = argument_names(f, args)
    leaves, treedef = jax.tree.flatten(args)
    arrays = []
    for name, leaf in zip(names, leaves, strict=True):
        try:
            x = jnp.asarray(leaf)
        except (TypeError, ValueError) as error:
            what = f"{type(leaf).__name__}: {leaf!r:.60}"
            raise UsageError(f"{name} must be an array or a number, got {what}.") from error
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise UsageError(f"{name} is of dtype {x.dtype}; a circuit is drawn of real numbers.")
        arrays.append(np.asarray(x))
    return names, arrays, treedef


def _traced(f: Callable[..., Any], leaves: list[np.ndarray], treedef: Any) -> tuple[ClosedJaxpr, Any]:
    try:
        return jax.make_jaxpr(lambda *xs: f(*jax.tree.unflatten(treedef, xs)), return_shape=True)(*leaves)
    except Exception as error:
        name = getattr(f, "__name__", type(f).__name__)
        given = ", ".join(f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in leaves)
        raise UsageError(f"{name} cannot be traced for the arguments {given}: {_said(error)}") from error


def _seeds(scope: Scope, shapes: Any, ct: Any) -> tuple[list[str], list[Signal | None], dict[Wire, np.ndarray | None]]:
    """What is to be said about the cotangent, the gradient of each output, and those that were given."""
    outs, notes = jax.tree.leaves(shapes), []
    if not any(is_float(s.dtype) for s in outs):
        kinds = f"the output is of dtype {', '.join(str(s.dtype) for s in outs)}" if outs else "nothing is returned"
        notes.append(f"There are no gradients: {kinds}.")
    elif ct is None and (len(outs) > 1 or any(s.shape for s in outs)):
        notes.append(
            "The output is no scalar: its gradient is taken to be all ones, so that the sum of its entries is "
            "differentiated. Give another with ct."
        )
    given = [None] * len(outs) if ct is None else _checked(shapes, ct)
    seeds: list[Signal | None] = []
    cotangents: dict[Wire, np.ndarray | None] = {}
    for atom, shape, x in zip(scope.outputs, outs, given, strict=True):
        if not is_float(shape.dtype):
            seeds.append(None)
            continue
        label = f"d{atom.name}" if isinstance(atom, Wire) else "ct"
        seeds.append(Signal(np.ones(shape.shape, shape.dtype) if x is None else x, label=label))
        if isinstance(atom, Wire):
            before = cotangents.get(atom)
            cotangents[atom] = x if atom not in cotangents else _sum(before, x, shape)
    return notes, seeds, cotangents


def _sum(a: np.ndarray | None, b: np.ndarray | None, shape: Any) -> np.ndarray:
    """The cotangent of a wire that is more than one output."""
    ones = np.ones(shape.shape, shape.dtype)
    return (ones if a is None else a) + (ones if b is None else b)


def _checked(shapes: Any, ct: Any) -> list[np.ndarray]:
    structure = jax.tree.structure(shapes)
    try:
        given = structure.flatten_up_to(ct)
    except (TypeError, ValueError) as error:
        raise UsageError(f"ct must have the output's structure {structure}: {error}.") from None
    arrays = []
    for shape, x in zip(jax.tree.leaves(shapes), given, strict=True):
        array = np.asarray(x)
        if array.shape != shape.shape:
            raise UsageError(f"ct must have the output's shape {list(shape.shape)}, got {list(array.shape)}.")
        arrays.append(array.astype(shape.dtype))
    return arrays


def _failures(scope: Scope) -> list[str]:
    """Which gates have no gradient, and why."""
    said = []
    for gate in scope.gates:
        if gate.failure:
            said.append(f"No gradient comes back from {_where(gate)}: {gate.failure}")
        if gate.inside and not gate.custom:
            said += _failures(gate.inside)
    return said


def _where(gate: Gate) -> str:
    return gate.title + (f" ({gate.place})" if gate.place else "")


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
