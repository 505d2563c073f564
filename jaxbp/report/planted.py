"""What `compare` finds of a slowdown that is planted into a real run, one rule at a time."""

import dataclasses
import json
from pathlib import Path

import pandas as pd

from jaxbp.measure.verdict import MARGIN
from jaxbp.report.compare import compare_runs
from jaxbp.report.markdown import table
from jaxbp.report.run import MACHINE, SUMMARY, Run, read_run

#: What a slower rule changes in a run's summary.
TIMES = ("time_us", "time_us_low", "time_us_high", "ratio", "ratio_low", "ratio_high")
#: The slowdowns that the documentation shows.
PLANTED = (1.0, 1.05, 1.1, 1.25)


def slowed(run: Run, op: str, factor: float) -> Run:
    """The run as it would be if the rules of an op had taken `factor` times as long."""
    of_rule = (run.summary["op"] == op) & run.summary["engine"].str.startswith("rule:")
    summary = run.summary.assign(
        **{name: run.summary[name].where(~of_rule, run.summary[name] * factor) for name in TIMES if name in run.summary}
    )
    return dataclasses.replace(run, summary=summary)


def planted(base: Run, run: Run, factor: float, margin: float = MARGIN) -> pd.DataFrame:
    """One row per op with a rule's ratios in both runs: whether it is found slower, and who else is.

    Columns: `op`, `found`, and `accused`, the other ops that the comparison calls slower or less accurate.
    """
    compared = compare_runs(base, run, margin=margin)
    rows = []
    for op in dict.fromkeys(compared.loc[compared["measure"] == "ratio", "op"]):
        changes = compare_runs(base, slowed(run, op, factor), margin=margin)
        named = set(changes.loc[changes["regression"], "op"])
        rows.append({"op": op, "found": op in named, "accused": ", ".join(sorted(named - {op}))})
    return pd.DataFrame(rows, columns=["op", "found", "accused"])


def pairs_of_runs(results: Path, level: str) -> list[tuple[Path, Path]]:
    """Of each machine the two newest runs of the same code and ops at that level."""
    groups: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    for path in results.glob(f"*/*/{MACHINE}"):
        machine = json.loads(path.read_text())
        if machine.get("level") == level and (path.parent / SUMMARY).exists():
            key = (machine["name"], machine["commit"], str(machine.get("request")))
            groups.setdefault(key, []).append((machine["started"], path.parent))
    newest: dict[str, tuple[str, Path, Path]] = {}
    for (name, *_), found in groups.items():
        if len(found) > 1:
            (_, before), (started, after) = sorted(found)[-2:]
            newest[name] = max(newest.get(name, ("", before, after)), (started, before, after))
    return [(before, after) for _, before, after in newest.values()]


def recorded_planted(results: Path, level: str = "full") -> str:
    """A table of what is found in each of `pairs_of_runs`, as Markdown; a slowdown of 1 plants nothing."""
    rows = []
    for folders in pairs_of_runs(results, level):
        base, run = map(read_run, folders)
        for factor in PLANTED:
            found = planted(base, run, factor)
            rows.append(
                {
                    "planted": "nothing" if factor == 1 else f"{100 * (factor - 1):.0f} %",
                    "found": f"{found['found'].sum()} of {len(found)}",
                    "others accused": int((found["accused"] != "").sum()),
                    "measured": f"{run.machine['started'][:10]}, {run.machine['cpu']}, commit {run.machine['commit']}",
                }
            )
    return table(pd.DataFrame(rows))
