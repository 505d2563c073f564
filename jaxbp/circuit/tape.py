"""The forward and the backward pass through a circuit in floats, written down step by step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from jaxbp.accuracy.exact_primal import vjp, without_custom_rules
from jaxbp.circuit.wiring import Gate, Scope, Wire, signature, single
from jaxbp.jaxprs import is_inexact

FORWARD, BACKWARD, BRANCH = "forward", "backward", "branch"


@dataclasses.dataclass(eq=False)
class Signal:
    """A number or an array that some step computes.

    Attributes:
        number: an array, as floats compute it; None where it could not be computed.
        step: what computes it; None for inputs, constants and cotangents.
        label: `f` for a value, `df` for a gradient.
    """

    number: Any
    step: "Step | None" = None
    label: str = ""


@dataclasses.dataclass(eq=False)
class Step:
    """A gate's forward or backward pass, or the sum of the gradients of branches.

    Attributes:
        kind: `forward`, `backward` or `branch`.
        gate: whose; None for a sum.
        wire: whose gradients are added; None for a gate.
        inputs: for the backward pass the gate's inputs, then the cotangents of those outputs that are floats.
        outputs: for the backward pass the cotangents of those inputs that are floats.
        programs: those of gates that are alike, by what makes them so.
    """

    kind: str
    gate: Gate | None
    wire: Wire | None
    inputs: list[Signal]
    outputs: list[Signal]
    programs: dict[Any, ClosedJaxpr]

    @property
    def program(self) -> ClosedJaxpr:
        """What the step computes, as a jaxpr without custom rules, to be evaluated in another arithmetic."""
        wires = self.gate.inputs if self.gate else [self.wire] * len(self.inputs)
        key = self.kind, self.gate and signature(self.gate), tuple((w.aval.shape, w.aval.dtype) for w in wires if w)
        try:
            known = key in self.programs
        except TypeError:
            return self._program()  # A parameter cannot be hashed.
        if not known:
            self.programs[key] = self._program()
        return self.programs[key]

    def _program(self) -> ClosedJaxpr:
        if self.gate is None:
            assert self.wire is not None
            struct = jax.ShapeDtypeStruct(self.wire.aval.shape, self.wire.aval.dtype)
            return jax.make_jaxpr(lambda *xs: functools.reduce(jax.lax.add, xs))(*[struct] * len(self.inputs))
        primal = without_custom_rules(single(self.gate))
        if self.kind == FORWARD:
            return primal
        both = vjp(primal)
        outs = both.jaxpr.outvars[len(primal.jaxpr.outvars) :]
        return ClosedJaxpr(both.jaxpr.replace(outvars=outs), both.consts)


class Tape:
    """Runs a circuit, gate by gate, and remembers every step.

    Attributes:
        steps: in the order in which they were made.
        aside: steps inside of gates with a rule of their own, which are shown but take no part.
        branches: for each wire the gradients that come back from its readers.
    """

    def __init__(self, advance: Callable[[str], None] = lambda name: None) -> None:
        self.steps: list[Step] = []
        self.aside: list[Step] = []
        self.branches: dict[Wire, list[tuple[Gate | None, Signal]]] = {}
        self.advance = advance
        self.programs: dict[Any, ClosedJaxpr] = {}

    def forward(self, scope: Scope, values: Sequence[Signal]) -> list[Signal]:
        """The values of all wires; returns those of the outputs."""
        for wire, value in zip(scope.inputs, values, strict=True):
            wire.value = value
        for wire, constant in zip(scope.constants, scope.constant_values, strict=True):
            wire.value = Signal(np.asarray(constant), label=wire.name)
        for gate in scope.gates:
            self.advance(gate.title)
            if gate.inside and not gate.custom:
                outs = self.forward(gate.inside, [_signal(x) for x in gate.operands])
            else:
                outs = self._step_forward(gate)
            for wire, signal in zip(gate.outputs, outs, strict=True):
                if wire:
                    wire.value = signal
                    signal.label = wire.name
            if gate.inside and gate.custom:
                inner = Tape()
                inner.forward(gate.inside, [_signal(x) for x in gate.operands])
                self.aside += [*inner.steps, *inner.aside]
        return [_signal(x) for x in scope.outputs]

    def _step_forward(self, gate: Gate) -> list[Signal]:
        inputs = [w.value for w in gate.inputs]
        wires = [w for w in gate.outputs if w]
        outs: Sequence[Any] = [None] * len(wires)
        if all(s.number is not None for s in inputs):
            outs = jaxpr_as_fun(single(gate))(*(s.number for s in inputs))
        signals = [Signal(None if y is None else _host(y), label=w.name) for w, y in zip(wires, outs, strict=True)]
        self._record(FORWARD, gate, None, inputs, signals)
        made = iter(signals)
        return [next(made) if w else Signal(None) for w in gate.outputs]

    def _record(
        self, kind: str, gate: Gate | None, wire: Wire | None, inputs: list[Signal], outputs: list[Signal]
    ) -> None:
        step = Step(kind, gate, wire, inputs, outputs, self.programs)
        self.steps.append(step)
        for signal in outputs:
            signal.step = step

    def backward(self, scope: Scope, cts: Sequence[Signal | None]) -> list[Signal | None]:
        """The gradients of all wires, given those of the outputs; returns those of the inputs."""
        for atom, ct in zip(scope.outputs, cts, strict=True):
            if isinstance(atom, Wire) and atom.is_inexact and ct is not None:
                self.branches.setdefault(atom, []).append((None, ct))
        for gate in reversed(scope.gates):
            self.advance(gate.title)
            above = [w and self._gathered(w) for w in gate.outputs]
            if not any(above):
                continue
            if gate.inside and not gate.custom:
                below = self.backward(gate.inside, above)
                pairs = [(x, ct) for x, ct in zip(gate.operands, below, strict=True) if isinstance(x, Wire)]
            else:
                pairs = list(zip(_floats(gate.inputs), self._step_backward(gate, above), strict=True))
            for wire, ct in pairs:
                if ct is not None:
                    self.branches.setdefault(wire, []).append((gate, ct))
            if gate.inside and gate.custom:
                inner = Tape()
                inner.backward(gate.inside, above)
                self.branches |= inner.branches
                self.aside += [*inner.steps, *inner.aside]
        for wire in scope.constants:
            self._gathered(wire)
        return [self._gathered(wire) for wire in scope.inputs]

    def _gathered(self, wire: Wire) -> Signal | None:
        """The gradient of a wire: the sum of what its readers hand back."""
        parts = [signal for _, signal in self.branches.get(wire, ())]
        if len(parts) > 1:
            numbers = [s.number for s in parts if s.number is not None]
            total = functools.reduce(jnp.add, numbers) if len(numbers) == len(parts) else None
            wire.gradient = Signal(None if total is None else _host(total), label=f"d{wire.name}")
            self._record(BRANCH, None, wire, parts, [wire.gradient])
        elif parts:
            wire.gradient = parts[0]
            wire.gradient.label = f"d{wire.name}"
        return wire.gradient

    def _step_backward(self, gate: Gate, above: Sequence[Signal | None]) -> list[Signal]:
        """What a gate hands back to those of its inputs that are floats."""
        cts = []
        for wire, ct in zip(gate.outputs, above, strict=True):
            if wire and wire.is_inexact:
                cts.append(ct or Signal(np.zeros(wire.aval.shape, wire.aval.dtype)))
        inputs = [w.value for w in gate.inputs]
        floats = _floats(gate.inputs)
        signals = [Signal(None, label=f"d{w.name}") for w in floats]
        if floats and all(s.number is not None for s in (*inputs, *cts)):
            try:
                below = _pulled(single(gate), [s.number for s in inputs], [ct.number for ct in cts])
            except Exception as error:
                # A rule of the user's may raise anything; the rest is drawn all the same.
                gate.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            else:
                for signal, ct in zip(signals, below, strict=True):
                    signal.number = _host(ct)
        self._record(BACKWARD, gate, None, [*inputs, *cts], signals)
        return signals


def _pulled(closed: ClosedJaxpr, values: list[Any], cts: list[Any]) -> Sequence[Any]:
    """The cotangents of the inputs that are floats."""
    args = list(values)
    floats = [i for i, x in enumerate(args) if is_inexact(x.dtype)]

    def of_floats(*xs: Any) -> list[Any]:
        for i, x in zip(floats, xs, strict=True):
            args[i] = x
        outs = jaxpr_as_fun(closed)(*args)
        return [y for y in outs if is_inexact(y.dtype)]

    _, pull = jax.vjp(of_floats, *(jnp.asarray(values[i]) for i in floats))
    return pull([jnp.asarray(ct) for ct in cts])


def _signal(atom: Any) -> Signal:
    if isinstance(atom, Wire):
        return atom.value
    if isinstance(atom, Literal):
        aval: Any = atom.aval
        return Signal(np.asarray(atom.val, aval.dtype))
    return Signal(None)


def _floats(wires: Sequence[Wire]) -> list[Wire]:
    return [w for w in wires if w.is_inexact]


def _host(x: Any) -> Any:
    # Random keys have no form in NumPy.
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
