"""The tables of memory and work: what is known from its own cell, what is not known as n/a and never as 0."""

import json
from typing import Any

import pandas as pd
from synthetic import FACTS, RESIDUAL, Row, about, limits_row, time_row

from jaxbp.report import resources
from jaxbp.report.frames import summary_frame

LINE = {**RESIDUAL, "where": "ops.py:7 (f)"}


def rivals(**changes: Any) -> list[Row]:
    """The default rule of the sigmoid and autodiff, in two modes."""
    rows = []
    for engine, residuals in (("rule:stable", []), ("autodiff", [RESIDUAL, LINE, LINE])):
        at = {"op": "sigmoid", "engine": engine, **changes}
        kept = {"residual_bytes": 4096 * len(residuals), "residuals": json.dumps(residuals)}
        rows += [time_row("fwd_res", **{**at, **kept, **changes}), time_row("fwd_bwd", temp_bytes=0, **at)]
    return rows


def table(frame: pd.DataFrame) -> list[list[str]]:
    return frame.to_numpy().tolist()


def test_memory_of_the_rule_stands_above_that_of_autodiff():
    rows = rivals()
    # Of another case, another engine and another dtype nothing is shown.
    rows += rivals(case="tiny", n=4, peak_bytes=7) + rivals(dtype="float64", peak_bytes=7)
    rows.append(time_row(op="sigmoid", engine="rule:textbook", peak_bytes=7))
    frame = resources.memory(summary_frame(rows, FACTS), "float32")
    assert list(frame.columns) == ["op", "case", "engine", "kept", "arrays kept", "temporary", "peak"]
    assert table(frame) == [
        ["sigmoid", "small", "rule:stable", "0", "none", "0", "16 KiB"],
        ["sigmoid", "small", "autodiff", "12 KiB", "output, 2 of ops.py:7 (f)", "0", "16 KiB"],
    ]


def test_a_peak_resident_set_has_its_column_where_one_was_measured():
    resident = {**about("sigmoid"), "kind": "resident", "peak_rss_bytes": 2**20}
    frame = resources.memory(summary_frame([*rivals(), resident], FACTS), "float32")
    assert frame["peak resident set"].tolist() == ["n/a", "1 MiB"]


def test_what_is_not_known_is_not_zero():
    rows = rivals(residual_bytes=None, residuals=None, peak_bytes=None, xla_flops=None, xla_bytes=None)
    frame = resources.memory(summary_frame(rows, FACTS), "float32")
    assert [row[3:] for row in table(frame)] == [["n/a", "n/a", "0", "n/a"]] * 2
    frame = resources.work(summary_frame(rows, FACTS), "float32")
    assert [row[3:] for row in table(frame)] == [["3.07e+03", "n/a", "24 KiB", "n/a"]] * 2
    # A quick run has no separate passes.
    quick = [row for row in rivals() if row["mode"] == "fwd_bwd"]
    frame = resources.memory(summary_frame(quick, FACTS), "float32")
    assert [row[3:] for row in table(frame)] == [["n/a", "n/a", "0", "16 KiB"]] * 2


def test_both_counts_of_the_work_stand_side_by_side():
    frame = resources.work(summary_frame(rivals(xla_flops=0.0, xla_bytes=2.0**20), FACTS), "float32")
    assert list(frame.columns) == ["op", "case", "engine", "operations", "XLA's", "bytes", "XLA's bytes"]
    assert [row[3:] for row in table(frame)] == [["3.07e+03", "0", "24 KiB", "1 MiB"]] * 2


def test_the_percentages_of_all_engines_stand_side_by_side():
    rows = [
        time_row(op="sigmoid", engine=engine, samples_us=[factor * 1e6] * 3, flops_bwd=1e10)
        for engine, factor in (("rule:stable", 2), ("autodiff", 4), ("numpy", 10))
    ]
    rows.append(time_row(op="exp", samples_us=[1.0] * 3))
    frame = resources.engine_roofline(summary_frame([*rows, limits_row()], FACTS), "small", "float32")
    assert frame.to_dict("records") == [
        {"op": "sigmoid", "default rule": "50 % (compute)", "autodiff": "25 % (compute)", "numpy": "10 % (compute)"},
        {"op": "exp", "default rule": "", "autodiff": "n/a", "numpy": ""},
    ]
    assert resources.engine_roofline(summary_frame(rows, FACTS), "small", "float32").empty


def test_a_run_without_cells_has_empty_tables():
    frame = summary_frame([], FACTS)
    assert resources.memory(frame, "float32").empty
    assert resources.work(frame, "float32").empty
    assert resources.engine_roofline(frame, "small", "float32").empty
