"""`bench_vjp` and its summary: every engine and mode on a row, verdicts only of what is right, words for all of it."""

import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.errors import MissingExtraError
from jaxbp.measure import plan
from jaxbp.report.function import FUNCTION_COLUMNS, function_frame, mode_table, summarize_function

ALL_MODES = (*plan.ALL_MODES, "split")
SHARED = {"device": "cpu", "floor_us": 5.0, "process": "worker"}


def rows(rule_us=(100.0, 101.0, 99.0), autodiff_us=(200.0, 202.0, 198.0), **changes):
    """Rows as they are measured; an engine without samples is a failure."""
    for engine, samples in (("rule", rule_us), ("autodiff", autodiff_us)):
        for mode in plan.ALL_MODES:
            timed = (
                {"kind": "time", "samples_us": list(samples), "cores": [], "inner": 3}
                if samples
                else {"kind": "failure"}
            )
            row = {"function": "f", "arguments": "{}", "n": 10, "engine": engine, "mode": mode, "right": bool(samples)}
            row |= {"lower_ms": 1.0, "compile_ms": 10.0, "first_call_us": 50.0, "reason": "" if samples else "Planted."}
            row |= {"residual_bytes": 4096 if mode == "fwd_res" else None, "temp_bytes": 8 if mode == "bwd" else 0}
            quantity, error = ("ct_x", 2.5) if "bwd" in mode else ("value", 0.5)
            row |= {"quantity": quantity, "max_ulp": error, "median_ulp": 0.25, "norm_rel": 1e-7, "count": 10}
            row |= {"yardstick": "certified", "quantities": json.dumps({quantity: [error, 0.25]})}
            yield {**row, **timed, **changes}


def cells(*args, **options):
    frame = function_frame(rows(*args, **options), SHARED)
    assert list(frame.columns) == list(FUNCTION_COLUMNS)
    assert list(zip(frame["engine"], frame["mode"], strict=True)) == [
        (engine, mode) for engine in ("rule", "autodiff") for mode in ALL_MODES
    ]
    return by_engine_and_mode(frame)


def by_engine_and_mode(frame) -> dict[tuple[str, str], Any]:
    return {(row["engine"], row["mode"]): row for row in frame.to_dict("records")}


def column(found, engine, name, modes=ALL_MODES):
    """What an engine's rows have in a column."""
    return {found[engine, mode][name] for mode in modes}


def test_ratios_are_to_autodiff_in_the_same_mode():
    found = cells()
    for mode in ALL_MODES:
        assert found["rule", mode]["ratio"] == pytest.approx(0.5)
        assert found["rule", mode]["verdict"] == "faster"
        assert found["autodiff", mode]["verdict"] == ""
    assert found["rule", "bwd"]["time_us"] == 100
    assert found["rule", "split"]["time_us"] == 200
    assert column(found, "rule", "status") == column(found, "autodiff", "status") == {"ok"}


def test_split_has_what_both_passes_need_and_the_larger_error():
    split = cells()["rule", "split"]
    assert (split["lower_ms"], split["compile_ms"], split["first_call_us"]) == (2, 20, 100)
    assert split["temp_bytes"] == 8
    assert split["residual_bytes"] == 4096
    assert (split["quantity"], split["max_ulp"]) == ("ct_x", 2.5)
    assert json.loads(split["quantities"]) == {"value": [0.5, 0.25], "ct_x": [2.5, 0.25]}


def test_calls_that_cost_no_more_than_dispatch_get_no_verdict_on_speed():
    assert column(cells((9.0, 9.1, 8.9), (20.0, 20.1, 19.9)), "rule", "verdict") == {"dispatch"}
    assert column(cells((11.0, 11.1, 10.9), (20.0, 20.1, 19.9)), "rule", "verdict") == {"faster"}


@pytest.mark.parametrize("wrong", ["rule", "autodiff"])
def test_without_a_time_there_is_neither_ratio_nor_verdict(wrong):
    found = cells(**{f"{wrong}_us": ()})
    assert column(found, wrong, "status") == {"failed"}
    assert column(found, wrong, "reason") == {"Planted."}
    assert all(map(math.isnan, column(found, wrong, "time_us")))
    assert all(map(math.isnan, column(found, "rule", "ratio")))
    assert column(found, "rule", "verdict") == column(found, "autodiff", "verdict") == {""}
    # How wrong it is, and what it keeps, is known all the same.
    assert found[wrong, "split"]["max_ulp"] == 2.5
    assert found[wrong, "split"]["temp_bytes"] == 8


def test_the_summary_answers_every_question():
    frame = function_frame(rows(), SHARED)
    said = list(summarize_function(frame))
    answers = dict(said)
    assert answers["right?"] == "yes"
    assert answers["digits?"].startswith("2.5 ULP off at worst, 0.25 in the median of ct_x; 1e-07 of its largest entry")
    assert answers["faster?"] == "faster in fwd, fwd_res, bwd, fwd_bwd, summed, split"
    assert answers["leaner?"] == "keeps 4 KiB between the passes, autodiff 4 KiB"
    assert answers["compiled"] == "in 11 ms, autodiff in 11 ms (fwd_bwd)"
    table = mode_table(frame)
    assert [row["mode"] for row in table] == list(ALL_MODES)
    assert table[2] == {
        "mode": "bwd",
        "rule": "100 µs ±1",
        "autodiff": "200 µs ±2",
        "rule / autodiff": "0.50 [0.50, 0.50] faster",
        "rule needs": "8 B",
        "autodiff needs": "8 B",
    }


def test_the_summary_of_what_is_wrong_has_no_time_of_it():
    frame = function_frame(rows(rule_us=()), SHARED)
    answers = dict(summarize_function(frame))
    assert answers["right?"] == "NO. Planted."
    assert "faster?" not in answers
    assert {row["rule"] for row in mode_table(frame)} == {""}
    answers = dict(summarize_function(function_frame(rows(autodiff_us=()), SHARED)))
    assert answers["right?"] == "yes"
    assert answers["no time"] == "of autodiff: Planted."


def test_what_a_backend_does_not_say_is_not_taken_for_nothing():
    frame = function_frame(rows(temp_bytes=None), SHARED)
    assert frame["temp_bytes"].isna().all()
    assert "needs ? while fwd_bwd runs, autodiff ?" in [answer for _, answer in summarize_function(frame)]


def test_twice_the_work_is_not_called_faster():
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    def bwd(x, ct):
        once = ct * jnp.cos(x)
        # Not the same expression, as far as a compiler may know: 0 times a number need not be 0.
        return (ct * jnp.cos(x + 0 * once),)

    sine.defvjp(lambda x: (jnp.sin(x), x), bwd)
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    found = by_engine_and_mode(jaxbp.bench_vjp(sine, x, level="quick"))
    assert column(found, "rule", "right") == {True}
    assert found["rule", "bwd"]["verdict"] in ("slower", "cannot say")
    assert not {"faster", "same"} & column(found, "rule", "verdict", ("bwd", "fwd_bwd", "split"))


def test_the_process_of_the_caller_is_recorded_as_it_is(monkeypatch):
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    frame = jaxbp.bench_vjp(jaxbp.exp, 0.5, level="quick")
    assert set(frame["process"]) == {"caller"}
    (environment,) = map(json.loads, set(frame["environment"]))
    assert environment["OMP_NUM_THREADS"] == "7"
    assert "MALLOC_TOP_PAD_" not in environment
    on = jax.config.values["jax_cpu_enable_async_dispatch"]
    assert set(frame["async_dispatch"]) == {"on" if on else "off"}


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="This needs the package pandas"):
        _ = jaxbp.bench_vjp
