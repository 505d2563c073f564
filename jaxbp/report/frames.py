"""The pandas frames of a run: raw samples, the summary of every cell, and the accuracy of every gradient."""

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxbp.measure.limits import Limits, best_limits
from jaxbp.measure.plan import ALL_MODES
from jaxbp.measure.steadiness import FENCE, drift, outliers
from jaxbp.measure.verdict import (
    FLOOR_FACTOR,
    LEAST_ROUNDS,
    MARGIN,
    Interval,
    Side,
    enough,
    median_interval,
    over_processes,
    side_ratio,
    verdict,
)

Row = dict[str, Any]

#: What a verdict may be.
VERDICTS = (
    f"faster, same, slower or cannot say, against a margin of {MARGIN:.0%}; dispatch where a call costs less than "
    f"{FLOOR_FACTOR} times the dispatch floor; moved where fwd_res or bwd is faster, the other of them slower, "
    "and both together not faster; same program where the compiler made one program of both, whatever their times say"
)
#: What each column of `summary.csv` means, with its unit.
SUMMARY_COLUMNS = {
    "op": "the op",
    "op_version": "version of its declaration; compare equal versions only",
    "case": "the named argument set",
    "shapes": "shapes of the arguments, JSON",
    "n": "entries of the largest array",
    "dtype": "dtype of arguments and cotangent",
    "engine": "the way to the gradient",
    "mode": f"{', '.join(ALL_MODES)}, or split = fwd_res + bwd",
    "device": "what computed it",
    "processes": "how many processes timed it one after the other, without those that had to wait for a core in too "
    f"many rounds, where at least {LEAST_ROUNDS} others are left. Where these are several, time and ratio are the "
    "geometric means of what each found, their intervals are Student's over the processes, interrupted and outliers "
    "are means (interrupted over all processes), drift is the largest in size, and rounds are counted together",
    "time_us": "median time of a call, microseconds",
    "time_us_low": "lower end of its 95 % interval",
    "time_us_high": "upper end of it",
    "rounds": "samples taken, one a round",
    "interrupted": "share of the rounds in which the process waited for a core: they are left out of time and ratio, "
    f"where at least {LEAST_ROUNDS} others are left; empty where nobody knows",
    "drift": "by how much the time changed from the first of these rounds to the last, relative to its median; 0 where "
    "its 95 % interval (Theil and Sen's slope) holds 0; empty for few rounds. Ratios do not drift with it",
    "outliers": f"share of these rounds beyond {FENCE:g} interquartile ranges from the quartiles",
    "inner": "calls that each sample averages over",
    "ratio": "time over the time of autodiff in the same mode: the trimmed mean of the rounds' own ratios where they "
    "shared the rounds, else the ratio of the medians. Of split, a pass that is the same program on both sides takes "
    "in each round the mean of its two times",
    "ratio_low": "lower end of its 95 % interval, by the bootstrap",
    "ratio_high": "upper end of it",
    "verdict": f"{VERDICTS}; empty where the engine did not run interleaved with autodiff",
    "floor_us": "time of a call that computes next to nothing, microseconds",
    "extrapolated": "1, or what the time of a sampled numerical gradient was multiplied with",
    "residual_bytes": "bytes kept between forward and backward pass beyond the inputs",
    "residuals": "which arrays these are, JSON: shape, dtype, bytes and where, the source line that computes it, the "
    "primitive where only JAX's lines are known, or output",
    "temp_bytes": "bytes that the executable allocates beside arguments and outputs, by the compiler's plan; of split "
    "the larger of both passes",
    "peak_bytes": "bytes of arguments, outputs and temporary memory together, by the compiler's plan; of split the "
    "larger of both passes",
    "peak_rss_bytes": "bytes by which one call raises the peak resident set of a process of its own above its inputs; "
    "measured for fwd_bwd with --peak-rss",
    "flops": "analytic floating-point operations of the mode",
    "gflops": "analytic operations over the median time, 10^9 per second",
    "bytes": "analytic bytes that the mode must at least read and write",
    "gbytes": "analytic bytes over the median time, 10^9 per second",
    "roofline": "percent of the physical limit: the least time that the analytic operations and bytes take at the "
    "measured limits, over the median time; empty for arrays that lie in a cache, unless arithmetic is their limit",
    "bound": "the limit that roofline is a percentage of: compute or memory",
    "xla_flops": "XLA's own count of operations of the executable that ran; empty where it has none",
    "xla_bytes": "XLA's own count of bytes accessed, likewise",
    "program": "a hash of the compiled program without its names, of split those of both passes; empty where it is not "
    "known",
    "lower_ms": "time to trace and lower, milliseconds",
    "compile_ms": "time to compile, milliseconds",
    "first_call_us": "time of the first call after compiling, microseconds",
    "status": "ok or failed",
    "reason": "why it failed",
    "environment": "what the worker's environment added, JSON",
    "precision": "JAX's default precision of matrix products",
    "product_bits": "bits that a product of float32 matrices keeps of its factors, as measured: 24, or 11 in TF32",
    "async_dispatch": "on or off: whether JAX's CPU backend hands calls to another thread, which slows small ones",
    "machine": "the machine's name, as the folder of its runs",
    "commit": "the commit of jaxbp's source, + where it had uncommitted changes",
    "jax": "version of JAX",
}

#: What each column of `accuracy.csv` means, with its unit.
ACCURACY_COLUMNS = {
    **{
        name: SUMMARY_COLUMNS[name] for name in ("op", "op_version", "case", "shapes", "n", "dtype", "engine", "device")
    },
    "quantity": "value, or ct_<argument> for a cotangent",
    "count": "entries compared; of larger arrays a seeded sample",
    "max_ulp": "largest error, in units in the last place of the dtype at the exact value",
    "median_ulp": "median of it",
    "p99_ulp": "99th percentile of it",
    "max_rel": "largest error relative to the exact value of its entry",
    "median_rel": "median of it",
    "p99_rel": "99th percentile of it",
    "norm_rel": "largest error relative to the largest exact value: fair where entries are sums that cancel",
    "bound_fraction": "largest error of a sum of products as a fraction of its a-priori bound gamma_n sum |a||b|: at "
    "most 1 if nothing but rounding went wrong; empty for other ops",
    "wrong_zeros": "entries that are zero though the exact value is not",
    "wrong_infinities": "entries that are infinite though the exact value is not, or the reverse",
    "wrong_nans": "entries that are NaN on one side or both",
    "flushed": "entries that are zero though the exact value is a subnormal number; not in the errors above",
    "worst_index": "index of the entry with the largest error, JSON",
    "worst_actual": "its value",
    "worst_exact": "its exact value",
}

CELL = ["op", "case", "dtype", "device"]
TASK = ["op", "case", "dtype", "repetition"]


def latest(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of a task that was begun again, as happens where a run was stopped within it."""
    kept: list[Row] = []
    for row in rows:
        if row["kind"] == "task":
            # Of the limits the best counts, and not the last.
            kept = [earlier for earlier in kept if earlier["kind"] == "limits" or not _is_of(earlier, row)]
        kept.append(row)
    return kept


def _is_of(row: Row, task: Row) -> bool:
    return row.get("engine") in task["engines"] and all(row[key] == task[key] for key in TASK)


def run_facts(machine: Row) -> Row:
    """The columns that are the same in every row of a run, from its `machine.json`."""
    return {"machine": machine["name"], "commit": machine["commit"], "jax": machine["versions"]["jax"]}


def samples_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Every sample on a row of its own; `split` is the sum of fwd_res and bwd of the same round."""
    return pd.DataFrame(
        [
            {**{key: row[key] for key in (*CELL, "engine", "mode", "repetition")}, "round": i, "time_us": time}
            for row in with_split(rows)
            for i, time in enumerate(row["samples_us"])
        ],
        columns=[*CELL, "engine", "mode", "repetition", "round", "time_us"],
    )


def accuracy_frame(rows: Iterable[Row], facts: Row) -> pd.DataFrame:
    """One row per op, case, dtype, engine and quantity, with the columns of `ACCURACY_COLUMNS`."""
    rows = [{**facts, **row} for row in rows]
    return pd.DataFrame([row for row in rows if row["kind"] == "accuracy"], columns=list(ACCURACY_COLUMNS))


def summary_frame(rows: Iterable[Row], facts: Row) -> pd.DataFrame:
    """One row per cell, with the columns of `SUMMARY_COLUMNS`; failures are rows of status `failed`.

    `facts` are the columns that are the same in every row of a run, as `run_facts` makes them; a row that was measured
    on another machine of a cluster names that itself.
    """
    rows = [{**facts, **row} for row in rows]
    timed: dict[tuple[Any, ...], list[Row]] = {}
    for row in with_split(rows):
        timed.setdefault((*_cell(row), row["engine"]), []).append(row)
    machines = {row["machine"] for row in rows}
    limits = {
        (machine, found.device, found.dtype): found
        for machine in machines
        for found in best_limits([row for row in rows if row["machine"] == machine])
    }
    resident = {_gradient(row): row["peak_rss_bytes"] for row in rows if row["kind"] == "resident"}
    cells = []
    for (*of, _), group in timed.items():
        row = group[0]
        limit = limits.get((row["machine"], row["device"], row["dtype"]))
        cell = _summarize(group, timed.get((*of, "autodiff"), []), limit)
        if row["mode"] == "fwd_bwd":
            cell["peak_rss_bytes"] = resident.get(_gradient(row))
        cells.append(cell)
    engines: dict[tuple[Any, ...], list[Row]] = {}
    for cell in cells:
        engines.setdefault((*_cell(cell)[:-1], cell["engine"]), []).append(cell)
    for modes in engines.values():
        tell_moved_work(modes)
    failures: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["kind"] == "failure":  # The same in each of several processes is one.
            about = tuple(row[key] for key in ("op", "case", "dtype", "engine", "reason"))
            failures.setdefault(about, {**row, "status": "failed"})
    return pd.DataFrame([*cells, *failures.values()], columns=list(SUMMARY_COLUMNS))


def _gradient(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in (*CELL, "engine"))


def _cell(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in (*CELL, "mode"))


def with_split(rows: Iterable[Row]) -> list[Row]:
    """The timed rows, and for each engine with separate passes a row of mode `split`."""
    timed = [row for row in rows if row["kind"] == "time"]
    backward = {_repeated(row): row for row in timed if row["mode"] == "bwd"}
    split = []
    for row in timed:
        other = backward.get(_repeated(row))
        if row["mode"] == "fwd_res" and other:
            split.append(split_row(row, other))
    return timed + split


def _repeated(row: Row) -> tuple[Any, ...]:
    return (*_gradient(row), row["repetition"])


def split_row(forward: Row, backward: Row) -> Row:
    """The row of mode `split`, from those of fwd_res and bwd that were sampled in the same rounds."""
    passes = (forward, backward)
    both: Row = {name: forward[name] + backward[name] for name in ("lower_ms", "compile_ms", "first_call_us")}
    both |= {name: _merged(max, passes, name) for name in ("temp_bytes", "peak_bytes")}
    both |= {name: _merged(operator.add, passes, name) for name in ("xla_flops", "xla_bytes", "program")}
    both["samples_us"] = [a + b for a, b in zip(*(row["samples_us"] for row in passes), strict=False)]
    both["cores"] = [min(a, b) for a, b in zip(*(row["cores"] for row in passes), strict=False)]
    both["passes"] = [(row.get("program"), row["samples_us"]) for row in passes]
    return {**forward, **both, "mode": "split", "inner": min(row["inner"] for row in passes)}


def _merged(merge: Callable[[Any, Any], Any], passes: tuple[Row, Row], name: str) -> Any:
    a, b = (row.get(name) for row in passes)
    return None if a is None or b is None else merge(a, b)


def _side(row: Row) -> Side:
    return Side(row["samples_us"], row["cores"])


def timing(*rows: Row) -> Row:
    """The columns of a row's median time, or of what the rows of several processes say together."""
    found = [_timed(row) for row in rows]
    time = over_processes([median_interval(counted) for counted, _ in found])
    return {
        "processes": len(rows),
        "time_us": time.value,
        "time_us_low": time.low,
        "time_us_high": time.high,
        "rounds": sum(len(row["samples_us"]) for row in rows),
        "interrupted": _mean(interrupted for _, interrupted in found),
        "drift": max((drift(counted) for counted, _ in found), key=lambda change: np.nan_to_num(abs(change), nan=-1)),
        "outliers": _mean(outliers(counted) for counted, _ in found),
        "status": "ok",
        "reason": "",
        "verdict": "",
    }


def _timed(row: Row) -> tuple[np.ndarray, float]:
    """The samples of a row that count, and the share of its rounds that were interrupted."""
    samples, quiet = np.asarray(row["samples_us"]), _side(row).quiet
    return samples[quiet] if enough(quiet) else samples, float(np.mean(~quiet)) if row["cores"] else np.nan


def _mean(known: Iterable[float]) -> float:
    return float(pd.Series(list(known), dtype=float).mean())


def undisturbed(rows: Sequence[Row], baselines: Mapping[int, Row]) -> Sequence[Row]:
    """The rows of the processes that had enough quiet rounds, if these are enough; else all.

    `baselines` holds, by repetition, what was sampled in the same rounds.
    """
    pairs = [(_side(row), _side(baselines.get(row["repetition"], row))) for row in rows]
    known = np.array([enough(side.quiet & baseline.quiet) for side, baseline in pairs])
    return [row for row, counts in zip(rows, known, strict=True) if counts] if enough(known) else rows


def ratios(rows: Sequence[Row], baselines: Sequence[Row], *, paired: bool) -> list[tuple[Interval, bool]]:
    """What `side_ratio` says of each process and its own baseline."""
    return [side_ratio(*_sides(a, b, paired), paired=paired) for a, b in zip(rows, baselines, strict=True)]


def _sides(row: Row, baseline: Row, paired: bool) -> tuple[Side, Side]:
    """Both sides of a comparison, of `split` in the same rounds with one time for a pass that is one program on both.

    That is the mean of its two times in each round: what they differ by says nothing about the rule.
    """
    ours, theirs = _side(row), _side(baseline)
    passes = list(zip(row.get("passes", ()), baseline.get("passes", ()), strict=True))
    if not paired or not any(program and program == other for (program, _), (other, _) in passes):
        return ours, theirs
    totals = np.zeros((2, np.size(ours.samples)))
    for (program, mine), (other, its) in passes:
        times = np.array([mine, its])[:, : totals.shape[1]]
        totals += times.mean(0) if program and program == other else times
    return Side(totals[0], ours.cores), Side(totals[1], theirs.cores)


def comparison(rows: Sequence[Row], baselines: Sequence[Row], *, paired: bool) -> Row:
    """The columns of the ratio to a baseline, each process to its own; a verdict only where they shared the rounds.

    Where all processes ran one program against itself no ratio can tell more than where code and arrays lay.
    """
    found = ratios(rows, baselines, paired=paired)
    ratio = over_processes([ratio for ratio, _ in found])
    columns: Row = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
    row = rows[0]
    if paired and row["engine"] != baselines[0]["engine"]:
        floor = FLOOR_FACTOR * row["floor_us"] * (2 if row["mode"] == "split" else 1)
        says = verdict(ratio) if all(known for _, known in found) else "cannot say"
        columns["verdict"] = "dispatch" if timing(*rows)["time_us"] < floor else says
        if all(a.get("program") and a["program"] == b.get("program") for a, b in zip(rows, baselines, strict=True)):
            columns["verdict"] = "same program"
    return columns


def _summarize(rows: Sequence[Row], baselines: Sequence[Row], limits: Limits | None) -> Row:
    """The cell of what one process has timed, or several, each of them beside its own baseline."""
    waited = _mean(_timed(row)[1] for row in rows)
    of = {other["repetition"]: other for other in baselines}
    # Rules are sampled in the same rounds as autodiff; other engines are not.
    interleaved = rows[0]["interleaved"] and (rows[0]["engine"] == "autodiff" or rows[0]["engine"].startswith("rule:"))
    if interleaved:
        rows = undisturbed(rows, of)
    row, time = rows[0], {**timing(*rows), "interrupted": waited}
    forward, backward = _passes(row["mode"])
    flops = forward * row["flops_fwd"] + backward * row["flops_bwd"]
    # Each pass reads the arguments (or residuals) and writes its results, which are as large as what it is given.
    passes = (
        forward * (row["input_bytes"] + row["output_bytes"]),
        backward * (2 * row["input_bytes"] + row["output_bytes"]),
    )
    moved, footprint = sum(passes), max(passes)
    if row["mode"] in ("fwd_bwd", "summed"):
        moved -= row["input_bytes"]  # One executable reads them once.
        if row["mode"] == "summed":
            moved -= row["output_bytes"]  # The value is not written.
        footprint = moved
    reached = limits and limits.reached(flops, moved, footprint, time["time_us"] / 1e6, row["elementwise"])
    cell: Row = {
        **row,
        **time,
        "flops": flops,
        "gflops": flops / time["time_us"] / 1e3,
        "bytes": moved,
        "gbytes": moved / time["time_us"] / 1e3,
        "roofline": reached[0] if reached else math.nan,
        "bound": reached[1] if reached else "",
    }
    compared = [row for row in rows if row["repetition"] in of]
    if not compared:
        return cell
    return cell | comparison(compared, [of[row["repetition"]] for row in compared], paired=interleaved)


def tell_moved_work(cells: Sequence[Row]) -> None:
    """A pass is not faster by what the other one does in its place, unless both together are.

    `cells` holds the modes of one engine and case, as many as there are.
    """
    by_mode = {cell["mode"]: cell for cell in cells}
    for mode, other in (("fwd_res", "bwd"), ("bwd", "fwd_res")):
        said = tuple(by_mode.get(m, {}).get("verdict") for m in (mode, other, "split"))
        if said[:2] == ("faster", "slower") and said[2] != "faster":
            by_mode[mode]["verdict"] = "moved"


def _passes(mode: str) -> tuple[int, int]:
    return {"fwd": (1, 0), "fwd_res": (1, 0), "bwd": (0, 1), "fwd_bwd": (1, 1), "summed": (1, 1), "split": (1, 1)}[mode]


def shapes_text(shapes: str) -> str:
    """Shapes for people.

    >>> shapes_text("[[1797, 64], [64, 10], []]")
    '[1797, 64] [64, 10] []'
    """
    return " ".join(str(shape) for shape in json.loads(shapes))
