"""The measurement of blocks: its products are all that cannot be left out, and its ratios are what was timed."""

import concurrent.futures
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from bench import blocks
from jaxbp.cases import Case, Labels, Normal
from jaxbp.jaxprs import equations
from jaxbp.measure.timer import Budget
from jaxbp.ops import mean_losses

CASE = Case("few", ((64, 24), (24, 512), (64,)), (Normal(), Normal(), Labels(512)))


def work(args):
    """How many products of matrices the rule's forward pass has now, and exponentials."""
    # A function of its own each time, or JAX would remember the last program.
    forward = functools.partial(mean_losses.mean_linear_cross_entropy_fwd, block=16)
    names = [eqn.primitive.name for eqn in equations(jax.make_jaxpr(forward)(*args))]
    return names.count("dot_general"), names.count("exp") + names.count("log1p")


def leave_out(monkeypatch, program):
    where, name, instead = blocks.LEFT_OUT[program]
    assert hasattr(where, name)
    monkeypatch.setattr(where, name, instead)


def test_the_products_are_the_rules_own_and_nothing_else_is_left(monkeypatch):
    args = CASE.arguments(np.dtype(np.float32))
    whole = work(args)
    assert whole[0] == 3
    assert whole[1] > 0
    leave_out(monkeypatch, "products")
    assert work(args) == (3, 0)
    x, w, _ = args
    _, gradients = mean_losses.mean_linear_cross_entropy_fwd(*args, block=16)
    logits = x.astype(np.float64) @ w
    np.testing.assert_allclose(gradients[0], logits @ w.T / 64, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients[1], x.T @ logits / 64, rtol=1e-4, atol=1e-4)


def loops_over_logits(args):
    """How many loops of the rule's compiled forward pass write what is as large as its logits."""
    forward = functools.partial(mean_losses.mean_linear_cross_entropy_fwd, block=16)
    return len(re.findall(r"= f32\[16,512\]\S* fusion\(", jax.jit(forward).lower(*args).compile().as_text() or ""))


def test_the_passes_are_the_rules_own_and_its_exponentials_are_left_out(monkeypatch):
    def scaled():
        """By their powers of 2, which are made of bits, one tells the exponentials of all logits."""
        forward = functools.partial(mean_losses.mean_linear_cross_entropy_fwd, block=16)
        return sum(
            eqn.primitive.name == "shift_left" and eqn.outvars[0].aval.shape == (16, 512)
            for eqn in equations(jax.make_jaxpr(forward)(*args))
        )

    args = tuple(map(jnp.asarray, CASE.arguments(np.dtype(np.float32))))
    loops = loops_over_logits(args)
    assert scaled() == 1
    assert loops > 1  # The exponentials, and the slopes.
    leave_out(monkeypatch, "passes")
    assert (scaled(), loops_over_logits(args)) == (0, loops)
    _, gradients = mean_losses.mean_linear_cross_entropy_fwd(*args, block=16)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_rule_is_itself_again_afterwards():
    args = CASE.arguments(np.dtype(np.float32))
    compiled = blocks.programs(args, (16,))
    y, (ct_x, ct_w) = compiled["rule", 16].call()
    exact, cts = compiled[blocks.AUTODIFF].call()
    assert float(y) == pytest.approx(float(exact), rel=1e-5)
    for actual, expected in zip((ct_x, ct_w), cts, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)
    assert not np.allclose(compiled["products", 16].call()[1][0], ct_x)


def test_ratios_are_of_the_rounds_of_each_process():
    """A rule that takes 1.2 of its products' time, on a machine that is three times as slow in the second process."""
    taken = {blocks.AUTODIFF: 2.0, ("rule", 16): 1.2, ("products", 16): 1.0, ("passes", 16): 1.1}
    found = [{name: (1000, [slow * t] * 6) for name, t in taken.items()} for slow in (1.0, 3.0)]
    (row,) = blocks.frame(found).to_dict("records")
    assert row["block"] == 16
    assert row["rule_temp_bytes"] == row["autodiff_temp_bytes"] == 1000
    assert row["rule_of_products"] == pytest.approx(1.2)
    assert row["rule_of_autodiff"] == pytest.approx(0.6)
    assert row["rule_of_passes"] == pytest.approx(1.2 / 1.1)
    assert row["passes_of_autodiff"] == pytest.approx(0.55)
    assert row["products_of_autodiff_low"] == pytest.approx(row["products_of_autodiff_high"]) == pytest.approx(0.5)


def test_all_programs_are_timed_in_the_same_rounds(monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    found = blocks.measure(CASE, (16, 32), Budget(seconds=0.1, min_rounds=3, max_rounds=3), 0)
    assert set(found) == {
        blocks.AUTODIFF,
        *((name, block) for name in ("rule", *blocks.LEFT_OUT) for block in (16, 32)),
    }
    assert {len(seconds) for _, seconds in found.values()} == {3}
    (row, larger) = blocks.frame([found]).to_dict("records")
    assert row["rule_temp_bytes"] < larger["rule_temp_bytes"] < row["autodiff_temp_bytes"]
    assert np.isfinite(blocks.frame([found])["rule_of_products"]).all()


class FailsSecond:
    """In place of a pool of one process: the first measures, the second dies."""

    started = 0

    def __init__(self, *_):
        FailsSecond.started += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, *_):
        future = concurrent.futures.Future()
        if FailsSecond.started > 1:
            future.set_exception(concurrent.futures.BrokenExecutor("planted"))
        else:
            seconds = {blocks.AUTODIFF: 2.0, **{(name, 16): 1.0 for name in ("rule", *blocks.LEFT_OUT)}}
            future.set_result({name: (9, [taken] * 5) for name, taken in seconds.items()})
        return future


def test_what_was_measured_is_not_lost(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["blocks", "--out", str(tmp_path), "--processes", "3"])
    monkeypatch.setattr(blocks, "machine_facts", lambda: {"name": "here"})
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", FailsSecond)
    with pytest.raises(concurrent.futures.BrokenExecutor, match="planted"):
        blocks.main()
    (row,) = pd.read_csv(tmp_path / "here" / blocks.TABLE).to_dict("records")
    assert row["rule_of_autodiff"] == pytest.approx(0.5)
    assert json.loads((tmp_path / "here" / "machine.json").read_text())["processes"] == 1


@pytest.mark.parametrize(("processes", "sentence"), [("0", "must be at least 1, got 0"), ("1", "cannot be written")])
def test_bad_input_is_told_before_anything_is_measured(monkeypatch, tmp_path, capsys, processes, sentence):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("sys.argv", ["blocks", "--out", str(file), "--processes", processes])
    monkeypatch.setattr(blocks, "machine_facts", lambda: {"name": "here"})
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as told:
        blocks.main()
    assert told.value.code == 2
    assert sentence in capsys.readouterr().err
