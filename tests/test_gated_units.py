"""swiglu and geglu: what they keep, which input gates, and products that are normal numbers where the gate is not.

The last is what `stable` is for; what the default leaves out is what stock does, and no more.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.engines import reference

UNITS = {
    "swiglu": (jaxbp.swiglu, {}),
    "tanh": (jaxbp.geglu, {}),
    "erf": (jaxbp.geglu, {"approximate": False}),
}
EACH = pytest.mark.parametrize("unit", UNITS)
#: Pairs whose product is far from 0 and infinity where the activation alone, or its slope, is below all numbers.
VANISHED = {"swiglu": (-100.0, -150.0, -179.0), "tanh": (-10.5, -12.0, -13.0), "erf": (-14.0, -16.0, -18.5)}


def stated_and_exact(op, options, x, gate, rule="stable"):
    """Value and both cotangents for the cotangent 1, each with its error in ULP and what is stated."""
    y, cts = op.rules[rule].value_and_vjp((x, gate), np.ones_like(x), **options)
    truth = exact_vjp(functools.partial(op.exact, **options), (x, gate), np.ones_like(x))
    for name, actual, exact in zip(("value", "ct_x", "ct_gate"), (y, *cts), (truth[0], *truth[1]), strict=True):
        normal = np.abs(exact) >= np.finfo(np.float32).tiny
        error = ulp_error(np.asarray(actual)[normal], np.asarray(exact)[normal])
        yield name, error, op.rules[rule].rule.accuracy.bound("float32", name)


@EACH
def test_a_product_is_right_where_the_gate_alone_vanishes(unit):
    op, options = UNITS[unit]
    gate = np.array(VANISHED[unit], np.float32)
    x = np.array([3e38, -3e38, 2e38], np.float32)
    for name, error, bound in stated_and_exact(op, options, x, gate):
        assert error.max(initial=0) <= bound
        assert error.size == (0 if name == "ct_x" else 3)


@EACH
def test_subnormal_inputs_count(unit):
    op, options = UNITS[unit]
    gate = np.array([1e-40, -1e-40, 1.5e-38, 1e30, -1.0], np.float32)
    x = np.array([1e30, 1e38, 1e20, 1e-40, 1e-38], np.float32)
    for _, error, bound in stated_and_exact(op, options, x, gate):
        assert error.max() <= bound


@EACH
def test_a_large_cotangent_makes_a_subnormal_input_count(unit):
    op, options = UNITS[unit]
    x, gate, ct = np.array([[1e-40, -1e-40, 1e-44], [0.5, 5, 1e-3], [1e10, 1e30, 1e37]], np.float32)
    _, (_, ct_gate) = op.rules["stable"].value_and_vjp((x, gate), ct, **options)
    _, (_, exact) = exact_vjp(functools.partial(op.exact, **options), (x, gate), ct)
    # Stated for the cotangent 1, with which nothing is rounded; with another, half a unit in the last place, or one.
    assert (
        ulp_error(np.asarray(ct_gate), exact).max() <= op.rules["stable"].rule.accuracy.bound("float32", "ct_gate") + 1
    )


@EACH
def test_a_large_cotangent_makes_a_small_slope_of_a_small_input_count(unit):
    op, options = UNITS[unit]
    gates = {"swiglu": (-78.5, -80.0, -100.0), "tanh": (-7.0, -9.5, -9.7), "erf": (-3.0, -4.5, -9.0)}[unit]
    x, gate = (a.ravel() for a in np.meshgrid(np.array([2e-38, -1.5e-40], np.float32), np.array(gates, np.float32)))
    ct = np.full_like(x, 1e37)
    _, (_, ct_gate) = op.rules["stable"].value_and_vjp((x, gate), ct, **options)
    _, (_, exact) = exact_vjp(functools.partial(op.exact, **options), (x, gate), ct)
    normal = np.abs(exact) > np.finfo(np.float32).tiny
    assert normal.any()
    error = ulp_error(np.asarray(ct_gate), exact)[normal]
    assert error.max() <= op.rules["stable"].rule.accuracy.bound("float32", "ct_gate") + 1


@EACH
def test_the_default_is_right_up_to_where_the_activation_is_subnormal(unit):
    op, options = UNITS[unit]
    last = {"swiglu": -91.84, "tanh": -10.09, "erf": -13.0}[unit]
    gate = np.repeat(np.linspace(last, 0, 4001, dtype=np.float32), 3)
    x = np.tile(np.array([3e38, 1.5, -1.2e-38], np.float32), 4001)
    stated = op.default_rule.rule.accuracy
    assert stated.holds(x, gate, **options).all()
    for name, error, bound in stated_and_exact(op, options, x, gate, "normal_range"):
        assert error.max() <= bound, name
        assert error.size > 4001


@EACH
def test_the_range_is_what_the_documentation_says(unit):
    """Gates that are stated, and those from which on the activation of jax.nn is 0, to a tenth."""
    op, options = UNITS[unit]
    stated, vanished = {"swiglu": (-91.8, -87.3), "tanh": (-10.1, -4.9), "erf": (-13.1, -13.0)}[unit]
    gate = np.array([stated, stated - 0.1, vanished + 0.05, vanished - 0.05], np.float32)
    holds = op.default_rule.rule.accuracy.holds(np.ones_like(gate), gate, **options)
    assert holds.tolist() == [True, False, True, True]
    assert (np.asarray(op.stock(np.ones_like(gate), gate, **options))[2:] != 0).tolist() == [True, False]


@EACH
def test_outside_its_range_the_default_does_as_stock_where_that_is_a_number(unit):
    op, options = UNITS[unit]
    gate = np.array([*VANISHED[unit], 0.5, 1.5e-38], np.float32)
    x = np.array([3e38, -3e38, 2e38, 1e-40, 1e30], np.float32)
    assert not op.default_rule.rule.accuracy.holds(x, gate, **options).any()
    results = [op.value_and_vjp((x, gate), np.ones_like(x), engine=e, **options) for e in (None, "autodiff")]
    for ours, stock in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, np.where(np.isnan(stock), 0, stock), rtol=1e-6, atol=1e-37)


@EACH
@pytest.mark.parametrize("rule", ["normal_range", "stable"])
def test_infinities_are_as_in_stock(unit, rule):
    op, options = UNITS[unit]
    inf = np.float32(np.inf)
    x, gate = np.array([2, 2, inf, -inf, inf], np.float32), np.array([inf, -inf, 2, 2, -inf], np.float32)
    y, (ct_x, ct_gate) = op.rules[rule].value_and_vjp((x, gate), np.ones_like(x), **options)
    np.testing.assert_array_equal(y, [inf, 0, inf, -inf, np.nan])
    np.testing.assert_array_equal(ct_x[:2], [inf, 0])
    np.testing.assert_array_equal(ct_gate, [2, 0, inf, -inf, np.nan])


@EACH
@pytest.mark.parametrize("cotangent", [1, np.inf])
def test_beside_an_infinity_an_activation_that_vanishes_is_below_0_still(unit, cotangent):
    """In float64, too, where the reference is computed."""
    op, options = UNITS[unit]
    gate = np.array([-100, -800, -1e5, -1e38], np.float32)
    x, ct = np.full_like(gate, np.inf), np.full_like(gate, cotangent)
    y, cts = op.rules["stable"].value_and_vjp((x, gate), ct, **options)
    below = np.full(4, -np.inf)
    np.testing.assert_array_equal(y, below)
    np.testing.assert_array_equal(cts, [np.where(np.isinf(ct), below, 0), below])
    truth, exact = reference(op, (x, gate), ct, **options)
    np.testing.assert_array_equal(truth, y)
    np.testing.assert_allclose(exact, cts, atol=1e-37)


def test_the_gate_comes_second_and_has_a_name():
    x, gate = jnp.float32(3), jnp.float32(-0.7)
    assert jaxbp.swiglu(x, gate) == jaxbp.swiglu(gate=gate, x=x) == pytest.approx(3 * float(jax.nn.silu(gate)))
    assert jaxbp.geglu(x, gate) == pytest.approx(3 * float(jax.nn.gelu(gate)))


@EACH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["normal_range", "stable", "textbook"])
def test_nothing_is_kept_but_the_inputs(unit, rule, dtype):
    op, options = UNITS[unit]
    f = functools.partial(op.rules[rule], **options)
    x = jnp.ones((4, 8), dtype)
    traced = jax.make_jaxpr(lambda x, gate: jax.tree.leaves(jax.vjp(f, x, gate)))(x, x)
    assert set(traced.jaxpr.outvars[1:]) == set(traced.jaxpr.invars)


@EACH
@pytest.mark.parametrize("rule", ["normal_range", "stable"])
def test_second_derivatives_agree_with_those_of_stock_in_float64(unit, rule):
    op, options = UNITS[unit]

    def of_both(f):
        return jax.jit(jax.vmap(jax.hessian(lambda p: f(*p, **options))))

    gates = np.append(np.linspace(-6, 6, 41), [0.0, -1e3, 1e3])
    pairs = np.stack([np.full_like(gates, 1.5), gates], axis=1).astype(np.float32)
    with jax.enable_x64(True):
        expected = np.array(of_both(op.stock)(pairs.astype(np.float64)))
    # Compiled, stock loses its digits far away; the gate is 0 or 1 there.
    expected[-2:] = [[[0, 0], [0, 0]], [[0, 1], [1, 0]]]
    np.testing.assert_allclose(of_both(op.rules[rule])(pairs), expected, rtol=1e-4, atol=2e-6)
