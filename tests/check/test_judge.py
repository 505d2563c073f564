"""Infinities under differentiation, overflow, and sums in another order: what counts as wrong, and what as lost."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.check.run import Checker
from tests.mutants.mutant import custom

X = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def total(x):
    return jax.nn.logsumexp(x, -1)


def test_a_value_that_is_infinite_only_without_differentiation_is_found():
    masked = np.where(np.arange(4)[:, None] == 2, -np.inf, X).astype(np.float32)

    def fwd(x):
        y = total(x)
        return jnp.where(jnp.isfinite(y), y, 0), x

    report = jaxbp.check_vjp(
        custom(total, fwd, lambda x, ct: (ct[:, None] * jax.nn.softmax(x),)), masked, level="quick"
    )
    assert report.faults[0].kind == "value"
    assert "a plain call gives -inf" in report.faults[0].text
    assert jaxbp.check_vjp(total, masked, level="quick").passed


def test_no_better_answer_is_asked_for_than_autodiff_has():
    # The squares vanish, or overflow, in float32.
    for x in ([1e-30, 1e-30, 0, 0], [1e30, 1, 0, 0]):
        report = jaxbp.check_vjp(lambda x: jnp.sqrt(jnp.sum(x * x)), np.array(x, np.float32), level="quick")
        assert report.passed, str(report)


def softmax_of_the_total(x, factor=1.0):
    """The gradient of logsumexp from its rounded output, as blockwise attention computes it."""
    f = custom(total, lambda x: (total(x), (x, total(x))), _from_the_total(factor))
    return jaxbp.check_vjp(f, x, level="quick")


def _from_the_total(factor):
    return lambda kept, ct: (factor * ct[:, None] * jnp.exp(kept[0] - kept[1][:, None]),)


def test_what_a_rounded_sum_costs_is_no_fault_and_a_wrong_digit_is():
    x = 90 + X
    assert softmax_of_the_total(x).passed
    assert not softmax_of_the_total(x, 1 + 2e-5).passed


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T / 2) @ v


def attention_from_the_total(change=lambda p, scores: p):
    """Attention whose backward pass recomputes the weights from the total of the scores, as blockwise code does."""

    def fwd(q, k, v):
        y = attention(q, k, v)
        return y, (q, k, v, y, total(q @ k.T / 2))

    def bwd(kept, ct):
        q, k, v, y, lse = kept
        scores = q @ k.T / 2
        p = change(jnp.exp(scores - lse[:, None]), scores)
        ds = p * (ct @ v.T - jnp.sum(ct * y, -1)[:, None]) / 2
        return ds @ k, ds.T @ q, p.T @ ct

    rng = np.random.default_rng(1)
    qkv = [rng.normal(size=(n, 4)).astype(np.float32) for n in (7, 6, 6)]
    return Checker(custom(attention, fwd, bwd), *qkv, shapes="keep")


def test_what_a_right_formula_loses_far_away_is_noted_and_no_fault():
    checker = attention_from_the_total()
    reports = [checker.run(seed) for seed in range(40)]
    assert all(report.passed for report in reports), next(str(r) for r in reports if not r.passed)
    assert any(finding.kind == "precision" for report in reports for finding in report.findings)


def test_a_formula_that_is_a_little_wrong_far_away_is_a_fault():
    off = attention_from_the_total(lambda p, scores: jnp.where(jnp.abs(scores) > 50, p * (1 + 2e-4), p))
    assert not any(off.run(seed).passed for seed in range(5))
