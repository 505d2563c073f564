"""Measure one task: check each engine's result against the reference, then time what was checked."""

import dataclasses
import json
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp import engines
from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.accuracy.summary import summarize
from jaxbp.engines import Engine, make_engine
from jaxbp.measure.executables import Executable, Mode, compile_modes, sample_difference
from jaxbp.measure.plan import LEVELS, Level, Task, find_op, numpy_dtype
from jaxbp.measure.timer import interleave
from jaxbp.op import Op

#: Entries compared with the reference; of larger arrays a seeded sample of this size.
COMPARED = 2**18

Row = dict[str, Any]
Exact = tuple[np.ndarray, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An engine's executables for one task.

    Attributes:
        executables: by mode.
        first_call_us: by mode, the first call after compiling.
        entries: the flat entries of each argument whose cotangents it computes; None for all.
        scale: what its time is multiplied with, for all entries instead of the sampled ones.
    """

    engine: Engine
    executables: dict[Mode, Executable]
    first_call_us: dict[Mode, float]
    entries: tuple[np.ndarray | None, ...] | None = None
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task's data: NumPy arguments, cotangent, and the exact value and cotangents.

    Attributes:
        bounds: a-priori bounds of the value's and each cotangent's error, None where the op has none.
        about: the columns that all rows of the task share.
    """

    op: Op
    level: Level
    args: tuple[np.ndarray, ...]
    ct: np.ndarray
    exact: Exact
    bounds: tuple[np.ndarray | None, ...]
    about: Row
    rng: np.random.Generator


def pose(task: Task) -> Problem:
    """Draw a task's data and compute what is exact."""
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
        "flops_fwd": flops.fwd,
        "flops_bwd": flops.bwd,
        "input_bytes": sum(x.nbytes for x in args),
        "output_bytes": ct.nbytes,
    }
    rng = np.random.default_rng(zlib.crc32(f"{task.op}/{task.case}/{task.dtype}".encode()))
    exact, bounds = engines.reference(op, args, ct), a_priori_bounds(op, args, ct)
    return Problem(op, LEVELS[task.level], args, ct, exact, bounds, about, rng)


def measure(task: Task) -> Iterator[Row]:
    """The rows of a task: accuracy and time of each engine, or a failure with its reason."""
    problem = pose(task)
    about, level = problem.about, problem.level
    groups: dict[bool, list[Prepared]] = {False: [], True: []}
    for name in task.engines:
        try:
            prepared = prepare(problem, name)
            yield from compare(problem, prepared)
            groups[prepared.engine.difference is not None].append(prepared)
        except Exception as error:
            yield {**about, "engine": name, **_failure(error)}
    for slow, group in groups.items():
        budget = level.slow_budget if slow else level.budget
        thunks = {
            json.dumps([p.engine.name, mode]): executable.call
            for p in group
            for mode, executable in p.executables.items()
        }
        try:
            samples = interleave(thunks, budget, problem.rng)
        except Exception as error:
            yield from ({**about, "engine": p.engine.name, **_failure(error)} for p in group)
            continue
        for p in group:
            for mode in p.executables:
                taken = samples[json.dumps([p.engine.name, mode])]
                yield time_row(problem, p, mode, taken.seconds, taken.inner, interleaved=True)


def time_row(
    problem: Problem, prepared: Prepared, mode: Mode, seconds: list[float], inner: int, *, interleaved: bool
) -> Row:
    """The row of one timed cell; `interleaved` says that its rounds were shared with the task's other engines."""
    executable = prepared.executables[mode]
    return {
        **problem.about,
        "engine": prepared.engine.name,
        "kind": "time",
        "mode": mode,
        "samples_us": [1e6 * s * prepared.scale for s in seconds],
        "inner": inner,
        "interleaved": interleaved,
        "lower_ms": executable.lower_ms,
        "compile_ms": executable.compile_ms,
        "first_call_us": prepared.first_call_us[mode],
        "residual_bytes": executable.residual_bytes,
        "extrapolated": prepared.scale,
    }


def prepare(problem: Problem, name: str) -> Prepared:
    """Build an engine's executables and call each once."""
    op, rng, level = problem.op, problem.rng, problem.level
    engine = make_engine(op, name)
    args, ct = engine.prepare(problem.args), engine.prepare(problem.ct)
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
        calls: dict[Mode, Callable[[], Any]] = {
            "fwd": lambda: engine.fwd(*args),
            "fwd_bwd": lambda: engine.fwd_bwd(args, ct),
        }
        executables = {mode: Executable(calls[mode]) for mode in calls if mode in level.modes}
    first: dict[Mode, float] = {mode: _timed(executable.call) for mode, executable in executables.items()}
    return Prepared(engine, executables, first, entries, scale)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


def compare(problem: Problem, prepared: Prepared) -> Iterator[Row]:
    """One accuracy row for the value and for each cotangent, from the executable that will be timed."""
    y, cts = prepared.engine.finish(prepared.executables["fwd_bwd"].call())
    exact_y, exact_cts = problem.exact
    about = {**problem.about, "engine": prepared.engine.name}
    yield {**about, **accuracy_of("value", np.asarray(y), exact_y, problem.bounds[0], None, problem.rng)}
    entries = prepared.entries or (None,) * len(cts)
    for name, actual, truth, bound, chosen in zip(
        problem.op.arguments, cts, exact_cts, problem.bounds[1:], entries, strict=True
    ):
        if truth is not None:
            yield {**about, **accuracy_of(f"ct_{name}", np.asarray(actual), truth, bound, chosen, problem.rng)}


def sampled_entries(total: int, rng: np.random.Generator) -> np.ndarray | None:
    """Of more than `COMPARED` entries, one of every so many, drawn within its block: in order of memory; else None."""
    if total <= COMPARED:
        return None
    block = total // COMPARED
    return np.arange(COMPARED) * block + rng.integers(0, block, COMPARED)


def accuracy_of(
    quantity: str,
    actual: np.ndarray,
    exact: np.ndarray,
    bound: np.ndarray | None,
    entries: np.ndarray | None,
    rng: np.random.Generator,
) -> Row:
    """The accuracy row of one result; where `entries` are given, `actual` holds those of the flat array alone."""
    if actual.shape != exact.shape and entries is None:
        raise ValueError(f"{quantity} must have shape {list(exact.shape)}, got {list(actual.shape)}.")
    shape, total = exact.shape, exact.size
    allowed = np.full(1, np.nan) if bound is None else bound.reshape(-1)
    actual, exact = actual.reshape(-1), exact.reshape(-1)
    if entries is not None:
        exact = exact[entries]
    elif (entries := sampled_entries(total, rng)) is not None:
        actual, exact = actual[entries], exact[entries]
    if bound is not None and entries is not None:
        allowed = allowed[entries]
    error = dataclasses.asdict(summarize(actual, exact))
    (worst,) = error.pop("worst_index")
    if entries is not None:
        worst = int(entries[worst])
    where = [int(i) for i in np.unravel_index(worst, shape)]
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
        "quantity": quantity,
        **error,
        "norm_rel": difference / largest if largest else difference,
        # 0 / 0 is an entry without terms, and right.
        "bound_fraction": np.nan if bound is None else float(np.max(fractions[differences > 0], initial=0)),
        "worst_index": json.dumps(where),
    }


def _failure(error: Exception) -> Row:
    text = f"{type(error).__name__}: {error}".splitlines()
    return {"kind": "failure", "reason": text[0][:500], "traceback": traceback.format_exc()[-4000:]}
