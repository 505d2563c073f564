"""Frames: the numbers in them by hand, the verdicts only where they are due, the columns as documented."""

import json
import math
from typing import Any

import numpy as np
import pytest
from synthetic import FACTS, RESIDUAL, Row, about, accuracy_row, failure_row, limits_row, time_row

import jaxbp
from jaxbp.measure.plan import ALL_MODES, Task
from jaxbp.measure.task import measure
from jaxbp.report.frames import (
    ACCURACY_COLUMNS,
    SUMMARY_COLUMNS,
    accuracy_frame,
    latest,
    samples_frame,
    summary_frame,
)

FAST = (50.0, 50.5, 51.0, 51.5, 52.0)
SLOW = (100.0, 101.0, 102.0, 103.0, 104.0)

#: What a worker adds to every row.
OF_A_WORKER = ("device", "floor_us", "product_bits", "precision", "async_dispatch", "environment")


def summary(*rows: Row) -> Any:
    """The summary, indexed by engine and mode; pandas' own types hold every scalar there is."""
    return summary_frame(rows, FACTS).set_index(["engine", "mode"])


def test_the_columns_are_the_documented_ones_and_nothing_else():
    rows = [time_row(), accuracy_row(), failure_row("no"), {"kind": "done", **about()}]
    assert list(summary_frame(rows, FACTS).columns) == list(SUMMARY_COLUMNS)
    assert list(accuracy_frame(rows, FACTS).columns) == list(ACCURACY_COLUMNS)
    assert len(summary_frame(rows, FACTS)) == 2
    assert len(accuracy_frame(rows, FACTS)) == 1
    assert list(summary_frame([], FACTS).columns) == list(SUMMARY_COLUMNS)


def test_every_column_is_filled_from_what_a_task_measures():
    shared = {
        name: about()[name]
        for name in ("device", "floor_us", "product_bits", "precision", "async_dispatch", "environment")
    }
    task = Task("sigmoid", "small", "float32", "jax", ("rule:stable", "autodiff"), "standard")
    rows = [{**row, **shared} for row in measure(task)]
    # A limit of arithmetic that is nearer than any of memory, and a peak resident set, which a task does not measure.
    rows.append(limits_row(polynomials=[[64, 1.0]]))
    rows.append({**about("sigmoid", engine="autodiff"), "kind": "resident", "peak_rss_bytes": 9})
    frame = summary_frame(rows, FACTS)
    empty = {name for name in SUMMARY_COLUMNS if frame[name].isna().all()}
    assert empty == set()
    assert set(frame["reason"]) == {""}
    errors = accuracy_frame(rows, FACTS)
    assert set(errors.columns[errors.isna().any()]) == {"bound_fraction"}  # It is for sums of products alone.
    product = list(measure(Task("matmul", "small", "float32", "jax", ("autodiff",), "quick")))
    assert accuracy_frame(product, FACTS)["bound_fraction"].between(0.001, 1).all()
    modes = {*ALL_MODES, "split"}
    assert set(zip(frame["engine"], frame["mode"], strict=True)) == {
        (engine, mode) for engine in ("rule:stable", "autodiff") for mode in modes
    }
    assert (frame.loc[frame["engine"] == "autodiff", "ratio"] == 1).all()


def test_split_is_the_sum_of_both_passes_of_each_round():
    # Rounds 1 and 3 strike one pass each: medians would add up to 2 + 20, rounds to 22, 102, 32.
    rows = [time_row("fwd_res", [2, 2, 12], inner=8), time_row("bwd", [20, 100, 20], inner=2)]
    cell = summary(*rows).loc[("autodiff", "split")]
    assert cell["time_us"] == 32
    assert cell["rounds"] == 3
    assert cell["inner"] == 2
    assert (cell["lower_ms"], cell["compile_ms"], cell["first_call_us"]) == (2, 4, 600)
    assert cell["residual_bytes"] == 4096
    samples = samples_frame(rows)
    split = samples[samples["mode"] == "split"]
    assert split["time_us"].tolist() == [22, 102, 32]
    assert split["round"].tolist() == [0, 1, 2]


def test_there_is_no_split_without_both_passes_of_the_same_cell():
    other = time_row("bwd", engine="rule:swap")
    assert "split" not in set(summary_frame([time_row("fwd_res"), other], FACTS)["mode"])
    elsewhere = time_row("bwd", case="cache")
    assert "split" not in set(summary_frame([time_row("fwd_res"), elsewhere], FACTS)["mode"])


def test_times_are_medians_with_intervals():
    cell = summary(time_row(samples_us=[1, 2, 3, 4, 1000])).loc[("autodiff", "fwd_bwd")]
    assert cell["time_us"] == 3
    assert 1 <= cell["time_us_low"] < 3 < cell["time_us_high"] <= 1000
    assert cell["rounds"] == 5
    assert cell["inner"] == 4


def test_ratios_are_against_autodiff_of_the_same_cell():
    rows = [
        time_row(samples_us=SLOW),
        time_row(samples_us=FAST, engine="rule:swap"),
        # What must not be taken for the baseline: another mode, case, dtype, device or op.
        time_row("fwd", samples_us=FAST),
        time_row(samples_us=FAST, case="cache"),
        time_row(samples_us=FAST, dtype="float64"),
        time_row(samples_us=FAST, device="NVIDIA H100"),
        time_row(samples_us=FAST, op="add"),
    ]
    cell = summary(*rows).loc[("rule:swap", "fwd_bwd")]
    assert cell["ratio"] == pytest.approx(51 / 102)
    assert cell["ratio_low"] <= cell["ratio"] <= cell["ratio_high"] < 0.6
    assert cell["verdict"] == "faster"


def test_without_autodiff_there_is_no_ratio():
    cell = summary(time_row(engine="rule:swap"), time_row(case="cache")).loc[("rule:swap", "fwd_bwd")]
    assert math.isnan(cell["ratio"])
    assert cell["verdict"] == ""


def test_a_planted_slow_rule_is_slower_and_autodiff_has_no_verdict():
    frame = summary(time_row(samples_us=FAST), time_row(samples_us=SLOW, engine="rule:swap"))
    assert frame.loc[("rule:swap", "fwd_bwd"), "verdict"] == "slower"
    assert frame.loc[("autodiff", "fwd_bwd"), "verdict"] == ""
    assert frame.loc[("autodiff", "fwd_bwd"), "ratio"] == 1


def test_one_program_is_the_same_whatever_its_times_say():
    def verdicts(*ours):
        passes = [("fwd_res", "a"), ("bwd", "b")]
        rows = [time_row(mode, FAST, program=program) for mode, program in passes]
        rows += [
            time_row(mode, SLOW, engine="rule:swap", program=program)
            for (mode, _), program in zip(passes, ours, strict=True)
        ]
        return summary(*rows).loc["rule:swap"]["verdict"].to_dict()

    both = "same program"
    assert verdicts("a", "b") == {"fwd_res": both, "bwd": both, "split": both}
    assert verdicts("a", "c") == {"fwd_res": both, "bwd": "slower", "split": "slower"}
    assert verdicts("a", None) == {"fwd_res": both, "bwd": "slower", "split": "slower"}
    assert verdicts("b", "a") == {"fwd_res": "slower", "bwd": "slower", "split": "slower"}


def test_a_program_is_the_same_only_if_it_is_in_every_process():
    def said(*ours):
        rows = [time_row(samples_us=FAST, repetition=i, program="a") for i in range(2)]
        rows += [
            time_row(samples_us=SLOW, engine="rule:swap", repetition=i, program=program)
            for i, program in enumerate(ours)
        ]
        return summary(*rows).loc[("rule:swap", "fwd_bwd"), "verdict"]

    assert said("a", "a") == "same program"
    assert said("a", "b") == said(None, None) == "slower"


def test_a_pass_that_is_one_program_has_one_time_in_split():
    """Backward passes that are one program, of which the rule's happened to be slow: the forward passes decide."""

    def split(program):
        rows = [time_row("fwd_res", FAST), time_row("bwd", FAST, program="b")]
        rows += [
            time_row("fwd_res", FAST, engine="rule:swap"),
            time_row("bwd", SLOW, engine="rule:swap", program=program),
        ]
        return summary(*rows).loc[("rule:swap", "split")]

    both, other = split("b"), split("c")
    assert (both["ratio"], both["verdict"]) == (1, "same")
    assert (other["ratio"], other["verdict"]) == (pytest.approx(1.5), "slower")
    # The times themselves are what was measured.
    assert both["time_us"] == other["time_us"] == pytest.approx(51 + 102)


def test_passes_of_other_rounds_have_times_of_their_own():
    rows = [time_row(mode, FAST, program=mode) for mode in ("fwd_res", "bwd")]
    rows += [
        time_row(mode, SLOW[:4], engine="rule:swap", program=mode, interleaved=False) for mode in ("fwd_res", "bwd")
    ]
    cell = summary(*rows).loc[("rule:swap", "split")]
    assert cell["ratio"] == pytest.approx(2 * 101.5 / (2 * 51))
    assert cell["verdict"] == ""


def test_one_time_for_a_pass_leaves_what_the_other_pass_says():
    rows = [time_row("fwd_res", SLOW), time_row("bwd", FAST, program="b")]
    rows += [
        time_row("fwd_res", FAST, engine="rule:swap"),
        time_row("bwd", SLOW, engine="rule:swap", program="b"),
    ]
    cell = summary(*rows).loc[("rule:swap", "split")]
    assert cell["ratio"] == pytest.approx((51 + 76.5) / (102 + 76.5))
    assert cell["ratio_low"] <= cell["ratio"] <= cell["ratio_high"] < 0.75
    assert cell["verdict"] == "faster"


def passes(forward, backward):
    """A rule's verdicts by mode, for samples of its passes; autodiff takes 100 us for each."""
    usual = [100.0, 100.1, 100.2, 100.3, 100.4]
    rule = "rule:stable"
    rows = [time_row(mode, usual) for mode in ("fwd_res", "bwd")]
    rows += [time_row("fwd_res", forward, engine=rule), time_row("bwd", backward, engine=rule)]
    return summary(*rows).loc[rule]["verdict"].to_dict()


def test_work_moved_into_the_forward_pass_makes_nothing_faster():
    fast, slow = [50, 50.1, 50.2, 50.3, 50.4], [150, 150.1, 150.2, 150.3, 150.4]
    assert passes(slow, fast) == {"fwd_res": "slower", "bwd": "moved", "split": "same"}
    assert passes(fast, slow) == {"fwd_res": "moved", "bwd": "slower", "split": "same"}
    # Both together are faster, or nothing was moved.
    assert passes([110, 110.1, 110.2, 110.3, 110.4], fast)["bwd"] == "faster"
    assert passes([100, 100.1, 100.2, 100.3, 100.4], fast)["bwd"] == "faster"


@pytest.mark.parametrize("engine", ["numpy", "torch", "central_difference", "forward_difference"])
def test_engines_of_other_rounds_get_a_ratio_and_no_verdict(engine):
    cell = summary(time_row(samples_us=SLOW), time_row(samples_us=FAST, engine=engine)).loc[(engine, "fwd_bwd")]
    assert cell["ratio"] == 0.5
    assert cell["verdict"] == ""


def test_a_rule_that_was_not_interleaved_gets_no_verdict():
    rows = [time_row(samples_us=SLOW), time_row(samples_us=FAST, engine="rule:swap", interleaved=False)]
    assert summary(*rows).loc[("rule:swap", "fwd_bwd"), "verdict"] == ""


@pytest.mark.parametrize(("floor_us", "expected"), [(25.4, "faster"), (25.6, "dispatch")])
def test_near_the_dispatch_floor_there_is_no_verdict_on_speed(floor_us, expected):
    rows = [time_row(samples_us=SLOW), time_row(samples_us=FAST, engine="rule:swap", floor_us=floor_us)]
    assert summary(*rows).loc[("rule:swap", "fwd_bwd"), "verdict"] == expected


@pytest.mark.parametrize(("floor_us", "expected"), [(25.4, "faster"), (25.6, "dispatch")])
def test_two_calls_have_two_floors(floor_us, expected):
    rows = [time_row(mode, SLOW) for mode in ("fwd_res", "bwd")]
    rows += [time_row(mode, FAST, engine="rule:swap", floor_us=floor_us) for mode in ("fwd_res", "bwd")]
    assert summary(*rows).loc[("rule:swap", "split"), "verdict"] == expected


@pytest.mark.parametrize(
    ("op", "flops", "data"),
    [
        # multiply of 1024 float32: x y, and ct y, ct x. Arrays of 4096 bytes, read or written once a pass.
        (
            jaxbp.multiply,
            {"fwd": 1024, "fwd_res": 1024, "bwd": 2048, "fwd_bwd": 3072, "summed": 3072, "split": 3072},
            # y = x y: 3; ct_x = ct y, ct_y = ct x: 5; in one executable x and y are read once: 6; a sum is no array: 5.
            {
                "fwd": 3 * 4096,
                "fwd_res": 3 * 4096,
                "bwd": 5 * 4096,
                "fwd_bwd": 6 * 4096,
                "summed": 5 * 4096,
                "split": 8 * 4096,
            },
        ),
        # matmul of 16 x 16: 16^3 products and sums a product of matrices, three of them; 1024 bytes a matrix.
        (
            jaxbp.matmul,
            {
                "fwd": 2 * 16**3,
                "fwd_res": 2 * 16**3,
                "bwd": 4 * 16**3,
                "fwd_bwd": 6 * 16**3,
                "summed": 6 * 16**3,
                "split": 6 * 16**3,
            },
            {
                "fwd": 3 * 1024,
                "fwd_res": 3 * 1024,
                "bwd": 5 * 1024,
                "fwd_bwd": 6 * 1024,
                "summed": 5 * 1024,
                "split": 8 * 1024,
            },
        ),
    ],
    ids=["multiply", "matmul"],
)
def test_operations_and_bytes_by_hand(op, flops, data):
    shared = {
        name: about()[name]
        for name in ("device", "floor_us", "product_bits", "precision", "async_dispatch", "environment")
    }
    task = Task(op.name, "small", "float32", "jax", ("autodiff",), "standard")
    frame = summary_frame([{**row, **shared} for row in measure(task)], FACTS).set_index("mode")
    assert frame["flops"].to_dict() == flops
    assert frame["bytes"].to_dict() == data
    # 10^9 per second are 10^3 per microsecond.
    np.testing.assert_allclose(frame["gflops"] * frame["time_us"] * 1e3, frame["flops"])
    np.testing.assert_allclose(frame["gbytes"] * frame["time_us"] * 1e3, frame["bytes"])


def test_memory_of_split_is_that_of_the_larger_pass_and_its_work_that_of_both():
    rows = [
        time_row("fwd_res", temp_bytes=5, peak_bytes=20, xla_flops=3.0, xla_bytes=4.0),
        time_row("bwd", temp_bytes=7, peak_bytes=10, xla_flops=30.0, xla_bytes=40.0),
    ]
    names = ["temp_bytes", "peak_bytes", "xla_flops", "xla_bytes"]
    cells = summary(*rows)
    assert cells.loc[("autodiff", "split"), names].tolist() == [7, 20, 33, 44]
    assert json.loads(cells.loc[("autodiff", "split"), "residuals"]) == [RESIDUAL]
    assert cells.loc[("autodiff", "bwd"), names].tolist() == [7, 10, 30, 40]


@pytest.mark.parametrize("unknown", ["temp_bytes", "peak_bytes", "xla_flops", "xla_bytes"])
def test_what_is_not_known_of_one_pass_is_not_known_of_both(unknown):
    for mode in ("fwd_res", "bwd"):
        rows = [time_row(each, **({unknown: None} if each == mode else {})) for each in ("fwd_res", "bwd")]
        cells = summary(*rows)
        assert math.isnan(cells.loc[("autodiff", "split"), unknown])
        assert math.isnan(cells.loc[("autodiff", mode), unknown])
    # A journal that an earlier version began has no such column.
    rows = [{name: fact for name, fact in time_row(mode).items() if name != unknown} for mode in ("fwd_res", "bwd")]
    assert summary(*rows)[unknown].isna().all()


MIB = 2**20
#: One array in, one out, and their cotangents: forward 64 MiB, backward 96 MiB, in one executable 128 MiB, 96
#: without the value.
LARGE: Row = {"n": 8 * MIB, "flops_fwd": 1e6, "flops_bwd": 1e6, "input_bytes": 32 * MIB, "output_bytes": 32 * MIB}


@pytest.mark.parametrize(
    ("mode", "moved"), [("fwd", 64), ("fwd_res", 64), ("bwd", 96), ("fwd_bwd", 128), ("summed", 96), ("split", 160)]
)
def test_the_percentage_of_the_limit_by_hand(mode, moved):
    rows = [time_row(each, [1e6, 1e6, 1e6], **LARGE) for each in ALL_MODES]
    cell = summary(*rows, limits_row()).loc[("autodiff", mode)]
    assert cell["bound"] == "memory"
    # At 1 GB/s, in one second; split takes two.
    assert cell["roofline"] == pytest.approx(100 * moved * MIB / 1e9 / (2 if mode == "split" else 1))


def test_the_copies_that_count_for_split_are_those_of_one_pass():
    limits = limits_row(copies=[[64 * MIB, 4e9], [128 * MIB, 1e9]])
    rows = [time_row(each, [1e6, 1e6], **LARGE) for each in ("fwd_res", "bwd", "fwd_bwd")]
    cells = summary(*rows, limits)
    assert cells.loc[("autodiff", "split"), "roofline"] == pytest.approx(100 * 160 * MIB / 4e9 / 2)
    assert cells.loc[("autodiff", "fwd_bwd"), "roofline"] == pytest.approx(100 * 128 * MIB / 1e9)


def test_arithmetic_is_the_limit_where_it_takes_longer():
    cell = summary(time_row(samples_us=[1e6, 1e6], **{**LARGE, "flops_bwd": 4e9}), limits_row()).iloc[0]
    assert cell["bound"] == "compute"
    assert cell["roofline"] == pytest.approx(100 * (4e9 + 1e6) / 1e10)
    entries = {**LARGE, "flops_bwd": 4e9, "elementwise": True}
    cell = summary(time_row(samples_us=[1e6, 1e6], **entries), limits_row()).iloc[0]
    assert cell["roofline"] == pytest.approx(100 * (4e9 + 1e6) / 5e9)


@pytest.mark.parametrize(
    "limits",
    [
        [],
        [limits_row(dtype="float64")],
        [limits_row(device="NVIDIA H100")],
        [limits_row(copies=[], products=[], reason="MemoryError: planted")],
    ],
    ids=["none", "another-dtype", "another-device", "failed"],
)
def test_without_its_limit_a_cell_has_no_percentage(limits):
    cell = summary(time_row(**LARGE), *limits).iloc[0]
    assert math.isnan(cell["roofline"])
    assert cell["bound"] == ""


def test_arrays_that_lie_in_a_cache_have_no_percentage():
    assert math.isnan(summary(time_row(), limits_row()).iloc[0]["roofline"])


def test_every_engine_is_measured_by_the_limits_of_its_device():
    frame = summary(time_row(**LARGE), time_row(engine="numpy", **LARGE), limits_row())
    assert frame["roofline"].nunique() == 1
    assert frame["roofline"].notna().all()


def test_the_best_limit_of_a_resumed_run_counts():
    first, second = limits_row(copies=[[2**24, 4e9]]), limits_row()
    rows = latest([first, time_row(samples_us=[1e6, 1e6], **LARGE), second])
    assert [row for row in rows if row["kind"] == "limits"] == [first, second]
    assert summary(*rows).iloc[0]["roofline"] == pytest.approx(100 * 128 * MIB / 4e9)


def test_the_peak_resident_set_stands_with_the_gradient_that_it_is_of():
    rows = [time_row(), time_row("fwd"), time_row(engine="rule:swap"), time_row(case="cache")]
    rows += [
        {**about(), "kind": "resident", "peak_rss_bytes": 5},
        {**about(engine="rule:swap"), "kind": "resident", "peak_rss_bytes": 7},
    ]
    frame = summary_frame(rows, FACTS)
    found = frame.set_index(["engine", "mode", "case"])["peak_rss_bytes"].dropna()
    assert found.to_dict() == {("autodiff", "fwd_bwd", "small"): 5, ("rule:swap", "fwd_bwd", "small"): 7}


def test_failures_are_rows_with_a_reason_and_no_numbers():
    frame = summary_frame([time_row(), failure_row("it broke", engine="rule:swap")], FACTS)
    ok, failed = (frame[frame["status"] == status].iloc[0] for status in ("ok", "failed"))
    assert failed["reason"] == "it broke"
    assert failed["engine"] == "rule:swap"
    assert math.isnan(failed["time_us"])
    assert ok["reason"] == ""
    assert failed["commit"] == ok["commit"] == "0123456789ab"


def test_samples_have_a_row_each():
    frame = samples_frame([time_row(samples_us=SLOW), time_row("fwd", FAST), accuracy_row(), failure_row("no")])
    assert frame["time_us"].tolist() == [*SLOW, *FAST]
    assert frame["round"].tolist() == [*range(5), *range(5)]
    assert set(frame["mode"]) == {"fwd_bwd", "fwd"}


def test_what_an_earlier_attempt_has_left_does_not_count():
    begun = {**about(), "kind": "task", "engines": ["autodiff", "rule:swap"]}
    left = [time_row(samples_us=SLOW), accuracy_row("ct_x"), failure_row("killed", engine="rule:swap")]
    others = [
        limits_row(),
        time_row(engine="numpy"),
        time_row(case="cache"),
        time_row(dtype="float64"),
        time_row(op="add"),
    ]
    again = [time_row(samples_us=FAST), time_row(engine="rule:swap"), accuracy_row("ct_x")]
    rows = latest([begun, *left, *others, begun, *again])
    assert [row for row in rows if row["kind"] != "task"] == [*others, *again]
    assert json.dumps(latest(rows)) == json.dumps(rows)


def of_processes(*ratios, engine="rule:swap", mode="fwd_bwd", baseline=100.0):
    """A rule and autodiff, each process with its own speed, and with rounds that hardly differ."""
    for i, ratio in enumerate(ratios):
        us = baseline * (1 + i) * np.linspace(0.9999, 1.0001, 9)
        yield time_row(mode, samples_us=us, repetition=i)
        yield time_row(mode, samples_us=ratio * us, repetition=i, engine=engine)


def test_several_processes_are_told_apart_and_averaged():
    cell = summary(*of_processes(0.9, 1.1, 1.0)).loc[("rule:swap", "fwd_bwd")]
    assert (cell["processes"], cell["rounds"]) == (3, 27)
    assert cell["ratio"] == pytest.approx((0.9 * 1.1) ** (1 / 3))
    # Each process by itself would be sure.
    assert cell["ratio_low"] < 0.9 < 1.1 < cell["ratio_high"]
    assert cell["verdict"] == "cannot say"
    assert cell["time_us"] == pytest.approx(100 * (0.9 * 2.2 * 3.0) ** (1 / 3), rel=1e-3)
    assert summary(*of_processes(0.9, 0.901, 0.902)).loc[("rule:swap", "fwd_bwd"), "verdict"] == "faster"
    assert summary(*of_processes(0.9)).loc[("rule:swap", "fwd_bwd"), "processes"] == 1


def test_of_several_processes_the_one_that_drifted_most_is_told():
    drifting = [np.full(60, 100.0), np.linspace(110, 100, 60), np.linspace(100, 105, 60), [100.0]]
    cell = summary(*(time_row(samples_us=us, repetition=i) for i, us in enumerate(drifting))).iloc[0]
    assert cell["drift"] == pytest.approx(-10 / 105, rel=0.02)


def test_one_noisy_process_of_several_leaves_no_verdict():
    rows = list(of_processes(0.9, 0.9, 0.9))
    rows[-1]["cores"] = [0.5] * 9
    cell = summary(*rows).loc[("rule:swap", "fwd_bwd")]
    assert cell["verdict"] == "cannot say"
    assert cell["interrupted"] == pytest.approx(1 / 3)


def test_passes_are_added_within_a_process():
    rows = [*of_processes(0.5, 2.0, mode="fwd_res"), *of_processes(1.5, 1.0, mode="bwd")]
    cell = summary(*rows).loc[("rule:swap", "split")]
    assert cell["processes"] == 2
    assert cell["ratio"] == pytest.approx((1.0 * 1.5) ** 0.5)


def test_a_process_without_autodiff_is_not_compared():
    first, _, _, second = of_processes(0.9, 0.8)
    cell = summary(first, second, time_row(samples_us=[50.0] * 9, engine="rule:swap"))
    assert cell.loc[("rule:swap", "fwd_bwd"), "ratio"] == pytest.approx(0.5)
    assert math.isnan(summary(first, second).loc[("rule:swap", "fwd_bwd"), "ratio"])


def test_what_fails_in_each_process_is_one_failure():
    rows = [failure_row(why, engine="rule:swap", repetition=i) for i in range(3) for why in ("it broke", f"{i % 2}")]
    assert summary_frame(rows, FACTS)["reason"].tolist() == ["it broke", "0", "1"]


def test_what_another_process_timed_outlasts_a_new_attempt():
    begun = {**about(), "kind": "task", "engines": ["autodiff"], "repetition": 1}
    first, second = (time_row(samples_us=SLOW, repetition=i) for i in range(2))
    assert latest([first, second, begun]) == [first, begun]
