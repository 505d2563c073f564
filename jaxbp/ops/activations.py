"""Activation functions: sigmoid, tanh, relu."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import elementary, numerics
from jaxbp.cases import Normal, Uniform, elementwise_cases
from jaxbp.declaration import NOTES, Accuracy, Fault, Flops, Kink, Rule
from jaxbp.floats import is_positive, rounded, two_product
from jaxbp.numerics import logistic, logistic_slope, numpy_logistic, numpy_logistic_slope
from jaxbp.op import Op


def stable_sigmoid_fwd(x):
    # The residual is x: s (1 - s) cancels to 0 in float32 once s rounds to 1.
    return logistic(x), (x,)


def stable_sigmoid_bwd(res, ct):
    (x,) = res
    return (ct * logistic_slope(x),)


def precise_sigmoid_fwd(x):
    e, e_low, scale = elementary.exponential_parts(-jnp.abs(x))
    d, d_low = one_plus(e * scale, e_low * scale)
    positive = x >= 0
    # The numerator is scaled last, where it no longer matters that its lower part would be subnormal.
    y = numerics.quotient_of_parts(jnp.where(positive, 1, e), jnp.where(positive, 0, e_low), d, d_low)
    return y * jnp.where(positive, 1, scale), (x,)


def precise_sigmoid_bwd(res, ct):
    (x,) = res
    e, e_low, scale = elementary.exponential_parts(-jnp.abs(x))
    d, d_low = one_plus(e * scale, e_low * scale)
    square, square_low = two_product(d, d)
    return (ct * (numerics.quotient_of_parts(e, e_low, square, square_low + 2 * d * d_low) * scale),)


def one_plus(e, e_low):
    """1 + e + e_low in two parts, for 0 <= e <= 1."""
    s = rounded(1 + e)
    return s, (e - (s - 1)) + e_low


def textbook_sigmoid_fwd(x):
    y = 1 / (1 + jnp.exp(-x))
    return y, (y,)


def textbook_sigmoid_bwd(res, ct):
    (y,) = res
    return (ct * ((1 - y) * y),)


sigmoid = Op(
    name="sigmoid",
    summary="The logistic function. x [...] -> y [...], floating.",
    formula="s(x) = 1 / (1 + e^-x); ct_x = ct s(x) (1 - s(x)) = ct s(x) s(-x)",
    rules=(
        Rule(
            "stable",
            stable_sigmoid_fwd,
            stable_sigmoid_bwd,
            "One exponential of -|x|: right in both tails.",
            Accuracy((2.5, 2.5), (2.5, 2.5)),
        ),
        Rule(
            "precise",
            precise_sigmoid_fwd,
            precise_sigmoid_bwd,
            "The same quotients with every number in two parts: rounded hardly more than once.",
            Accuracy((0.7, 0.7), (1, 1)),
        ),
        Rule(
            "textbook",
            textbook_sigmoid_fwd,
            textbook_sigmoid_bwd,
            "(1 - y) y: cancels to 0 from x = 17 on.",
            faults=(Fault("precision", lambda x: x > 6, "for x > 6"),),
        ),
    ),
    stock=jax.nn.sigmoid,
    reference=numpy_logistic,
    reference_vjp=lambda ct, x: (ct * numpy_logistic_slope(x),),
    elementwise=True,
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(29, 32),
    torch=lambda torch: torch.sigmoid,
    source=f"{NOTES}: the sigmoid gate; s'(x) = s(x) s(-x).",
    example=""">>> y, (ct_x,) = jaxbp.sigmoid.value_and_vjp((1.0,), 1.0)
>>> round(float(y), 2), round(float(ct_x), 1)
(0.73, 0.2)
>>> print(f"{jax.grad(jaxbp.sigmoid)(20.0):.3e}, where jax.nn gives {jax.grad(jax.nn.sigmoid)(20.0):.0f}")
2.061e-09, where jax.nn gives 0""",
    version=2,
)


def stable_tanh_fwd(x):
    return numerics.tanh(x), (x,)


def stable_tanh_bwd(res, ct):
    (x,) = res
    return (ct * numerics.tanh_slope(x),)


def textbook_tanh_fwd(x):
    y = jnp.tanh(x)
    return y, (y,)


def textbook_tanh_bwd(res, ct):
    (y,) = res
    return (ct * (1 - y * y),)


def tanh_reference_vjp(ct, x):
    q = np.exp(-2 * np.abs(x))
    return (ct * (4 * q / (1 + q * (2 + q))),)


tanh = Op(
    name="tanh",
    summary="The hyperbolic tangent. x [...] -> y [...], floating.",
    formula="tanh(x); ct_x = ct (1 - tanh(x)^2) = ct sech(x)^2",
    rules=(
        Rule(
            "stable",
            stable_tanh_fwd,
            stable_tanh_bwd,
            "tanh by that of what is left of x, sech^2 from one exponential: right in both tails.",
            Accuracy((2.6, 2.9), (2.6, 2.8)),
        ),
        Rule(
            "textbook",
            textbook_tanh_fwd,
            textbook_tanh_bwd,
            "1 - y^2: cancels to 0 from |x| = 8 on, where y rounds to 1.",
            faults=(Fault("precision", lambda x: np.abs(x) > 3, "for |x| > 3"),),
        ),
    ),
    stock=jnp.tanh,
    reference=np.tanh,
    reference_vjp=tanh_reference_vjp,
    elementwise=True,
    hard=(0.17328, 9.010913, 20.0, 44.36142, 18.714974, 354.8913644),
    cases=elementwise_cases(Uniform(-40, 40)),
    flops=Flops(23, 33),
    torch=lambda torch: torch.tanh,
    source="tanh' = sech^2.",
    example=""">>> print(f"{jax.grad(jaxbp.tanh)(20.0):.3e}, where jnp gives {jax.grad(jnp.tanh)(20.0):.0f}")
1.699e-17, where jnp gives 0""",
    version=7,
)


def relu_fwd(x):
    return jnp.maximum(x, 0), (x,)


def relu_bwd(res, ct):
    (x,) = res
    # By the bits: a comparison would take a subnormal x for 0.
    return (jnp.where(is_positive(x), ct, 0),)


relu = Op(
    name="relu",
    summary="max(x, 0). x [...] -> y [...], floating. The Jacobian is diagonal and never formed.",
    formula="max(x, 0); ct_x = ct 1(x > 0)",
    rules=(Rule("mask", relu_fwd, relu_bwd, "Keeps x, which costs nothing extra.", Accuracy((0, 0), (0, 0), (0, 0))),),
    stock=jax.nn.relu,
    reference=lambda x: np.maximum(x, 0),
    reference_vjp=lambda ct, x: (np.where(x > 0, ct, 0),),
    elementwise=True,
    kinks=(Kink((0.0,), {"mask": (0.0,)}, "The subgradient 0, as jax.nn.relu."),),
    cases=elementwise_cases(Normal()),
    flops=Flops(1, 1),
    torch=lambda torch: torch.relu,
    source=f"{NOTES}: the max gate routes the gradient.",
    example=""">>> jax.vmap(jax.grad(jaxbp.relu))(jnp.array([-1.0, 0.0, 2.0])).tolist()
[0.0, 0.0, 1.0]""",
    version=2,
)
