"""The numbers and patterns of the notes on backpropagation, and their staged code transcribed as a witness."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp

ENGINES = ["autodiff", "central_difference", "numpy"]


def gradients(op, args, ct=1.0, engine=None):
    y, cts = op.value_and_vjp(args, ct, engine=engine)
    return float(y), [float(c) for c in cts]


@pytest.mark.parametrize("engine", [None, *ENGINES])
def test_the_first_circuit(engine):
    value, grads = gradients(jaxbp.scaled_sum, (-2.0, 5.0, -4.0), engine=engine)
    assert value == -12
    assert grads == pytest.approx([-4, -4, 3], rel=2e-3)


def test_the_first_circuit_gate_by_gate():
    q, pull_add = jax.vjp(jaxbp.add, -2.0, 5.0)
    f, pull_multiply = jax.vjp(jaxbp.multiply, q, -4.0)
    dq, dz = pull_multiply(1.0)
    dx, dy = pull_add(dq)
    assert (float(q), float(f)) == (3, -12)
    assert [float(g) for g in (dx, dy, dz, dq)] == [-4, -4, 3, -4]


def test_multiply_at_4_and_minus_3():
    assert gradients(jaxbp.multiply, (4.0, -3.0)) == (-12, [-3, 4])


def test_max_at_4_and_2():
    assert gradients(jaxbp.maximum, (4.0, 2.0)) == (4, [1, 0])


@pytest.mark.parametrize("rule", ["stable", "textbook"])
def test_sigmoid_at_1(rule):
    value, (slope,) = gradients(jaxbp.sigmoid, (1.0,), engine=f"rule:{rule}")
    assert round(value, 2) == 0.73
    assert round(slope, 1) == 0.2
    assert slope == pytest.approx((1 - value) * value, rel=1e-6)


def neuron_as_gates(w0, w1, w2, x0, x1):
    """The sigmoid neuron as the notes draw it: multiply, add, scale by -1, exp, shift by 1, reciprocal."""
    dot = jaxbp.add(jaxbp.add(jaxbp.multiply(w0, x0), jaxbp.multiply(w1, x1)), w2)
    return jaxbp.reciprocal(jaxbp.shift(jaxbp.exp(jaxbp.scale(dot, -1.0)), 1.0))


@pytest.mark.parametrize("rule", ["stable", "textbook"])
def test_the_neuron_gate_by_gate_and_as_one_gate(rule):
    w, x = [2.0, -3.0, -3.0], [-1.0, -2.0]
    # The notes' code.
    dot = w[0] * x[0] + w[1] * x[1] + w[2]
    f = 1.0 / (1 + math.exp(-dot))
    ddot = (1 - f) * f
    dx = [w[0] * ddot, w[1] * ddot]
    dw = [x[0] * ddot, x[1] * ddot, 1.0 * ddot]

    value, (ct_w, ct_x) = jaxbp.neuron.rules[rule].value_and_vjp((jnp.array(w), jnp.array(x)), 1.0)
    assert float(value) == pytest.approx(f, rel=1e-6)
    np.testing.assert_allclose(ct_w, dw, rtol=1e-6)
    np.testing.assert_allclose(ct_x, dx, rtol=1e-6)

    gates, grads = jax.value_and_grad(neuron_as_gates, argnums=(0, 1, 2, 3, 4))(*w, *x)
    assert float(gates) == pytest.approx(f, rel=1e-6)
    np.testing.assert_allclose(grads, [*dw, *dx], rtol=1e-6)
    np.testing.assert_allclose([*dw, *dx], [-0.2, -0.39, 0.2, 0.39, -0.59], atol=0.005)


def staged_rational(x, y):
    """The notes' staged forward and backward pass in plain Python."""
    sigy = 1.0 / (1 + math.exp(-y))
    num = x + sigy
    sigx = 1.0 / (1 + math.exp(-x))
    xpy = x + y
    xpysqr = xpy**2
    den = sigx + xpysqr
    invden = 1.0 / den
    f = num * invden
    dnum, dinvden = invden, num
    dden = (-1.0 / (den**2)) * dinvden
    dsigx = dxpysqr = dden
    dxpy = (2 * xpy) * dxpysqr
    dx = dy = dxpy
    dx += ((1 - sigx) * sigx) * dsigx
    dx += dnum
    dy += ((1 - sigy) * sigy) * dnum
    return f, dx, dy


@pytest.mark.parametrize("engine", [None, *ENGINES])
@pytest.mark.parametrize(("x", "y"), [(3.0, -4.0), (0.5, 1.5), (-2.0, 1.0)])
def test_the_staged_rational_function(x, y, engine):
    f, dx, dy = staged_rational(x, y)
    value, grads = gradients(jaxbp.rational, (x, y), engine=engine)
    assert value == pytest.approx(f, rel=1e-6)
    assert grads == pytest.approx([dx, dy], rel=5e-3 if engine == "central_difference" else 1e-5)


def test_add_distributes_max_routes_multiply_swaps():
    """The pattern picture: 2 (x y + max(z, w)) at x=3, y=-4, z=2, w=-1."""

    def circuit(x, y, z, w):
        return jaxbp.scale(jaxbp.add(jaxbp.multiply(x, y), jaxbp.maximum(z, w)), 2.0)

    value, grads = jax.value_and_grad(circuit, argnums=(0, 1, 2, 3))(3.0, -4.0, 2.0, -1.0)
    assert float(value) == -20
    assert [float(g) for g in grads] == [-8, 6, 2, 0]


@pytest.mark.parametrize("rule", list(jaxbp.maximum.rules))
def test_max_routes_to_the_larger_input(rule):
    x, y = np.array([1, 5, -2], np.float32), np.array([3, 2, -7], np.float32)
    _, (ct_x, ct_y) = jaxbp.maximum.rules[rule].value_and_vjp((x, y), np.full(3, 2, np.float32))
    assert ct_x.tolist() == [0, 2, 2]
    assert ct_y.tolist() == [2, 0, 0]


def test_branches_accumulate():
    x = 3.0
    grad = jax.grad(lambda x: jaxbp.add(jaxbp.multiply(x, x), jaxbp.square(x)))(x)
    assert float(grad) == 4 * x


def test_inputs_times_1000_make_weight_gradients_times_1000():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 4)).astype("f"), rng.normal(size=(4, 3)).astype("f")
    ct = rng.normal(size=(8, 3)).astype("f")
    _, (_, once) = jaxbp.matmul.value_and_vjp((x, w), ct)
    _, (_, scaled) = jaxbp.matmul.value_and_vjp((1000 * x, w), ct)
    np.testing.assert_allclose(scaled, 1000 * np.asarray(once), rtol=1e-5)


def test_matrix_gradients_have_the_notes_form_and_shapes():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(5, 10)).astype("f"), rng.normal(size=(10, 3)).astype("f")
    d_ct = rng.normal(size=(5, 3)).astype("f")
    d, (dw, dx) = jaxbp.matmul.value_and_vjp((w, x), d_ct)
    assert d.shape == (5, 3)
    np.testing.assert_allclose(dw, d_ct @ x.T, rtol=1e-5)
    np.testing.assert_allclose(dx, w.T @ d_ct, rtol=1e-5)


def test_constants_of_shift_and_scale_have_gradients():
    x = jnp.arange(4.0)
    _, (_, dc) = jaxbp.shift.value_and_vjp((x, 10.0), jnp.ones(4))
    _, (_, da) = jaxbp.scale.value_and_vjp((x, 10.0), jnp.ones(4))
    assert (float(dc), float(da)) == (4, 6)


@pytest.mark.parametrize(
    ("op", "x", "slope"),
    [(jaxbp.reciprocal, 2.0, -0.25), (jaxbp.exp, 1.0, math.e), (jaxbp.log, 4.0, 0.25), (jaxbp.square, -3.0, -6.0)],
    ids=["reciprocal", "exp", "log", "square"],
)
def test_unary_gates(op, x, slope):
    assert float(jax.grad(op)(x)) == pytest.approx(slope, rel=1e-6)
