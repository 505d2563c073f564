"""Inputs hold what they promise under every seed: zeros, tails of both signs; and no two purposes draw the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check.run import Checker
from jaxbp.check.subject import make_subject
from jaxbp.check.trials import cotangents, declared_domain, trials

SHAPES = [(9,), (3, 5), (2, 3, 4), (1,)]


def drawn(shape, seed=0, level="standard"):
    subject = make_subject(jnp.sin, [np.ones(shape, np.float32)])
    return {trial.name: trial.leaves[0] for trial in trials(subject, {}, level, seed)}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_seed_has_zeros_and_the_largest_of_both_signs(shape, seed):
    made = drawn(shape, seed)
    assert (made["zeros"][:1] == 0).all()
    both = [made["tails"], made["tails turned"]]
    assert max(x.max() for x in both) == -min(x.min() for x in both) == 110
    if both[0].size > 5:
        # Where functions have begun to saturate and are not yet flat.
        assert any(((np.abs(x) > 2) & (np.abs(x) < 6)).any() for x in both)


def test_a_scalar_has_no_first_row():
    assert drawn((), 3)["zeros"].shape == ()


def test_cotangents_are_not_the_arguments_again():
    subject = make_subject(jnp.sin, [np.random.default_rng(0).normal(size=9).astype(np.float32)])
    inputs = [trial.leaves[0] for trial in trials(subject, {}, "standard", 0)]
    for _, (ct,) in cotangents(subject, "standard", 0):
        assert not any(np.array_equal(ct, x) for x in inputs)


@pytest.mark.parametrize(
    "f", [jaxbp.kepler, jaxbp.kepler.rules["implicit"], functools.partial(jaxbp.kepler.rules["implicit"])]
)
def test_an_op_is_tried_where_it_is_defined(f):
    x = np.full(200, 0.5, np.float32)
    checker = Checker(f, x, x, domain={"args[0]": (0, 1)})
    for trial in trials(checker.subject, checker.domain, "thorough", 0):
        anomaly, eccentricity = trial.leaves
        assert (anomaly >= 0).all()
        assert (anomaly <= 1).all()
        assert (np.abs(eccentricity) <= 1).all()


def test_what_is_not_defined_beyond_one_end_is_tried_there_too():
    assert declared_domain(jaxbp.log) == declared_domain(jnp.log) == {}
    assert declared_domain(jaxbp.logit) == {"args[0]": (0, 1)}


def first_of_the_largest(x):
    """A maximum that gives all to the first of those that are tied: between the one-sided derivatives."""
    return jnp.max(x)


@pytest.mark.parametrize("seed", range(20))
def test_each_of_ten_that_are_tied_may_get_all(seed):
    f = jax.custom_vjp(first_of_the_largest)
    f.defvjp(lambda x: (jnp.max(x), x), lambda x, ct: (jnp.zeros_like(x).at[jnp.argmax(x)].set(ct),))
    report = jaxbp.check_vjp(f, jnp.ones(10), level="quick", seed=seed)
    assert report.passed, str(report)


def test_where_nothing_is_a_number_nothing_is_asked():
    singular = np.array([[1, 2, 0], [2, 4, 0], [0, 0, 1]], np.float32)
    f = jax.custom_vjp(lambda a: jnp.linalg.slogdet(a)[1])
    f.defvjp(
        lambda a: (jnp.linalg.slogdet(a)[1], a),
        lambda a, ct: (jnp.where(jnp.linalg.det(a) == 0, jnp.nan, ct * jnp.linalg.inv(a).T),),
    )
    assert jaxbp.check_vjp(f, singular, level="quick").passed
