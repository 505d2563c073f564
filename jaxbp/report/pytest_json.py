"""A JSON of pytest-benchmark as a run: cells of this project as what they are, other benchmarks by their names."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.errors import ResultsError
from jaxbp.measure.machine import machine_name, processor
from jaxbp.measure.verdict import Interval, median_interval
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS, run_facts
from jaxbp.report.options import options_frame
from jaxbp.report.pairs import CELL
from jaxbp.report.run import EMPTY, Run, as_text, naming

Row = dict[str, Any]

#: Half the 95 % interval of a median, in interquartile ranges over the root of the samples (McGill, Tukey and Larsen).
NOTCH = 1.57


def read_pytest_json(path: Path) -> Run:
    """What `pytest --benchmark-json=FILE` wrote, or what `--benchmark-save` stored.

    A benchmark of another project is a row whose `op` is its full name, and whose `case`, `dtype`, `engine` and `mode`
    are empty. Where the file holds no samples, the interval of the median comes from the interquartile range. A ratio
    to autodiff is that of the medians: pytest-benchmark does not interleave.

    Raises:
        ResultsError: the file cannot be read, or is not of pytest-benchmark.
    """
    with naming(path, "read"):
        content = json.loads(path.read_text())
    try:
        machine = _machine(content)
        rows = [_row(benchmark) for benchmark in content["benchmarks"]]
        errors = [row for benchmark in content["benchmarks"] for row in benchmark["extra_info"].get("errors", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is not a JSON of pytest-benchmark: it lacks {error}.") from error
    facts = run_facts(machine)
    summary = pd.DataFrame([{**row, **facts} for row in _with_ratios(rows)], columns=list(SUMMARY_COLUMNS))
    accuracy = pd.DataFrame(errors, columns=list(ACCURACY_COLUMNS))
    accuracy = accuracy.drop_duplicates(["op", "case", "dtype", "engine", "quantity"])
    summary = summary.assign(**{name: as_text(summary[name]) for name in EMPTY})
    return Run(path, machine, summary, accuracy, options_frame([], {}))


def _machine(content: Mapping[str, Any]) -> Row:
    about = content["machine_info"]
    # What `bench/conftest.py` adds.
    if "jaxbp" in about:
        return {**about["jaxbp"], "started": content["datetime"], "level": "pytest"}
    cpu = about.get("cpu") or {}
    brand = cpu.get("brand_raw") or cpu.get("brand") or about.get("processor") or about["machine"]
    commit = content.get("commit_info") or {}
    known = commit.get("id") not in (None, "unversioned")
    return {
        "name": machine_name(processor({**cpu, "brand_raw": brand}), cpu.get("count") or 1),
        "commit": commit["id"][:12] + "+" * bool(commit.get("dirty")) if known else None,
        "versions": {"jax": "", "python": about["python_version"]},
        "started": content["datetime"],
        "level": "pytest",
    }


def _row(benchmark: Mapping[str, Any]) -> Row:
    told, found = benchmark["extra_info"], benchmark["stats"]
    named = {name: told[name] for name in CELL} if set(told).issuperset(CELL) else _foreign(benchmark["fullname"])
    time = _median(found)
    return {
        **{
            name: told.get(name, math.nan) for name in ("op_version", "n", "residual_bytes", "extrapolated", "floor_us")
        },
        **{name: told.get(name, "") for name in ("shapes", "device")},
        **named,
        "time_us": 1e6 * time.value,
        "time_us_low": 1e6 * time.low,
        "time_us_high": 1e6 * time.high,
        "rounds": found["rounds"],
        "inner": found.get("iterations", 1),
        "verdict": "",
        "status": "ok",
        "reason": "",
    }


def _foreign(name: str) -> Row:
    return {**dict.fromkeys(CELL, ""), "op": name}


def _median(found: Mapping[str, Any]) -> Interval:
    if found.get("data"):
        return median_interval(found["data"])
    half = NOTCH * found["iqr"] / math.sqrt(found["rounds"])
    # A time is positive, however few its samples.
    return Interval(found["median"], max(found["median"] - half, found["min"]), found["median"] + half)


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    baselines = {_case(row): row for row in rows if row["engine"] == "autodiff"}
    return [row | _ratio(row, baselines[_case(row)]) if _case(row) in baselines else row for row in rows]


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in CELL if name != "engine")


def _ratio(row: Row, baseline: Row) -> Row:
    value = row["time_us"] / baseline["time_us"]
    sides = () if row is baseline else (row, baseline)
    half = math.hypot(*(math.log(side["time_us_high"] / side["time_us_low"]) / 2 for side in sides))
    return {"ratio": value, "ratio_low": value * math.exp(-half), "ratio_high": value * math.exp(half)}
