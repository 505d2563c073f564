"""Where the digits were lost: the step at which the error of the worst result jumps, found by going back from there.

A step's inputs are put to the test one by one: with all others exact, how far is the step's result off for this one as
floats have it? Inputs that explain the error are followed; a branch that `where` does not take explains nothing.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxbp.accuracy.exact_control import as_value
from jaxbp.circuit.deviation import Error, Index
from jaxbp.circuit.show import number
from jaxbp.circuit.tape import BACKWARD, BRANCH, FORWARD, Signal, Step
from jaxbp.circuit.truth import Truth, cost

#: Below this many units of rounding no decimal digit is lost.
HARMLESS = 10.0
#: An input explains an error that it makes at least this part of.
EXPLAINS = 0.1
#: At most so many operations are done to find the entry of an array that explains an error; else it is the worst.
SEARCH = 200_000
#: Primitives that add: where the terms nearly cancel, their errors remain.
ADDING = ("add", "add_any", "sub", "reduce_sum", "cumsum", "dot_general", "conv_general_dilated", "scatter-add")
#: Those whose backward pass adds.
ADDING_BACKWARDS = ("dot_general", "conv_general_dilated", "broadcast_in_dim", "gather", "cumsum")


@dataclasses.dataclass(frozen=True)
class Loss:
    """The step that loses the digits of the worst result.

    Attributes:
        signal: what the step computes: a wire's value, or a gradient that is handed to one.
        step: the step.
        error: the accumulated error of the signal.
        own: the step's own error.
        causes: the accumulated errors of the inputs that explain it.
        result: the result that is worst.
        result_error: its accumulated error.
    """

    signal: Signal
    step: Step
    error: Error
    own: Error | None
    causes: tuple[Error, ...]
    result: Signal
    result_error: Error

    @property
    def jump(self) -> float:
        """By how much the relative error grows from its causes, or from a rounding of the result, to the step's."""
        return self.error.relative / max([1 / self.result_error.worthless, *(c.relative for c in self.causes)])


def worst_loss(truth: Truth, results: Sequence[Signal]) -> Loss | None:
    """The step that loses the digits of the worst of the results; None where all are right to nearly all digits."""
    known = [(s, truth.errors[s]) for s in results if s in truth.errors]
    if not known:
        return None
    result, result_error = max(known, key=lambda pair: pair[1].lost)
    if result_error.lost < HARMLESS:
        return None
    best: Loss | None = None
    start = (result, result_error.index)
    seen, ahead = {start}, [start]
    while ahead:
        signal, index = ahead.pop(0)
        step = signal.step
        if step is None or signal not in truth.entries:
            continue
        found_at = ((c, _cause(truth, step, (signal, index), c)) for c in _inexact(truth, step))
        causes = [(cause, where) for cause, where in found_at if where is not None]
        errors = tuple(truth.entries[cause].at(where) for cause, where in causes)
        own = truth.own_entries[signal].at(index) if signal in truth.own_entries else None
        found = Loss(signal, step, truth.entries[signal].at(index), own, errors, result, result_error)
        # What comes later in this search lies further back: at equal jumps it lost the digits first.
        if best is None or found.jump >= best.jump:
            best = found
        ahead += [cause for cause in causes if cause not in seen]
        seen.update(causes)
    return best


def _inexact(truth: Truth, step: Step) -> list[Signal]:
    return [s for s in dict.fromkeys(step.inputs) if s in truth.errors and truth.errors[s].lost > 0]


def _cause(truth: Truth, step: Step, effect: tuple[Signal, Index], cause: Signal) -> Index | None:
    """The entry of an input that explains most of a step's error at one entry; None if it explains too little."""
    size = truth.entries[cause].lost.size
    error = truth.entries[effect[0]].at(effect[1])
    total = _moved(truth, step, effect, cause, range(size))
    finite = math.isfinite(error.given) and math.isfinite(error.exact)
    if total <= (EXPLAINS * abs(error.given - error.exact) if finite else 0):
        return None
    shape = truth.entries[cause].lost.shape
    if shape == truth.entries[effect[0]].lost.shape:
        # Of gates that work entry by entry it is the same one.
        same = int(np.ravel_multi_index(effect[1], shape)) if shape else 0
        if _moved(truth, step, effect, cause, range(same, same + 1)) >= total / 2:
            return effect[1]
    if cost(step) * math.log2(size + 1) > SEARCH:
        return truth.errors[cause].index
    entries = range(size)
    while len(entries) > 1:
        half = len(entries) // 2
        entries = max(entries[:half], entries[half:], key=lambda part: _moved(truth, step, effect, cause, part))
    return tuple(int(i) for i in np.unravel_index(entries[0], shape))


def _moved(truth: Truth, step: Step, effect: tuple[Signal, Index], cause: Signal, entries: range) -> float:
    """By how much an entry of a step's result moves if these entries of one input are as floats have them."""
    signal, index = effect
    tried = truth.exact[cause].copy()
    tried.reshape(-1)[entries.start : entries.stop] = as_value(cause.number).reshape(-1)[entries.start : entries.stop]
    outs, _ = truth.apply(step, [tried if s is cause else truth.exact.get(s) for s in step.inputs])
    out, exact = outs[step.outputs.index(signal)], truth.exact[signal]
    if out is None:
        return math.inf
    a, b = out[index], exact[index]
    if out.dtype != object or not (a.is_finite() and b.is_finite()):
        same = a is b if out.dtype == object else a == b
        return 0.0 if same else math.inf
    with truth.arithmetic():
        return float(abs(a - b).upper())


def verdict(truth: Truth, loss: Loss | None, results: Sequence[Signal]) -> str:
    """A few sentences on where the digits were lost."""
    if loss is not None:
        return " ".join([_where(loss), _why(loss), *_outcome(loss)])
    known = [s for s in results if s in truth.errors]
    if not known:
        return ""
    worst = max(known, key=lambda s: truth.errors[s].ulp)
    error = truth.errors[worst]
    every = "every result" if len(known) == len(results) else "every result whose error is known"
    undefined = [s.label for s in known if np.isnan(np.asarray(s.number, np.float64)).any()]
    if undefined:
        are = "are" if len(undefined) > 1 else "is"
        return f"{' and '.join(undefined)} {are} not a number, in exact arithmetic either."
    if error.ulp == 0:
        return f"No digits are lost: {every} is exact."
    return (
        f"No more than the last digit is lost: {every} is right to {_ulps(error.ulp)}, the worst of them {worst.label}."
    )


def _where(loss: Loss) -> str:
    gate, name = loss.step.gate, loss.signal.label
    if gate is None:
        what = f"the sum of the gradients of branches, {name}, which"
    else:
        place = f" ({gate.place})" if gate.place else ""
        code = f" `{gate.text}`" if gate.text else ""
        what = f"{gate.title}{code}{place}, whose value {name}"
        if loss.step.kind == BACKWARD:
            what = f"the backward pass of {gate.title}{code}{place}, where the gradient {name} that it hands back"
    return f"The digits of {loss.result.label} are lost in {what} {_compared(loss.error)}."


def _compared(error: Error) -> str:
    at = f" at {list(error.index)}" if error.index else ""
    off = error.what or ("no digit is right" if error.lost >= error.worthless else f"off by {_ulps(error.ulp)}")
    given, exact = number(error.given), number(error.exact)
    if given == exact:
        given, exact = f"{error.given:.9g}", f"{error.exact:.9g}"
    return f"is {given}{at} where exact arithmetic gives {exact} ({off})"


def _why(loss: Loss) -> str:
    gate, error, own = loss.step.gate, loss.error, loss.own
    if error.what == "overflow":
        return "It overflows: the exact value is beyond the largest number of its dtype."
    if own is not None and own.lost >= 0.5 * error.lost:
        if error.what == "underflow":
            return "It underflows: the exact value is below the smallest normal number of its dtype."
        if gate is not None and gate.eqn.primitive.name == "convert_element_type":
            return f"It rounds to {gate.eqn.params['new_dtype']}."
        inside = gate is not None and gate.eqn.primitive.name in {*ADDING, *ADDING_BACKWARDS}
        cancels = ": it adds up terms of which some cancel others" if inside else ""
        return f"The error is its own, for the very numbers that it was given{cancels}."
    inputs = f"its inputs are off by no more than {_ulps(max((c.ulp for c in loss.causes), default=0.0))}"
    if own is not None:
        inputs += ", and it adds no error of its own" if own.ulp == 0 else f", and it adds {_ulps(own.ulp)} of its own"
    adding = {FORWARD: ADDING, BACKWARD: ADDING_BACKWARDS}.get(loss.step.kind, ())
    if loss.step.kind == BRANCH or (gate and gate.eqn.primitive.name in adding):
        return f"It cancels: {inputs}, but the leading digits of its terms agree and vanish."
    return f"It amplifies: {inputs}, but it makes a large error of a small one."


def _outcome(loss: Loss) -> Iterator[str]:
    if loss.signal is not loss.result:
        yield f"In the end {loss.result.label} {_compared(loss.result_error)}."


def _ulps(x: float) -> str:
    return f"{x:.3g} ULP"
