"""Whole programs: control flow, custom rules that must be bypassed, networks."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax
from jax.scipy.special import erf

import jaxbp
from jaxbp import Rule

mp: Any = mpmath.mp.clone()
mp.prec = 400


def autodiff(f, args, ct):
    with jax.enable_x64(True):
        y, pull = jax.vjp(f, *map(jnp.asarray, args))
        return jax.tree.map(np.asarray, (y, pull(jnp.asarray(ct))))


X = np.array([0.3, -0.7, 1.9])
PROGRAMS = {
    "scan": lambda x: lax.scan(lambda c, v: (jnp.tanh(c * v), c + v), x[0], x)[1],
    "scan reversed": lambda x: lax.scan(lambda c, v: (erf(c) * v, c), x, jnp.arange(3.0), reverse=True)[1][0],
    "scan of no steps": lambda x: lax.scan(lambda c, v: (c * v, c), x, jnp.zeros((0, 3)))[0],
    "nested scans": lambda x: lax.scan(
        lambda c, v: (lax.scan(lambda d, w: (d * w + v, None), c, x)[0], None), x, x * 2
    )[0],
    "map": lambda x: lax.map(lambda v: jnp.where(v > 0, jnp.sin(v), v), x),
    "fori_loop": lambda x: lax.fori_loop(0, 4, lambda i, v: jnp.sin(v) * i + v, x),
    "cond": lambda x: lax.cond(x[0] > x[1], lambda v: v * v, jnp.exp, x),
    "switch": lambda x: lax.switch(jnp.argmax(x), [jnp.sin, jnp.cos, erf], x),
    "vmapped cond": jax.vmap(lambda v: lax.cond(v > 0, jnp.sin, jnp.exp, v)),
    "while inside a constant": lambda x: x * lax.while_loop(lambda n: n < 10, lambda n: n * 3, 1),
    "jit": jax.jit(lambda x: jax.jit(jnp.sin)(x) + jax.jit(jnp.sin)(x * x)),
    "remat": jax.checkpoint(lambda x: jnp.sin(erf(jax.nn.relu(x)))),
    "associative scan": lambda x: lax.associative_scan(jnp.multiply, x),
    "derivative inside": lambda x: jax.vmap(jax.grad(lambda v: jnp.sin(v) ** 2))(x),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_control_flow(name):
    ct = np.array([1.0, 2.0, -3.0])
    y, (ct_x,) = jaxbp.exact_vjp(PROGRAMS[name], (X,), ct)
    expected_y, (expected,) = autodiff(PROGRAMS[name], (X,), ct)
    np.testing.assert_allclose(y, expected_y, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(ct_x, expected, rtol=1e-13, atol=1e-15)


def test_a_while_loop_until_a_number_is_small():
    y = jaxbp.exact_value(
        lambda x: lax.while_loop(lambda s: s[0] > 1e-9, lambda s: (s[0] / 3, s[1] + 1), (x, 0)), (1.0,)
    )
    assert int(y[1]) == 19
    assert float(y[0]) == float(mp.mpf(3) ** -19)


def identity_like(rule):
    """x^2 with a wrong custom rule."""
    if rule == "jvp":
        square = jax.custom_jvp(lambda x: x * x)
        square.defjvp(lambda primals, tangents: (primals[0] ** 2, 17 * tangents[0]))
    else:
        square = jax.custom_vjp(lambda x: x * x)
        square.defvjp(lambda x: (x * x, None), lambda res, ct: (17 * ct,))
    return square


@pytest.mark.parametrize("rule", ["jvp", "vjp"])
@pytest.mark.parametrize(
    "around",
    [
        lambda f, x: f(x),
        lambda f, x: jax.jit(f)(x),
        lambda f, x: jax.checkpoint(f)(x),
        lambda f, x: lax.scan(lambda c, _: (f(c), None), x, None, length=1)[0],
        lambda f, x: lax.cond(x > 0, f, jnp.sin, x),
        lambda f, x: jax.vmap(f)(x[None])[0],
    ],
    ids=["plain", "jit", "remat", "scan", "cond", "vmap"],
)
def test_wrong_custom_rules_are_bypassed(rule, around):
    f = identity_like(rule)
    assert float(jax.grad(lambda x: around(f, x))(3.0)) == 17
    _, (ct_x,) = jaxbp.exact_vjp(lambda x: around(f, x), (3.0,), 1.0)
    assert float(ct_x) == 6


def test_a_wrong_custom_rule_of_a_jax_function_is_bypassed():
    f = jax.custom_jvp(jnp.tanh)
    f.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), 17 * tangents[0]))
    _, (ct_x,) = jaxbp.exact_vjp(f, (0.5,), 1.0)
    assert float(ct_x) == float(mp.sech(mp.mpf(0.5)) ** 2)


def test_a_wrong_rule_of_an_op_is_bypassed():
    rule = jaxbp.exp.default_rule.rule
    wrong = jaxbp.exp.replace(rules=(Rule(rule.name, rule.fwd, lambda res, ct: (17 * ct,)),))
    _, (ct_x,) = jaxbp.exact_vjp(wrong, (1.0,), 1.0)
    assert float(ct_x) == float(mp.e)


def network(params, x, labels):
    def layer_norm(h, scale, shift):
        centred = h - h.mean(-1, keepdims=True)
        return scale * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + shift

    h = layer_norm(jax.nn.gelu(x @ params["w1"] + params["b1"]), params["scale"], params["shift"])
    logits = h @ params["w2"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def test_a_two_layer_network_with_layer_norm():
    rng = np.random.default_rng(0)
    shapes = {"w1": (10, 16), "b1": (16,), "scale": (16,), "shift": (16,), "w2": (16, 5)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x, labels = rng.normal(size=(8, 10)), rng.integers(0, 5, 8)
    start = time.perf_counter()
    (y, cts), (_, radii) = jaxbp.exact_vjp(network, (params, x, labels), 1.0, radius=True)
    assert time.perf_counter() - start < 20
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        expected_y, expected = jax.value_and_grad(network, argnums=(0, 1))(wide, x, labels)
    np.testing.assert_allclose(y, expected_y, rtol=1e-13)
    assert cts[2] is None
    for actual, wanted, radius in zip(*map(jax.tree.leaves, (cts[:2], expected, radii[:2])), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-13)
        assert (radius <= np.spacing(np.abs(actual)) * 0.5000001).all()


def test_twenty_thousand_slopes_of_sigmoid_take_less_than_two_seconds():
    x = np.random.default_rng(0).uniform(-40, 40, 20_000).astype(np.float32)
    start = time.perf_counter()
    _, (ct_x,) = jaxbp.exact_vjp(jax.nn.sigmoid, (x,), np.ones(x.shape))
    assert time.perf_counter() - start < 2
    for i in range(0, x.size, 1000):
        assert ct_x[i] == float(mp.sech(mp.mpf(float(x[i])) / 2) ** 2 / 4)
