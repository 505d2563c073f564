"""A jaxpr as gates and wires: calls folded into gates that have a circuit of their own, dead code left out."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

from jaxbp.circuit.gates import CUSTOM, fields_of, literal, row_of, title_of
from jaxbp.circuit.names import Expression, Names, expression_of
from jaxbp.jaxprs import CALLS, called_jaxpr, is_inexact

if TYPE_CHECKING:
    from jaxbp.circuit.tape import Signal


@dataclasses.dataclass(eq=False)
class Wire:
    """What flows between gates: a value forwards, its gradient backwards.

    Attributes:
        aval: shape and dtype.
        name: an identifier, once in its circuit.
        own: whether the name is the user's, and not made up.
        kind: `input`, `constant` or `gate`, by where it comes from.
        readers: the gates that it goes to.
        value: set by the forward pass.
        gradient: set by the backward pass; None where none flows.
    """

    aval: Any
    name: str
    own: bool
    kind: str
    readers: list["Gate"] = dataclasses.field(default_factory=list)
    value: "Signal" = dataclasses.field(init=False)
    gradient: "Signal | None" = None

    @property
    def is_inexact(self) -> bool:
        """Whether a gradient flows along it."""
        return is_inexact(self.aval.dtype)


@dataclasses.dataclass(eq=False)
class Gate:
    """An equation of a jaxpr.

    Attributes:
        eqn: the equation.
        title: what it is called.
        operands: wires and literals, in the order of the equation's.
        outputs: the wires out of it; None where nobody reads one.
        source: the user's expression that it computes.
        inside: the circuit that it calls, if it calls one.
        custom: whether its derivative is a rule of its own.
        failure: why it has no gradient, if it ought to have one.
    """

    eqn: Any
    title: str
    operands: list[Any]
    outputs: list[Wire | None]
    source: Expression | None
    inside: "Scope | None" = None
    custom: bool = False
    failure: str = ""

    @property
    def inputs(self) -> list[Wire]:
        """The wires into it, each once."""
        return list(dict.fromkeys(x for x in self.operands if isinstance(x, Wire)))

    @property
    def place(self) -> str:
        """The user's line, if it is known."""
        return self.source.place if self.source else ""

    @property
    def text(self) -> str:
        """What it computes: the user's expression, or else Python with the names of its wires."""
        if self.source and self.source.text:
            return self.source.text
        names = [x.name if isinstance(x, Wire) else literal(x) for x in self.operands]
        row = row_of(self.eqn)
        return row.forward.format(**fields_of(self.eqn, names)) if row.forward and len(self.outputs) == 1 else ""


@dataclasses.dataclass(eq=False)
class Scope:
    """A circuit: that of the function, or of one that it calls.

    Attributes:
        title: what it is called.
        inputs: the wires into it.
        constants: arrays of the code.
        gates: in topological order.
        outputs: wires and literals; None where nobody reads one.
    """

    title: str
    inputs: list[Wire]
    constants: list[Wire]
    gates: list[Gate]
    outputs: list[Any]
    constant_values: list[Any]

    @property
    def wires(self) -> list[Wire]:
        """All wires, in topological order."""
        return [*self.inputs, *self.constants, *(w for gate in self.gates for w in gate.outputs if w)]

    @property
    def ends(self) -> list[Wire]:
        """The wires that are the circuit's outputs."""
        return list(dict.fromkeys(x for x in self.outputs if isinstance(x, Wire)))


def wire_up(title: str, closed: ClosedJaxpr, input_names: Sequence[str] = (), output_name: str = "") -> Scope:
    """The circuit of a jaxpr."""
    return _Builder(title, closed, [True] * len(closed.jaxpr.outvars), input_names, output_name).scope


class _Builder:
    """Turns one jaxpr into a `Scope`."""

    def __init__(
        self, title: str, closed: ClosedJaxpr, wanted: Sequence[bool], inputs: Sequence[str], output: str
    ) -> None:
        jaxpr = closed.jaxpr
        self.names = Names()
        self.env: dict[Any, Wire | Literal] = {}
        self.gates: list[Gate] = []
        self.output = output
        names = inputs or argument_names_of(jaxpr)
        given = [self.wire(v, name, "input") for v, name in zip(jaxpr.invars, names, strict=True)]
        constants = [self.wire(v, "c", "constant") for v in jaxpr.constvars]
        outputs = [v if wants else None for v, wants in zip(jaxpr.outvars, wanted, strict=True)]
        self.ends = {v for v in outputs if isinstance(v, Var)}
        self.add(jaxpr.eqns, set(self.ends))
        self.scope = Scope(
            title, given, constants, self.gates, [None if v is None else self.read(v) for v in outputs], closed.consts
        )

    def wire(self, var: Any, name: str, kind: str) -> Wire:
        wire = Wire(var.aval, self.names.give(name), bool(name), kind)
        self.env[var] = wire
        return wire

    def read(self, atom: Any) -> Any:
        return atom if isinstance(atom, Literal) else self.env[atom]

    def add(self, eqns: Sequence[Any], needed: set[Any]) -> None:
        live = _live(eqns, needed)
        sources = [expression_of(eqn) for eqn in live]
        # Of all equations that one expression was traced to, the last computes its value.
        last = {source: i for i, source in enumerate(sources) if source}
        for i, (eqn, source) in enumerate(zip(live, sources, strict=True)):
            if eqn.outvars:
                self.gate(eqn, source, source if source and last[source] == i else None, needed)

    def gate(self, eqn: Any, source: Expression | None, named: Expression | None, needed: set[Any]) -> None:
        operands = [self.read(v) for v in eqn.invars]
        wanted = [v in needed for v in eqn.outvars]
        name = eqn.primitive.name
        inner = called_jaxpr(eqn) if name in CALLS and not _opaque(eqn) else None
        if inner is not None and name not in CUSTOM and len(inner.jaxpr.eqns) <= 1 and not inner.consts:
            self.unfold(eqn, inner, operands, source, named, wanted)
            return
        targets = named.targets if named and len(named.targets) in (1, len(eqn.outvars)) else ()
        outputs: list[Wire | None] = []
        for i, (var, wants) in enumerate(zip(eqn.outvars, wanted, strict=True)):
            wish = targets[i] if i < len(targets) else self.output if var in self.ends else ""
            outputs.append(self.wire(var, wish, "gate") if wants else None)
        gate = Gate(eqn, title_of(eqn), operands, outputs, source, custom=name in CUSTOM)
        if inner is not None:
            gate.inside = _Builder(gate.title, inner, wanted, (), "").scope
        for wire in gate.inputs:
            wire.readers.append(gate)
        self.gates.append(gate)

    def unfold(
        self, eqn: Any, inner: ClosedJaxpr, operands: list[Any], source: Any, named: Any, wanted: Sequence[bool]
    ) -> None:
        """A call of one gate is that gate."""
        self.env.update(zip(inner.jaxpr.invars, operands, strict=True))
        outs = {v for v, wants in zip(inner.jaxpr.outvars, wanted, strict=True) if wants and isinstance(v, Var)}
        ends, self.ends = (
            self.ends,
            {i for i, v in zip(inner.jaxpr.outvars, eqn.outvars, strict=True) if v in self.ends and isinstance(i, Var)},
        )
        for one in _live(inner.jaxpr.eqns, outs):
            self.gate(one, source, named, outs)
        self.ends = ends
        for var, out, wants in zip(eqn.outvars, inner.jaxpr.outvars, wanted, strict=True):
            if wants:
                self.env[var] = self.read(out)


def argument_names_of(jaxpr: Any) -> list[str]:
    """The names that a called function has for its arguments, where JAX knows them."""
    known = getattr(jaxpr.debug_info, "arg_names", None) or ()
    names = [str(name or "") for name in known]
    return names if len(names) == len(jaxpr.invars) else [""] * len(jaxpr.invars)


def _opaque(eqn: Any) -> bool:
    """Whether a call's circuit is none to show: it has no parameter that holds it."""
    return not any(k in eqn.params for k in ("call_jaxpr", "jaxpr", "fun_jaxpr", "call"))


def _live(eqns: Sequence[Any], needed: set[Any]) -> list[Any]:
    """The equations that something needed depends on; adds their inputs to `needed`."""
    live = []
    for eqn in reversed(eqns):
        if needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if isinstance(v, Var))
            live.append(eqn)
    return live[::-1]


def signature(gate: Gate) -> tuple[Any, ...]:
    """What gates have in common that compute the same of their inputs; it may hold what cannot be hashed."""
    wires = gate.inputs
    operands = [
        (wires.index(x), None) if isinstance(x, Wire) else (np.asarray(x.val).item(), x.aval) for x in gate.operands
    ]
    params = tuple(sorted(gate.eqn.params.items()))
    return gate.eqn.primitive, params, tuple(operands), tuple(bool(w) for w in gate.outputs)


def single(gate: Gate) -> ClosedJaxpr:
    """The jaxpr of a gate alone: of its wires, each once, to those of its outputs that somebody reads."""
    seen: dict[Wire, Any] = {}
    invars = [
        seen.setdefault(operand, var) if isinstance(operand, Wire) else operand
        for var, operand in zip(gate.eqn.invars, gate.operands, strict=True)
    ]
    outvars = [var for var, wire in zip(gate.eqn.outvars, gate.outputs, strict=True) if wire]
    jaxpr = _EMPTY.jaxpr.replace(
        invars=list(seen.values()), outvars=outvars, eqns=[gate.eqn.replace(invars=invars)], effects=gate.eqn.effects
    )
    return ClosedJaxpr(jaxpr, ())


_EMPTY = jax.make_jaxpr(lambda: ())()
