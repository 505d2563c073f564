"""Measure one task: check each engine's executables, time them, and check them again."""

import dataclasses
import functools
import json
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.accuracy.summary import summarize
from jaxbp.engines import Engine, make_engine
from jaxbp.jaxprs import equations
from jaxbp.measure.arrays import entries_of
from jaxbp.measure.executables import Executable, Mode, Residual, compile_modes, sample_difference
from jaxbp.measure.honesty import Moved, Subject, checksums, move, require_honest, require_right
from jaxbp.measure.options import option_rows
from jaxbp.measure.plan import LEVELS, OPTIONS_CASE, Level, Task, find_op, numpy_dtype
from jaxbp.measure.products import product_unit
from jaxbp.measure.timer import Queued, Samples, Thunk, interleave
from jaxbp.measure.truth import Truth, find_truths
from jaxbp.op import Op

#: Entries compared with the reference; of larger arrays a seeded sample of this size.
COMPARED = 2**18
#: Primitives whose factors an accelerator may round.
PRODUCTS = ("dot_general", "conv_general_dilated")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Given:
    """What the engines of a task are given.

    Attributes:
        args: the arguments, as these engines take them.
        ct: the cotangent, likewise.
        fingerprint: checksums of both before anything is called.
    """

    args: tuple[Any, ...]
    ct: Any
    fingerprint: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An engine's executables for one task.

    Attributes:
        given: its arguments and cotangent.
        executables: by mode.
        first_call_us: by mode, the first call after compiling.
        outputs: by mode, what that call returned; `check_before` empties it, so that it is not alive any more when the
            calls are timed.
        entries: the flat entries of each argument whose cotangents it computes; None for all.
        scale: what its time is multiplied with, for all entries instead of the sampled ones.
    """

    engine: Engine
    given: Given
    executables: dict[Mode, Executable]
    first_call_us: dict[Mode, float]
    outputs: dict[Mode, Any]
    entries: tuple[np.ndarray | None, ...] | None = None
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task's data: NumPy arguments and cotangent.

    Attributes:
        about: the columns that all rows of the task share.
        unit: the unit roundoff of products of matrices where the task's engines compute them.
        shared: what the engines have been given, once one has been.
    """

    op: Op
    level: Level
    args: tuple[np.ndarray, ...]
    ct: np.ndarray
    about: Row
    rng: np.random.Generator
    unit: float
    shared: dict[str, Given] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def truths(self) -> tuple[Truth | None, ...]:
        """Of the value and of each cotangent."""
        return find_truths(self.op, self.args, self.ct, self._sampled)

    @functools.cached_property
    def samples(self) -> tuple[Truth | None, ...]:
        """The truths at the entries that all engines are compared at."""
        return tuple(None if truth is None else truth.at(self._sampled(truth.exact.size)) for truth in self.truths)

    def _sampled(self, total: int) -> np.ndarray | None:
        # Drawn apart: with other entries the worst error is another, and runs are compared.
        return sampled_entries(total, np.random.default_rng(total))

    def given_to(self, engine: Engine) -> Given:
        """Arguments and cotangent as an engine takes them, the same for all: where arrays lie tells in the times."""
        if "given" not in self.shared:
            args, ct = engine.prepare(self.args), engine.prepare(self.ct)
            self.shared["given"] = Given(args, ct, checksums(engine, args, ct))
        return self.shared["given"]

    @functools.cached_property
    def bounds(self) -> tuple[np.ndarray | None, ...]:
        """A-priori bounds of the value's and each cotangent's error, None where the op has none."""
        return a_priori_bounds(self.op, self.args, self.ct, unit=self.unit)

    @functools.cached_property
    def multiplies(self) -> bool:
        """Whether the op is one of products of matrices."""
        return any(eqn.primitive.name in PRODUCTS for eqn in equations(jax.make_jaxpr(self.op.stock)(*self.args)))

    @functools.cached_property
    def moved(self) -> Moved:
        """Other data of the same shapes, for the check after timing."""
        return move(self.op, self.args, self.ct)


def pose(task: Task) -> Problem:
    """Draw a task's data."""
    op = find_op(task.op)
    case, dtype = op.case(task.case), numpy_dtype(task.dtype)
    args = case.arguments(dtype)
    ct = case.cotangent(op.output(args, {}).shape, dtype)
    flops = op.count_flops(case.shapes)
    about: Row = {
        "op": op.name,
        "op_version": op.version,
        "case": case.name,
        "n": max(x.size for x in (*args, ct)),
        "shapes": json.dumps([list(shape) for shape in case.shapes]),
        "dtype": task.dtype,
        "repetition": task.repetition,
        "flops_fwd": flops.fwd,
        "flops_bwd": flops.bwd,
        "input_bytes": sum(x.nbytes for x in args),
        "output_bytes": ct.nbytes,
        "elementwise": op.elementwise,
    }
    seed = zlib.crc32(f"{task.op}/{task.case}/{task.dtype}".encode()), task.repetition
    rng = np.random.default_rng(seed)
    return Problem(op, LEVELS[task.level], args, ct, about, rng, product_unit(task.owner, dtype))


def measure(task: Task) -> Iterator[Row]:
    """The rows of a task: accuracy and time of each engine, or a failure with its reason."""
    problem = pose(task)
    about, level = problem.about, problem.level
    default = f"rule:{problem.op.default_rule.name}"
    groups: dict[bool, list[Prepared]] = {False: [], True: []}
    for name in task.engines:
        try:
            prepared = prepare(problem, name)
            if not task.repetition:
                yield from compare(problem, prepared)
            check_before(problem, prepared)
            groups[prepared.engine.difference is not None].append(prepared)
        except Exception as error:
            problem.shared.clear()  # It may have changed what the others are given.
            yield {**about, "engine": name, **_failure(error)}
    for slow, group in groups.items():
        budget = level.slow_budget if slow else level.budget
        if task.owner != "jax":
            budget = dataclasses.replace(level.slow_budget, max_rounds=level.budget.max_rounds)
        thunks = {(p.engine.name, mode): e.call for p in group for mode, e in p.executables.items()}
        baselines = {
            (engine, mode): ("autodiff", mode)
            for engine, mode in thunks
            if engine != "autodiff" and ("autodiff", mode) in thunks
        }
        first = {(p.engine.name, mode): us / 1e6 for p in group for mode, us in p.first_call_us.items()}
        try:
            samples = interleave(thunks, budget, problem.rng, baselines, first)
        except Exception as error:
            yield from ({**about, "engine": p.engine.name, **_failure(error)} for p in group)
            continue
        for p in group:
            try:
                check_after(problem, p)
            except Exception as error:
                yield {**about, "engine": p.engine.name, **_failure(error)}
                continue
            for mode in p.executables:
                taken = samples[p.engine.name, mode]
                yield time_row(problem, p, mode, taken, interleaved=True)
            options = level.option_budget if not task.repetition else None
            if options and task.case == OPTIONS_CASE and p.engine.name == default:
                for row in option_rows(
                    p.engine, p.executables["fwd_bwd"], p.given.args, p.given.ct, options, problem.rng
                ):
                    yield {**about, **row}


def check_before(problem: Problem, prepared: Prepared) -> None:
    """A `DishonestError` where an engine that claims to be exact was wrong in some mode at its first call."""
    if prepared.engine.difference is None:
        require_right(subject_of(problem, prepared), problem.args, problem.truths, prepared.outputs)
    prepared.outputs.clear()


def check_after(problem: Problem, prepared: Prepared) -> None:
    """A `DishonestError` where an engine has not done the work that it was timed for."""
    if prepared.engine.difference is None:
        require_honest(subject_of(problem, prepared), problem.moved)


def subject_of(problem: Problem, prepared: Prepared) -> Subject:
    """What `honesty` looks at."""
    unit = problem.unit if problem.multiplies else 0.0
    given = prepared.given
    return Subject(problem.op, prepared.engine, prepared.executables, given.args, given.ct, given.fingerprint, unit)


def time_row(problem: Problem, prepared: Prepared, mode: Mode, samples: Samples, *, interleaved: bool) -> Row:
    """The row of one timed cell; `interleaved` says that its rounds were shared with the task's other engines."""
    executable = prepared.executables[mode]
    return {
        **problem.about,
        "engine": prepared.engine.name,
        "kind": "time",
        "mode": mode,
        "samples_us": [_six_digits(1e6 * s * prepared.scale) for s in samples.seconds],
        "cores": [round(cores, 3) for cores in samples.cores],
        "inner": samples.inner,
        "interleaved": interleaved,
        "lower_ms": executable.lower_ms,
        "compile_ms": executable.compile_ms,
        "first_call_us": prepared.first_call_us[mode],
        "residual_bytes": executable.residual_bytes,
        "residuals": _described(executable.residuals),
        "temp_bytes": executable.temp_bytes,
        "peak_bytes": executable.peak_bytes,
        "xla_flops": executable.xla_flops,
        "xla_bytes": executable.xla_bytes,
        "program": executable.program,
        "extrapolated": prepared.scale,
    }


def _six_digits(x: float) -> float:
    """What a clock tells; a journal of all digits would be twice as large."""
    return float(f"{x:.6g}")


def _described(residuals: tuple[Residual, ...] | None) -> str | None:
    return None if residuals is None else json.dumps([dataclasses.asdict(residual) for residual in residuals])


def prepare(problem: Problem, name: str) -> Prepared:
    """Build an engine's executables and call each once."""
    op, rng, level = problem.op, problem.rng, problem.level
    engine = make_engine(op, name)
    given = problem.given_to(engine)
    args, ct = given.args, given.ct
    entries, scale = None, 1.0
    executables: dict[Mode, Executable]
    if engine.owner == "jax":
        sampled = sample_difference(op, engine, args, ct, level.difference_seconds, rng)
        if sampled:
            executables = {"fwd_bwd": sampled.executable}
            entries, scale = sampled.entries, sampled.scale
        else:
            executables = compile_modes(engine, args, ct, level.modes)
    else:
        calls: dict[Mode, Thunk] = {
            "fwd": lambda: engine.fwd(*args),
            "fwd_bwd": lambda: engine.fwd_bwd(args, ct),
        }
        if engine.wait:
            calls = {mode: Queued(start, engine.wait) for mode, start in calls.items()}
        applied: dict[Mode, Callable[..., Any]] = {"fwd": engine.fwd, "fwd_bwd": engine.fwd_bwd}
        executables = {mode: Executable(calls[mode], applied[mode]) for mode in calls if mode in level.modes}
    first: dict[Mode, float] = {}
    outputs: dict[Mode, Any] = {}
    for mode, executable in executables.items():
        start = time.perf_counter()
        outputs[mode] = executable.call()
        first[mode] = 1e6 * (time.perf_counter() - start)
    return Prepared(engine, given, executables, first, outputs, entries, scale)


def compare(problem: Problem, prepared: Prepared) -> Iterator[Row]:
    """One accuracy row for the value and for each cotangent, from the first call of the executable that is timed."""
    y, cts = prepared.outputs["fwd_bwd"]
    for result, entries, truth, sample, bound in zip(
        (y, *cts),
        (None, *(prepared.entries or [None] * len(cts))),
        problem.truths,
        problem.samples,
        problem.bounds,
        strict=True,
    ):
        if truth is None or sample is None:
            continue
        if entries is not None:
            sample, chosen = truth.at(entries), None
        elif tuple(result.shape) == truth.shape:
            chosen = sample.entries
        else:
            raise ValueError(f"{truth.quantity} must have shape {list(truth.shape)}, got {list(result.shape)}.")
        actual = entries_of(prepared.engine, result, chosen)
        allowed = None if bound is None else sample.of(bound)
        yield {**problem.about, "engine": prepared.engine.name, **accuracy_of(actual, sample, allowed)}


def sampled_entries(total: int, rng: np.random.Generator) -> np.ndarray | None:
    """Of more than `COMPARED` entries, one of every so many, drawn within its block: in order of memory; else None."""
    if total <= COMPARED:
        return None
    block = total // COMPARED
    return np.arange(COMPARED) * block + rng.integers(0, block, COMPARED)


def accuracy_of(actual: np.ndarray, truth: Truth, bound: np.ndarray | None = None) -> Row:
    """The accuracy row of one result; `actual` and `bound` are flat, of the entries that the truth is about."""
    exact = truth.exact
    allowed = np.full(1, np.nan) if bound is None else bound
    error = dataclasses.asdict(summarize(actual, exact))
    (worst,) = error.pop("worst_index")
    if truth.entries is not None:
        worst = int(truth.entries[worst])
    where = [int(i) for i in np.unravel_index(worst, truth.shape)]
    # A truth beyond the dtype has no finite result to be near to; the ULP errors judge those entries.
    within = np.abs(exact) <= float(jnp.finfo(actual.dtype).max)
    actual, exact = actual[within], exact[within]
    largest = float(np.max(np.abs(exact), initial=0))
    with np.errstate(invalid="ignore", divide="ignore"):  # inf - inf: NaN says that this error has no size.
        differences = np.abs(actual.astype(exact.dtype) - exact)
        fractions = differences / (allowed if bound is None else allowed[within])
    difference = float(np.max(differences, initial=0))
    return {
        "kind": "accuracy",
        "quantity": truth.quantity,
        **error,
        "norm_rel": difference / largest if largest else difference,
        # 0 / 0 is an entry without terms, and right.
        "bound_fraction": np.nan if bound is None else float(np.max(fractions[differences > 0], initial=0)),
        "worst_index": json.dumps(where),
    }


def _failure(error: Exception) -> Row:
    text = f"{type(error).__name__}: {error}".splitlines()
    return {"kind": "failure", "reason": text[0][:500], "traceback": traceback.format_exc()[-4000:]}
