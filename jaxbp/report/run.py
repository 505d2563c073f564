"""A run's folder: written from its journal, read back for reports; errors name the file."""

import contextlib
import dataclasses
import json
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

MACHINE = "machine.json"
SUMMARY = "summary.csv"
ACCURACY = "accuracy.csv"
SAMPLES = "samples.parquet"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder holds: the machine it ran on, and its frames."""

    folder: Path
    machine: dict[str, Any]
    summary: pd.DataFrame
    accuracy: pd.DataFrame


def write_machine(folder: Path, machine: dict[str, Any]) -> None:
    """Write `machine.json`."""
    with naming(folder / MACHINE, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MACHINE).write_text(json.dumps(machine, indent=2) + "\n")


def read_machine(folder: Path) -> dict[str, Any]:
    """Read `machine.json` back."""
    with naming(folder / MACHINE, "read"):
        return json.loads((folder / MACHINE).read_text())


def write_frames(folder: Path, rows: list[dict[str, Any]] | None = None) -> Run:
    """Write a run's frames from the given rows, its journal's by default, and return the run."""
    rows = latest(read_journal(folder) if rows is None else rows)
    facts = run_facts(read_machine(folder))
    summary, accuracy = summary_frame(rows, facts), accuracy_frame(rows, facts)
    with naming(folder / SUMMARY, "written"):
        summary.to_csv(folder / SUMMARY, index=False, float_format="%.6g")
    with naming(folder / ACCURACY, "written"):
        accuracy.to_csv(folder / ACCURACY, index=False, float_format="%.6g")
    with naming(folder / SAMPLES, "written"):
        samples_frame(rows).to_parquet(folder / SAMPLES)
    return read_run(folder)


def read_run(folder: Path) -> Run:
    """Read a run back from `machine.json`, `summary.csv` and `accuracy.csv`."""
    return Run(
        folder,
        read_machine(folder),
        _read_frame(folder / SUMMARY, list(SUMMARY_COLUMNS)),
        _read_frame(folder / ACCURACY, list(ACCURACY_COLUMNS)),
    )


def _read_frame(path: Path, columns: list[str]) -> pd.DataFrame:
    with naming(path, "read"):
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ResultsError(f"{path} is not a table of this version of jaxbp: it has no column {missing[0]!r}.")
    text = ("verdict", "reason")
    return frame.assign(**{name: frame[name].fillna("") for name in text if name in frame.columns})


@contextlib.contextmanager
def naming(path: Path, done: str) -> Iterator[None]:
    """Turn what can go wrong with a file into a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise ResultsError(f"{path} cannot be {done}: {error.strerror or error}.") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise ResultsError(f"{path} cannot be {done}: it is broken ({str(error).splitlines()[0]}).") from error
