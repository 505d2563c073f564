"""Differences of values, and certified arithmetic, where JAX's derivative or float64 cannot be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import jaxbp
from jaxbp.check.reference import Reference
from jaxbp.check.subject import make_subject
from jaxbp.check.witness import slopes

X = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def slopes_of(f, *args):
    subject = make_subject(f, args)
    cts = [np.ones(s.shape, s.dtype) for s in subject.shapes]
    return list(slopes(Reference(subject), subject.leaves, cts, 0))


@pytest.mark.parametrize(
    "f",
    [jnp.sin, lambda x: x / jnp.sum(x**2), lambda x: jnp.cumsum(x) ** 2, lambda x: jnp.sort(x) * 3],
    ids=["sin", "quotient", "cumsum", "sort"],
)
def test_differences_agree_with_derivatives(f):
    found = slopes_of(f, X)
    assert found
    for slope in found:
        assert slope.slope == pytest.approx(slope.derivative, rel=1e-4, abs=1e-12)
        assert not slope.disagrees


def test_there_is_no_slope_at_a_kink():
    assert not slopes_of(jnp.abs, np.zeros(3, np.float32))


def test_where_gradients_are_stopped_nothing_is_said_of_the_slope():
    assert jaxbp.check_vjp(lambda x: x * jax.lax.stop_gradient(x), X).findings == ()


@pytest.fixture
def wrong_sine():
    """A building block with a wrong derivative of its own."""
    primitive = Primitive("sine_of_the_test")
    primitive.def_impl(jax.lax.sin)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(jax.lax.sin, multiple_results=False))
    batching.defvectorized(primitive)
    ad.defjvp(primitive, lambda t, x: t * jax.lax.sin(x))
    return primitive.bind


def test_a_wrong_derivative_of_a_building_block_is_told(wrong_sine):
    report = jaxbp.check_vjp(wrong_sine, X, shapes="keep")
    (fault,) = report.faults
    assert fault.kind == "witness"
    assert "its values have the slope" in fault.text


def test_a_rule_that_is_right_where_the_building_block_is_not_is_told_apart(wrong_sine):
    f = jax.custom_vjp(lambda x: wrong_sine(x))
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    report = jaxbp.check_vjp(f, jnp.asarray(X), shapes="keep")
    assert any(finding.kind == "witness" and not finding.fault for finding in report.findings)


def test_iterations_are_differentiated_forwards():
    def newton(x):
        step = lambda state: (state[0] + 1, 0.5 * (state[1] + x / state[1]))  # noqa: E731 - a loop's body, in one line
        return jax.lax.while_loop(lambda state: state[0] < 30, step, (0, x))[1]

    def root(slope):
        f = jax.custom_vjp(newton)
        f.defvjp(lambda x: (newton(x),) * 2, lambda y, ct: (ct * slope / y,))
        return f

    x = np.abs(X) + 0.5
    limits = {"args[0]": (0.25, 16.0)}
    report = jaxbp.check_vjp(root(0.5), x, domain=limits)
    assert report.passed, str(report)
    assert not jaxbp.check_vjp(root(0.6), x, domain=limits, level="quick").passed


@pytest.mark.parametrize("held", [True, False], ids=["on a constant point", "differentiated"])
def test_iterations_to_a_tolerance_are_known_to_that(held):
    def solved(x):
        moving = lambda ys: jnp.max(jnp.abs(ys[0] - ys[1])) > 1e-5  # noqa: E731 - a loop's condition, in one line
        start = (jnp.zeros_like(x), x + 1)
        y = jax.lax.while_loop(moving, lambda ys: (jnp.tanh(ys[0] / 2 + x), ys[0]), start)[0]
        return jax.lax.stop_gradient(y) if held else y

    def solver(factor):
        f = jax.custom_vjp(solved)
        f.defvjp(lambda x: (solved(x), solved(x)), lambda y, ct: (factor * ct * (1 - y * y) / (1 - (1 - y * y) / 2),))
        return f

    report = jaxbp.check_vjp(solver(1), X, level="standard" if held else "quick")
    assert report.passed, str(report)
    if held:
        assert any("known to some tolerance" in finding.text for finding in report.findings)
    assert not jaxbp.check_vjp(solver(0.8), X, level="quick").passed


def test_lost_digits_are_a_note_and_on_demand_a_fault():
    x = np.linspace(-5, 30, 36, dtype=np.float32)
    for f in (jax.nn.sigmoid, jaxbp.sigmoid.rules["textbook"]):
        report = jaxbp.check_vjp(f, x, level="quick")
        assert report.passed
        assert report.findings[0].kind == "precision"
        assert not jaxbp.check_vjp(f, x, level="quick", precision="error").passed
    assert not jaxbp.check_vjp(jaxbp.sigmoid, x, level="quick").findings


def test_where_float64_cancels_certified_arithmetic_decides():
    with jax.enable_x64(True):
        x = np.linspace(20, 60, 41)
        assert jaxbp.check_vjp(jax.nn.sigmoid, x, level="quick").findings[0].kind == "precision"
        assert not jaxbp.check_vjp(jaxbp.sigmoid, x, level="quick").findings


def test_a_solver_that_is_constant_piece_by_piece_has_the_slope_of_its_values():
    def bisected(x):  # The root of y^3 = x.
        def halve(i, ends):
            low, high = ends
            middle = (low + high) / 2
            return jnp.where(middle**3 < x, middle, low), jnp.where(middle**3 < x, high, middle)

        return jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(x), jnp.full_like(x, 4)))[0]

    def solver(factor):
        f = jax.custom_vjp(bisected)
        f.defvjp(lambda x: (bisected(x),) * 2, lambda y, ct: (factor * ct / y**2,))
        return f

    x = np.abs(X) + 0.5
    for level in ("quick", "standard"):
        report = jaxbp.check_vjp(solver(1 / 3), x, level=level, shapes="keep", domain={"args[0]": (0.5, 30.0)})
        assert report.passed, str(report)
        assert any(finding.kind == "witness" for finding in report.findings)
    assert not jaxbp.check_vjp(solver(1 / 2), x, level="quick", domain={"args[0]": (0.5, 30.0)}).passed
