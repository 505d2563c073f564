"""The README's tables: worst errors over all floats from the censuses, and the newest run of the standard level."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxbp.errors import ResultsError
from jaxbp.measure.limits import Limits
from jaxbp.measure.machine import allocator_of, computer
from jaxbp.report import resources
from jaxbp.report.census import comparison, read_records
from jaxbp.report.markdown import standing, table
from jaxbp.report.run import MACHINE, read_run
from jaxbp.report.tables import processes

DTYPE = "float32"


def newest_run(results: Path, level: str = "standard") -> Path:
    """The folder of the newest run of all ops at that level, on a machine without an accelerator."""
    for folder, machine in _runs(results, level):
        asked = machine.get("request", {})
        if not (asked.get("ops") or asked.get("cases") or machine.get("accelerators")):
            return folder
    raise ResultsError(f"There is no run of all ops at level {level} under {results}.")


def newest_of_case(results: Path, case: str, ops: Collection[str], allocator: str = "kept") -> Path:
    """The folder of the newest run that was asked for this case of these ops, on a machine without an accelerator."""
    for folder, machine in _runs(results, "standard", allocator):
        asked = machine.get("request", {})
        if case in asked.get("cases", ()) and set(ops) <= set(asked["ops"] or ops) and not machine.get("accelerators"):
            return folder
    setting = "" if allocator == "kept" else f" --allocator {allocator}"
    raise ResultsError(
        f"There is no run of case {case} of {', '.join(ops)} under {results}; "
        f"jaxbp bench --cases {case} --ops {','.join(ops)}{setting} makes one."
    )


def newest_with_accelerators(results: Path) -> dict[Path, list[str]]:
    """The runs at level standard on machines with an accelerator, newest first, each with the ops that none newer has.

    Such machines are lent for minutes: a run there may be of some ops alone.
    """
    runs = [folder for folder, machine in _runs(results, "standard") if machine.get("accelerators")]
    if not runs:
        raise ResultsError(f"There is no run with an accelerator under {results}.")
    return _ops_of_each(runs)


def newest_at_level(results: Path, level: str) -> dict[Path, list[str]]:
    """Likewise the runs at that level on machines without one, for levels that take too long for all ops each time."""
    runs = [folder for folder, machine in _runs(results, level) if not machine.get("accelerators")]
    if not runs:
        raise ResultsError(f"There is no run at level {level} under {results}; jaxbp bench --{level} makes one.")
    return _ops_of_each(runs)


def _ops_of_each(runs: list[Path]) -> dict[Path, list[str]]:
    """The runs that have ops which none before them has, each with these."""
    found: dict[Path, list[str]] = {}
    for folder in runs:
        known = {op for ops in found.values() for op in ops}
        if ops := [str(op) for op in read_run(folder).summary["op"].unique() if op not in known]:
            found[folder] = ops
    return found


def _runs(results: Path, level: str, allocator: str = "kept") -> list[tuple[Path, dict[str, Any]]]:
    """All runs at a level that allocate so, with what is known of their machines, newest first."""
    machines = [(path.parent, json.loads(path.read_text())) for path in results.glob(f"*/*/{MACHINE}")]
    runs = [pair for pair in machines if pair[1].get("level") == level and allocator_of(pair[1]) == allocator]
    return sorted(runs, key=lambda run: run[1]["started"], reverse=True)


def readme_census(results: Path, dtype: str = DTYPE, *, whole: bool = False) -> str:
    """The table of worst errors over all floats, and where it comes from, as Markdown; `whole` leaves samples out."""
    records = [record for record in read_records(results) if record["dtype"] == dtype]
    records = [record for record in records if not whole or record["inputs"] != "a sample"]
    if not records:
        raise ResultsError(f"There is no census of {dtype} under {results}; jaxbp census OP makes one.")
    machines = sorted({computer(r["machine"]) for r in records})
    dates = sorted({record["machine"]["started"][:10] for record in records})
    versions = sorted(
        {", ".join(f"{k} {r['machine']['versions'].get(k, 'absent')}" for k in ("jax", "torch")) for r in records}
    )
    commits = sorted({record["machine"]["commit"] for record in records})
    swept = sorted({f"{record['inputs']} of {dtype}".replace("every float of", "every") for record in records})
    where = (
        f"Largest error of the gradient in ULP for the cotangent 1; {' or '.join(swept)}. Measured "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {'; '.join(machines)}, {'; '.join(versions)}, "
        f"commit {', '.join(commits)}."
    )
    return "\n\n".join((where, table(comparison(records, dtype))))


def readme_results(results: Path) -> str:
    """Picture, table and where they come from, as Markdown."""
    folder = newest_run(results)
    return "\n\n".join(
        (
            f"![Gradient error against time, one panel per op]({folder}/report-{DTYPE}-error-against-time.png)",
            f"{where(folder)} The [whole report]({folder}/report.md) has all engines and sizes.",
            measured(folder),
        )
    )


def measured(folder: Path, ops: Collection[str] = ()) -> str:
    """The rules of these ops, or of all, against autodiff in a run, as Markdown."""
    run = read_run(folder)
    summary, accuracy = (frame[frame["op"].isin(ops)] if ops else frame for frame in (run.summary, run.accuracy))
    if summary.empty:
        return "The run has none of these ops."
    return standing(summary, accuracy, DTYPE)


def memory(folder: Path, ops: Collection[str]) -> str:
    """What these ops keep and allocate in a run, as Markdown."""
    summary = read_run(folder).summary
    return table(resources.memory(summary[summary["op"].isin(ops)], DTYPE))


def reached(folder: Path, ops: Collection[str], case: str) -> str:
    """What each engine reaches of the physical limit in both passes of these ops at a case of a run, as Markdown."""
    run = read_run(folder)
    limits = "; ".join(resources.limit(Limits(**found)) for found in run.machine["limits"])
    shares = resources.engine_roofline(run.summary[run.summary["op"].isin(ops)], case, DTYPE)
    return f"Percent of the physical limit in both passes at once. The limit: {limits}.\n\n{table(shares)}"


def where(folder: Path) -> str:
    """Where the numbers of a run come from, in sentences."""
    run = read_run(folder)
    machine, several = run.machine, processes(run.summary)
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("jax", "numpy"))
    together = f" Rules and autodiff were timed in {several} processes, one after the other." if several else ""
    memory = " With the C library's own allocator." if allocator_of(machine) == "system" else ""
    early = " It was stopped early, and has not all ops." if machine.get("unfinished") else ""
    return (
        f"Measured {machine['started'][:10]} on {computer(machine)}, {versions}, "
        f"commit {machine['commit']}; {DTYPE}, each op at its largest case.{together}{memory}{early}"
    )
