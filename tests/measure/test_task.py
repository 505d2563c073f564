"""Tasks: errors that are planted show in the rows, what fails is a row and the others go on."""

import json
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.declaration import Rule
from jaxbp.engines import reference
from jaxbp.measure import task as task_module
from jaxbp.measure.plan import ALL_MODES, LEVELS, OPTIONS_CASE, Task, find_op, plan
from jaxbp.measure.task import Row, compare, measure, pose, prepare
from jaxbp.measure.timer import Samples
from jaxbp.op import Op


def stable_fwd(x):
    y, _ = jaxbp.sigmoid.default_rule.fwd(x)
    return y, (x,)


def right_bwd(res, ct):
    return jaxbp.sigmoid.default_rule.bwd(res, ct)


def planted(monkeypatch: pytest.MonkeyPatch, *, fwd: Any = stable_fwd, bwd: Any = right_bwd, **changes: Any) -> Op:
    """The sigmoid with a first rule `planted` of this forward and backward pass, where tasks look for it."""
    op = jaxbp.sigmoid.replace(rules=(Rule("planted", fwd, bwd),), **changes)
    monkeypatch.setattr(task_module, "find_op", lambda name: op)
    return op


def run(*engines: str, case: str = "small", level: str = "quick", op: str = "sigmoid") -> list[Row]:
    rows = list(measure(Task(op, case, "float32", "jax", engines, level)))
    for row in rows:
        assert json.loads(json.dumps(row)).keys() == row.keys()
    return rows


def gradient_of(rows: list[Row], engine: str = "rule:planted") -> Row:
    (row,) = (row for row in rows if row["engine"] == engine and row.get("quantity") == "ct_x")
    return row


def test_a_further_process_times_and_compares_nothing_again():
    case, engines = OPTIONS_CASE, ("rule:stable", "autodiff")
    kinds = []
    for repetition in (0, 1):
        rows = list(measure(Task("sigmoid", case, "float32", "jax", engines, "standard", repetition)))
        kinds.append({row["kind"] for row in rows})
        assert {row["repetition"] for row in rows} == {repetition}
    assert kinds == [{"accuracy", "time", "option"}, {"time"}]


def test_a_right_rule_is_right_and_every_engine_is_timed(monkeypatch):
    planted(monkeypatch)
    engines = ("rule:planted", "autodiff", "central_difference")
    rows = run(*engines, level="standard")
    assert {row["kind"] for row in rows} == {"accuracy", "time"}
    assert gradient_of(rows)["max_ulp"] < 4
    assert gradient_of(rows)["count"] == 1024
    assert gradient_of(rows, "autodiff")["max_ulp"] > 1e6
    assert [row["quantity"] for row in rows if row["engine"] == "autodiff" and row["kind"] == "accuracy"] == [
        "value",
        "ct_x",
    ]
    timed = [row for row in rows if row["kind"] == "time"]
    assert {(row["engine"], row["mode"]) for row in timed} == {
        *((engine, mode) for engine in engines[:2] for mode in ALL_MODES),
        ("central_difference", "fwd_bwd"),
    }
    for row in timed:
        budget = LEVELS["standard"].slow_budget if "difference" in row["engine"] else LEVELS["standard"].budget
        assert budget.min_rounds <= len(row["samples_us"]) <= budget.max_rounds
        assert all(0.1 < sample < 1e6 for sample in row["samples_us"])
        assert row["interleaved"]
        assert row["extrapolated"] == 1
        assert row["first_call_us"] > 0


@pytest.mark.parametrize(
    ("bwd", "least"),
    [
        (lambda res, ct: (-right_bwd(res, ct)[0],), 1e7),
        (lambda res, ct: (right_bwd(res, ct)[0] * 1.001,), 8e3),
        (lambda res, ct: (right_bwd(res, ct)[0] * (1 + 2.0**-19),), 12),
    ],
    ids=["sign", "per-mille", "sixteen-units"],
)
def test_a_planted_wrong_rule_shows(monkeypatch, bwd: Callable[..., Any], least):
    planted(monkeypatch, bwd=bwd)
    rows = run("rule:planted")
    assert gradient_of(rows)["max_ulp"] > least
    assert gradient_of(rows)["median_ulp"] > least / 2
    (value,) = (row for row in rows if row.get("quantity") == "value")
    assert value["max_ulp"] < 4  # The value is right.


def test_one_wrong_entry_is_found_where_it_is(monkeypatch):
    planted(monkeypatch, bwd=lambda res, ct: (right_bwd(res, ct)[0].at[777].multiply(2),))
    error = gradient_of(run("rule:planted"))
    assert error["worst_index"] == "[777]"
    assert error["worst_actual"] == pytest.approx(2 * error["worst_exact"], rel=1e-6)
    assert error["max_rel"] == pytest.approx(1, rel=1e-6)
    assert error["p99_ulp"] < 4


def test_a_wrong_value_shows(monkeypatch):
    planted(monkeypatch, fwd=lambda x: (stable_fwd(x)[0] * 1.01, (x,)))
    rows = run("rule:planted")
    (value,) = (row for row in rows if row.get("quantity") == "value")
    assert value["median_rel"] == pytest.approx(0.01, rel=1e-3)
    assert gradient_of(rows)["max_ulp"] < 4


def test_zeros_infinities_and_nans_are_counted_and_written(monkeypatch):
    def bwd(res, ct):
        ct_x = right_bwd(res, ct)[0]
        return (ct_x.at[1].set(jnp.inf).at[2].set(jnp.nan).at[3].set(0),)

    planted(monkeypatch, bwd=bwd)
    error = gradient_of(run("rule:planted"))
    assert (error["wrong_infinities"], error["wrong_nans"], error["wrong_zeros"]) == (1, 1, 1)
    assert error["max_ulp"] == math.inf
    assert json.loads(json.dumps(error))["max_ulp"] == math.inf


def test_an_infinite_truth_is_no_accident():
    # log of what float16 cannot hold is infinite on both sides.
    rows = list(measure(Task("log", "small", "float16", "jax", ("rule:quotient",), "quick")))
    assert {row["kind"] for row in rows} == {"accuracy", "time"}


def test_large_arrays_are_compared_at_a_sample_of_entries(monkeypatch):
    monkeypatch.setattr(task_module, "COMPARED", 100)
    planted(monkeypatch, bwd=lambda res, ct: (right_bwd(res, ct)[0] * 1.5,))
    task = Task("sigmoid", "small", "float32", "jax", ("rule:planted",), "quick")
    problem = pose(task)
    error = next(row for row in compare(problem, prepare(problem, "rule:planted")) if row["quantity"] == "ct_x")
    assert error["count"] == 100
    (index,) = json.loads(error["worst_index"])
    _, (truth,) = reference(problem.op, problem.args, problem.ct)
    assert error["worst_exact"] == truth[index]  # The index is that of the whole array.
    assert error["worst_actual"] == pytest.approx(1.5 * truth[index], rel=1e-6)


def test_sampled_differences_are_compared_at_their_entries():
    task = Task("matmul", "small", "float32", "jax", ("central_difference",), "quick")
    problem = pose(task)
    # No time at all for a full gradient.
    hasty = LEVELS["quick"].__class__(**{**vars(problem.level), "difference_seconds": 0.0})
    problem = problem.__class__(**{**vars(problem), "level": hasty})
    prepared = prepare(problem, "central_difference")
    assert prepared.scale == 1025 / 17
    rows = {row["quantity"]: row for row in compare(problem, prepared)}
    assert rows["ct_a"]["count"] == rows["ct_b"]["count"] == 4
    assert rows["value"]["count"] == 256
    assert 0 < rows["ct_a"]["max_rel"] < 0.1
    (i, j), (_, (truth, _)) = json.loads(rows["ct_a"]["worst_index"]), reference(problem.op, problem.args, problem.ct)
    assert rows["ct_a"]["worst_exact"] == truth[i, j]
    row = task_module.time_row(problem, prepared, "fwd_bwd", Samples([1e-6], [1.0], 1), interleaved=True)
    assert row["samples_us"] == [pytest.approx(1025 / 17)]
    assert row["extrapolated"] == 1025 / 17


def test_an_engine_that_raises_is_a_row_and_the_others_go_on(monkeypatch):
    def broken(res, ct):
        raise FloatingPointError("planted: the 1st line\nand the 2nd")

    planted(monkeypatch, bwd=broken)
    rows = run("rule:planted", "no_such_engine", "autodiff")
    failures = {row["engine"]: row for row in rows if row["kind"] == "failure"}
    assert set(failures) == {"rule:planted", "no_such_engine"}
    assert failures["rule:planted"]["reason"] == "FloatingPointError: planted: the 1st line"
    assert "in broken" in failures["rule:planted"]["traceback"]
    assert "autodiff" in failures["no_such_engine"]["reason"]
    assert {row["engine"] for row in rows if row["kind"] == "time"} == {"autodiff"}


def test_a_result_of_the_wrong_shape_is_a_failure(monkeypatch):
    # NumPy's engine: JAX would refuse such a rule itself.
    planted(monkeypatch, reference_vjp=lambda ct, x: (ct.sum(),) if ct.dtype == np.float32 else (ct,))
    rows = list(measure(Task("sigmoid", "small", "float32", "numpy", ("numpy",), "quick")))
    assert "ct_x must have shape [1024], got []" in next(row["reason"] for row in rows if row["kind"] == "failure")
    assert not [row for row in rows if row["kind"] == "time"]


def test_a_failure_while_timing_fails_the_group_and_not_the_other(monkeypatch):
    interleave = task_module.interleave

    def planted_failure(thunks, *rest):
        if any(engine == "autodiff" for engine, _ in thunks):
            raise MemoryError("planted")
        return interleave(thunks, *rest)

    monkeypatch.setattr(task_module, "interleave", planted_failure)
    rows = run("rule:stable", "autodiff", "central_difference")
    assert {row["engine"]: row["reason"] for row in rows if row["kind"] == "failure"} == {
        "rule:stable": "MemoryError: planted",
        "autodiff": "MemoryError: planted",
    }
    assert {row["engine"] for row in rows if row["kind"] == "time"} == {"central_difference"}


def test_data_do_not_depend_on_who_asks():
    first, second = (pose(Task("divide", "small", "float32", owner, (), "quick")) for owner in ("jax", "numpy"))
    for a, b in zip((*first.args, first.ct), (*second.args, second.ct), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.about == second.about
    assert first.about["input_bytes"] == 8192
    assert first.about["output_bytes"] == 4096


@pytest.mark.parametrize("task", [t for t in plan(cases=["small"], level="quick") if t.owner == "numpy"], ids=str)
def test_numpy_of_every_op(task: Task):
    rows = list(measure(task))
    assert {row["kind"] for row in rows} == {"accuracy", "time"}
    assert {row["mode"] for row in rows if row["kind"] == "time"} == {"fwd_bwd"}
    op = find_op(task.op)
    floats = (name for name in op.arguments if name not in op.integers)
    assert {row["quantity"] for row in rows if row["kind"] == "accuracy"} == {"value", *(f"ct_{a}" for a in floats)}
    # float32 NumPy of the same formulas; ops whose entries are sums are judged by their largest entry.
    assert all(row["norm_rel"] < 1e-5 for row in rows if row["kind"] == "accuracy")


def test_entries_that_are_compared_do_not_depend_on_what_was_drawn_before(monkeypatch):
    monkeypatch.setattr(task_module, "COMPARED", 100)
    first, second = (pose(Task("exp", "small", "float32", "jax", (), "quick")) for _ in range(2))
    second.rng.random(7)
    for a, b in zip(first.samples, second.samples, strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.entries, b.entries)
