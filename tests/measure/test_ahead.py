"""Compiling ahead: what a compiler says of each engine and mode, and what becomes of one that fails or crashes."""

import importlib.util
import os

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp.devices import on_gpu
from jaxbp.errors import MissingExtraError, UnknownNameError
from jaxbp.measure import ahead
from jaxbp.measure.ahead import Ahead, arguments, compile_ahead, compile_all, plan_ahead
from jaxbp.measure.plan import find_op


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


def test_for_a_gpu_kernels_are_counted_and_ops_do_what_they_do_there(here, monkeypatch):
    seen = []
    spied_on = ahead.compiled

    def spy(*args):
        seen.append(on_gpu())
        return spied_on(*args)

    monkeypatch.setattr(ahead, "compiled", spy)
    size = 4 * 2**25
    for row in compile_ahead(Ahead("exp", "float32", "h100")):
        assert row["case"] == "large"
        assert row["kernels"] in (1, 2)
        assert row["bytes"] in (2 * size, 3 * size, 4 * size, 5 * size)
    assert seen
    assert all(seen)
    assert not on_gpu()
    assert all(row["kernels"] is None for row in compile_ahead(Ahead("exp", "float32", "v5e")))


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


@pytest.mark.parametrize(("target", "package", "extra"), [("v5e", "libtpu", "tpu"), ("h100", "jax_plugins", "gpu")])
def test_without_the_compiler_the_extra_is_named(target, package, extra):
    if importlib.util.find_spec(package):
        pytest.skip("only where that compiler is not installed")
    with pytest.raises(MissingExtraError, match=rf"pip install 'jaxbp\[{extra}-aot\]'"):
        compile_ahead(Ahead("exp", "float32", target))


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None, reason="only where the compiler for NVIDIA's GPUs is installed"
)
@pytest.mark.parametrize(
    "op", ["cbrt", "layer_norm", "log_softmax", "mean_linear_cross_entropy", "norm", "rms_norm", "softmax"]
)
def test_on_a_gpu_rules_move_no_more_bytes_than_autodiff(op):
    """Each was more than one kernel too many once."""
    (asked,) = plan_ahead([op], target="h100")
    ((*rows,),) = compile_all([asked])
    moved = {(row["engine"], row["mode"]): row["bytes"] for row in rows}
    rule = f"rule:{find_op(op).default_rule.name}"
    for modes in (["fwd_bwd"], ["fwd_res", "bwd"]):
        ours, theirs = (sum(moved[engine, mode] for mode in modes) for engine in (rule, "autodiff"))
        assert ours <= 1.001 * theirs
