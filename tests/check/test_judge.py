"""Infinities under differentiation, overflow, and sums in another order: what counts as wrong, and what as lost."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
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
