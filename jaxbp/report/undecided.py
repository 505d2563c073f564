"""Which cases deserve another process: those whose default rule the processes so far leave undecided."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jaxbp.measure.plan import Task, find_op
from jaxbp.measure.verdict import goes_on
from jaxbp.report.frames import comparison, latest, ratios, undisturbed, with_split

Row = dict[str, Any]

#: What a default rule is judged by.
JUDGED = ("fwd_bwd", "split")


def one_process_more(tasks: Sequence[Task], rows: Sequence[Row], processes: int, most: int) -> list[Task]:
    """The tasks of one process more for the default rules that so many `processes` leave undecided; none after `most`.

    A case is undecided as long as `goes_on` says so of its `fwd_bwd` or its `split`, or as too few processes were quiet
    for a verdict. A process that fails counts as one.
    """
    timed: dict[tuple[str, ...], list[Row]] = {}
    done: dict[tuple[str, ...], int] = {}
    for row in with_split(latest(rows)):
        timed.setdefault(_case(row), []).append(row)
    for row in rows:
        if row["kind"] == "done" and row["owner"] == "jax":
            done[_case(row)] = max(done.get(_case(row), 0), row["repetition"] + 1)
    more = []
    for task in tasks:
        engines = (f"rule:{find_op(task.op).default_rule.name}", "autodiff")
        if task.owner != "jax" or task.repetition or not set(engines) <= set(task.engines):
            continue
        case = (task.op, task.case, task.dtype)
        cells = _cells(timed.get(case, []), *engines)
        if processes <= done.get(case, 0) < most and any(_is_undecided(pairs, processes) for pairs in cells):
            more.append(dataclasses.replace(task, engines=engines, repetition=done[case]))
    return sorted(more, key=lambda task: task.repetition)


def _case(row: Row) -> tuple[str, ...]:
    return row["op"], row["case"], row["dtype"]


def _cells(rows: Sequence[Row], rule: str, baseline: str) -> Iterator[list[tuple[Row, Row]]]:
    """By mode, the default rule's row of each process beside autodiff's."""
    of = {(row["engine"], row["mode"], row["repetition"]): row for row in rows}
    for mode in JUDGED:
        yield [
            (row, of[baseline, mode, repetition])
            for (engine, kind, repetition), row in of.items()
            if engine == rule and kind == mode and (baseline, mode, repetition) in of
        ]


def _is_undecided(pairs: Sequence[tuple[Row, Row]], processes: int) -> bool:
    baselines = {row["repetition"]: baseline for row, baseline in pairs}
    rows = undisturbed([row for row, _ in pairs], baselines)
    compared = [baselines[row["repetition"]] for row in rows]
    if not rows or comparison(rows, compared, paired=True)["verdict"] in ("dispatch", "same program"):
        return False
    found = ratios(rows, compared, paired=True)
    return goes_on([ratio for ratio, _ in found], processes) or not all(known for _, known in found)
