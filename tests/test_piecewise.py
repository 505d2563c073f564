"""Clip and where: NaN, subnormal and infinite arguments, bounds that cross, conditions of any kind."""

import builtins
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.programs import fingerprint

CLIP = pytest.mark.parametrize("rule", jaxbp.clip.rules)


@CLIP
def test_bounds_that_cross_and_nan(rule):
    x = jnp.array([0.0, 2.0, 5.0, jnp.nan, 0.0, 0.0, jnp.inf])
    low = jnp.array([3.0, 3.0, 3.0, 0.0, jnp.nan, 0.0, 0.0])
    high = jnp.array([1.0, 2.5, 4.0, 1.0, 1.0, jnp.nan, jnp.inf])
    y, cts = jaxbp.clip.rules[rule].value_and_vjp((x, low, high), jnp.ones(7))
    np.testing.assert_array_equal(y, jnp.clip(x, low, high))
    share = (0.5, 0, 0.5) if rule == "split" else (1, 0, 0)
    expected = [(0, 0, 1), (0, 0, 1), (0, 0, 1), (0, 0, 0), (0, 0, 0), (0, 0, 0), share]
    assert np.stack(cts, 1).tolist() == [list(row) for row in expected]


@CLIP
def test_subnormal_numbers_are_not_taken_for_zero(rule):
    x, low = jnp.float32([1e-40, -1e-40]), jnp.float32(0)
    y, (ct_x, ct_low, _) = jaxbp.clip.rules[rule].value_and_vjp((x, low, jnp.float32(1)), jnp.ones(2))
    assert y.tolist() == [float(x[0]), 0]
    assert (ct_x.tolist(), float(ct_low)) == ([1, 0], 1)


@CLIP
def test_an_infinite_cotangent_reaches_only_whom_it_is_for(rule):
    ct = jnp.array([jnp.inf, jnp.inf, jnp.inf])
    _, cts = jaxbp.clip.rules[rule].value_and_vjp((jnp.array([-2.0, 0.0, 2.0]), -jnp.ones(3), jnp.ones(3)), ct)
    assert np.stack(cts).tolist() == [[0, np.inf, 0], [np.inf, 0, 0], [0, 0, np.inf]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("condition", [[True, False], [3, 0], True], ids=str)
def test_conditions_of_booleans_and_integers(condition, dtype):
    x, y = jnp.array([1, jnp.nan], dtype), jnp.array([jnp.nan, 2], dtype)
    ct = jnp.array([jnp.inf, 3], dtype)
    condition = np.asarray(condition)
    z, (none, ct_x, ct_y) = jaxbp.where.value_and_vjp((condition, x, y), ct)
    assert none is None
    for actual, expected in ((z, (x, y)), (ct_x, (ct, 0)), (ct_y, (0, ct))):
        assert actual.dtype == dtype
        np.testing.assert_array_equal(np.float32(actual), np.float32(jnp.where(condition, *expected)))


def test_a_condition_of_floats_is_told():
    with pytest.raises(TypeError, match=r"where: argument condition must not be of a floating dtype, got float32"):
        jaxbp.where(jnp.ones(2), 1.0, 0.0)


def test_where_takes_python_numbers_and_transformations():
    x = jnp.array([-4.0, 9.0])
    root = jax.jit(jax.grad(lambda x: jnp.sum(jaxbp.where(x > 0, jnp.sqrt(jaxbp.where(x > 0, x, 1.0)), 0.0))))
    np.testing.assert_allclose(root(x), [0, 1 / 6], rtol=1e-6)
    assert jaxbp.where(True, 1, 2.5).dtype == np.float32


def test_names_of_builtins_are_the_ops_where_asked_for_and_nowhere_else():
    assert jaxbp.sum is jaxbp.ops.sums.sum is pickle.loads(pickle.dumps(jaxbp.sum))
    assert jaxbp.max is jaxbp.ops.extrema.max is pickle.loads(pickle.dumps(jaxbp.max))
    names: dict = {}
    exec("from jaxbp import *", names)
    assert names["sigmoid"] is jaxbp.sigmoid
    assert not {"sum", "max", "min"} & set(names)
    assert not (set(names) - {"__builtins__"}) & set(dir(builtins))


def test_where_is_the_program_that_autodiff_makes():
    x = np.ones(2**20, np.float32)

    def program(f, split):
        y, pull = jax.vjp(f, x > 0, x, x)
        if split:
            leaves, tree = jax.tree.flatten(pull)
            return compiled(lambda ct, *leaves: jax.tree.unflatten(tree, leaves)(ct)[1:], y, *leaves)
        return compiled(lambda ct, *args: (f(*args), jax.vjp(f, *args)[1](ct)[1:]), y, x > 0, x, x)

    def compiled(f, *args):
        found = fingerprint(str(jax.jit(f).lower(*args).compile().as_text()))
        assert found
        return found

    for split in (True, False):
        assert program(jaxbp.where, split) == program(jnp.where, split)
