"""The notes' compound circuits, each with one staged hand-written backward pass."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import sum_to
from jaxbp.cases import GROWTH, Case, Digits, Normal, Uniform, elementwise_cases
from jaxbp.declaration import NOTES, Fault, Flops, Rule, Shapes
from jaxbp.numerics import (
    logistic,
    logistic_slope,
    numpy_logistic,
    numpy_logistic_slope,
    numpy_sum_to,
)
from jaxbp.op import Op
from jaxbp.promotion import widened


def scaled_sum_fwd(x, y, z):
    q = x + y
    return q * z, (x, y, z)


def scaled_sum_bwd(res, ct):
    x, y, z = res
    # f = q z
    ct_q = ct * z
    ct_z = ct * (x + y)
    # q = x + y
    return sum_to(ct_q, x), sum_to(ct_q, y), sum_to(ct_z, z)


scaled_sum = Op(
    name="scaled_sum",
    summary="The first circuit of the notes: an add gate into a multiply gate. x [...], y [...], z [...] -> "
    "[...], floating, broadcast as NumPy does.",
    formula="(x + y) z; ct_x = ct_y = ct z, ct_z = ct (x + y)",
    rules=(Rule("staged", scaled_sum_fwd, scaled_sum_bwd, "Keeps the inputs and adds x + y again."),),
    stock=lambda x, y, z: (jnp.asarray(x) + y) * z,
    reference=lambda x, y, z: (x + y) * z,
    reference_vjp=lambda ct, x, y, z: (
        numpy_sum_to(ct * z, x),
        numpy_sum_to(ct * z, y),
        numpy_sum_to(ct * (x + y), z),
    ),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal(), Normal()),
    flops=Flops(2, 3),
    torch=lambda torch: lambda x, y, z: (x + y) * z,
    source=f"{NOTES}: f(x, y, z) = (x + y) z at x = -2, y = 5, z = -4.",
    example=""">>> f, grads = jaxbp.scaled_sum.value_and_vjp((-2.0, 5.0, -4.0), 1.0)
>>> float(f), [float(g) for g in grads]
(-12.0, [-4.0, -4.0, 3.0])""",
)


def _neuron_dot(w, x):
    return jnp.matmul(x, w[:-1]) + w[-1]


def _neuron_cotangents(w, x, ct_dot):
    rows = x.reshape(ct_dot.size, x.shape[-1])  # -1 would be undecided for no features.
    flat = ct_dot.reshape(-1)
    ct_x = ct_dot[..., None] * w[:-1]
    ct_w = jnp.append(jnp.matmul(flat, rows), jnp.sum(flat))
    return ct_w, ct_x


def stable_neuron_fwd(w, x):
    dot = _neuron_dot(w, x)
    return logistic(widened(dot)).astype(dot.dtype), (w, x, dot)


def stable_neuron_bwd(res, ct):
    w, x, dot = res
    return _neuron_cotangents(w, x, ct * logistic_slope(widened(dot)).astype(dot.dtype))


def textbook_neuron_fwd(w, x):
    f = 1 / (1 + jnp.exp(-_neuron_dot(w, x)))
    return f, (w, x, f)


def textbook_neuron_bwd(res, ct):
    w, x, f = res
    return _neuron_cotangents(w, x, ct * ((1 - f) * f))


def neuron_reference(w, x):
    return numpy_logistic(np.matmul(x, w[:-1]) + w[-1])


def neuron_reference_vjp(ct, w, x):
    ct_dot = ct * numpy_logistic_slope(np.matmul(x, w[:-1]) + w[-1])
    flat = ct_dot.reshape(-1)
    ct_w = np.append(np.matmul(flat, x.reshape(-1, x.shape[-1])), flat.sum())
    return ct_w, ct_dot[..., None] * w[:-1]


def neuron_flops(shapes: Shapes) -> Flops:
    _, x = shapes
    outputs = math.prod(x[:-1])
    return Flops(2 * math.prod(x) + 29 * outputs, 3 * math.prod(x) + 32 * outputs)


def _neuron_case(name, m, n, x):
    return Case(name, ((n + 1,), (m, n)), (Normal(1 / math.sqrt(n)), x))


neuron = Op(
    name="neuron",
    summary="A neuron with sigmoid activation: w [n + 1], its last entry the bias, x [..., n] -> [...], "
    "floating. The notes draw it for n = 2.",
    formula="s(w_0 x_0 + ... + w_n); with d = ct s'(dot): ct_x = d w, ct_w = (sum d x, sum d)",
    rules=(
        Rule("stable", stable_neuron_fwd, stable_neuron_bwd, "Keeps the dot product; right in both tails."),
        Rule(
            "textbook",
            textbook_neuron_fwd,
            textbook_neuron_bwd,
            "(1 - f) f: cancels to 0 once f rounds to 1.",
            faults=(Fault("precision", lambda w, x: x @ w[:-1] + w[-1] > 6, "where the dot product is over 6"),),
        ),
    ),
    stock=lambda w, x: jax.nn.sigmoid(jnp.matmul(x, w[:-1]) + w[-1]),
    reference=neuron_reference,
    reference_vjp=neuron_reference_vjp,
    cases=(
        _neuron_case("small", 64, 16, Normal()),
        _neuron_case("cache", 1024, 64, Normal()),
        _neuron_case("memory", 2**15, 256, Normal()),
        _neuron_case("digits", *Digits.SHAPE, Digits()),
    ),
    growth=tuple(_neuron_case(name, 64 * 4**i, 16, Normal()) for i, name in enumerate(GROWTH)),
    flops=neuron_flops,
    torch=lambda torch: lambda w, x: torch.sigmoid(torch.matmul(x, w[:-1]) + w[-1]),
    source=f"{NOTES}: the two-dimensional neuron, staged backpropagation.",
    example=""">>> w, x = jnp.array([2.0, -3.0, -3.0]), jnp.array([-1.0, -2.0])
>>> f, (ct_w, ct_x) = jaxbp.neuron.value_and_vjp((w, x), 1.0)
>>> round(float(f), 2), [round(float(g), 2) for g in ct_w], [round(float(g), 2) for g in ct_x]
(0.73, [-0.2, -0.39, 0.2], [0.39, -0.59])""",
    version=2,
)


def rational_fwd(x, y):
    sigy = logistic(y)
    num = x + sigy
    sigx = logistic(x)
    xpy = x + y
    xpysqr = xpy * xpy
    den = sigx + xpysqr
    invden = 1 / den
    return num * invden, (x, y)


def rational_bwd(res, ct):
    x, y = res
    # The eight stages again: six more operations an entry cost less than two more arrays kept.
    num = x + logistic(y)
    xpy = x + y
    invden = 1 / (logistic(x) + xpy * xpy)
    # f = num invden
    ct_num = ct * invden
    # invden = 1 / den: -invden^2 ct_invden with ct_invden = ct num, in an order in which neither square nor product
    # passes all numbers before the result does.
    ct_den = -invden * (num * ct_num)
    # den = sigx + xpysqr, xpysqr = xpy^2
    ct_xpy = 2 * xpy * ct_den
    # xpy = x + y, sigx = s(x), num = x + sigy: x and y branch, so their gradients add.
    ct_x = ct_xpy + logistic_slope(x) * ct_den + ct_num
    ct_y = ct_xpy + logistic_slope(y) * ct_num
    return sum_to(ct_x, x), sum_to(ct_y, y)


def rational_stock(x, y):
    return (x + jax.nn.sigmoid(y)) / (jax.nn.sigmoid(x) + jnp.square(jnp.asarray(x) + y))


def rational_reference(x, y):
    return (x + numpy_logistic(y)) / (numpy_logistic(x) + (x + y) ** 2)


def rational_reference_vjp(ct, x, y):
    num = x + numpy_logistic(y)
    den = numpy_logistic(x) + (x + y) ** 2
    ct_num = ct / den
    ct_den = -ct_num * num / den
    ct_xpy = 2 * (x + y) * ct_den
    return (
        numpy_sum_to(ct_xpy + numpy_logistic_slope(x) * ct_den + ct_num, x),
        numpy_sum_to(ct_xpy + numpy_logistic_slope(y) * ct_num, y),
    )


rational = Op(
    name="rational",
    summary="The notes' exercise in staged backpropagation. x [...], y [...] -> [...], floating, broadcast as "
    "NumPy does. Once (x + y)^2 passes 2^126, or 2^1022, value and gradients are 0.",
    formula="(x + s(y)) / (s(x) + (x + y)^2), s the sigmoid; eight stages backwards, += where x and y branch",
    rules=(Rule("staged", rational_fwd, rational_bwd, "Keeps the inputs and stages the forward pass again."),),
    stock=rational_stock,
    reference=rational_reference,
    reference_vjp=rational_reference_vjp,
    elementwise=True,
    cases=elementwise_cases(Uniform(-8, 8), Uniform(-8, 8)),
    flops=Flops(30, 70),
    torch=lambda torch: lambda x, y: (x + torch.sigmoid(y)) / (torch.sigmoid(x) + (x + y) ** 2),
    source=f"{NOTES}: staged computation, at x = 3, y = -4.",
    example=""">>> f, (ct_x, ct_y) = jaxbp.rational.value_and_vjp((3.0, -4.0), 1.0)
>>> round(float(f), 4), round(float(ct_x), 4), round(float(ct_y), 4)
(1.5456, 2.0596, 1.5922)""",
    version=2,
)
