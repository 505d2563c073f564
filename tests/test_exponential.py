"""The exponential family at the ends of the numbers: subnormal arguments, overflow, saturation, zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp

INF = float("inf")


@pytest.mark.parametrize("op", [jaxbp.log, jaxbp.logit], ids=repr)
@pytest.mark.parametrize("exponent", [-127, -128, -140, -149])
def test_subnormal_arguments_of_a_logarithm_are_not_0(op, exponent):
    x = np.ldexp(np.float32(1), exponent)
    y, (ct_x,) = op.value_and_vjp((x,), np.float32(1))
    assert float(y) == pytest.approx(exponent * np.log(2), rel=1e-7)
    assert float(ct_x) == (2.0**-exponent if exponent > -128 else INF)


@pytest.mark.parametrize(
    ("op", "x", "expected"),
    [
        (jaxbp.exp, -INF, 0),
        (jaxbp.exp, INF, INF),
        (jaxbp.expm1, -INF, -1),
        (jaxbp.expm1, INF, INF),
        (jaxbp.log, 0, -INF),
        (jaxbp.log, INF, INF),
        (jaxbp.log1p, -1, -INF),
        (jaxbp.log1p, INF, INF),
        (jaxbp.logit, 0, -INF),
        (jaxbp.logit, -0.0, -INF),
        (jaxbp.logit, 1, INF),
        (jaxbp.softplus, -INF, 0),
        (jaxbp.softplus, INF, INF),
        (jaxbp.log_sigmoid, -INF, -INF),
        (jaxbp.log_sigmoid, INF, 0),
        (jaxbp.tanh, -INF, -1),
    ],
    ids=str,
)
def test_limits(op, x, expected):
    assert float(op(jnp.float32(x))) == expected


@pytest.mark.parametrize("op", [jaxbp.expm1, jaxbp.log1p, jaxbp.tanh], ids=repr)
def test_odd_functions_keep_the_sign_of_zero(op):
    assert np.signbit(op(jnp.float32(-0.0)))
    assert not np.signbit(op(jnp.float32(0.0)))


@pytest.mark.parametrize("op", [jaxbp.exp, jaxbp.expm1], ids=repr)
def test_the_exponential_overflows_where_it_should(op):
    last = np.float32(88.72283)
    assert float(op(last)) == pytest.approx(np.exp(np.float64(last)), rel=2e-7)
    assert float(op(np.nextafter(last, np.float32(INF)))) == INF


def test_logit_is_odd_around_its_zero():
    x = jnp.arange(1, 1024, dtype=jnp.float32) / 1024
    assert np.array_equal(jaxbp.logit(1 - x), -jaxbp.logit(x))


@pytest.mark.parametrize(
    ("op", "x"),
    [
        (jaxbp.exp, [-80.0, -1.0, 0.0, 88.5]),
        (jaxbp.expm1, [-5.0, -1e-3, 0.0, 1e-9, 3.0]),
        (jaxbp.log, [1e-30, 0.5, 1.0, 1e30]),
        (jaxbp.log1p, [-0.75, 0.0, 1e-9, 3.0]),
        (jaxbp.logit, [1e-9, 0.25, 0.5, 0.999]),
        (jaxbp.softplus, [-30.0, -1.0, 0.5, 5.0]),
        (jaxbp.log_sigmoid, [-5.0, -0.5, 1.0, 30.0]),
        (jaxbp.sigmoid.rules["precise"], [-30.0, -1.0, 0.5, 5.0]),
        (jaxbp.tanh, [-3.0, -1e-3, 0.0, 0.7]),
    ],
    ids=str,
)
def test_second_derivatives_are_those_of_stock(op, x):
    def second(f):
        return jax.jit(jax.vmap(jax.grad(jax.grad(f))))(jnp.float32(x))

    stock = getattr(op, "op", op).stock
    np.testing.assert_allclose(second(op), second(stock), rtol=1e-4)
