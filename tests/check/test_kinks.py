"""At kinks any value between the one-sided derivatives will do, at ties only shares that add up."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import kinks
from tests.mutants.mutant import custom

X = np.array([1, -2, 3, 0, 5, 0.5], np.float32)
Y = np.array([1, -2, 2, 0, 7, 0.5], np.float32)


def larger(share_x, share_y):
    def bwd(kept, ct):
        x, y = kept
        return (
            ct * jnp.where(x == y, share_x, x > y).astype(ct.dtype),
            ct * jnp.where(x == y, share_y, y > x).astype(ct.dtype),
        )

    return custom(jnp.maximum, lambda x, y: (jnp.maximum(x, y), (x, y)), bwd)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1, 0), (0, 1), (0.25, 0.75)])
def test_shares_that_add_up_are_right(shares):
    report = jaxbp.check_vjp(larger(*shares), X, Y)
    assert report.passed, str(report)


@pytest.mark.parametrize("shares", [(1, 1), (0, 0), (0.25, 0.25), (0.9, 0.9)])
def test_shares_that_do_not_add_up_are_wrong(shares):
    report = jaxbp.check_vjp(larger(*shares), X, Y, level="quick")
    assert not report.passed
    assert report.faults[0].looks_like == "wrong at ties"
    assert f"{sum(shares):.4g} times" in report.faults[0].text


def test_ties_within_an_array_are_looked_at_too():
    def bwd(x, ct):
        return (jnp.where(x == jnp.max(x, -1, keepdims=True), ct[:, None], 0),)

    f = custom(lambda x: jnp.max(x, -1), lambda x: (jnp.max(x, -1), x), bwd)
    x = np.array([[1, 2, 2], [3, 0, 1], [5, 5, 5]], np.float32)
    report = jaxbp.check_vjp(f, x, level="quick")
    assert report.faults[0].looks_like == "wrong at ties"
    assert jaxbp.check_vjp(lambda x: jnp.max(x, -1), x, level="quick").passed


def test_where_a_condition_hides_the_derivative_its_neighbours_count():
    # d(w sin x)/dw at w = 0 is sin x, whatever the branch for 0 says; it is rounded in float32.
    def f(x, w):
        return jnp.where(w != 0, w * jnp.sin(x), 0)

    def bwd(kept, ct):
        x, w = kept
        return ct * w * jnp.cos(x), ct * jnp.sin(x)

    g = custom(f, lambda x, w: (f(x, w), (x, w)), bwd)
    report = jaxbp.check_vjp(g, jnp.linspace(1, 2, 12), jnp.zeros(12), level="quick")
    assert report.passed, str(report)


def first_largest(weights):
    """A maximum over all entries that shares the cotangent among tied ones by these weights, in their order."""

    def bwd(x, ct):
        tied = jnp.ravel(x == jnp.max(x))
        rank = jnp.cumsum(tied) - 1
        return (jnp.where(tied, ct * jnp.asarray(weights(jnp.sum(tied), rank), ct.dtype), 0).reshape(x.shape),)

    return custom(jnp.max, lambda x: (jnp.max(x), x), bwd)


@pytest.mark.parametrize(("limit", "tied"), [(kinks.ALONE, lambda x: np.where(x > 0, x.max(), x)), (3, np.zeros_like)])
def test_of_hundreds_of_tied_entries_each_may_get_all(monkeypatch, limit, tied):
    monkeypatch.setattr(kinks, "ALONE", limit)
    x = tied(np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32))
    for weights in (
        lambda n, rank: rank == 0,
        lambda n, rank: rank == n - 1,
        lambda n, rank: 2 * (n - rank) / (n * (n + 1)),
    ):
        report = jaxbp.check_vjp(first_largest(weights), x, level="quick")
        assert report.passed, str(report)


@pytest.mark.parametrize("factor", [1.5, -1])
def test_of_hundreds_of_tied_entries_none_may_get_more_than_all(factor):
    x = np.zeros((16, 32), np.float32)
    # The first gets too much, or too little, the last makes up for it: the sum is right.
    wrong = first_largest(lambda n, rank: factor * (rank == 0) + (1 - factor) * (rank == n - 1))
    report = jaxbp.check_vjp(wrong, x, level="quick")
    assert not report.passed
    assert "between the one-sided derivatives" not in report.faults[0].text


def test_the_one_entry_of_a_scalar_is_moved_too():
    wrong = custom(jnp.abs, lambda x: (jnp.abs(x), x), lambda x, ct: (jnp.where(x == 0, 2, jnp.sign(x)) * ct,))
    assert not jaxbp.check_vjp(wrong, np.float32(0), level="quick").passed


def test_a_scalar_that_ties_with_hundreds_may_get_all():
    def largest(x, y):
        return jnp.maximum(x, jnp.max(y))

    def bwd(kept, ct):
        x, y = kept
        first = jnp.zeros_like(y).at[jnp.argmax(y)].set(1)
        return jnp.where(x >= jnp.max(y), ct, 0), jnp.where(x >= jnp.max(y), 0, ct) * first

    f = custom(largest, lambda x, y: (largest(x, y), (x, y)), bwd)
    report = jaxbp.check_vjp(f, np.float32(2), np.full(500, 2, np.float32))
    assert report.passed, str(report)
