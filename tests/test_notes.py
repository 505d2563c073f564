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


#: Two linear classifiers' examples, [x] [w], and the class of each.
X = np.array([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0], [-2.0, 0.0, 1.0], [1.5, 1.0, 0.5]])
W = np.array([[0.2, -0.5, 1.0], [1.1, 0.3, -0.7], [0.4, -0.2, 0.6]])
LABELS = np.array([0, 2, 1, 1])
STRENGTH = 0.1


def slopes_by_differences(loss, w):
    """The gradient of a loss in plain NumPy, by central differences in float64."""
    steps = 1e-6 * np.eye(w.size).reshape(w.size, *w.shape)
    return np.array([(loss(w + h) - loss(w - h)) / 2e-6 for h in steps]).reshape(w.shape)


def assert_value_and_gradient(loss, notes, w, slopes=None):
    """The value of a loss and its gradient are those of the notes' formula, written out in NumPy."""
    value, grad = jax.value_and_grad(loss)(jnp.float32(w))
    assert float(value) == pytest.approx(notes(w), rel=1e-6)
    np.testing.assert_allclose(
        grad, slopes_by_differences(notes, w) if slopes is None else slopes, rtol=1e-5, atol=1e-5
    )


def test_the_softmax_loss():
    """L(W) = lambda ||W||^2 + sum_i -log(exp(s_y) / sum_k exp(s_k))."""

    def notes(w):
        s = X @ w
        p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
        return STRENGTH * np.sum(w**2) - np.log(p[range(4), LABELS]).sum()

    def loss(w):
        scores = jaxbp.matmul(jnp.float32(X), w)
        return jaxbp.l2_penalty(w, STRENGTH) + jaxbp.softmax_cross_entropy(scores, jnp.array(LABELS)).sum()

    assert_value_and_gradient(loss, notes, W)


@pytest.mark.parametrize("count_label", [True, False])
def test_the_svm_loss(count_label):
    """L(W) = lambda ||W||^2 + sum_i sum_j max(0, s_j - s_y + 1), where j = y adds 1 and has no gradient."""

    def notes(w):
        s = X @ w
        margins = np.maximum(0, s - s[range(4), LABELS][:, None] + 1)
        return STRENGTH * np.sum(w**2) + margins.sum() - (0 if count_label else 4)

    def loss(w):
        losses = jaxbp.multiclass_hinge(jaxbp.matmul(jnp.float32(X), w), jnp.array(LABELS), count_label=count_label)
        return jaxbp.l2_penalty(w, STRENGTH) + losses.sum()

    assert_value_and_gradient(loss, notes, W)


def test_the_linear_loss_and_its_closed_gradient():
    """L(w) = lambda ||w||^2 + sum_i (y_i - w^T x_i)^2 has the gradient 2 lambda w - sum_i 2 (y_i - w^T x_i) x_i."""
    w, y = W[0], np.array([1.0, -2.0, 0.5, 3.0])

    def notes(w):
        return STRENGTH * np.sum(w**2) + np.sum((y - X @ w) ** 2)

    def loss(w):
        predictions = jaxbp.matmul(jnp.float32(X), w)
        return jaxbp.l2_penalty(w, STRENGTH) + jaxbp.squared_error(predictions, jnp.float32(y)).sum()

    closed = 2 * STRENGTH * w - sum(2 * (y_i - w @ x_i) * x_i for x_i, y_i in zip(X, y, strict=True))
    assert_value_and_gradient(loss, notes, w, closed)
