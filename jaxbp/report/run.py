"""A run's folder: written from its journal, read back for reports; errors name the file."""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.errors import ResultsError
from jaxbp.measure.sweep import read_journal
from jaxbp.report.frames import (
    ACCURACY_COLUMNS,
    SUMMARY_COLUMNS,
    accuracy_frame,
    latest,
    run_facts,
    samples_frame,
    summary_frame,
)
from jaxbp.report.header import facts, sentence
from jaxbp.report.options import OPTION_COLUMNS, options_frame

MACHINE = "machine.json"
#: What the report and the tables cannot do without.
MACHINE_FACTS = {
    *("name", "cpu", "architecture", "cores", "memory_bytes", "system", "python", "versions", "commit", "noise"),
    *("started", "level"),
}
SUMMARY = "summary.csv"
ACCURACY = "accuracy.csv"
SAMPLES = "samples.parquet"
#: Where a run looked at options of the compiler.
OPTIONS = "options.csv"

#: The columns that hold text. Pandas would read a commit of digits as a number, and an empty column as one of NaN.
TEXT = (
    *("op", "case", "shapes", "dtype", "engine", "mode", "device", "verdict", "status", "reason", "environment"),
    *(
        "precision",
        "async_dispatch",
        "machine",
        "commit",
        "jax",
        "quantity",
        "worst_index",
        "residuals",
        "bound",
        "program",
        "option",
        "same_results",
    ),
)

#: Of these, the columns whose empty cells are an empty text.
EMPTY = ("verdict", "reason", "bound")

#: The columns that the tables of earlier versions lack: nothing of this was measured.
LATER = (
    "processes",
    "interrupted",
    "drift",
    "outliers",
    "residuals",
    "temp_bytes",
    "peak_bytes",
    "peak_rss_bytes",
    "roofline",
    "bound",
    "xla_flops",
    "xla_bytes",
    "program",
    "product_bits",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder holds: the machine it ran on, and its frames."""

    folder: Path
    machine: dict[str, Any]
    summary: pd.DataFrame
    accuracy: pd.DataFrame
    options: pd.DataFrame

    def facts(self) -> dict[str, str]:
        """What a reader has to know of it, by name."""
        return facts(self.machine, self.summary)

    def __str__(self) -> str:
        return sentence(self.machine, self.summary)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from jaxbp.report.html.notebook import run_html  # It reads runs, as this does.

        return run_html(self)


def write_machine(folder: Path, machine: dict[str, Any]) -> None:
    """Write `machine.json`."""
    with naming(folder / MACHINE, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MACHINE).write_text(json.dumps(machine, indent=2) + "\n")


def newest_record(results: Path, kind: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest of the records `results/<kind>/<machine>/`, and its machine; None if there is none.

    `kind` may be a pattern, as `training/*` for the runs of every machine.
    """
    records = {path.parent: json.loads(path.read_text()) for path in results.glob(f"{kind}/*/{MACHINE}")}
    return max(records.items(), key=lambda record: record[1]["started"]) if records else None


def read_machine(folder: Path) -> dict[str, Any]:
    """Read `machine.json` back."""
    with naming(folder / MACHINE, "read"):
        machine = json.loads((folder / MACHINE).read_text())
        missing = MACHINE_FACTS - set(machine) if isinstance(machine, dict) else MACHINE_FACTS
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return machine


def write_frames(folder: Path, rows: list[dict[str, Any]] | None = None) -> Run:
    """Write a run's frames from the given rows, its journal's by default, and return the run."""
    rows = latest(read_journal(folder) if rows is None else rows)
    facts = run_facts(read_machine(folder))
    summary, accuracy = summary_frame(rows, facts), accuracy_frame(rows, facts)
    with naming(folder / SUMMARY, "written"):
        summary.to_csv(folder / SUMMARY, index=False, float_format="%.6g")
    with naming(folder / ACCURACY, "written"):
        accuracy.to_csv(folder / ACCURACY, index=False, float_format="%.6g")
    options = options_frame(rows, facts)
    if len(options):
        with naming(folder / OPTIONS, "written"):
            options.to_csv(folder / OPTIONS, index=False, float_format="%.6g")
    with naming(folder / SAMPLES, "written"):
        samples_frame(rows).to_parquet(folder / SAMPLES)
    return read_run(folder)


def read_run(folder: Path) -> Run:
    """Read a run back from `machine.json`, `summary.csv`, `accuracy.csv` and, if it is there, `options.csv`."""
    options = folder / OPTIONS
    return Run(
        folder,
        read_machine(folder),
        read_table(folder / SUMMARY, list(SUMMARY_COLUMNS)),
        read_table(folder / ACCURACY, list(ACCURACY_COLUMNS)),
        read_table(options, list(OPTION_COLUMNS)) if options.exists() else options_frame([], {}),
    )


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a table of a run back, with the dtypes of its columns set."""
    with naming(path, "read"):
        content = path.read_text()
        frame = pd.read_csv(io.StringIO(content), keep_default_na=False, na_values=[""], dtype=dict.fromkeys(TEXT, str))
        # Pandas fills a row that was cut off with NaN.
        if not content.endswith("\n"):
            raise ValueError("its last line is cut off")
    later = [name for name in LATER if name in columns and name not in frame.columns]
    frame = frame.assign(**{name: "" if name in EMPTY else math.nan for name in later})
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ResultsError(f"{path} is not a table of this version of jaxbp: it has no column {missing[0]!r}.")
    for name in columns:
        if len(frame) and name not in TEXT and not pd.api.types.is_numeric_dtype(frame[name]):
            raise ResultsError(f"{path} cannot be read: its column {name!r} does not hold numbers alone.")
    return frame.assign(**{name: frame[name].fillna("") for name in EMPTY if name in frame.columns})


def as_text(column: pd.Series) -> pd.Series:
    """A column as text; what is missing is empty.

    >>> as_text(pd.Series(["a", None, float("nan")])).tolist()
    ['a', '', '']
    """
    return column.astype(object).where(column.notna(), "").astype(str)


@contextlib.contextmanager
def naming(path: Path, done: str) -> Iterator[None]:
    """Turn what can go wrong with a file into a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"{path} cannot be {done}: {error.strerror or error}.") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise ResultsError(f"{path} cannot be {done}: it is broken ({str(error).splitlines()[0]}).") from error
