"""The yardstick of a user's function: certified where it can be, a sample where that is fair, float64 elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check.reference import Reference
from jaxbp.check.subject import make_subject
from jaxbp.measure import task
from jaxbp.measure.yardstick import SAMPLED, entry_by_entry, make_yardstick, near

RNG = np.random.default_rng(2)
SMALL = RNG.normal(size=(7, 5)).astype(np.float32)
LARGE = RNG.normal(size=(50, 60)).astype(np.float32)


def stick(f, *args):
    """The yardstick, the truth in float64, and the values and cotangents of float32."""
    subject = make_subject(f, args)
    # A generator of its own: that of the module gives what the tests before this one have left.
    rng = np.random.default_rng(3)
    cts = [np.asarray(rng.normal(size=s.shape)).astype(s.dtype) for s in subject.shapes]

    def flat(*xs):
        return jax.tree.leaves(f(*jax.tree.unflatten(subject.treedef, xs)))

    made = make_yardstick(Reference(subject), flat, list(subject.leaves), cts, np.random.default_rng(0))
    outs, grads = subject.jitted(*subject.leaves, *cts)
    return made, [np.asarray(x) for x in (*outs, *grads)]


@pytest.mark.parametrize(
    ("f", "args", "name"),
    [
        pytest.param(jnp.sin, (SMALL,), "certified", id="small"),
        pytest.param(jax.nn.softmax, (SMALL,), "certified", id="small sums"),
        pytest.param(jnp.sin, (LARGE,), "certified", id="a sample of entries"),
        pytest.param(lambda x, n: x * n, (LARGE, 3), "certified", id="beside a whole number"),
        pytest.param(jax.nn.softmax, (LARGE,), "float64", id="large sums"),
        pytest.param(lambda x: x / x.size, (LARGE,), "float64", id="a function of the shape"),
        pytest.param(lambda x, a: x * a, (LARGE, np.float32(2)), "float64", id="a number's gradient is a sum"),
        pytest.param(lambda x: jnp.cumsum(x, 0), (LARGE,), "float64", id="entries of the same shape that mix"),
        pytest.param(lambda x: jnp.sin(x) * jnp.asarray(LARGE), (LARGE,), "float64", id="an array closed over"),
        pytest.param(lambda x: jax.lax.fori_loop(0, 10**6, lambda i, c: c, x), (SMALL,), "float64", id="a long loop"),
    ],
)
def test_it_is_certified_where_it_can_be(f, args, name):
    made, got = stick(f, *args)
    assert made.name == name
    for truth, entries, actual in zip(made.truths, made.entries, got, strict=True):
        assert truth.shape == actual.shape
        chosen = slice(None) if entries is None else entries
        assert np.allclose(truth.reshape(-1)[chosen].astype(float), actual.reshape(-1)[chosen], rtol=1e-4, atol=1e-5)
    sampled = name == "certified" and args[0] is LARGE
    assert {None if e is None else len(e) for e in made.entries} == {SAMPLED if sampled else None}


def test_a_certified_truth_shows_what_float32_has_lost():
    made, (_, grad) = stick(jax.nn.sigmoid, np.array([20.0, 1.0], np.float32))
    assert grad[0] == 0
    slope = np.exp(-np.array([20.0, 1.0])) / (1 + np.exp(-np.array([20.0, 1.0]))) ** 2
    cts = np.random.default_rng(3).normal(size=2).astype(np.float32)
    np.testing.assert_allclose(np.asarray(made.truths[1], np.float64), cts * slope, rtol=1e-14)


def test_what_is_certified_has_more_digits_than_float64():
    made, _ = stick(jnp.exp, SMALL)
    assert made.truths[0].dtype == np.longdouble


def test_large_arrays_are_compared_at_the_same_entries_every_time(monkeypatch):
    monkeypatch.setattr(task, "COMPARED", 100)
    made, _ = stick(lambda x: jnp.cumsum(x, 0), LARGE)
    assert {len(entries) for entries in made.entries if entries is not None} == {100}


def test_an_op_of_ours_gives_each_entry_from_the_same_entry():
    assert entry_by_entry(Reference(make_subject(jaxbp.gelu, (LARGE,)))) == (50, 60)
    assert entry_by_entry(Reference(make_subject(jaxbp.matmul, (LARGE, LARGE.T)))) is None


def test_near_is_by_the_largest_entry():
    a = np.array([1.0, 1e-9, np.inf])
    assert near(a, np.array([1.0, 2e-9, np.inf]), 1e-6)
    assert not near(a, np.array([1.1, 1e-9, np.inf]), 1e-6)
    assert not near(a, a[:2], 1e-6)
