"""Whether an executable does the work that it is timed for: it is right, waits, and computes from what it is given."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.engines import Engine
from jaxbp.measure.arrays import checksum, entries_of, looked_at, some
from jaxbp.measure.executables import Executable, Mode
from jaxbp.measure.truth import Truth, find_truths
from jaxbp.op import Op

#: An entry is wrong, and not only imprecise, from this many units of the dtype's spacing at the largest entry on; in
#: narrow dtypes from a tenth of the largest.
GROSS_UNITS, GROSS = 1024, 0.1
#: How long a result may take to change after it was handed over, if it ever does.
SETTLING_SECONDS = 0.002

Truths = Sequence[Truth | None]


class DishonestError(RuntimeError):
    """An executable that must not be given a time; its text says why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is looked at: an engine's executables with the data that they are timed with.

    Attributes:
        op: the op.
        engine: one that claims to be exact: no numerical difference.
        executables: by mode.
        args: the arguments, as the engine takes them.
        ct: the cotangent, likewise.
        fingerprint: checksums of the data before the first call.
        unit: the unit roundoff of its products of matrices, which may be that of a narrower dtype.
    """

    op: Op
    engine: Engine
    executables: dict[Mode, Executable]
    args: tuple[Any, ...]
    ct: Any
    fingerprint: tuple[int, ...]
    unit: float = 0.0


@dataclasses.dataclass(frozen=True)
class Moved:
    """The data of a problem with their entries moved by one place, and what the results for those should be."""

    args: tuple[np.ndarray, ...]
    ct: np.ndarray
    truths: Truths


def move(op: Op, args: Sequence[np.ndarray], ct: np.ndarray) -> Moved:
    """Once for all engines of a problem: the reference takes its time."""
    *moved, moved_ct = (np.roll(x.reshape(-1), 1).reshape(x.shape) for x in (*args, ct))
    return Moved(tuple(moved), moved_ct, find_truths(op, tuple(moved), moved_ct, some))


def checksums(engine: Engine, args: tuple[Any, ...], ct: Any) -> tuple[int, ...]:
    """Of an engine's data, as it takes them."""
    try:
        return tuple(checksum(engine, x) for x in (*args, ct))
    except RuntimeError as error:  # JAX's, of a deleted array.
        raise DishonestError(f"A call deletes its inputs ({str(error).splitlines()[0][:100]}).") from error


def require_right(subject: Subject, args: Sequence[np.ndarray], truths: Truths, outputs: Mapping[Mode, Any]) -> None:
    """What each mode gave is what it should be for these arguments, but for what is mere imprecision.

    A `DishonestError` says what is wrong.
    """
    _require_untouched(subject)
    _compare(subject, outputs.items(), args, truths)


def require_honest(subject: Subject, moved: Moved) -> None:
    """After the timing: inputs are as they were, results are there when a call returns, and others for other inputs.

    A result that was kept from an earlier call, folded into the executable as a constant, or left out is wrong for the
    moved inputs.
    """
    _require_untouched(subject)
    for mode, executable in subject.executables.items():
        _require_settled(subject, mode, executable)
    args, ct = subject.engine.prepare(moved.args), subject.engine.prepare(moved.ct)
    try:
        _compare(subject, _outputs(subject, args, ct), moved.args, moved.truths)
    except DishonestError as error:
        raise DishonestError(f"For inputs other than those it was timed with: {error}") from error


def _compare(subject: Subject, outputs: Iterable[tuple[Mode, Any]], args: Sequence[np.ndarray], truths: Truths) -> None:
    known = _known_faults(subject, args)
    picked = [None if truth is None else truth.at(some(truth.exact.size)) for truth in truths]
    for mode, output in outputs:
        value, cts = _results(mode, output)
        for result, truth in zip((value, *(cts or [None] * len(args))), picked, strict=True):
            if result is None or truth is None:
                continue
            name = truth.quantity.replace("ct_", "cotangent of ", 1)
            if tuple(result.shape) != truth.shape:
                raise DishonestError(f"The {name} has shape {list(result.shape)} in mode {mode}.")
            actual, exact = entries_of(subject.engine, result, truth.entries), truth.exact
            at, finfo = actual.astype(exact.dtype), jnp.finfo(actual.dtype)
            with np.errstate(all="ignore"):
                judged = np.abs(exact) <= float(finfo.max)
                if known is not None:
                    judged &= ~truth.of(known)
                largest = np.max(np.abs(exact), initial=0.0, where=judged)
                spacing = max(float(finfo.eps), 2 * subject.unit)
                allowed = min(GROSS, GROSS_UNITS * spacing) * largest + float(finfo.tiny)
                off = judged & ~(np.abs(at - exact) <= allowed)
            if off.any():
                i = int(np.argmax(off))
                entry = i if truth.entries is None else int(truth.entries[i])
                raise DishonestError(
                    f"The {name} is wrong in mode {mode}: flat entry {entry} is {float(at[i]):.6g} and "
                    f"should be {float(exact[i]):.6g}; so are {int(off.sum()):,} of {off.size:,} entries looked at."
                )


def _outputs(subject: Subject, args: Any, ct: Any) -> Iterator[tuple[Mode, Any]]:
    """What the executables that are timed give for these arguments, by mode."""
    executables = subject.executables
    if "fwd" in executables:
        yield "fwd", executables["fwd"].apply(*args)
    both: tuple[Mode, ...] = ("fwd_bwd", "summed")
    for mode in both:
        if mode in executables:
            yield mode, executables[mode].apply(args, ct)
    if "fwd_res" in executables:
        output = executables["fwd_res"].apply(*args)
        yield "fwd_res", output
        backward = executables["bwd"]
        assert backward.handed_over is not None
        yield "bwd", backward.apply(args, backward.handed_over(output), ct)


def _results(mode: Mode, output: Any) -> tuple[Any, Sequence[Any] | None]:
    """The value and the cotangents in an executable's output; None for what is not in it."""
    match mode:
        case "fwd":
            return output, None
        case "fwd_res":
            return output[0], None
        case "bwd":
            return None, output
        case "summed":  # Of its value the sum alone.
            return None, output[1]
        case _:
            return output


def _require_untouched(subject: Subject) -> None:
    if checksums(subject.engine, subject.args, subject.ct) != subject.fingerprint:
        raise DishonestError("A call changes its inputs.")


def _require_settled(subject: Subject, mode: Mode, executable: Executable) -> None:
    outputs = jax.tree.leaves(executable.call())
    # NumPy's and torch's arrays cannot be asked.
    ready = all(getattr(x, "is_ready", lambda: True)() for x in outputs)
    if ready:
        before = [looked_at(subject.engine, x) for x in outputs]
        time.sleep(SETTLING_SECONDS)
        after = (looked_at(subject.engine, x) for x in outputs)
        ready = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))
    if not ready:
        raise DishonestError(f"In mode {mode} a call returns before its results are there.")


def _known_faults(subject: Subject, args: Sequence[np.ndarray]) -> np.ndarray | None:
    """The flat entries at which an elementwise rule declares that it is wrong; None if it declares none."""
    kind, _, name = subject.engine.name.partition(":")
    if kind != "rule" or not subject.op.elementwise:
        return None
    faults = [f for f in subject.op.rules[name].rule.faults if f.kind in ("value", "gradient")]
    return np.any([np.asarray(fault.where(*args)) for fault in faults], axis=0).reshape(-1) if faults else None
