"""silu, gelu and mish where their derivatives are smallest: about the zero, in the tail, and at both infinities."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.gating import CUBE, ERF_CROSSING, LOG2_E, SILU_CROSSING, SLOPE, TANH_CROSSING, TANH_REACH, cubic_less_whole
from jaxbp.ops.gated import MISH_CROSSING

GATED = {
    "silu": (jaxbp.silu, jax.nn.silu, SILU_CROSSING),
    "tanh": (jaxbp.gelu, jax.nn.gelu, TANH_CROSSING),
    "erf": (
        functools.partial(jaxbp.gelu, approximate=False),
        functools.partial(jax.nn.gelu, approximate=False),
        ERF_CROSSING,
    ),
    "mish": (jaxbp.mish, jax.nn.mish, MISH_CROSSING),
}
MEANT = {
    "silu": jax.nn.silu,
    "tanh": jaxbp.gelu.exact,
    "erf": functools.partial(jaxbp.gelu.exact, approximate=False),
    "mish": jax.nn.mish,
}
FORMS = pytest.mark.parametrize("form", GATED)


@FORMS
def test_the_derivative_has_its_digits_where_that_of_stock_has_none(form):
    ours, stock, crossing = GATED[form]
    x = np.float32(float(crossing.root))
    _, (truth,) = exact_vjp(MEANT[form], (x,), np.float32(1))
    assert float(jax.grad(ours)(x)) == pytest.approx(float(truth), rel=5e-7)
    assert abs(float(jax.grad(stock)(x)) / float(truth) - 1) > 0.01


@FORMS
def test_infinities_have_their_limits(form):
    ours, _, _ = GATED[form]
    x = jnp.float32([-jnp.inf, jnp.inf])
    assert ours(x).tolist() == [0, jnp.inf]
    assert jax.vmap(jax.grad(ours))(x).tolist() == [0, 1]


@pytest.mark.parametrize("form", ["silu", "tanh", "erf"])
def test_subnormal_arguments_are_halved_and_not_flushed(form):
    ours, _, _ = GATED[form]
    x = np.array([1e-40, -1e-40, 2e-38], np.float32)
    np.testing.assert_allclose(
        np.asarray(ours(x)).view(np.int32) & 0x7FFFFFFF, (x / 2).view(np.int32) & 0x7FFFFFFF, atol=1
    )


@FORMS
def test_second_derivatives_agree_with_those_of_stock_in_float64(form):
    ours, stock, crossing = GATED[form]
    x = np.append(np.linspace(-6, 6, 97), [0.0, -0.0, float(crossing.root), -1e3, 1e3]).astype(np.float32)
    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(jax.grad(jax.grad(stock))))(x.astype(np.float64))
    second = jax.jit(jax.vmap(jax.grad(jax.grad(ours))))(np.append(x, np.float32(1e30)))
    np.testing.assert_allclose(second[:-1], expected, rtol=1e-4, atol=1e-6)
    assert second[-1] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_exponent_of_gelu_has_the_digits_of_a_half_and_not_those_of_its_own_size(dtype):
    """Were they not, the error of a gradient would be as many times as large as the exponent is: 100 ULP and more."""
    slope, cube = SLOPE * LOG2_E, CUBE * LOG2_E
    with jax.enable_x64(True):
        _, vanished, _ = TANH_REACH[jnp.dtype(dtype)]
        y = np.append(np.random.default_rng(0).uniform(0, vanished, 20_000), vanished).astype(dtype)
        exponent = functools.partial(cubic_less_whole, slope=slope, cube=cube)
        f, n = jax.device_get(jax.jit(exponent)(y))
        with jax.disable_jit():
            by_itself, whole = jax.device_get(exponent(jnp.asarray(y)))
    eps = float(np.finfo(dtype).eps)
    exact = [Fraction(one) * (slope + cube * Fraction(one) ** 2) for one in y.tolist()]
    assert max(abs(e - k - Fraction(r)) for e, k, r in zip(exact, n.tolist(), f.tolist(), strict=True)) < eps / 2
    # What is left out of the half of y is relative to the exponent.
    assert max(abs(r) - 0.5 - float(e) * 2.0**-11 for e, r in zip(exact, f.tolist(), strict=True)) < 1e-6
    pairs = zip(exact, whole.tolist(), by_itself.tolist(), strict=True)
    assert max(abs(e - k - Fraction(r)) / (1 + e) for e, k, r in pairs) < eps
