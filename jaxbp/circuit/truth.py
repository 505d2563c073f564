"""The same steps in exact arithmetic: how far every value and gradient is off, and how far off each gate itself is.

Two errors are told apart. The *accumulated* error of a signal compares it with the circuit evaluated without any
rounding, from the same inputs and constants. The *own* error of a step compares it with the exact operation on the
floats that it was given: what this gate alone rounds away.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jaxbp.accuracy.exact import extended, nearest
from jaxbp.accuracy.exact_balls import MissingRule, Undecided, flint
from jaxbp.accuracy.exact_control import as_value, evaluate
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.circuit.tape import Signal, Step
from jaxbp.jaxprs import is_float

#: In bits, tried in turn; the first that certifies every signal is kept.
PRECISIONS = (128, 256, 512, 1024)
#: Additions and multiplications that are done one by one, at about a microsecond each: some seconds at most.
LIMIT = 5_000_000

Balls = np.ndarray


@dataclasses.dataclass(frozen=True)
class Error:
    """How far an array is off, at the entry where it is worst.

    Attributes:
        ulp: its largest error, in units in the last place of its dtype.
        lost: its largest relative error, in units of the dtype's rounding: 1 is a wrong last bit, and `worthless` says
            that no digit is right. Unlike `ulp` it sees digits that went below the smallest normal number.
        worthless: what `lost` is at most.
        what: `overflow` or `underflow` where a finite number became infinite or lost its digits below the normal
            numbers, else empty.
        index: the entry where `lost` is largest.
        given: that entry.
        exact: what it should be, to float64.
    """

    ulp: float
    lost: float
    worthless: float
    what: str
    index: tuple[int, ...]
    given: float
    exact: float

    @property
    def relative(self) -> float:
        """The largest relative error, at most 1: no digit is right."""
        return self.lost / self.worthless


class Truth:
    """Exact values of the signals of a tape.

    Attributes:
        errors: the accumulated error of each signal, where it is known.
        own: the own error of each step's outputs, where it is known.
        reasons: sentences that say why some are not known.
    """

    def __init__(
        self, steps: Sequence[Step], inputs: Sequence[Signal], advance: Callable[[str], None] = lambda name: None
    ) -> None:
        self.advance = advance
        self.errors: dict[Signal, Error] = {}
        self.own: dict[Signal, Error] = {}
        self.exact: dict[Signal, Balls] = {}
        self.reasons: list[str] = []
        self.precision = PRECISIONS[0]
        cost = sum(_cost(step) for step in steps)
        if cost > LIMIT:
            self.reasons.append(
                f"There are no errors in ULP: exact arithmetic would take about {cost:.0e} operations, and at most "
                f"{LIMIT:.0e} are done. Draw the function of smaller arrays."
            )
            return
        for self.precision in PRECISIONS:
            with self.arithmetic():
                if self._evaluate(steps, inputs):
                    break
        with self.arithmetic():
            self._judge(steps, inputs)

    def arithmetic(self) -> Any:
        """The precision that the exact values were certified at, as a context."""
        return flint.ctx.workprec(self.precision)

    def _evaluate(self, steps: Sequence[Step], inputs: Sequence[Signal]) -> bool:
        """Evaluate all steps at one precision; whether nothing was left undecided."""
        self.exact = {s: as_value(s.number) for s in inputs if s.number is not None}
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
        self.reasons = list(reasons)
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
            error = self.error(signal, self.exact.get(signal))
            if error:
                self.errors[signal] = error
        for step in steps:
            self.advance("own")
            outs, _ = self.apply(step, [None if s.number is None else as_value(s.number) for s in step.inputs])
            for signal, out in zip(step.outputs, outs, strict=True):
                error = self.error(signal, out)
                if error:
                    self.own[signal] = error

    def error(self, signal: Signal, exact: Balls | None) -> Error | None:
        """How far a signal is from exact numbers; None if that is not known."""
        given = signal.number
        if exact is None or not isinstance(given, np.ndarray) or given.shape != exact.shape or not given.size:
            return None
        if exact.dtype != object or not is_float(given.dtype):
            return _unequal(given, exact) if exact.dtype != object else None
        values = [nearest(x) for x in exact.flat]
        if any(v is None for v in values):
            return None
        rounded = np.array(values, np.float64).reshape(exact.shape)
        return _error(given, exact, rounded)


def _error(given: np.ndarray, exact: Balls, rounded: np.ndarray) -> Error | None:
    try:
        info = ml_dtypes.finfo(given.dtype)
    except ValueError:
        return None
    truth = extended(exact, rounded) if given.dtype == np.float64 else rounded
    finite = np.array([x.is_finite() for x in exact.flat]).reshape(exact.shape)
    zero = np.array([bool(x.is_zero()) for x in exact.flat]).reshape(exact.shape)
    wide, tiny, eps = given.astype(np.float64), float(info.smallest_normal), float(info.eps)
    with np.errstate(all="ignore"):
        lost = np.abs(wide.astype(np.longdouble) - truth) / np.abs(truth) / eps
    # Zeros, infinities and NaNs are right if the exact value is one, and not beyond the range of float64.
    special = (wide == 0) & zero | np.isinf(wide) & ~finite & (wide == rounded) | np.isnan(wide) & np.isnan(rounded)
    lost = np.where(special, 0, np.where(np.isnan(lost), np.inf, lost))
    worthless = 1 / eps
    lost = np.minimum(lost, worthless)
    # Eight bits are too few for what is known of the last place.
    ulps = ulp_error(given, truth, nan_equal=True) if given.dtype.itemsize > 1 else lost
    # Of several entries without a right digit rather one that is no number.
    at = int(np.argmax(lost + (np.isnan(wide) & ~np.isnan(rounded))))
    index = tuple(int(i) for i in np.unravel_index(at, given.shape))
    overflow = bool(finite[index] and np.isinf(wide[index]) and abs(rounded[index]) > float(info.max))
    small = bool(not zero[index] and abs(rounded[index]) < tiny and lost[index] > 1)
    what = "overflow" if overflow else "underflow" if small else ""
    return Error(
        float(ulps.max()), float(lost[index]), worthless, what, index, float(wide[index]), float(rounded[index])
    )


def _unequal(given: np.ndarray, exact: np.ndarray) -> Error | None:
    """Integers and booleans are right or wrong."""
    if given.dtype.kind not in "iub":
        return None
    wrong = np.asarray(given != exact)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), given.shape))
    worst = math.inf if wrong.any() else 0.0
    return Error(worst, min(worst, 2.0**23), 2.0**23, "", index, float(given[index]), float(exact[index]))


def _cost(step: Step) -> float:
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
