"""Parts of floats: what keeps a compiler from cancelling what was rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.floats import lift, nearest_whole, power_of_biased, power_of_two, rounded, split_exponent, total, two_sum


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_is_rounded_before_it_is_taken_apart(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray([1e-3, 1e-9, 1e-17], dtype)
        lost = jax.jit(lambda x: rounded(1 + x) - 1)(x)
        assert np.array_equal(lost, (1 + np.asarray(x)) - 1)
        _, t = jax.jit(two_sum)(jnp.ones_like(x), x)
        assert np.array_equal(np.asarray(t), np.asarray(x) - lost)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_no_operation_that_changes_nothing_by_its_parameters(dtype):
    """XLA's GPU compiler takes those out, and (1 + x) - 1 is x again: on an H100 log1p was 0 below 1e-7."""
    with jax.enable_x64(True):
        jaxpr = jax.make_jaxpr(rounded)(jnp.ones(3, dtype))
        (eqn,) = jaxpr.eqns
        finfo = jnp.finfo(dtype)
        assert (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) != (finfo.nexp, finfo.nmant)


#: Numbers of every kind, as multiples of the smallest normal number.
KINDS = (0.0, -0.0, 1.0, -1.5, 2.0**-9, -(2.0**-22), 1 - 2.0**-23, 3e20, np.inf, -np.inf, np.nan)


def of_every_kind(dtype):
    return np.array(KINDS, dtype) * np.finfo(dtype).tiny


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_numbers_are_lifted_and_no_others(dtype):
    with jax.enable_x64(True):
        x = of_every_kind(dtype)
        z, f = jax.jit(lift)(x)
        assert not ((np.abs(z) > 0) & (np.abs(z) < np.finfo(dtype).tiny)).any()
        np.testing.assert_array_equal(f, np.where(np.abs(x) < np.finfo(dtype).tiny, 2.0**64, 1))
        np.testing.assert_array_equal(np.asarray(z, np.longdouble), x.astype(np.longdouble) * np.asarray(f))
        np.testing.assert_array_equal(np.signbit(z), np.signbit(x))
        slopes = jax.vmap(jax.grad(lambda x: lift(x)[0] / lift(x)[1]))(x)
        np.testing.assert_array_equal(slopes, np.ones_like(x))


def of_every_size(dtype, count, seed):
    """Numbers whose bits are random, and as many that are tiny, since what is tiny is what sums get wrong."""
    bits = np.dtype(f"i{np.dtype(dtype).itemsize}")
    rng = np.random.default_rng(seed)
    any_bits = rng.integers(np.iinfo(bits).min, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype)
    tiny = np.finfo(dtype).tiny * (rng.normal(size=count) * 2.0 ** rng.integers(-20, 30, count)).astype(dtype)
    return np.concatenate([any_bits, tiny, of_every_kind(dtype)])


def assert_sums(actual, x, y):
    """NumPy's sums are correctly rounded; those that are subnormal may be 0."""
    with np.errstate(all="ignore"):
        exact = x + y
    flushed = (np.abs(exact) < np.finfo(exact.dtype).tiny) & (actual == 0)
    np.testing.assert_array_equal(np.where(flushed, 0, actual), np.where(flushed, 0, exact))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_numbers_of_every_size(dtype):
    with jax.enable_x64(True):
        x, y = of_every_size(dtype, 50_000, 1), of_every_size(dtype, 50_000, 2)
        assert_sums(jax.jit(total)(x, y), x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_sums_of_one_number_and_many(dtype):
    """About where subnormal terms begin to count, whose neighbours cancel all but the last digits."""
    finfo = np.finfo(dtype)
    edge = np.ldexp(np.ones((), dtype), finfo.minexp + finfo.nmant)
    powers = [factor * edge for factor in (2.0**-1, 1.0, 2.0, 4.0, np.nextafter(dtype(8), 0), 8.0, 2.0**60)]
    with jax.enable_x64(True):
        many = of_every_size(dtype, 2000, 3)
        for one in np.array([*powers, *of_every_kind(dtype), finfo.max, 1.5], dtype):
            with np.errstate(all="ignore"):
                near = -one * (1 + finfo.eps * np.arange(-40, 41)).astype(dtype)
            x = np.concatenate([many, near])
            for signed in (one, -one):
                assert_sums(jax.jit(total)(signed, x), signed, x)
                assert_sums(jax.jit(total)(x, signed.reshape(1)), signed, x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mantissa_and_exponent(dtype):
    with jax.enable_x64(True):
        x = of_every_kind(dtype)
        m, e = jax.jit(split_exponent)(x)
        expected, exponents = np.frexp(x.astype(np.longdouble))
        ordinary = (x != 0) & np.isfinite(x)
        np.testing.assert_array_equal(m, np.where(ordinary, 2 * expected, x))
        np.testing.assert_array_equal(e, np.where(ordinary, exponents - 1, 0))
        slopes = jax.vmap(jax.grad(lambda x: split_exponent(x)[0]))(x[:4])
        np.testing.assert_array_equal(slopes, np.exp2(-np.asarray(e[:4], np.longdouble)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nearest_whole_numbers(dtype):
    with jax.enable_x64(True):
        x = np.concatenate([np.arange(-300, 300) / 4, [2.0**20 + 0.5, -1e-30]]).astype(dtype)
        k, n = jax.jit(nearest_whole)(x)
        np.testing.assert_array_equal(k, np.round(x))
        np.testing.assert_array_equal(n, np.round(x))
        assert jax.grad(lambda x: nearest_whole(x)[0])(jnp.asarray(1.3, dtype)) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_of_two_from_the_integers_of_nearest_whole_numbers(dtype):
    with jax.enable_x64(True):
        bias = jnp.finfo(dtype).maxexp - 1
        x = (np.arange(-300, 300) / 4).astype(dtype)
        k, n = jax.jit(lambda x: nearest_whole(x, bias - 20))(x)
        assert (np.abs(k - x) <= 0.5).all()
        np.testing.assert_array_equal(n, k + bias - 20)
        np.testing.assert_array_equal(power_of_biased(n, dtype), np.exp2(np.asarray(k) - 20))
        np.testing.assert_array_equal(power_of_two(n - bias, dtype), np.exp2(np.asarray(k) - 20))
