"""exact_value and exact_vjp: certification, rounding, radii, arguments and errors."""

import math
import random
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy import exact
from jaxbp.accuracy.exact import UncertifiedError, nearest
from jaxbp.accuracy.exact_balls import arb, flint
from jaxbp.accuracy.exact_control import RULES

mp: Any = mpmath.mp.clone()
mp.prec = 2000


@pytest.mark.parametrize("x", [40.0, 700.0, -40.0])
def test_the_slope_of_sigmoid_where_float64_autodiff_loses_it(x):
    y, (ct_x,) = jaxbp.exact_vjp(jax.nn.sigmoid, (x,), 1.0)
    e = mp.exp(-abs(mp.mpf(x)))
    assert float(ct_x) == float(e / (1 + e) ** 2)
    assert float(y) == float(1 / (1 + mp.exp(-mp.mpf(x))))
    with jax.enable_x64(True):
        lost = abs(float(jax.grad(jax.nn.sigmoid)(x)) / float(ct_x) - 1)
    assert lost == 1 if x > 0 else lost < 1e-15


def test_the_slope_of_tanh_where_float64_autodiff_loses_it():
    _, (ct_x,) = jaxbp.exact_vjp(jnp.tanh, (30.0,), 1.0)
    assert float(ct_x) == float(mp.sech(30) ** 2)
    with jax.enable_x64(True):
        assert float(jax.grad(jnp.tanh)(30.0)) == 0


def test_exp_undoes_log():
    x = np.array([1e-300, 0.1, 1.0, math.pi, 1e300])
    y, (ct_x,) = jaxbp.exact_vjp(lambda x: jnp.exp(jnp.log(x)), (x,), np.ones(5))
    assert y.tolist() == x.tolist()
    assert ct_x.tolist() == [1.0] * 5


def test_the_gradient_of_a_sum_of_probabilities_vanishes():
    x = np.random.default_rng(0).normal(size=7)
    (y, (ct_x,)), (_, (error,)) = jaxbp.exact_vjp(lambda x: jax.nn.softmax(x).sum(), (x,), 1.0, radius=True)
    assert float(y) == 1
    assert ct_x.tolist() == [0.0] * 7
    assert error.max() == 5e-324


def test_the_vjp_is_linear_in_the_cotangent():
    rng = np.random.default_rng(1)
    x, a, b = rng.normal(size=(3, 4))
    of_a, of_b, of_both, of_four = (jaxbp.exact_vjp(jax.nn.log_softmax, (x,), ct)[1][0] for ct in (a, b, a + b, 4 * a))
    assert of_four.tolist() == (4 * of_a).tolist()
    # a + b was rounded on the way in.
    np.testing.assert_allclose(of_a + of_b, of_both, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("x", "y", "total"),
    [
        (1.0, 2.0**-53, 1.0),
        (1 + 2.0**-52, 2.0**-53, 1 + 2.0**-51),
        (1.0, 2.0**-53 * (1 + 2.0**-52), 1 + 2.0**-52),
        (1.0, -(2.0**-54), 1.0),
        (np.finfo(float).max, 2.0**969, np.finfo(float).max),
        (np.finfo(float).max, 2.0**970, math.inf),
        (1e308, 1e308, math.inf),
    ],
)
def test_ties_go_to_even(x, y, total):
    assert float(jaxbp.exact_value(lambda x, y: x + y, (x, y))) == total
    assert float(jaxbp.exact_value(lambda x, y: -x - y, (x, y))) == -total


@pytest.mark.parametrize(("factor", "steps"), [(0.5, 0), (0.5000001, 1), (1.5, 2), (2.5, 2), (2.5000001, 3)])
def test_subnormal_results_are_rounded_once(factor, steps):
    assert float(jaxbp.exact_value(lambda x, y: x * y, (5e-324, factor))) == steps * 5e-324


def test_results_beyond_float64():
    x = np.array([709.8, -745.2, -745.1, 1e300, -1e300])
    y, error = jaxbp.exact_value(jnp.exp, (x,), radius=True)
    assert y.tolist() == [math.inf, 0.0, 5e-324, math.inf, 0.0]
    assert error[0] == math.inf
    assert 0 < error[1] <= 5e-324


def test_nearest_agrees_with_fractions():
    rng = random.Random(0)
    with flint.ctx.workprec(400):
        for _ in range(3000):
            man = rng.getrandbits(rng.choice([53, 54, 55, 64, 200])) * rng.choice([1, -1])
            exponent = rng.choice([rng.randint(-60, 60), rng.randint(-1300, -1020), rng.randint(700, 820)])
            expected = float(Fraction(man) * Fraction(2) ** exponent)
            assert nearest(arb(man) * arb(2) ** exponent) == expected


def test_a_ball_across_a_tie_is_not_rounded():
    with flint.ctx.workprec(300):
        tie = arb(1) + arb(2) ** -53
        assert nearest(tie) == 1.0
        assert nearest(arb(tie, 1e-80)) is None
        assert nearest(arb(tie, 0) + arb(2) ** -200) == 1 + 2.0**-52
        assert nearest(arb(1.25, 2.0**-58)) is None  # Rounds to one number, but is not certified to 2^-60.
        assert nearest(arb(1.25, 2.0**-64)) == 1.25


def test_a_tie_that_is_not_exact_is_an_error_not_a_guess(monkeypatch):
    monkeypatch.setattr(exact, "PRECISIONS", (128, 256))
    with pytest.raises(UncertifiedError, match=r"which float64 is nearest to y\[1\].* even at 256 bits"):
        jaxbp.exact_value(lambda x, y: jnp.exp(jnp.log(x + y)), (np.ones(2), np.array([0, 2.0**-53])))


def test_the_radius_encloses_the_truth():
    x = np.random.default_rng(2).uniform(-9, 9, 40)
    y, radius = jaxbp.exact_value(lambda x: jnp.sin(x) * jnp.exp(x) / 3, (x,), radius=True)
    for point, value, r in zip(x, y, radius, strict=True):
        error = abs(mp.sin(mp.mpf(point)) * mp.exp(mp.mpf(point)) / 3 - mp.mpf(value))
        # The bound is the final rounding's error, and little more.
        assert error <= mp.mpf(r) <= error * (1 + mp.mpf(2) ** -50) + mp.mpf(2) ** -100 * abs(mp.mpf(value))
    _, radius = jaxbp.exact_value(lambda x: x * x, (np.array([3.0, math.inf, math.nan]),), radius=True)
    assert radius.tolist()[:2] == [0.0, 0.0]
    assert math.isnan(radius[2])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_narrow_inputs_are_exact_numbers(dtype):
    x = np.asarray(0.1).astype(jnp.dtype(dtype))
    for given in (x, jnp.asarray(x)):
        y, (ct_x,) = jaxbp.exact_vjp(lambda x: x * x + 1e-12, (given,), x)
        wide = mp.mpf(float(x))
        assert float(y) == float(wide * wide + mp.mpf(1e-12))
        assert float(ct_x) == float(2 * wide * wide)
        assert ct_x.dtype == y.dtype == np.float64


def test_casts_between_floats_are_the_identity_and_those_to_integers_truncate():
    assert float(jaxbp.exact_value(lambda x: x.astype(jnp.bfloat16) + jnp.float16(0), (0.1,))) == 0.1
    x = np.array([-1.5, -0.5, 2.999, 1e30, math.nan])
    y = jaxbp.exact_value(lambda x: x.astype(jnp.int32), (x,))
    assert y.dtype == np.int32
    assert y.tolist() == [-1, 0, 2, 2**31 - 1, 0]


def test_the_callers_x64_setting_makes_no_difference():
    def f(x):
        return jnp.sin(x) + 0.1

    for x64 in (False, True):
        with jax.enable_x64(x64):
            assert float(jaxbp.exact_value(f, (0.3,))) == float(mp.sin(mp.mpf(0.3)) + mp.mpf(0.1))
            assert jnp.ones(()).dtype == (np.float64 if x64 else np.float32)


def test_integer_and_boolean_arguments_have_no_cotangent():
    def f(x, n, flag):
        return jnp.where(flag, x**n, 0.0), n + 1

    y, cts = jaxbp.exact_vjp(f, (3.0, 2, np.array([True, False])), (np.ones(2), None))
    assert y[0].tolist() == [9.0, 0.0]
    assert y[1].tolist() == 3
    assert float(cts[0]) == 6
    assert cts[1:] == (None, None)


def test_pytrees_of_arguments_and_outputs():
    def f(params, x):
        return {"sum": params["w"] * x + params["b"][0], "square": (x * x,)}

    args = ({"w": 2.0, "b": [np.array([1.0, 2.0])]}, 3.0)
    ct = {"sum": np.array([1.0, 10.0]), "square": (1.0,)}
    y, cts = jaxbp.exact_vjp(f, args, ct)
    assert jax.tree.map(np.ndarray.tolist, y) == {"sum": [7.0, 8.0], "square": (9.0,)}
    assert jax.tree.map(np.ndarray.tolist, cts) == ({"w": 33.0, "b": [[1.0, 10.0]]}, 28.0)
    y_again, radius = jaxbp.exact_value(f, args, radius=True)
    assert jax.tree.map(np.ndarray.tolist, y_again) == jax.tree.map(np.ndarray.tolist, y)
    assert jax.tree.structure(radius) == jax.tree.structure(y)


def test_empty_arrays():
    y, (ct_x,) = jaxbp.exact_vjp(lambda x: jnp.sum(jnp.exp(x)), (np.zeros((0, 3)),), 1.0)
    assert float(y) == 0
    assert ct_x.shape == (0, 3)


@pytest.mark.parametrize(
    ("args", "ct", "error", "text"),
    [
        (1.0, 1.0, TypeError, "args must be a tuple"),
        ((1j,), 1.0, TypeError, r"args\[0\] must be real, .* complex128"),
        (("a",), 1.0, TypeError, r"args\[0\] must be an array or a number, got str"),
        ((np.longdouble(1),), 1.0, TypeError, "float64 or narrower"),
        ((np.ones(3),), np.ones(2), ValueError, r"ct must have the output's shape \[3\], got \[2\]"),
        ((np.ones(3),), 1.0, ValueError, r"shape \[3\], got \[\]"),
        ((np.ones(3),), (np.ones(3),), TypeError, "ct must be an array or a number, got tuple"),
        ((np.ones(3),), None, TypeError, "got NoneType"),
        ((np.ones(3),), 1j * np.ones(3), TypeError, "ct must be real"),
    ],
)
def test_errors_are_sentences(args, ct, error, text):
    with pytest.raises(error, match=text):
        jaxbp.exact_vjp(jnp.exp, args, ct)


def test_a_cotangent_of_another_structure():
    with pytest.raises(ValueError, match="ct must have the output's structure"):
        jaxbp.exact_vjp(lambda x: (x, x), (1.0,), [1.0, 1.0])


def test_traced_arguments():
    with pytest.raises(TypeError, match=r"args\[0\] is traced"):
        jax.jit(lambda x: jaxbp.exact_value(jnp.exp, (x,)))(1.0)


def test_a_missing_primitive_names_itself_and_the_line():
    def f(x):
        return x + jax.lax.nextafter(x, x)

    with pytest.raises(NotImplementedError, match=r"primitive nextafter, called at .*test_exact\.py:\d+ \(.*f\)"):
        jaxbp.exact_value(f, (1.0,))
    with pytest.raises(NotImplementedError, match="complex numbers"):
        jaxbp.exact_value(lambda x: jnp.real(jnp.fft.fft(x)), (np.ones(4),))


def test_an_undecided_comparison_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(exact, "PRECISIONS", (128, 256))

    def f(x):
        return jnp.where(jnp.sqrt(x) ** 2 > x, 1.0, 2.0)

    with pytest.raises(UncertifiedError, match=r"whether 2\.0+ < .* is undecided at .*test_exact\.py:\d+ \(.*f\)"):
        jaxbp.exact_value(f, (2.0,))
    assert float(jaxbp.exact_value(f, (4.0,))) == 2


def test_comparisons_get_the_precision_that_they_need():
    def f(x):
        return jnp.where(jnp.exp(x) > 1, 1.0, 2.0)

    assert [float(jaxbp.exact_value(f, (x,))) for x in (1e-300, -1e-300, 0.0)] == [1, 2, 2]


def test_what_is_not_known_does_no_harm_where_it_is_not_chosen():
    # log of a ball around 0 is not known at any precision.
    def f(x):
        return jnp.where(x > 3, x, jnp.log(jnp.sqrt(x) ** 2 - x))

    assert float(jaxbp.exact_value(f, (5.0,))) == 5


def slope_of_tanh_is_right() -> bool:
    x = np.array([-3.0, 0.1, 2.0])
    _, (ct_x,) = jaxbp.exact_vjp(jnp.tanh, (x,), np.ones(3))
    return ct_x.tolist() == [float(mp.sech(mp.mpf(v)) ** 2) for v in x]


@pytest.mark.parametrize("primitive", ["tanh", "mul"])
def test_a_planted_error_of_one_part_in_1e17_is_caught(monkeypatch, primitive):
    assert slope_of_tanh_is_right()
    right = RULES[primitive]
    monkeypatch.setitem(RULES, primitive, lambda eqn, *values: right(eqn, *values) * (1 + arb(10) ** -17))
    assert not slope_of_tanh_is_right()


def test_an_op_stands_for_the_function_that_it_means_options_and_all():
    """gelu computes with polynomials, and with sqrt(2 / pi) rounded; here its formula counts, as in mpmath."""
    x = -3.5

    def both(x):
        return jaxbp.gelu(x, approximate=False), jax.jit(jaxbp.gelu)(x)

    (erf_form, tanh_form), (ct_x,) = jaxbp.exact_vjp(both, (x,), (1.0, 0.0))
    with mpmath.workdps(40):
        cdf = mpmath.erfc(-mpmath.mpf(x) / mpmath.sqrt(2)) / 2
        inner = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(44715) / 10**6 * mpmath.mpf(x) ** 3)
        assert float(erf_form) == float(x * cdf)
        assert float(tanh_form) == float(x * (1 + mpmath.tanh(inner)) / 2)
        assert float(ct_x) == float(cdf + x * mpmath.npdf(x))


def test_ops_of_one_name_are_told_apart():
    doubled = jaxbp.square.replace(exact=lambda x: 2 * x * x)
    for _ in range(2):
        assert [float(jaxbp.exact_value(op, (3.0,))) for op in (jaxbp.square, doubled)] == [9, 18]
