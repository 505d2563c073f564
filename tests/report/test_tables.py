"""The tables of a report: every number from the row it belongs to, in the unit that reads best."""

import math
from typing import Any

import pandas as pd
import pytest
from synthetic import FACTS, MACHINE, accuracy_row, failure_row, small_run, time_row

import jaxbp
from jaxbp.report import resources, tables
from jaxbp.report.frames import accuracy_frame, summary_frame
from jaxbp.report.run import write_frames, write_machine


def test_the_worst_gradient_is_the_worst_cotangent_and_never_the_value():
    rows = [
        accuracy_row("value", 1e9),
        accuracy_row("ct_x", 3.0),
        accuracy_row("ct_y", math.inf),
        accuracy_row("value", 1e9, engine="numpy"),
        accuracy_row("ct_x", 2.0, engine="numpy"),
        accuracy_row("ct_y", 1.0, engine="numpy"),
    ]
    worst = tables.worst_gradient(accuracy_frame(rows, FACTS)).set_index("engine")
    assert worst["max_ulp"].to_dict() == {"autodiff": math.inf, "numpy": 2.0}
    assert worst["quantity"].to_dict() == {"autodiff": "ct_y", "numpy": "ct_x"}


def test_overview_sets_the_default_rule_against_autodiff():
    rows = []
    for engine, ulp, times in (("rule:stable", 2.0, (50, 51, 52)), ("autodiff", 1.7e7, (100, 102, 104))):
        at = {"op": "sigmoid", "engine": engine}
        rows += [accuracy_row("ct_x", ulp, **at), time_row("fwd_bwd", times, **at), time_row("bwd", times, **at)]
        rows.append(time_row("fwd_res", times, residual_bytes=0 if engine != "autodiff" else 8192, **at))
    rows.append(time_row(op="sigmoid", engine="rule:textbook", samples_us=(1, 1, 1)))
    rows.append(accuracy_row("ct_x", 99.0, op="sigmoid", engine="rule:textbook"))
    # Of other cases and dtypes nothing is shown.
    for other in ({"case": "tiny", "n": 4}, {"dtype": "float64", "n": 2**30}):
        for engine in ("rule:stable", "autodiff"):
            at = {"op": "sigmoid", "engine": engine, **other}
            rows += [accuracy_row("ct_x", 77.0, **at), time_row("fwd_bwd", (7, 7, 7), **at)]
    frame = tables.overview(summary_frame(rows, FACTS), accuracy_frame(rows, FACTS), "float32")
    (row,) = frame.to_dict("records")
    assert list(row.values()) == [
        "sigmoid",
        "stable",
        "small",
        "2",
        "1.7e+07",
        "0.50 [0.50, 0.50] faster",
        "0.50 [0.50, 0.50] faster",
        "0",
        "8 KiB",
    ]


def test_where_the_default_rule_is_slower_all_rules_are_shown_and_their_limit():
    def rows(stable):
        for engine, times in (("rule:stable", stable), ("rule:textbook", (50, 51, 52)), ("autodiff", (100, 102, 104))):
            at = {"op": "sigmoid", "engine": engine}
            yield from (accuracy_row("ct_x", 3.0, **at), time_row("fwd_bwd", times, **at))

    def shown(*stable):
        own = list(rows(stable))
        summary = summary_frame(own, FACTS)
        reached = summary["engine"].map({"rule:stable": 43.2})
        summary = summary.assign(roofline=reached, bound=reached.notna().map({True: "compute", False: ""}))
        return tables.slower(summary, accuracy_frame(own, FACTS), "float32").to_dict("records")

    assert shown(100, 102, 104) == []
    default, other = shown(200, 202, 204)
    assert (default["rule"], default["fwd_bwd / autodiff"]) == ("stable", "1.98 [1.96, 2.00] slower")
    assert (other["rule"], other["worst ULP"]) == ("textbook", "3")
    assert other["fwd_bwd / autodiff"] == "0.50 [0.50, 0.50] faster"
    assert [told["limit"] for told in (default, other)] == ["43 % (compute)", "n/a"]


def test_overview_takes_each_op_at_its_own_largest_case():
    rows = []
    for op, engine, case, n in (
        ("sigmoid", "rule:stable", "memory", 2**22),
        ("sigmoid", "rule:stable", "small", 2**10),
        ("exp", "rule:output", "small", 2**10),
        ("exp", "rule:output", "cache", 2**16),
    ):
        rows += [
            time_row(op=op, engine=engine, case=case, n=n),
            accuracy_row("ct_x", n, op=op, engine=engine, case=case),
        ]
    # What failed has no size.
    rows.append(failure_row("no", op="exp", case="memory", engine="rule:output"))
    frame = tables.overview(summary_frame(rows, FACTS), accuracy_frame(rows, FACTS), "float32")
    assert frame["case"].tolist() == ["memory", "cache"]
    assert frame["op"].tolist() == ["sigmoid", "exp"]
    assert list(frame.iloc[:, 3]) == ["4.19e+06", "6.55e+04"]


def test_engines_stand_side_by_side(tmp_path):
    run = small_run(tmp_path)
    times: Any = tables.engine_times(run.summary, "small", "float32").set_index("op")
    assert list(times.columns) == ["default rule", "autodiff", "central_difference", "numpy"]
    assert list(times.index) == ["sigmoid", "matmul"]
    assert times.loc["sigmoid", "default rule"].startswith("1.06 ms ±")
    assert times.loc["matmul", "numpy"].startswith("4.26 ms ±")
    errors: Any = tables.engine_errors(run.accuracy, "small", "float32").set_index("op")
    assert errors.loc["sigmoid"].tolist() == ["2", "4", "6", "8"]
    relative = tables.engine_errors(run.accuracy, "small", "float32", "norm_rel").set_index("op")
    assert set(relative.loc["sigmoid"]) == {"2.38e-07", "4.77e-07", "7.15e-07", "9.54e-07"}


def test_a_second_rule_says_which_it_is():
    rows = [time_row(op="sigmoid", engine=f"rule:{name}", samples_us=[3.0]) for name in ("textbook", "stable")]
    times = tables.engine_times(summary_frame(rows, FACTS), "small", "float32")
    assert times.to_dict("records") == [{"op": "sigmoid", "default rule": "3 µs", "second rule": "3 µs (textbook)"}]


def test_growth_shows_ops_that_are_perturbed_one_entry_at_a_time(tmp_path):
    write_machine(tmp_path, MACHINE)
    rows = [time_row(op="matmul", case=case, n=n) for case, n in (("memory", 2**22), ("small", 256))]
    rows.append(time_row(op="matmul", case="memory", n=2**22, engine="central_difference", extrapolated=1000.0))
    rows.append(time_row(op="sigmoid"))
    frame = tables.growth(write_frames(tmp_path, rows).summary, "float32")
    assert frame[["op", "case", "n"]].to_numpy().tolist() == [["matmul", "small", 256], ["matmul", "memory", 2**22]]
    assert frame["central_difference"].tolist()[0] == ""
    assert frame["central_difference"].tolist()[1].endswith("(extrapolated)")


def test_failures_keep_their_reasons_and_stay_out_of_the_times():
    rows = [time_row(), failure_row("it broke", engine="rule:swap")]
    frame = summary_frame(rows, FACTS)
    assert tables.failures(frame).to_dict("records") == [
        {"op": "multiply", "case": "small", "dtype": "float32", "engine": "rule:swap", "reason": "it broke"}
    ]
    assert list(tables.engine_times(frame, "small", "float32").columns) == ["op", "autodiff"]


def test_an_op_of_another_version_has_some_rule():
    assert tables.default_engine("sigmoid", []) == "rule:stable"
    assert tables.default_engine("from_the_future", ["autodiff"]) == "rule:"
    rows = [time_row(op="from_the_future", engine=engine) for engine in ("rule:x", "autodiff")]
    rows.append(accuracy_row(op="from_the_future"))
    summary, accuracy = summary_frame(rows, FACTS), accuracy_frame(rows, FACTS)
    assert tables.overview(summary, accuracy, "float32")["op"].tolist() == ["from_the_future"]
    assert tables.engine_times(summary, "small", "float32")["default rule"].tolist() == ["102 µs ±2"]


def test_a_run_from_before_an_op_had_its_default_rule_shows_what_was_the_default():
    """A record of another machine would lose the op from its table, without a word."""
    assert next(iter(jaxbp.swiglu.rules)) == "normal_range"
    engines = ("rule:textbook", "rule:stable", "autodiff")
    assert tables.default_engine("swiglu", engines) == "rule:stable"
    assert tables.default_engine("swiglu", ["autodiff", "rule:gone"]) == "rule:gone"
    rows = [time_row(op="swiglu", engine=engine) for engine in engines]
    rows += [accuracy_row(op="swiglu", engine=engine, max_ulp=ulp) for ulp, engine in enumerate(engines, 2)]
    summary, accuracy = summary_frame(rows, FACTS), accuracy_frame(rows, FACTS)
    (row,) = tables.overview(summary, accuracy, "float32").to_dict("records")
    assert (row["rule"], row["worst ULP"]) == ("stable", "3")
    (times,) = tables.engine_times(summary, "small", "float32").to_dict("records")
    assert times["default rule"] == "102 µs ±2"
    assert times["second rule"].endswith("(textbook)")
    assert resources.memory(summary, "float32")["engine"].tolist() == ["rule:stable", "autodiff"]


@pytest.mark.parametrize(
    ("time_us", "text"),
    [(0.5, "0.5 µs"), (999.0, "999 µs"), (1000.0, "1 ms"), (2.5e6, "2.5 s"), (3.6e9, "1 h"), (7.2e10, "20 h")],
)
def test_amounts(time_us, text):
    assert tables.amount(time_us) == text


def test_a_duration_without_an_interval():
    cell = {"time_us": 5.0, "time_us_low": math.nan, "time_us_high": math.nan, "extrapolated": 2.0}
    assert tables.duration(pd.Series(cell)) == "5 µs (extrapolated)"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9, "9 B"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (1048625152, "1000 MiB"), (math.nan, "")],
)
def test_sizes(count, text):
    assert tables.size(count) == text


def test_the_error_of_a_sum_is_judged_by_its_largest_entry():
    rows = [
        accuracy_row(op="matmul", engine="autodiff", quantity="ct_a", max_ulp=1e6, norm_rel=2.0**-22),
        accuracy_row(op="matmul", engine="autodiff", quantity="ct_b", max_ulp=3.0, norm_rel=2.0**-21),
        accuracy_row(op="sigmoid", engine="autodiff", max_ulp=5.0, norm_rel=2.0**-10),
    ]
    worst = tables.worst_gradient(accuracy_frame(rows, FACTS)).set_index("op")
    assert worst.loc["matmul", "quantity"] == "ct_b"
    assert worst.loc["matmul", "ulp"] == 4
    assert worst.loc["sigmoid", "ulp"] == 5
