"""Options of the compiler: what they gain is measured against the same executable without, what is refused is told."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine
from jaxbp.measure import options as options_module
from jaxbp.measure import task as task_module
from jaxbp.measure.executables import Executable, compile_function
from jaxbp.measure.options import option_rows
from jaxbp.measure.plan import LEVELS, Task
from jaxbp.measure.timer import Budget
from jaxbp.report.options import OPTION_COLUMNS, option_table, options_frame

ENGINE = make_engine(jaxbp.gelu, "rule:stable")
ARGS, CT = (jnp.linspace(-3, 3, 1000),), jnp.ones(1000)


def rows_of():
    plain = compile_function(ENGINE.fwd_bwd, ARGS, CT)
    return list(option_rows(ENGINE, plain, ARGS, CT, Budget(0.1, 9, 50), np.random.default_rng(0)))


def test_a_row_says_what_the_option_gains():
    (row,) = rows_of()
    assert row["option"] == "xla_cpu_prefer_vector_width=512"
    assert row["status"] == "ok"
    assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["same_results"] in ("yes", "no")
    assert {"faster", "same", "slower", "cannot say"} >= {row["verdict"]}


def test_the_ratio_is_the_time_with_the_option_over_that_without(monkeypatch):
    def planted(f, *args, options):
        """With the option a call takes twenty times as long, and gives something else."""
        executable = compile_function(f, *args)

        def repeated():
            *_, (y, cts) = (executable.call() for _ in range(20))
            return y + 1, cts

        return Executable(repeated, executable.apply)

    monkeypatch.setattr(options_module, "compile_function", planted)
    (row,) = rows_of()
    assert row["ratio"] > 3  # On a busy machine there may be no verdict.
    assert row["same_results"] == "no"


def test_an_option_that_the_compiler_does_not_know_is_a_failed_row(monkeypatch):
    monkeypatch.setattr(options_module, "OPTIONS", {"cpu": ({"xla_cpu_no_such_option": 1},)})
    (row,) = rows_of()
    assert row["status"] == "failed"
    assert "xla_cpu_no_such_option" in row["reason"]


def test_a_device_without_options_to_try_has_no_rows(monkeypatch):
    monkeypatch.setattr(options_module, "OPTIONS", {})
    assert rows_of() == []


@pytest.mark.parametrize(("case", "expected"), [("small", 1), ("cache", 0)])
def test_a_task_looks_at_the_default_rule_in_one_case(monkeypatch, case, expected):
    monkeypatch.setattr(task_module, "OPTIONS_CASE", "small")
    monkeypatch.setitem(
        LEVELS, "standard", LEVELS["quick"].__class__(**{**vars(LEVELS["quick"]), "option_budget": Budget(0.0, 3, 3)})
    )
    task = Task("sigmoid", case, "float32", "jax", ("rule:stable", "rule:textbook", "autodiff"), "standard")
    found = [row for row in task_module.measure(task) if row["kind"] == "option"]
    assert [row["engine"] for row in found] == ["rule:stable"] * expected
    frame = options_frame([{**row, "device": "cpu"} for row in found], {})
    assert list(frame.columns) == list(OPTION_COLUMNS)
    if expected:
        *_, mean = option_table(frame, "float32").to_dict("records")
        assert mean["op"] == "geometric mean"
        assert mean[found[0]["option"]] == f"{found[0]['ratio']:.2f}"
    else:
        assert option_table(frame, "float32").empty
