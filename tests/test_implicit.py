"""Kepler's equation: solved, differentiated as an equation, with one array kept however many steps it took."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.engines import make_engine
from jaxbp.measure.executables import separate_passes
from jaxbp.ops.implicit import kepler_reference


@pytest.mark.parametrize("eccentricity", [0.0, 0.3, -0.6, 0.9, 0.99])
def test_the_equation_is_solved_all_around_the_orbit(eccentricity):
    m = np.concatenate([np.linspace(-np.pi, np.pi, 2001), np.geomspace(1e-9, 1, 200)])
    for y in (kepler_reference(m, eccentricity), _in_float64(m, eccentricity)):
        # Relative to how steep the equation is there.
        steep = (1 - eccentricity) + 2 * eccentricity * np.sin(y / 2) ** 2 if eccentricity > 0 else 1.0
        off = np.abs(y - eccentricity * np.sin(y) - m) / steep
        assert np.max(off / np.maximum(np.abs(y), 1e-3)) < 1e-10


def _in_float64(m, eccentricity):
    with jax.enable_x64(True):
        return np.asarray(jaxbp.kepler(jnp.asarray(m), jnp.asarray(eccentricity, jnp.float64)))


def test_gradients_are_those_of_the_equation():
    rng = np.random.default_rng(0)
    m, e = rng.uniform(-3.1, 3.1, 50), rng.uniform(-0.9, 0.9, 50)
    with jax.enable_x64(True):
        _, actual = jaxbp.kepler.value_and_vjp((m, e), np.ones(50))
        _, through_the_steps = exact_vjp(jaxbp.kepler.stock, (m, e), np.ones(50))
    for a, b in zip(actual, through_the_steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_a_nearly_parabolic_orbit_near_its_focus():
    e, y = np.float32(1 - 2.0**-12), np.float64(1e-2)
    m = np.float32(y - np.float64(e) * np.sin(y))
    _, (ct_m, _) = jaxbp.kepler.value_and_vjp((m, e), np.float32(1))
    truth = 1 / (1 - np.float64(e) * np.cos(kepler_reference(np.float64(m), np.float64(e))))
    assert abs(ct_m / truth - 1) < 1e-4


def test_one_array_is_kept_and_not_some_for_each_step():
    def kept(engine):
        args = jaxbp.kepler.case("small").arguments(np.dtype("float32"))
        primal = make_engine(jaxbp.kepler, engine).primal
        assert primal is not None
        return sum(r.bytes for r in separate_passes(functools.partial(jax.vjp, primal), args).residuals)

    assert kept("rule:implicit") == 4096
    assert kept("autodiff") > 12 * 4096


def test_the_gradient_knows_more_of_y_than_its_rounding_has_left():
    m, e = np.linspace(3.13, 3.1415, 1000).astype(np.float32), np.full(1000, 0.7, np.float32)
    _, (_, ct_e) = jaxbp.kepler.value_and_vjp((m, e), np.ones_like(m))
    y = kepler_reference(m.astype(np.float64), e.astype(np.float64))
    truth = np.sin(y) / (1 - e.astype(np.float64) * np.cos(y))
    # The sine of y as it was rounded is up to 1e-3 off there.
    np.testing.assert_allclose(ct_e, truth, rtol=1e-6)
