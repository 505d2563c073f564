"""`load_runs`: runs, folders of runs and JSON of pytest-benchmark as one long frame; and how each of them is read."""

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from jaxbp.errors import ResultsError
from jaxbp.measure.sweep import Journal
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS
from jaxbp.report.options import options_frame
from jaxbp.report.pytest_json import read_pytest_json
from jaxbp.report.run import ACCURACY, MACHINE, SUMMARY, Run, as_text, read_machine, read_table

#: The files by any of which a run is found: one that has lost some is to be told, and not passed over.
FILES = MACHINE, SUMMARY, ACCURACY
#: The ends of the intervals of the numbers that have one.
INTERVALS = {name: (f"{name}_low", f"{name}_high") for name in ("time_us", "ratio")}
_ENDS = {end for ends in INTERVALS.values() for end in ends}

_OF_CELLS = ("op", "op_version", "case", "shapes", "n", "dtype", "engine", "mode", "device")
#: What each column of the frame of `load_runs` holds: its dtype, and what it means.
LONG_COLUMNS = {
    "run": ("str", "the run: the name of its folder, or of the JSON"),
    "machine": ("str", SUMMARY_COLUMNS["machine"]),
    "started": ("datetime64[us, UTC]", "when it started"),
    "level": ("str", "how thorough it is: quick, standard, full, growth or pytest"),
    "commit": ("str", SUMMARY_COLUMNS["commit"]),
    "jax": ("str", SUMMARY_COLUMNS["jax"]),
    **{
        name: ("Int64" if name in ("op_version", "n") else "str", SUMMARY_COLUMNS[name])
        for name in _OF_CELLS
        if name != "mode"
    },
    "mode": ("str", f"{SUMMARY_COLUMNS['mode']}; empty for errors, which are those of fwd_bwd"),
    "quantity": ("str", f"of errors, {ACCURACY_COLUMNS['quantity']}; empty for what summary.csv holds"),
    "metric": (
        "str",
        "the name of a column of numbers of summary.csv or accuracy.csv, with its unit: time_us, max_ulp",
    ),
    "value": ("float64", "the number"),
    "low": ("float64", "of time_us and ratio, the lower end of the 95 % interval"),
    "high": ("float64", "the upper end of it"),
    "verdict": ("str", "of ratio, the verdict"),
}

#: Columns that are no numbers to tabulate.
_TEXTS = (*_OF_CELLS, "quantity", "verdict", "residuals", "bound", "status", "reason", "environment", "precision")
_TEXTS += ("async_dispatch", "machine", "commit", "jax", "worst_index", "program")
#: The metrics: of `summary.csv`, and of `accuracy.csv`.
CELL_METRICS = tuple(name for name in SUMMARY_COLUMNS if name not in _TEXTS and name not in _ENDS)
ERROR_METRICS = tuple(name for name in ACCURACY_COLUMNS if name not in _TEXTS)


def load_runs(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Runs as one long frame: a row for each number of each cell, for tables and pictures of your own.

    Args:
        *paths: folders of runs, folders that hold such folders, as `results`, and JSON files of pytest-benchmark.

    Returns:
        A frame with the columns of `jaxbp.report.load.LONG_COLUMNS`. What a cell has no number of has no row, and
        neither have failed cells.

    Raises:
        ResultsError: none of them could be read; the text names the file. Where others could, it is a warning.

    >>> errors = load_runs("results").query("metric == 'max_ulp' and engine == 'rule:stable' and op == 'sigmoid'")
    >>> bool((errors["value"] < 8).all())
    True
    """
    runs, problems = read_all(map(Path, paths))
    if not runs:
        raise problems[0] if problems else ResultsError("load_runs was given no path; give the folder of a run.")
    for problem in problems:
        warnings.warn(str(problem), stacklevel=2)
    return pd.concat([long_frame(run) for run in runs], ignore_index=True)


def read_all(paths: Iterable[Path]) -> tuple[list[Run], list[ResultsError]]:
    """All runs at these paths, in their order, and what could not be read of them."""
    runs, problems = [], []
    for path in paths:
        try:
            found = find_runs(path)
        except ResultsError as error:
            problems.append(error)
            continue
        for place in found:
            try:
                run, missing = read_whatever(place)
                runs.append(run)
                problems += missing
            except ResultsError as error:
                problems.append(error)
    return runs, problems


def find_runs(path: Path) -> list[Path]:
    """The path, if it is a run or a file; else the runs in that folder, by machine and time."""
    if not path.exists():
        raise ResultsError(f"{path} does not exist; give the folder of a run, a folder of runs, or a JSON.")
    if path.is_file() or (path / MACHINE).exists() or is_run(path):
        return [path]
    found = sorted({file.parent for name in FILES for file in path.rglob(name) if is_run(file.parent)})
    if not found:
        raise ResultsError(f"{path} holds no run: a run is a folder with {', '.join(FILES[:-1])} and {FILES[-1]}.")
    return found


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, broken or not; the records of other commands have a `summary.csv`, too."""
    if _is_training(folder):
        return False
    if any((folder / name).exists() for name in (ACCURACY, Journal.NAME)):
        return True
    summary = folder / SUMMARY
    return summary.is_file() and summary.read_text(errors="replace").startswith("op,op_version,")


def _is_training(folder: Path) -> bool:
    """Whether `jaxbp train` wrote it, which has a journal as well."""
    try:
        return "training" in json.loads((folder / MACHINE).read_text())
    except (OSError, ValueError):
        return False


def read_whatever(path: Path) -> tuple[Run, list[ResultsError]]:
    """A run's folder or a JSON of pytest-benchmark; a table that cannot be read is left empty, and its error returned.

    Raises:
        ResultsError: nothing of it can be read.
    """
    if path.is_file():
        return read_pytest_json(path), []
    machine = read_machine(path)
    problems = []

    def table(name: str, columns: dict[str, str]) -> pd.DataFrame:
        try:
            return read_table(path / name, list(columns))
        except ResultsError as error:
            problems.append(error)
            return pd.DataFrame(columns=list(columns))

    run = Run(path, machine, table(SUMMARY, SUMMARY_COLUMNS), table(ACCURACY, ACCURACY_COLUMNS), options_frame([], {}))
    if len(problems) == 2:
        raise problems[0]
    return run, problems


def long_frame(run: Run) -> pd.DataFrame:
    """One run as `load_runs` returns it."""
    facts = {"run": run.folder.name, "level": run.machine["level"], "started": run.machine["started"]}
    facts |= {"machine": run.machine["name"], "commit": run.machine["commit"], "jax": run.machine["versions"]["jax"]}
    cells = run.summary[run.summary["status"] == "ok"].assign(quantity="")
    errors = run.accuracy.assign(mode="")
    parts = [_melted(cells, name, *INTERVALS.get(name, ())) for name in CELL_METRICS]
    parts += [_melted(errors, name) for name in ERROR_METRICS]
    frame = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True).assign(**facts)
    frame["started"] = pd.to_datetime(frame["started"], utc=True)
    texts = {name: as_text(frame[name]) for name, (dtype, _) in LONG_COLUMNS.items() if dtype == "str"}
    dtypes = {name: dtype for name, (dtype, _) in LONG_COLUMNS.items()}
    return frame.assign(**texts)[list(LONG_COLUMNS)].astype(dtypes)


def _melted(frame: pd.DataFrame, metric: str, low: str = "", high: str = "") -> pd.DataFrame:
    """The cells that have a number in a column, with it and its interval."""
    numbers = {"value": frame[metric], "low": frame[low] if low else float("nan")}
    numbers |= {"high": frame[high] if high else float("nan")}
    verdict = frame["verdict"] if metric == "ratio" else ""
    told = frame.reindex(columns=[*_OF_CELLS, "quantity"])
    return told.assign(metric=metric, **numbers, verdict=verdict)[frame[metric].notna()]
