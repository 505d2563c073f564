"""Normalizations: any leading axes, a large mean, rows without spread, second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import reference

OPS = (jaxbp.layer_norm, jaxbp.rms_norm)


def arguments(op, *shape, mean=0.0):
    rng = np.random.default_rng(3)
    x = (mean + rng.normal(size=shape)).astype(np.float32)
    return (x, *(rng.uniform(0.5, 1.5, shape[-1]).astype(np.float32) for _ in op.arguments[1:]))


@pytest.mark.parametrize("op", OPS, ids=repr)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 5), (4, 1), (0, 3)], ids=str)
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_any_leading_axes(op, shape, epsilon):
    args = arguments(op, *shape)
    ct = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    exact_y, exact = reference(op, args, ct, epsilon=epsilon)
    y, cts = op.value_and_vjp(args, ct, epsilon=epsilon)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        assert actual.shape == truth.shape
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=3e-6 * (1 + np.abs(truth).max(initial=0)))


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0, 3)], ids=str)
def test_the_linear_layer_of_any_leading_axes(shape):
    rng, op = np.random.default_rng(4), jaxbp.rms_norm_linear
    x, scale, w, ct = (rng.normal(size=s).astype("f") for s in (shape, shape[-1:], (shape[-1], 2), (*shape[:-1], 2)))
    exact_y, exact = reference(op, (x, scale, w), ct, epsilon=0.1)
    y, cts = op.value_and_vjp((x, scale, w), ct, epsilon=0.1)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        assert actual.shape == truth.shape
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=3e-6 * (1 + np.abs(truth).max(initial=0)))


def test_what_the_linear_layer_takes_is_not_kept():
    def kept(f, *args):
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda *xs: jax.vjp(f, *xs)[1], *args)))

    x, scale, w = jnp.ones((100, 64)), jnp.ones(64), jnp.ones((64, 8))
    apart = kept(lambda x, scale, w: jaxbp.matmul(jaxbp.rms_norm(x, scale), w), x, scale, w)
    assert kept(jaxbp.rms_norm_linear, x, scale, w) == apart - x.size


def test_a_large_mean_takes_no_digits_beyond_those_of_the_input():
    args = arguments(jaxbp.layer_norm, 4, 64, mean=1000.0)
    ct = np.ones((4, 64), np.float32)
    exact = reference(jaxbp.layer_norm, args, ct)[0]

    def off(y):
        return np.abs(np.asarray(y) - exact).max()

    assert off(jaxbp.layer_norm(*args)) < 2e-4
    # Where the variance is the difference of two large numbers.
    assert off(jaxbp.layer_norm.stock(*args)) > 1e-2


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_a_row_without_spread_has_a_finite_gradient(op):
    args = (np.zeros((2, 4), np.float32), *arguments(op, 2, 4)[1:])
    y, cts = op.value_and_vjp(args, np.ones((2, 4), np.float32))
    expected = args[2] if op is jaxbp.layer_norm else np.zeros(4)
    np.testing.assert_array_equal(y, np.broadcast_to(expected, (2, 4)))
    assert all(np.isfinite(ct).all() for ct in cts)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_what_does_not_fit_is_a_sentence(op):
    x, *parameters = arguments(op, 3, 4)
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[3, 4\], scale float32\[3\]"):
        op(x, parameters[0][:3], *parameters[1:])


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_second_derivatives_agree_with_those_of_stock(op):
    x, *parameters = arguments(op, 2, 3)

    def hessian(f):
        return jax.jit(jax.jacrev(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, *parameters))))))(x)

    np.testing.assert_allclose(hessian(op), hessian(op.stock), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 0), (0, 0), (0, 8)])
@pytest.mark.parametrize("op", [jaxbp.layer_norm, jaxbp.rms_norm], ids=repr)
def test_rows_without_entries_have_gradients_without_entries(op, shape):
    parameters = (jnp.ones(shape[-1]),) * (len(op.arguments) - 1)
    _, (ct_x, *others) = op.value_and_vjp((jnp.ones(shape), *parameters), jnp.ones(shape))
    assert ct_x.shape == shape
    assert all(ct.shape == shape[-1:] for ct in others)
