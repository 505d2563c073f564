"""Which cases get further processes, and when they stop."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from synthetic import FACTS, time_row

from jaxbp.measure.plan import Task
from jaxbp.report.frames import summary_frame
from jaxbp.report.undecided import one_process_more

RULE = "rule:swap"
TASK = Task("multiply", "small", "float32", "jax", ("autodiff", RULE, "rule:other"), "quick")


def process(repetition, ratio, *, mode="fwd_bwd", cores=1.0, **changes):
    """What one process leaves in the journal: rounds that hardly differ."""
    us = 100.0 * np.linspace(0.9999, 1.0001, 9)
    for engine, factor in (("autodiff", 1.0), (RULE, ratio)):
        yield time_row(mode, factor * us, engine=engine, repetition=repetition, cores=[cores] * 9, **changes)
    yield {**TASK.to_json(), "repetition": repetition, "kind": "done"}


def journal(*ratios, **changes):
    return [row for i, ratio in enumerate(ratios) for row in process(i, ratio, **changes)]


def asked(rows, processes=3, most=6, tasks=(TASK,)):
    return [(task.op, task.repetition, task.engines) for task in one_process_more(tasks, rows, processes, most)]


def cell_of(rows) -> Any:
    """The summary of the default rule's value and gradient."""
    return summary_frame(rows, FACTS).set_index(["engine", "mode"]).loc[(RULE, "fwd_bwd")]


NEXT = [("multiply", 3, (RULE, "autodiff"))]
OPEN = (0.95, 1.05, 1.0)


def test_what_cannot_be_said_is_timed_in_one_process_more_of_the_default_rule():
    assert asked(journal(*OPEN)) == NEXT


def test_what_has_a_verdict_or_a_narrow_interval_is_not():
    assert asked(journal(0.5, 0.6, 0.55)) == []
    assert asked(journal(0.999, 1.0, 1.001)) == []
    # No verdict, but known to the margin: no number of processes may ever decide it.
    assert asked(journal(0.979, 0.98, 0.981)) == []
    assert asked(journal(*OPEN, program="the same")) == []
    # A call that costs no more than calls do gets no verdict from any number.
    assert asked(journal(*OPEN, floor_us=1000.0)) == []


def test_both_passes_apart_count_as_well():
    forward, backward = (journal(*OPEN, mode=mode) for mode in ("fwd_res", "bwd"))
    assert asked(journal(0.5, 0.5, 0.5) + forward + backward) == NEXT


def test_the_width_ends_it_and_not_the_verdict():
    """After the first three a lucky verdict does not stop it, nor an unlucky one that there is none."""
    told = journal(0.7, 1.05, 0.9, *[0.9] * 5)
    assert cell_of(told)["ratio_high"] < 0.98
    assert asked(told, most=9) == [("multiply", 8, (RULE, "autodiff"))]
    assert asked(journal(*OPEN, *[1.0] * 30), most=99) == []


def test_no_more_than_the_most_and_not_before_all_have_theirs():
    assert asked(journal(*OPEN), most=3) == []
    assert asked(journal(*OPEN), processes=4) == []
    assert asked([]) == []


def test_a_process_that_fails_counts():
    """Or the run would never end."""
    failed = {**TASK.to_json(), "repetition": 3, "kind": "done"}
    assert asked([*journal(*OPEN), failed], most=5) == [("multiply", 4, (RULE, "autodiff"))]
    assert asked([*journal(*OPEN), failed], most=4) == []


def test_those_behind_come_first():
    """As where a run was stopped between them: each process is one for all its tasks."""
    other = dataclasses.replace(TASK, case="cache")
    ahead = [{**row, "case": "cache"} for row in journal(*OPEN, 1.1)]
    assert asked([*journal(*OPEN), *ahead], tasks=(other, TASK)) == [
        ("multiply", 3, (RULE, "autodiff")),
        ("multiply", 4, (RULE, "autodiff")),
    ]


def test_a_process_without_quiet_rounds_is_made_up_for():
    """Five with quiet rounds give a verdict without it, as the column `processes` says."""
    noisy = list(process(4, 0.9, cores=0.5))
    rows = journal(*[0.9] * 4)
    assert asked([*rows, *noisy], processes=5) == [("multiply", 5, (RULE, "autodiff"))]
    cell = cell_of([*rows, *noisy, *process(5, 0.9)])
    assert (cell["verdict"], cell["processes"]) == ("faster", 5)
    assert cell["interrupted"] == pytest.approx(1 / 6)
    assert asked([*rows, *noisy, *process(5, 0.9)], processes=5) == []


def test_only_the_tasks_of_the_plan_are_asked_for():
    rows = journal(*OPEN)
    others = [
        Task("multiply", "small", "float32", "numpy", ("numpy",), "quick"),
        Task("multiply", "small", "float32", "jax", ("autodiff", RULE), "quick", repetition=1),
        Task("multiply", "cache", "float32", "jax", ("autodiff", RULE), "quick"),
    ]
    assert asked(rows, tasks=others) == []
