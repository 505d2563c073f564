"""The same steps in exact arithmetic: how far every value and gradient is off, and how far off each gate itself is.

Two errors are told apart. The *accumulated* error of a signal compares it with the circuit evaluated without any
rounding, from the same inputs and constants. The *own* error of a step compares it with the exact operation on the
floats that it was given: what this gate alone rounds away.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxbp.accuracy.exact import nearest
from jaxbp.accuracy.exact_balls import MissingRule, Undecided, flint
from jaxbp.accuracy.exact_control import as_value, evaluate
from jaxbp.circuit.deviation import Error, Errors, compare
from jaxbp.circuit.tape import Signal, Step

#: In bits, tried in turn; the first that certifies every signal is kept.
PRECISIONS = (128, 256, 512, 1024)
#: Additions and multiplications that are done one by one, at about a microsecond each: some seconds at most.
LIMIT = 5_000_000

Balls = np.ndarray


class Truth:
    """Exact values of the signals of a tape.

    Attributes:
        entries: the accumulated errors of each signal, where they are known; `errors` has that of the worst entry.
        own_entries: the own errors of each step's outputs, where they are known; `own` has that of the worst entry.
        reasons: sentences that say why some are not known.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        aside: Sequence[Step],
        inputs: Sequence[Signal],
        advance: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Args: a tape's steps, those aside, of which it is not said why errors are missing, and what is given."""
        self.advance = advance
        self.entries: dict[Signal, Errors] = {}
        self.errors: dict[Signal, Error] = {}
        self.own_entries: dict[Signal, Errors] = {}
        self.own: dict[Signal, Error] = {}
        self.exact: dict[Signal, Balls] = {}
        self.reasons: list[str] = []
        self.precision = PRECISIONS[0]
        total = sum(map(cost, steps))
        if total > LIMIT:
            self.reasons.append(
                f"There are no errors in ULP: exact arithmetic would take about {total:.0e} operations, and at most "
                f"{LIMIT:.0e} are done. Draw the function of smaller arrays."
            )
            return
        for self.precision in PRECISIONS:
            with self.arithmetic():
                if self._evaluate(steps, inputs):
                    break
        with self.arithmetic():
            reasons = list(self.reasons)
            self._evaluate_more(aside)
            self.reasons = reasons
            self._judge([*steps, *aside], inputs)

    def arithmetic(self) -> Any:
        """The precision that the exact values were certified at, as a context."""
        return flint.ctx.workprec(self.precision)

    def _evaluate(self, steps: Sequence[Step], inputs: Sequence[Signal]) -> bool:
        """Evaluate all steps at one precision; whether nothing was left undecided."""
        self.exact = {s: as_value(s.number) for s in inputs if s.number is not None}
        self.reasons = []
        return self._evaluate_more(steps)

    def _evaluate_more(self, steps: Sequence[Step]) -> bool:
        reasons: dict[str, None] = {}
        decided = True
        for step in steps:
            self.advance("exact")
            outs, reason = self.apply(step, [self.exact.get(s) for s in step.inputs])
            if reason:
                reasons[reason] = None
            for signal, out in zip(step.outputs, outs, strict=True):
                if out is not None:
                    self.exact[signal] = out
                    decided &= all(nearest(x) is not None for x in out.flat) if out.dtype == object else True
            decided &= "undecided" not in reason
        self.reasons += reasons
        return decided

    def apply(self, step: Step, values: Sequence[Balls | None]) -> tuple[list[Balls | None], str]:
        """The exact outputs of a step for exact inputs; None for all, and the reason, where they cannot be had."""
        nothing: list[Balls | None] = [None] * len(step.outputs)
        if any(v is None for v in values):
            return nothing, ""
        known = [v for v in values if v is not None]
        with self.arithmetic(), np.errstate(all="ignore"):
            try:
                return list(evaluate(step.program, known)), ""
            except Undecided as error:
                return nothing, f"{error}, so there are no errors in ULP from there on."
            except MissingRule as error:
                where = f" at {step.gate.place}" if step.gate and step.gate.place else ""
                return nothing, f"There are no errors in ULP beyond {error.what}{where}: it has no exact arithmetic."
            except Exception as error:
                name = step.gate.title if step.gate else "a sum"
                text = " ".join(str(error).split())[:160]
                return nothing, f"There are no errors in ULP beyond the {step.kind} pass of {name}: {text}"

    def _judge(self, steps: Sequence[Step], inputs: Sequence[Signal]) -> None:
        for signal in (*inputs, *(s for step in steps for s in step.outputs)):
            if signal in self.exact and isinstance(signal.number, np.ndarray):
                found = compare(signal.number, self.exact[signal])
                if found:
                    self.entries[signal], self.errors[signal] = found, found.worst
        for step in steps:
            self.advance("own")
            outs, _ = self.apply(step, [None if s.number is None else as_value(s.number) for s in step.inputs])
            for signal, out in zip(step.outputs, outs, strict=True):
                if out is not None and isinstance(signal.number, np.ndarray):
                    found = compare(signal.number, out)
                    if found:
                        self.own_entries[signal], self.own[signal] = found, found.worst


def cost(step: Step) -> float:
    """About how many operations on single numbers a step takes, forwards and for its own error."""
    if step.gate is None:
        return 2 * sum(s.number.size for s in step.inputs if s.number is not None)
    return 2 * _equation_cost(step.gate.eqn) * (3 if step.kind == "backward" else 1)


def _equation_cost(eqn: Any) -> float:
    sizes = [math.prod(v.aval.shape) for v in (*eqn.invars, *eqn.outvars) if hasattr(v.aval, "shape")]
    own = float(max(sizes, default=0))
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        own = math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    elif eqn.primitive.name == "conv_general_dilated":
        own = math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[1].aval.shape)
    inner = 0.0
    for value in eqn.params.values():
        for jaxpr in value if isinstance(value, tuple) else (value,):
            if hasattr(jaxpr, "eqns"):
                inner += sum(_equation_cost(e) for e in jaxpr.eqns)
    return own + inner * eqn.params.get("length", 1)
