"""Functions that are computed here: as right as they say, at the edges too, where powers have the most of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp

import jaxbp
from jaxbp.elementary import (
    cube_root,
    decay,
    decay_or_infinity,
    exp2_growth,
    exponential,
    growth_and_exponent,
    growth_in_factors,
    lift_to_cube,
    log,
    log1p,
    log2_in_parts,
    log_odds,
    log_of_sum,
    tangent_and_exponent,
)
from jaxbp.engines import reference

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True), mp.workdps(40):
        yield


def magnitudes(dtype, n=2000, low=None, high=None):
    """Numbers of every binade, subnormal ones included."""
    finfo = np.finfo(dtype)
    bounds = (finfo.minexp - finfo.nmant if low is None else low, finfo.maxexp - 1e-3 if high is None else high)
    return np.exp2(np.random.default_rng(0).uniform(*bounds, n)).astype(dtype)


def units(actual, exact, dtype):
    """The largest error in units of the last place of the exact number."""
    exact = [mp.mpf(x) for x in exact]
    spacing = np.spacing(np.abs([float(x) for x in exact]).astype(dtype)).astype(float)
    return max(abs(mp.mpf(float(a)) - x) / u for a, x, u in zip(actual, exact, spacing, strict=True))


@DTYPES
def test_cube_roots(dtype):
    x = magnitudes(dtype)
    z, s = jax.jit(lift_to_cube)(x)
    np.testing.assert_array_equal(np.asarray(z, np.longdouble) * np.asarray(s, np.longdouble) ** 3, x)
    assert units(jax.jit(cube_root)(z) * s, [mp.cbrt(mp.mpf(float(v))) for v in x], dtype) < 0.9
    np.testing.assert_array_equal(cube_root(-z), -cube_root(z))


@DTYPES
def test_no_cube_root_of_what_has_none_is_made_up(dtype):
    x = jnp.asarray([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    y = cube_root(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


@DTYPES
def test_binary_logarithms_in_two_parts(dtype):
    rng = np.random.default_rng(1)
    near_one = 1 + np.finfo(dtype).eps * np.array([-0.5, 1, -1, 2, 7, -9])
    m = np.concatenate([np.exp2(rng.uniform(-0.5, 0.5, 1000)), near_one]).astype(dtype)
    k = np.where(rng.random(m.size) < 0.5, rng.integers(-1000, 1000, m.size), 0).astype(dtype)
    high, low = jax.jit(log2_in_parts)(m, k)
    digits = {"float32": 31, "float64": 61}[dtype]
    for a, b, c, e in zip(high, low, m, k, strict=True):
        exact = mp.log(mp.mpf(float(c)), 2) + int(e)
        assert abs(mp.mpf(float(a)) + mp.mpf(float(b)) - exact) <= abs(exact) * mp.mpf(2) ** -digits
    bits = np.asarray(high).view(f"i{high.itemsize}")
    assert not (bits & ((1 << (np.finfo(dtype).nmant // 2)) - 1)).any()  # Its product with another half is exact.


@DTYPES
def test_powers_of_two(dtype):
    f = np.linspace(-0.5, 0.5, 1001).astype(dtype)
    assert units(1 + np.asarray(jax.jit(exp2_growth)(f)), [mp.mpf(2) ** mp.mpf(float(v)) for v in f], dtype) < 1.5


@DTYPES
def test_exponentials(dtype):
    finfo = np.finfo(dtype)
    least, most = float(mp.log(mp.mpf(2)) * finfo.minexp), float(mp.log(mp.mpf(float(finfo.max))))
    x = np.concatenate([np.random.default_rng(2).uniform(least, most, 3000), np.linspace(most - 0.02, most, 50)])
    x = np.array([v for v in x.astype(dtype) if finfo.tiny <= mp.exp(mp.mpf(float(v))) <= mp.mpf(float(finfo.max))])
    assert units(jax.jit(exponential)(x), [mp.exp(mp.mpf(float(v))) for v in x], dtype) < 0.9
    below = x[x <= 0]
    np.testing.assert_array_equal(jax.jit(decay)(below), jax.jit(exponential)(below))


@DTYPES
def test_exponentials_at_their_limits(dtype):
    most = np.asarray(np.log(np.finfo(dtype).max), dtype)
    x = jnp.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, 2 * most, -2 * most, np.nextafter(most, np.inf)], dtype)
    exact = np.array([1, 1, np.inf, 0, np.nan, np.inf, 0, np.inf])
    np.testing.assert_array_equal(jax.jit(exponential)(x), exact)
    at = np.array([0, 1, 3, 4, 6])
    np.testing.assert_array_equal(jax.jit(decay)(x[at]), exact[at])
    np.testing.assert_array_equal(jax.jit(decay_or_infinity)(x), exact)


@DTYPES
@pytest.mark.parametrize("times", [1, 2, -2])
def test_exponentials_of_multiples_in_parts(dtype, times):
    x = np.random.default_rng(3).uniform(-40, 40, 500).astype(dtype)
    exact = [mp.exp(times * mp.mpf(float(v))) for v in x]
    r, q, k = jax.jit(lambda x: growth_in_factors(x, plus=7, times=times))(x)
    assert units(np.ldexp(1 + np.asarray(r * q), np.asarray(k) - 7), exact, dtype) < 1.5


@DTYPES
def test_exponentials_in_two_parts(dtype):
    x = np.random.default_rng(3).uniform(-40, 40, 500).astype(dtype)
    p, k = jax.jit(growth_and_exponent)(x)
    assert units(np.ldexp(1 + np.asarray(p), np.asarray(k)), [mp.exp(mp.mpf(float(v))) for v in x], dtype) < 1.5


@DTYPES
def test_exponentials_by_tangents(dtype):
    x = np.random.default_rng(3).uniform(-4, 4, 500).astype(dtype)
    t, k = map(np.asarray, jax.jit(lambda x: tangent_and_exponent(x, plus=7))(x))
    assert np.abs(t).max() < 0.173
    exact = [mp.exp(2 * mp.mpf(float(v))) for v in x]
    # Half a unit of 2 x = 8 is 4 units of 1, or of the exponential, and three roundings come to it.
    assert units(np.ldexp((1 + t) / (1 - t), k - 7), exact, dtype) < 4 + 3
    small = magnitudes(dtype, low=np.finfo(dtype).minexp, high=-3)
    t, k = jax.jit(tangent_and_exponent)(small)
    assert not np.any(k)
    assert units(t, [mp.tanh(mp.mpf(float(v))) for v in small], dtype) < 1.5


@DTYPES
def test_logarithms(dtype):
    near_one = 1 + np.finfo(dtype).eps * np.array([-0.5, 0.5, 1, -1, 2, 7, -9]) * 2.0 ** np.arange(20)[:, None]
    x = np.concatenate([magnitudes(dtype), near_one.ravel()]).astype(dtype)
    x = x[x != 1]
    assert units(jax.jit(log)(x), [mp.log(mp.mpf(float(v))) for v in x], dtype) < 0.9
    y = magnitudes(dtype, low=np.finfo(dtype).minexp)
    y = np.concatenate([y, -y[y < 1], (x - 1)[np.abs(x - 1) < 0.5]])
    assert units(jax.jit(log1p)(y), [mp.log1p(mp.mpf(float(v))) for v in y], dtype) < 1.2


@DTYPES
def test_logarithms_at_their_limits(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = jnp.asarray([1.0, 0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -tiny], dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(jax.jit(log)(x), np.log(x))
        x = jnp.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -2.0, np.finfo(dtype).max, tiny], dtype)
        np.testing.assert_array_equal(jax.jit(log1p)(x), np.log1p(x))
    np.testing.assert_array_equal(np.signbit(jax.jit(log1p)(x)[:2]), [False, True])


@DTYPES
@pytest.mark.parametrize(
    ("f", "derivative"),
    [(exponential, jnp.exp), (decay, jnp.exp), (log, lambda x: 1 / x), (log_of_sum, lambda x: 1 / (1 + x))],
    ids=["exponential", "decay", "log", "log_of_sum"],
)
def test_what_bits_compute_has_its_derivative(f, derivative, dtype):
    x = jnp.asarray([0.3, 2.0, 5.0], dtype) * (-1 if f is decay else 1)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), derivative(x), rtol=4 * np.finfo(dtype).eps)


@DTYPES
def test_logarithms_of_odds(dtype):
    below_half = 0.5 * (1 - np.finfo(dtype).eps * np.arange(0.5, 5, 0.5))
    m = np.concatenate([magnitudes(dtype, high=-1), below_half]).astype(dtype)
    assert units(jax.jit(log_odds)(m), [mp.log((1 - mp.mpf(float(v))) / mp.mpf(float(v))) for v in m], dtype) < 1.5
    tiny = np.finfo(dtype).smallest_subnormal
    x = jnp.asarray([0.5, 0.0, -0.0, -tiny, -1.0, np.nan], dtype)
    np.testing.assert_array_equal(jax.jit(log_odds)(x), [0, np.inf, np.inf, np.nan, np.nan, np.nan])


def test_powers_whose_exponent_has_a_large_second_part():
    """Of x^y vanishing and y x^(y-1) not: the second part of the exponent counts in what is whole of it."""
    x = magnitudes("float32", 4000, -126, -110)
    y = (2 + np.random.default_rng(2).uniform(0, 2**-9, x.size)).astype(np.float32)
    _, (ct_x, _) = jaxbp.power.value_and_vjp((x, y), np.ones_like(x))
    exact = [mp.mpf(float(b)) * mp.power(float(a), mp.mpf(float(b)) - 1) for a, b in zip(x, y, strict=True)]
    normal = np.array([float(v) for v in exact]) > np.finfo(np.float32).tiny
    assert normal.sum() > 1000
    assert units(np.asarray(ct_x)[normal], np.array(exact)[normal], "float32") <= 4


def test_power_of_every_pair_of_hard_numbers():
    sizes = [
        0,
        1,
        2,
        3,
        0.5,
        1e-45,
        1e-40,
        1e-30,
        1e30,
        3.4e38,
        1 + 2**-23,
        1 - 2**-24,
        2**24 - 1,
        2**60,
        np.inf,
        np.nan,
    ]
    hard = np.array([*sizes, *(-x for x in sizes), 128, -149, 127.5], np.float32)
    args = tuple(np.array(list(itertools.product(hard, hard)), np.float32).T)
    ct = np.ones_like(args[0])
    y, cts = jaxbp.power.value_and_vjp(args, ct)
    exact_y, exact = reference(jaxbp.power, args, ct)
    finfo = np.finfo(np.float32)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        actual = np.asarray(actual, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = truth.astype(np.float32).astype(np.float64)
            near = np.abs(actual - rounded) <= 4 * np.spacing(np.abs(rounded).astype(np.float32))
        flushed = (np.abs(truth) < finfo.tiny) & (np.abs(actual) <= finfo.tiny)
        wrong = ~(near | flushed | (actual == rounded) | (np.isnan(actual) & np.isnan(rounded)))
        assert not wrong.any(), [(a, b) for a, b in zip(*(x[wrong] for x in args), strict=True)][:5]
