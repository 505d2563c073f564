"""elu and leaky_relu: the slope at 0, subnormal numbers, the tail of elu, and what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp

#: Below 0, 0 twice, and above it, subnormal ones among them.
AROUND_0 = np.array([-1e-40, -0.0, 0.0, 1e-40], np.float32)


def slopes(f, x):
    return jax.vmap(jax.grad(f))(x).tolist()


def test_at_0_the_slopes_are_those_of_jax_nn():
    for x in (0.0, -0.0):
        for alpha in (1.0, 0.3):
            ours, stock = (jax.grad(lambda x, f=f, alpha=alpha: f(x, alpha=alpha))(x) for f in (jaxbp.elu, jax.nn.elu))
            assert float(ours) == float(stock) == np.float32(alpha)
        assert float(jax.grad(jaxbp.leaky_relu)(x)) == float(jax.grad(jax.nn.leaky_relu)(x)) == 1


def test_subnormal_arguments_are_on_their_side_of_0():
    assert slopes(lambda x: jaxbp.elu(x, alpha=0.25), AROUND_0) == [0.25, 0.25, 0.25, 1]
    assert slopes(lambda x: jaxbp.leaky_relu(x, negative_slope=0.25), AROUND_0) == [0.25, 1, 1, 1]


@pytest.mark.parametrize("f", [lambda x: jaxbp.elu(x, alpha=1e6), lambda x: jaxbp.leaky_relu(x, negative_slope=1e6)])
def test_a_subnormal_argument_times_a_large_number_is_not_0(f):
    assert float(f(np.float32(-1e-40))) == pytest.approx(1e6 * float(np.float32(-1e-40)), rel=1e-6)


def test_elu_has_its_slope_where_the_exponential_alone_vanishes():
    x = np.array([-20, -95, -110], np.float32)
    actual = jax.vmap(jax.grad(lambda x: jaxbp.elu(x, alpha=1e12)))(x)
    np.testing.assert_allclose(actual, 1e12 * np.exp(x.astype(np.float64)), rtol=3e-7)


def test_infinities_and_nan():
    x = np.array([-np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(jaxbp.elu(x), [-1, np.inf, np.nan])
    np.testing.assert_array_equal(slopes(jaxbp.elu, x), [0, 1, np.nan])
    np.testing.assert_array_equal(jaxbp.leaky_relu(x), [-np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(slopes(jaxbp.leaky_relu, x), slopes(jax.nn.leaky_relu, x))


def test_the_second_derivative_of_elu_is_that_of_stock():
    x = np.array([-30, -2, -1e-3, 0.0, 1e-3, 2], np.float32)
    second, expected = (jax.jit(jax.vmap(jax.grad(jax.grad(f))))(x) for f in (jaxbp.elu, jax.nn.elu))
    np.testing.assert_allclose(second, expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("op", [jaxbp.elu, jaxbp.leaky_relu], ids=repr)
def test_nothing_is_kept_but_the_input(op):
    traced = jax.make_jaxpr(lambda x: jax.tree.leaves(jax.vjp(op, x)))(jnp.ones(8))
    assert traced.jaxpr.outvars[1:] == [traced.jaxpr.invars[0]]


@pytest.mark.parametrize(("op", "option"), [(jaxbp.elu, "alpha"), (jaxbp.leaky_relu, "negative_slope")])
def test_an_option_that_is_an_array_is_refused_in_a_sentence(op, option):
    with pytest.raises(TypeError, match=rf"{op.name}: the option {option} must be a Python value.*{option}\.item"):
        op(jnp.ones(3), **{option: jnp.float32(0.1)})
