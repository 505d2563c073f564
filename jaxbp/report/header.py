"""What was measured where: a run in a sentence, and the facts that its reports begin with."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from jaxbp.measure.limits import Limits
from jaxbp.measure.machine import allocator_of
from jaxbp.measure.verdict import MARGIN
from jaxbp.report import resources, steadiness, tables
from jaxbp.report.tables import failures, size, unique

#: Engines in a sentence.
SAID = {
    "forward_difference": "forward differences",
    "central_difference": "central differences",
    "numpy": "NumPy",
    "torch": "torch",
}


def sentence(machine: dict[str, Any], summary: pd.DataFrame) -> str:
    """What was measured, where and when, and what became of it.

    >>> machine = {"cpu": "AMD EPYC", "cores": 2, "memory_bytes": 2**34, "started": "2024-11-23T00:00:00Z",
    ...            "versions": {"jax": "0.10.2"}, "noise": {"verdict": "quiet"}}
    >>> cell = {"op": "exp", "case": "small", "dtype": "float32", "engine": "rule:output", "status": "ok", "reason": ""}
    >>> print(sentence(machine, pd.DataFrame([cell, {**cell, "engine": "autodiff"}])))
    The hand-written gradients of 1 op in float32, against autodiff: 2 cells measured on AMD EPYC (2 cores, 16 GiB),
    2024-11-23, with jax 0.10.2. Nothing failed. The machine was quiet before the run.
    """
    ops = summary["op"].nunique()
    engines = [str(name) for name in unique(summary["engine"])]
    others = [SAID.get(name, name) for name in engines if not name.startswith("rule:")]
    against = f", against {_listed(others)}" if others else ""
    dtypes = f" in {_listed(unique(summary['dtype'].dropna()))}" if ops else ""
    failed, left = len(failures(summary)), machine.get("unfinished")
    beside = f" with {machine['accelerators']}" if machine.get("accelerators") else ""
    where = f"{machine['cpu']} ({_counted(machine['cores'], 'core')}, {size(machine['memory_bytes'])}){beside}"
    when = f"{machine['started'][:10]}, with jax {machine['versions']['jax']}"
    measured = f"{_counted(len(summary) - failed, 'cell')} measured on {where}, {when}."
    sentences = [
        f"The hand-written gradients of {_counted(ops, 'op')}{dtypes}{against}: {measured}",
        f"{_counted(failed, 'engine')} of some case failed." if failed else "Nothing failed.",
    ]
    if left:
        sentences.append(f"It was stopped early: {_counted(left, 'task')} were not measured.")
    return " ".join([*sentences, f"The machine was {machine['noise']['verdict']} before the run."])


#: What is said of each way to allocate.
_ALLOCATOR = {
    "kept": "glibc keeps freed memory (MALLOC_* in each row's environment); with its defaults, calls that return large "
    "fresh arrays take several times longer",
    "system": "the C library's own, which gives large arrays back to the system: a call pays for the pages of all that "
    "it allocates, as in a program that sets nothing",
}


def facts(machine: dict[str, Any], summary: pd.DataFrame) -> dict[str, str]:
    """What a reader has to know of a run, by name."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    noise = machine["noise"]
    floors = summary.drop_duplicates("device")
    found = {
        "Machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']} {machine['architecture']}",
        "Devices": ", ".join(str(device) for device in floors["device"].dropna()),
        "Started": f"{machine['started']}, level {machine['level']}",
        "Versions": f"Python {machine['python']}, {versions}",
        **_processes(machine, summary),
        "Commit": machine["commit"] or "not run from a git checkout",
        "Noise before the run": f"{noise['verdict']}: load {noise['load']:.1f} per core, spread of a fixed "
        f"computation {100 * noise['spread']:.0f} %",
        "Steadiness": steadiness.sentence(summary, machine.get("noise_after")),
        **_against_itself(summary),
        "Dispatch floor": ", ".join(f"{engine} {floor:.1f} µs" for engine, floor in _floors(summary)),
        "Physical limit": "; ".join(resources.limit(Limits(**found)) for found in machine.get("limits", ()))
        or f"{tables.UNKNOWN}: not measured in this run",
        "Allocator": _ALLOCATOR[allocator_of(machine)],
    }
    if machine.get("unfinished"):
        return {"Stopped early": f"{machine['unfinished']} tasks were not measured and are missing here", **found}
    return found


def _processes(machine: dict[str, Any], summary: pd.DataFrame) -> dict[str, str]:
    several, request = tables.processes(summary), machine.get("request", {})
    if not several:
        return {}
    told = (
        f"{several}, one after the other, timed rules and autodiff: a ratio is the geometric mean of theirs, and its "
        "interval is Student's over them"
    )
    if request.get("most_processes", 1) > request.get("processes", 1):
        told += (
            f"; where {request['processes']} left a default rule undecided, more did, {request['most_processes']} at "
            f"most, until its interval reached no further than {MARGIN:.0%}"
        )
    return {"Processes": told}


def of_one_program(summary: pd.DataFrame) -> pd.DataFrame:
    """The cells whose ratio is 1 for certain, since a rule and autodiff are one program.

    Without those of `split`: there a pass that is one program has one time.
    """
    return summary[(summary["verdict"] == "same program") & (summary["mode"] != "split")]


def holds_one(cells: pd.DataFrame) -> pd.Series:
    """Whether the interval of each cell's ratio holds 1."""
    return (cells["ratio_low"] <= 1) & (cells["ratio_high"] >= 1)


def _against_itself(summary: pd.DataFrame) -> dict[str, str]:
    """What the intervals say where the ratio is 1 for certain."""
    cells = of_one_program(summary)
    if cells.empty:
        return {}
    right = int(holds_one(cells).sum())
    return {
        "Intervals": f"in {len(cells)} cells a rule and autodiff are one program, so that the ratio is 1: {right} of "
        f"the intervals hold it, {100 * right / len(cells):.0f} %, where 95 % should"
    }


def _floors(summary: pd.DataFrame) -> Iterator[tuple[str, float]]:
    for owner, engine in (("JAX", "autodiff"), ("NumPy", "numpy"), ("torch", "torch")):
        floors = summary.loc[(summary["engine"] == engine) & summary["floor_us"].notna(), "floor_us"]
        if len(floors):
            yield owner, float(floors.median())


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
