"""Staged backpropagation as Python: the forward lines and, in reverse, the backward lines, as the notes write them.

Every line is run while it is written, and the values in the comments are what it gave. They are run under one
`jax.jit`: one by one they would be compiled one by one.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

import jaxbp
from jaxbp.circuit.gates import NONE, fields_of, literal, row_of
from jaxbp.circuit.names import Names
from jaxbp.circuit.show import brief
from jaxbp.circuit.tape import FORWARD, Signal, Step, Tape
from jaxbp.circuit.wiring import Gate, Scope, Wire, single

#: Arrays of more entries are given to the printed Python, and not written into it.
WRITTEN = 24
#: Primitives of several operands whose shapes are their own.
NOT_BROADCAST = ("dot_general", "concatenate")
#: Where the comments stand.
MARGIN = 44
#: The line on what is given, after the imports.
GIVEN = 3


class Stages:
    """Writes a circuit's stages.

    Attributes:
        lines: the printed Python.
        given: the variables that it expects: arrays too large to write down, and the gates that have no name in JAX.
    """

    def __init__(self, scope: Scope, tape: Tape, cotangents: Mapping[Wire, np.ndarray | None]) -> None:
        self.scope = scope
        self.steps = [step for step in tape.steps if step.kind == FORWARD and step.gate]
        self.names = Names()
        self.named: dict[Signal, str] = {}
        self.given: dict[str, Any] = {}
        self.gates: dict[str, Any] = {}
        self.active: set[Signal] = {w.value for w in scope.inputs if w.is_inexact}
        self.scope_of: dict[str, Any] = {"jax": jax, "jnp": jnp, "jaxbp": jaxbp, "np": np, "gate": self.gates}
        self.lines: list[str] = []
        self.pulled: set[int] = set()
        self.loose: list[Wire] = []
        self.broken: set[int] = set()
        self.lost: set[Signal] = set()
        self._name(scope)
        self.shown: dict[int, Any] = {}
        for line, value in jax.jit(lambda: self._write(cotangents))().items():
            self.lines[line] += brief(np.asarray(value), 2)

    def _name(self, scope: Scope) -> None:
        """The user's names first, then made-up ones in the order of the stages."""
        for wire in scope.wires:
            if wire.own and wire.value not in self.named:
                self.named[wire.value] = self.names.give(wire.name)
        for gate in scope.gates:
            if gate.inside and not gate.custom:
                inner = gate.inside
                self.loose += [w for w in (*inner.inputs, *inner.constants) if self._new(w.value)]
                self._name(inner)
        if scope is self.scope:
            for signal in itertools.chain.from_iterable(step.outputs for step in self.steps):
                if signal not in self.named:
                    self.named[signal] = self.names.give("")

    def _new(self, signal: Signal) -> bool:
        """Whether a number is neither computed nor an input: a constant, or a literal handed to a function."""
        return signal.step is None and signal not in self.named

    def _write(self, cotangents: Mapping[Wire, np.ndarray | None]) -> dict[int, Any]:
        """Write all lines; returns what they gave, by line."""
        self.lines += [f"# Staged backpropagation of {self.scope.title}: dq is the gradient with respect to q."]
        self.lines += ["import jax", "import jax.numpy as jnp", ""]
        for wire in (*self.scope.inputs, *self.scope.constants, *self.loose):
            self._give(self.named[wire.value], wire.value.number)
        self.lines += ["", "# forward pass"]
        for number, step in enumerate(self.steps, 1):
            self._forward(number, step)
        self.lines += ["", "# backward pass, the stages in reverse; += where branches meet"]
        for wire, ct in cotangents.items():
            name = self.named[wire.value]
            text = f"jnp.ones_like({name})"
            if ct is None:
                self._hand(f"d{name}", text, "")
            else:
                self._give(f"d{name}", ct)
        for number, step in reversed(list(enumerate(self.steps, 1))):
            self._backward(number, step)
        for wire in self.scope.inputs:
            name = self.named[wire.value]
            if wire.value in self.lost:
                self.lines.append(f"# d{name} is not known, or not all of it")
            elif wire.is_inexact and f"d{name}" not in self.scope_of:
                self._run(f"d{name} = jnp.zeros_like({name})", f"d{name}", "")
        if self.gates:
            self.given["gate"] = self.gates
            self.lines[GIVEN] = "# gate is given: functions for what has no name in JAX\n"
        for module, name in (("jaxbp", "jaxbp."), ("numpy as np", "np.zeros(")):
            if any(name in line.replace("jnp.", "") for line in self.lines):
                self.lines[GIVEN - 1] += f"\nimport {module}"
        return self.shown

    def _give(self, name: str, x: Any) -> None:
        """An input: written down if it is small."""
        if isinstance(x, np.ndarray) and not x.size:
            self._run(f"{name} = jnp.zeros({x.shape}, '{x.dtype.name}')", name, "")
        elif isinstance(x, np.ndarray) and x.size <= WRITTEN:
            text = _written(x)
            plain = x.ndim == 0 and x.dtype != bool
            code = f"jnp.{x.dtype.name}({text})" if plain else f"jnp.array({text}, '{x.dtype.name}')"
            self._run(f"{name} = {code}", name, "")
        else:
            self.given[name] = self.scope_of[name] = x
            self.lines.append(f"# {name} is given: {x.dtype}{list(x.shape)}")

    def _run(self, code: str, name: str, stage: str) -> None:
        """Write a line, run it, and say in a comment which stage it is and what it gave."""
        exec(code, self.scope_of)
        if stage:
            value = jnp.asarray(self.scope_of[name])
            if not jnp.issubdtype(value.dtype, jax.dtypes.extended):
                self.shown[len(self.lines)] = value
            code = f"{code:<{MARGIN}}  # {stage:<5}"
        self.lines.append(code)

    def _operands(self, gate: Gate) -> list[str]:
        return [_bracketed(literal(x)) if isinstance(x, Literal) else self.named[x.value] for x in gate.operands]

    def _fields(self, gate: Gate, outputs: Sequence[Signal]) -> dict[str, Any]:
        """What the templates of the table are filled with."""
        name = self.named[outputs[0]]
        return {**fields_of(gate.eqn, self._operands(gate)), "y": name, "d": f"d{name}"}

    def _forward(self, number: int, step: Step) -> None:
        gate = step.gate
        assert gate is not None
        names = [self.named[s] for s in step.outputs]
        wires = [w for w in gate.outputs if w]
        moving = [s for s in step.inputs if s in self.active]
        differentiable = bool(moving) and any(w.is_inexact for w in wires)
        if differentiable:
            self.active |= {s for s, w in zip(step.outputs, wires, strict=True) if w.is_inexact}
        row = row_of(gate.eqn)
        one = len(gate.eqn.outvars) == 1
        text = row.forward.format(**self._fields(gate, step.outputs)) if row.forward and one else self._unnamed(step)
        real = not any(jnp.issubdtype(v.aval.dtype, np.complexfloating) for v in (*gate.eqn.invars, *gate.eqn.outvars))
        formula = one and row.forward and row.backward is not None and real
        left, stage = ", ".join(names), f"({number})"
        if differentiable and not formula:
            inputs = ", ".join(self.named[s] for s in moving)
            called = text[: -len(inputs) - 2] if text.endswith(f"({inputs})") else f"lambda {inputs}: {text}"
            try:
                left = left if len(names) == 1 else f"({left})"
                self._run(f"{left}, back{number} = jax.vjp({called}, {inputs})", names[0], stage)
                self.pulled.add(number)
                return
            except Exception as error:
                self._fail(number, step, error)
                left = ", ".join(names)
        self._run(f"{left} = {text}", names[0], stage)

    def _fail(self, number: int, step: Step, error: Exception) -> None:
        """Say that no gradient comes back from a stage."""
        self.broken.add(number)
        names = ", ".join(self.named[s] for s in step.outputs)
        self.lines.append(f"# No gradient comes back from {names} ({number}): {' '.join(str(error).split())[:120]}")

    def _unnamed(self, step: Step) -> str:
        assert step.gate is not None
        key = self.named[step.outputs[0]]
        run, several = jaxpr_as_fun(single(step.gate)), len(step.outputs) > 1
        self.gates[key] = lambda *xs: tuple(run(*xs)) if several else run(*xs)[0]
        return f"gate['{key}']({', '.join(self.named[s] for s in step.inputs)})"

    def _backward(self, number: int, step: Step) -> None:
        gate = step.gate
        assert gate is not None
        names = [self.named[s] for s in step.outputs]
        moving = [s for s in step.inputs if s in self.active]
        if number in self.broken or self.lost.intersection(step.outputs):
            self.lost.update(moving)
            return
        if not any(f"d{name}" in self.scope_of for name in names):
            return
        stage = f"({number})"
        if number in self.pulled:
            try:
                self._pull(number, step, names, stage)
            except Exception as error:
                self._fail(number, step, error)
                self.lost.update(moving)
            return
        row = row_of(gate.eqn)
        fields = self._fields(gate, step.outputs)
        for operand, template in zip(gate.operands, row.backward or (), strict=False):
            if isinstance(operand, Wire) and operand.value in self.active and template != NONE:
                text = template.format(**fields)
                if len(gate.operands) > 1 and gate.eqn.primitive.name not in NOT_BROADCAST:
                    text = _summed(text, operand.aval.shape, gate.eqn.outvars[0].aval.shape)
                self._hand(f"d{self.named[operand.value]}", text, stage)

    def _pull(self, number: int, step: Step, names: list[str], stage: str) -> None:
        assert step.gate is not None
        wires = [w for w in step.gate.outputs if w]
        cts = []
        for name, wire in zip(names, wires, strict=True):
            if not wire.is_inexact:
                cts.append(f"np.zeros({name}.shape, jax.dtypes.float0)")
            elif f"d{name}" not in self.scope_of:
                cts.append(f"jnp.zeros_like({name})")
            else:
                cts.append(f"d{name}")
        moving = [s for s in step.inputs if s in self.active]
        whole = f"back{number}({cts[0] if len(cts) == 1 else '(' + ', '.join(cts) + ')'})"
        if len(moving) == 1:
            self._hand(f"d{self.named[moving[0]]}", f"{whole}[0]", stage)
            return
        self._run(f"cts{number} = {whole}", f"cts{number}", "")
        for i, signal in enumerate(moving):
            self._hand(f"d{self.named[signal]}", f"cts{number}[{i}]", stage)

    def _hand(self, name: str, text: str, stage: str) -> None:
        """Hand a gradient to a wire; the second time it is added."""
        self._run(f"{name} {'+=' if name in self.scope_of else '='} {text}", name, stage)


def _summed(text: str, shape: tuple[int, ...], broadcast: tuple[int, ...]) -> str:
    """A gradient summed to its operand's shape: an entry that goes with many branches."""
    if shape == broadcast:
        return text
    if not shape:
        return f"jnp.sum({text})"
    axes = tuple(i for i, (one, many) in enumerate(zip(shape, broadcast, strict=True)) if one != many)
    return f"jnp.sum({text}, axis={axes}, keepdims=True)"


def _bracketed(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


def _written(x: np.ndarray) -> str:
    """An array as Python, every number with the digits that it needs."""
    if x.ndim:
        return f"[{', '.join(_written(row) for row in x)}]"
    value = x.item()
    if isinstance(value, bool | int):
        return str(value)
    if not np.isfinite(value):
        return {"inf": "jnp.inf", "-inf": "-jnp.inf"}.get(str(value), "jnp.nan")
    return str(x[()]) if x.dtype.itemsize >= 4 else repr(value)
