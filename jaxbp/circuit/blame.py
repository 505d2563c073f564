"""Where the digits were lost: the step at which the error of the worst result jumps, found by going back from there.

A step's inputs are put to the test one by one: with all others exact, how far is the step's result off for this one as
floats have it? Inputs that explain the error are followed; a branch that `where` does not take explains nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxbp.accuracy.exact_control import as_value
from jaxbp.circuit.tape import BACKWARD, BRANCH, FORWARD, Signal, Step
from jaxbp.circuit.truth import Error, Truth

#: Below this many units of rounding no decimal digit is lost.
HARMLESS = 10.0
#: An input explains an error that it makes at least this part of.
EXPLAINS = 0.1
#: Primitives that cancel where their operands nearly agree.
CANCELLING = ("add", "add_any", "sub", "reduce_sum", "cumsum", "dot_general", "one_minus_square")


@dataclasses.dataclass(frozen=True)
class Loss:
    """The step that loses the digits of the worst result.

    Attributes:
        signal: what the step computes: a wire's value, or a gradient that is handed to one.
        step: the step.
        error: the accumulated error of the signal.
        own: the step's own error.
        before: the largest accumulated error, in units of rounding, of the inputs that explain it.
        result: the result that is worst.
        result_error: its accumulated error.
    """

    signal: Signal
    step: Step
    error: Error
    own: Error | None
    before: float
    result: Signal
    result_error: Error

    @property
    def jump(self) -> float:
        return self.error.lost / max(1.0, self.before)


def worst_loss(truth: Truth, results: Sequence[Signal]) -> Loss | None:
    """The step that loses the digits of the worst of the results; None where all are right to nearly all digits."""
    known = [(s, truth.errors[s]) for s in results if s in truth.errors]
    if not known:
        return None
    result, result_error = max(known, key=lambda pair: pair[1].lost)
    if result_error.lost < HARMLESS:
        return None
    best: Loss | None = None
    seen, ahead = {result}, [result]
    while ahead:
        signal = ahead.pop(0)
        step, error = signal.step, truth.errors.get(signal)
        if step is None or error is None:
            continue
        causes = _causes(truth, step, signal, error)
        before = max((truth.errors[c].lost for c in causes), default=0.0)
        found = Loss(signal, step, error, truth.own.get(signal), before, result, result_error)
        # What comes later in this search lies further back: at equal jumps it lost the digits first.
        if best is None or found.jump >= best.jump:
            best = found
        for cause in causes:
            if cause not in seen:
                seen.add(cause)
                ahead.append(cause)
    return best


def _causes(truth: Truth, step: Step, signal: Signal, error: Error) -> list[Signal]:
    """The inputs whose errors explain a step's error at its worst entry."""
    inexact = [s for s in dict.fromkeys(step.inputs) if s in truth.errors and truth.errors[s].lost > 0]
    return [s for s in inexact if _explains(truth, step, signal, error, s)]


def _explains(truth: Truth, step: Step, signal: Signal, error: Error, cause: Signal) -> bool:
    assert cause.number is not None
    tried = [as_value(cause.number) if s is cause else truth.exact.get(s) for s in step.inputs]
    outs, _ = truth.apply(step, tried)
    out = outs[step.outputs.index(signal)]
    exact = truth.exact[signal]
    if out is None:
        return True
    a, b = out[error.index], exact[error.index]
    if out.dtype != object:
        return bool(a != b)
    if not (getattr(a, "is_finite", bool)() and getattr(b, "is_finite", bool)()):
        return a is not b
    with truth.arithmetic():
        moved = abs(a - b)
    size = abs(error.given - error.exact) if np.isfinite(error.given) and np.isfinite(error.exact) else 0.0
    return bool(moved > EXPLAINS * size) if size else bool(moved > 0)


def verdict(truth: Truth, loss: Loss | None, results: Sequence[Signal]) -> str:
    """A sentence on where the digits were lost."""
    if not truth.errors:
        return ""
    if loss is None:
        known = [(s, truth.errors[s]) for s in results if s in truth.errors]
        if not known:
            return ""
        signal, error = max(known, key=lambda pair: pair[1].ulp)
        return f"No digits are lost: every result is right to {ulps(error.ulp)}, the worst of them {signal.label}."
    error = loss.error
    what = f"The digits of {loss.result.label} are lost in {_described(loss)}: it is {number(error.given)}{_entry(error)}"
    sentences = [f"{what}, exact arithmetic gives {number(error.exact)} ({_off(error)}). {_cause(loss)}"]
    if loss.signal is not loss.result:
        result = loss.result_error
        sentences.append(
            f"{loss.result.label} ends up as {number(result.given)}{_entry(result)} in place of "
            f"{number(result.exact)} ({_off(result)})."
        )
    return " ".join(sentences)


def _described(loss: Loss) -> str:
    gate, name = loss.step.gate, loss.signal.label
    if gate is None:
        return f"the sum of the branches' gradients {name}"
    source = f" `{gate.source.text}`" if gate.source and gate.source.text else ""
    place = f" ({gate.place})" if gate.place else ""
    if loss.step.kind == BACKWARD:
        return f"the backward pass of {gate.title}{source}{place}, in the gradient {name} that it hands back"
    return f"{gate.title}{source}{place}, in its value {name}"


def _cause(loss: Loss) -> str:
    gate, error, own = loss.step.gate, loss.error, loss.own
    if error.what == "overflow":
        return "It overflows: the exact value is beyond the largest number of its dtype."
    if error.what == "underflow" and (own is None or own.lost > 0.5 * error.lost):
        return "It underflows: the exact value is below the smallest normal number of its dtype."
    if own is not None and own.lost >= 0.5 * error.lost:
        return f"The loss is its own: for the very numbers that it was given, exact arithmetic gives {number(own.exact)}."
    inputs = f"its inputs are right to {rounding(loss.before)}"
    if own is not None:
        inputs += f", and for these its result is right to {rounding(own.lost)}"
    if loss.step.kind == BRANCH or (loss.step.kind == FORWARD and gate and gate.eqn.primitive.name in CANCELLING):
        return f"It cancels: {inputs}, but the leading digits of what it adds up agree and vanish."
    return f"It amplifies: {inputs}, but it turns a small change of them into a large one."


def _off(error: Error) -> str:
    if error.what:
        return error.what
    return "no digit is right" if error.lost >= error.worthless else f"off by {ulps(error.ulp)}"


def _entry(error: Error) -> str:
    return f" at {list(error.index)}" if error.index else ""


def number(x: float) -> str:
    return f"{x:.4g}"


def ulps(x: float) -> str:
    return f"{x:.3g} ULP"


def rounding(x: float) -> str:
    """An error in units of rounding, which for normal numbers are between half a ULP and one."""
    return f"{x:.2g} units of rounding" if x else "the last digit"
