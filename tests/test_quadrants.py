"""Sine and cosine by arithmetic: digits of pi, numbers close to quarter turns, and where XLA's own are taken."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import jaxbp
from jaxbp.devices import compiled_for
from jaxbp.quadrants import TWO_OVER_PI, cosine, sine

BOTH = pytest.mark.parametrize(("f", "exact"), [(sine, np.sin), (cosine, np.cos)], ids=["sine", "cosine"])
ACCURACY = jaxbp.sin.default_rule.rule.accuracy
assert ACCURACY is not None
STATED = ACCURACY.bound("float32", "value")


def worst_ulp(f, exact, x):
    x = np.asarray(x, np.float32)
    truth = exact(x.astype(np.float64))
    spacing = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return np.max(np.abs(np.asarray(jax.jit(f)(x), np.float64) - truth) / spacing)


def test_the_digits_of_two_over_pi():
    with mp.workprec(400):
        assert int(mp.floor(2 / mp.pi * mp.mpf(2) ** 256)) == TWO_OVER_PI


@BOTH
def test_close_to_every_quarter_turn(f, exact):
    quarter_turns = np.concatenate([np.arange(1, 50_000), np.random.default_rng(0).integers(1, 2**40, 50_000)])
    nearest = (quarter_turns * (np.pi / 2)).astype(np.float32)
    for x in (nearest, -np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(0))):
        assert worst_ulp(f, exact, x) < STATED


@BOTH
def test_every_binade(f, exact):
    mantissas = np.random.default_rng(0).uniform(1, 2, 500)
    exponents = np.arange(-126, 128)
    edges = np.ldexp(np.array([1, 1 + 2.0**-23, 1.5, 2 - 2.0**-23]), exponents[:, None])
    x = np.concatenate([np.ldexp(mantissas, exponents[:, None]), edges], axis=1).ravel()
    assert worst_ulp(f, exact, x) < STATED
    assert worst_ulp(f, exact, -x) < STATED


def test_edges():
    x = jnp.array([0.0, -0.0, 1e-40, -1e-40, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    y = sine(x)
    np.testing.assert_array_equal(y, [0, 0, np.float32(1e-40), np.float32(-1e-40), np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(np.signbit(y[:4]), [False, True, False, True])
    np.testing.assert_array_equal(cosine(x), [1, 1, 1, 1, np.nan, np.nan, np.nan])


def test_derivatives_of_every_order():
    derivatives, f, g = [np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin], sine, cosine
    for i, exact in enumerate(derivatives):
        f, g = jax.grad(f), jax.grad(g)
        for x in (0.3, -2.0, 100.0):
            np.testing.assert_allclose(f(x), exact(x), rtol=2e-6)
            np.testing.assert_allclose(g(x), derivatives[(i + 1) % 4](x), rtol=2e-6)


@pytest.mark.parametrize(("platform", "xlas"), [("cpu", False), ("gpu", True)])
def test_a_gpu_has_xlas(platform, xlas):
    with compiled_for(platform):
        program = str(jax.make_jaxpr(lambda x: sine(x))(jnp.ones(3)))
    assert (" sin " in program) == xlas


def test_float64_is_xlas():
    with jax.enable_x64(True):
        x = jnp.linspace(-100, 100, 1001)
        np.testing.assert_array_equal(sine(x), jnp.sin(x))
        np.testing.assert_array_equal(cosine(x), jnp.cos(x))
