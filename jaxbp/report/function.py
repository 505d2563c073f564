"""`bench_vjp`: a user's rule against autodiff as a frame, and the frame as a summary for people."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from jaxbp.check.run import NO_DOMAIN
from jaxbp.measure.function import AUTODIFF, RULE, Row, measure_function
from jaxbp.measure.machine import describe_machine
from jaxbp.measure.plan import ALL_MODES
from jaxbp.measure.sweep import environment_of
from jaxbp.measure.worker import describe
from jaxbp.report import tables
from jaxbp.report.frames import (
    ACCURACY_COLUMNS,
    SUMMARY_COLUMNS,
    VERDICTS,
    comparison,
    run_facts,
    split_row,
    tell_moved_work,
    timing,
)

#: What each column of the frame of `bench_vjp` means, with its unit.
FUNCTION_COLUMNS = {
    "function": "its name",
    "arguments": "dtype and shape of each array of its arguments, JSON",
    "n": SUMMARY_COLUMNS["n"],
    "engine": "rule, the function as it is; or autodiff, of `stock` or of its primal without custom rules",
    **{name: SUMMARY_COLUMNS[name] for name in ("mode", "device", "time_us", "time_us_low", "time_us_high")},
    **{name: SUMMARY_COLUMNS[name] for name in ("rounds", "interrupted", "inner", "ratio", "ratio_low", "ratio_high")},
    "verdict": f"{VERDICTS}; empty for autodiff, and where one of both has no time",
    **{name: SUMMARY_COLUMNS[name] for name in ("floor_us", "residual_bytes")},
    "temp_bytes": "bytes that the executable needs while it runs beyond its arguments and results, as the compiler "
    "says; of split, the larger of both passes; empty where a backend does not say",
    **{name: SUMMARY_COLUMNS[name] for name in ("program", "lower_ms", "compile_ms", "first_call_us")},
    "right": "rule: whether check_vjp at level quick finds no fault, nor its judge in what the executables return; "
    "autodiff: whether its executables return the derivative of what it differentiates",
    "yardstick": "what the results are measured against: certified, `exact_vjp` at all entries or at a seeded sample; "
    "or float64, the primal's derivative in that precision, which says little of float64 results",
    "quantity": "which result of the mode has the largest error in ULP: value, or ct_<argument> for a cotangent; the "
    "columns from here to worst_exact are about it",
    **{
        name: ACCURACY_COLUMNS[name]
        for name in (
            *("count", "max_ulp", "median_ulp", "p99_ulp", "max_rel", "median_rel", "p99_rel", "norm_rel"),
            *("wrong_zeros", "wrong_infinities", "wrong_nans", "flushed", "worst_index", "worst_actual", "worst_exact"),
        )
    },
    "quantities": "of each result of the mode, the largest and the median error in ULP, JSON",
    "status": SUMMARY_COLUMNS["status"],
    "reason": "why it has no time: what is wrong with it, or what it raised",
    "process": "worker: a fresh process with the environment of jaxbp bench; caller: the one that called bench_vjp",
    "environment": "worker: what its environment added; caller: which of these variables it has, JSON",
    **{name: SUMMARY_COLUMNS[name] for name in ("precision", "async_dispatch", "machine", "commit", "jax")},
}

#: How a summary says a verdict that is not plain words.
SAID = {"dispatch": "as short as the call itself", "same program": "the same program as autodiff's"}


def bench_vjp(
    f: Callable[..., Any],
    *args: Any,
    stock: Callable[..., Any] | None = None,
    domain: Mapping[str, tuple[float, float]] = NO_DOMAIN,
    level: str = "standard",
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the custom VJPs in a function against autodiff: digits, time, memory, and whether they are right.

    The value and VJP of f are compiled in every mode, and so are those of `stock` with JAX's own derivative. What is
    wrong, by `check_vjp` at level quick or in one of the executables, gets no time. The rest is timed in interleaved
    rounds, in the process of the caller and as that is set up: `jaxbp bench FILE.py:NAME` starts a fresh one, with the
    allocator's settings and without asynchronous dispatch, which differs most for large and for very small arrays.

    Args:
        f: a `jax.custom_vjp` function, or any function of JAX that contains some.
        *args: arguments to call it with: arrays, numbers, pytrees of them; integers and booleans have no gradient.
        stock: what a user would call otherwise: the same function, which autodiff differentiates; f's own primal with
            every custom rule stripped by default.
        domain: by the name of an argument, as `args[0]`, the interval that the check draws inputs from.
        level: `quick`, which times for about a second, or `standard`.
        seed: of cotangents and samples.

    Returns:
        A frame of one row per engine (`rule`, `autodiff`) and mode (`fwd`, `fwd_res`, `bwd`, `fwd_bwd`, `summed`,
        `split`).
        `jaxbp.report.function.FUNCTION_COLUMNS` says what its columns are: times in microseconds and milliseconds,
        memory in bytes, errors in ULP.

    Raises:
        UsageError: the function cannot be called with the arguments or cannot be checked, or stock is another function;
            the text says why.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def double_exp(x):
    ...     return jnp.exp(jnp.exp(x))
    >>> double_exp.defvjp(lambda x: (jnp.exp(jnp.exp(x)), x), lambda x, ct: (ct * jnp.exp(x + jnp.exp(x)),))
    >>> cells = bench_vjp(double_exp, jnp.linspace(-1.0, 1.0, 100), level="quick").set_index(["engine", "mode"])
    >>> [int(cells.loc[(engine, "fwd_res"), "residual_bytes"]) for engine in ("rule", "autodiff")]
    [0, 800]
    >>> bool(cells.loc[("rule", "bwd"), "right"]), cells.loc[("rule", "bwd"), "yardstick"]
    (True, 'certified')
    """
    rows = list(measure_function(f, args, stock=stock, domain=domain, level=level, seed=seed))
    inherited = {name: os.environ[name] for name in (*environment_of("jax"), "JAX_ENABLE_X64") if name in os.environ}
    return function_frame(rows, {**describe("jax"), "process": "caller", "environment": json.dumps(inherited)})


def function_frame(rows: Iterable[Row], facts: Row | None = None) -> pd.DataFrame:
    """The frame of `bench_vjp` from rows of `measure_function`; `facts` are further columns that all of them share."""
    shared = {**run_facts(describe_machine()), **(facts or {})}
    cells = [{**row, **shared} for row in rows if row["kind"] in ("time", "failure")]
    cells = [row for engine in (RULE, AUTODIFF) for row in _with_split([c for c in cells if c["engine"] == engine])]
    baselines = {row["mode"]: row for row in cells if row["engine"] == AUTODIFF and row["kind"] == "time"}
    finished = [_finished(row, baselines.get(row["mode"])) for row in cells]
    tell_moved_work([cell for cell in finished if cell["engine"] == RULE])
    return pd.DataFrame(finished, columns=list(FUNCTION_COLUMNS))


def _with_split(cells: list[Row]) -> list[Row]:
    """An engine's rows in order, and the one of both passes."""
    by_mode = {row["mode"]: row for row in cells}
    forward, backward = by_mode["fwd_res"], by_mode["bwd"]
    split = split_row(forward, backward) if forward["kind"] == "time" else {**forward, "mode": "split"}
    temporary = [row["temp_bytes"] for row in (forward, backward) if row.get("temp_bytes") is not None]
    # The passes run one after the other, and either may have the larger error.
    worse = max(forward, backward, key=lambda row: row.get("max_ulp", -1.0))
    split |= {name: worse[name] for name in ACCURACY_COLUMNS if name in worse and name not in SUMMARY_COLUMNS}
    both = {**json.loads(forward.get("quantities", "{}")), **json.loads(backward.get("quantities", "{}"))}
    split |= {"temp_bytes": max(temporary, default=None), "quantities": json.dumps(both)}
    return [*(by_mode[mode] for mode in ALL_MODES), split]


def _finished(row: Row, baseline: Row | None) -> Row:
    if row["kind"] == "failure":
        return {**row, "status": "failed", "verdict": ""}
    cell = {**row, **timing(row)}
    return cell | comparison([row], [baseline], paired=True) if baseline else cell


def summarize_function(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The questions that a summary asks, with their answers."""
    cells = _by_engine_and_mode(frame)
    rule, autodiff = (cells[engine, "fwd_bwd"] for engine in (RULE, AUTODIFF))
    yield "right?", "yes" if rule["right"] else f"NO. {rule['reason']}"
    yield "digits?", _digits(rule)
    yield "", f"autodiff {_digits(autodiff)}"
    for cell, name in ((rule, "the rule"), (autodiff, AUTODIFF)):
        if cell["status"] == "failed" and not (name == "the rule" and not rule["right"]):
            yield "no time", f"of {name}: {cell['reason']}"
    verdicts = {mode: cells[RULE, mode]["verdict"] for mode in tables.unique(frame["mode"])}
    said = {v: ", ".join(mode for mode in verdicts if verdicts[mode] == v) for v in verdicts.values() if v}
    if said:
        yield "faster?", "; ".join(f"{SAID.get(verdict, verdict)} in {modes}" for verdict, modes in said.items())
    kept = [_bytes(cells[engine, "fwd_res"]["residual_bytes"]) for engine in (RULE, AUTODIFF)]
    needed = [_bytes(cells[engine, "fwd_bwd"]["temp_bytes"]) for engine in (RULE, AUTODIFF)]
    yield "leaner?", f"keeps {kept[0]} between the passes, autodiff {kept[1]}"
    yield "", f"needs {needed[0]} while fwd_bwd runs, autodiff {needed[1]}"
    built = [tables.number(cell["lower_ms"] + cell["compile_ms"]) or "?" for cell in (rule, autodiff)]
    yield "compiled", f"in {built[0]} ms, autodiff in {built[1]} ms (fwd_bwd)"


def mode_table(frame: pd.DataFrame) -> list[dict[str, str]]:
    """Time and temporary memory of both engines, one row for each mode that either has a time in."""
    cells = _by_engine_and_mode(frame)
    rows = []
    for mode in tables.unique(frame.loc[frame["status"] == "ok", "mode"]):
        both = {engine: cells[engine, mode] for engine in (RULE, AUTODIFF)}
        row = {"mode": mode}
        row |= {engine: tables.duration(cell) if cell["status"] == "ok" else "" for engine, cell in both.items()}
        row |= {f"{RULE} / {AUTODIFF}": tables.ratio(both[RULE])}
        rows.append(row | {f"{engine} needs": _bytes(cell["temp_bytes"]) for engine, cell in both.items()})
    return rows


def _by_engine_and_mode(frame: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    # Nothing of it is extrapolated.
    cells = frame.assign(extrapolated=1.0)
    return {(str(row["engine"]), str(row["mode"])): row for _, row in cells.iterrows()}


def _bytes(count: float | None) -> str:
    return "?" if count is None or pd.isna(count) else tables.size(count)


def _digits(cell: pd.Series) -> str:
    if pd.isna(cell["max_ulp"]):
        return "unknown"
    largest, median = tables.number(cell["max_ulp"]), tables.number(cell["median_ulp"])
    return (
        f"{largest} ULP off at worst, {median} in the median of {cell['quantity']}; {cell['norm_rel']:.2g} of its "
        f"largest entry ({cell['count']:,.0f} entries, {cell['yardstick']})"
    )
