"""Compiling ahead: what a compiler says of each engine and mode, and what becomes of one that fails or crashes."""

import importlib.util
import os

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp.errors import MissingExtraError, UnknownNameError
from jaxbp.measure import ahead
from jaxbp.measure.ahead import Ahead, arguments, compile_ahead, compile_all, plan_ahead


@pytest.fixture
def here(monkeypatch):
    """The processor in place of a chip that is not here: its compiler is always at hand."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    monkeypatch.setattr(ahead, "chip", lambda target: sharding)
    return sharding


def test_names_that_do_not_exist_are_sentences():
    with pytest.raises(UnknownNameError, match="There is no chip called 'v5'; did you mean 'v5p' or 'v5e'"):
        plan_ahead(target="v5")
    with pytest.raises(UnknownNameError, match="did you mean 'sigmoid'"):
        plan_ahead(["sigmod"])
    assert [asked.op for asked in plan_ahead()] == [op.name for op in jaxbp.OPS]


def test_arguments_are_known_and_not_drawn(here):
    for op in jaxbp.OPS:
        known = arguments(op.case("memory"), np.dtype("float32"), here)
        assert tuple(x.shape for x in known) == op.case("memory").shapes
        drawn = op.case("small").arguments(np.dtype("float32"))
        assert [x.dtype for x in known] == [x.dtype for x in drawn]


@pytest.mark.parametrize("op", ["exp", "softmax_cross_entropy", "l2_penalty"])
def test_each_engine_has_a_row_a_mode(here, op):
    rows = compile_ahead(Ahead(op, "float32", "v5e"))
    assert [(row["engine"].partition(":")[0], row["mode"]) for row in rows] == [
        (engine, mode) for engine in ("rule", "autodiff") for mode in ("fwd_bwd", "fwd_res", "bwd")
    ]
    assert all(row["status"] == "ok" and row["compile_ms"] > 0 for row in rows)


def test_numbers_by_hand(here):
    rule, *_ = compile_ahead(Ahead("exp", "float32", "v5e"))
    size = 4 * 2**22
    # x, ct, y and ct_x.
    assert rule["temp_bytes"] == 0
    assert 4 * size <= rule["peak_bytes"] < 4 * size + 64  # And where they lie.
    assert rule["bytes"] >= 4 * size
    modes = {
        row["mode"]: row for row in compile_ahead(Ahead("sigmoid", "float32", "v5e")) if row["engine"] == "autodiff"
    }
    assert modes["fwd_res"]["residual_bytes"] == size


def test_what_cannot_be_compiled_is_a_row_with_the_reason(here, monkeypatch):
    monkeypatch.setattr(ahead, "compiled", lambda f, *args: 1 / 0)
    rows = compile_ahead(Ahead("exp", "float32", "v5e"))
    assert [(row["engine"], row["status"]) for row in rows] == [("rule:output", "failed"), ("autodiff", "failed")]
    assert all(row["reason"].startswith("ZeroDivisionError") for row in rows)


def crash(asked):
    """A compiler that does not survive the second op."""
    if asked.op == "log":
        os._exit(3)
    return [{"op": asked.op, "status": "ok"}]


def test_a_crash_costs_the_op_at_which_it_happened(monkeypatch):
    monkeypatch.setattr(ahead, "compile_ahead", crash)
    told = []
    rows = [row for rows in compile_all(plan_ahead(["exp", "log", "tanh"]), told.append) for row in rows]
    assert [(row["op"], row["status"]) for row in rows] == [("exp", "ok"), ("log", "failed"), ("tanh", "ok")]
    assert rows[1]["reason"] == "The compiler crashed."
    assert told == ["exp float32", "log float32", "tanh float32"]


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="only where no compiler for TPUs is installed"
)
def test_without_the_compiler_the_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"pip install 'jaxbp\[tpu-aot\]'"):
        compile_ahead(Ahead("exp", "float32", "v5e"))
