"""The gates of the exponential function: exp, expm1, log, log1p, logit."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import elementary
from jaxbp.cases import LogUniform, Uniform, elementwise_cases
from jaxbp.declaration import NOTES, Accuracy, Domain, Fault, Flops, Kink, Rule
from jaxbp.floats import lift
from jaxbp.op import Op

#: The logarithms of the smallest normal and the largest number, in float32 and float64.
EXP_RANGE = (-87.33655, 88.72284, -708.3964185322641, 709.782712893384)


def exp_fwd(x):
    y = elementary.exponential(x)
    return y, (y,)


def exp_bwd(res, ct):
    (y,) = res
    return (ct * y,)


exp = Op(
    name="exp",
    summary="e^x. x [...] -> y [...], floating.",
    formula="e^x; ct_x = ct e^x",
    rules=(
        Rule(
            "output", exp_fwd, exp_bwd, "Keeps the output, which is the derivative.", Accuracy((0.9, 0.9), (1.2, 1.2))
        ),
    ),
    stock=jnp.exp,
    reference=np.exp,
    reference_vjp=lambda ct, x: (ct * np.exp(x),),
    elementwise=True,
    hard=(88.0, 709.0, *EXP_RANGE),
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(28, 1),
    torch=lambda torch: torch.exp,
    source=f"{NOTES}: f(x) = e^x, df/dx = e^x.",
    example=""">>> float(jax.grad(jaxbp.exp)(0.0))
1.0""",
    version=3,
)


def expm1_fwd(x):
    return elementary.expm1(x), (x,)


def expm1_bwd(res, ct):
    (x,) = res
    return (ct * elementary.exponential(x),)


def textbook_expm1_fwd(x):
    y = elementary.expm1(x)
    return y, (y,)


def textbook_expm1_bwd(res, ct):
    (y,) = res
    return (ct * (y + 1),)


expm1 = Op(
    name="expm1",
    summary="e^x - 1, which does not cancel where x is small. x [...] -> y [...], floating.",
    formula="e^x - 1; ct_x = ct e^x",
    rules=(
        Rule("stable", expm1_fwd, expm1_bwd, "Keeps x, which costs nothing extra.", Accuracy((1.6, 0.9), (2, 1.2))),
        Rule(
            "textbook",
            textbook_expm1_fwd,
            textbook_expm1_bwd,
            "y + 1 from the output: cancels to 0 below x = -17.",
            faults=(Fault("precision", lambda x: x < -4, "for x < -4"),),
        ),
    ),
    stock=jnp.expm1,
    reference=np.expm1,
    reference_vjp=lambda ct, x: (ct * np.exp(x),),
    elementwise=True,
    hard=(math.log(2) / 2, -math.log(2) / 2, -17.32868, -18.02183, -37.429948, *EXP_RANGE),
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(29, 29),
    torch=lambda torch: torch.expm1,
    source="d (e^x - 1) / dx = e^x.",
    example=""">>> f"{jaxbp.expm1(1e-5):.6e}, where jnp.exp(x) - 1 gives {jnp.exp(1e-5) - 1:.6e}"
'1.000005e-05, where jnp.exp(x) - 1 gives 1.001358e-05'""",
    version=2,
)


def log_fwd(x):
    return elementary.log(x), (x,)


def log_bwd(res, ct):
    (x,) = res
    z, f = lift(x)
    return (ct / z * f,)


log = Op(
    name="log",
    summary="The natural logarithm; NaN below 0. x [...] -> y [...], floating.",
    formula="log(x); ct_x = ct / x",
    rules=(
        Rule(
            "quotient",
            log_fwd,
            log_bwd,
            "Keeps x, which costs nothing extra; right for subnormal x.",
            Accuracy((0.9, 0.6), (0.9, 0.6)),
        ),
    ),
    stock=jnp.log,
    reference=np.log,
    reference_vjp=lambda ct, x: (ct / x,),
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(Kink((0.0,), {"quotient": (np.inf,)}, "The one-sided derivative, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-60, 60, signed=False)),
    flops=Flops(24, 3),
    torch=lambda torch: torch.log,
    source="d log(x) / dx = 1 / x.",
    example=""">>> float(jax.grad(jaxbp.log)(4.0))
0.25""",
    version=3,
)


def log1p_fwd(x):
    return elementary.log1p(x), (x,)


def log1p_bwd(res, ct):
    (x,) = res
    return (ct / (1 + x),)


log1p = Op(
    name="log1p",
    summary="log(1 + x), which does not lose the digits of a small x; NaN below -1. x [...] -> y [...], floating.",
    formula="log(1 + x); ct_x = ct / (1 + x)",
    rules=(
        Rule(
            "quotient",
            log1p_fwd,
            log1p_bwd,
            "The logarithm of the rounded sum, and to first order what rounding left out.",
            Accuracy((1.5, 1.6), (1.5, 1.6)),
        ),
    ),
    stock=jnp.log1p,
    reference=np.log1p,
    reference_vjp=lambda ct, x: (ct / (1 + x),),
    elementwise=True,
    domain={"x": Domain(low=-1.0)},
    kinks=(Kink((-1.0,), {"quotient": (np.inf,)}, "The one-sided derivative, as stock JAX."),),
    hard=(-0.5, 2.0**-24, 3 * 2.0**-24, -(2.0**-25), 2.0**24, 2.0**-53, 2.0**53),
    cases=elementwise_cases(LogUniform(-40, 40, signed=False)),
    flops=Flops(29, 2),
    torch=lambda torch: torch.log1p,
    source="d log(1 + x) / dx = 1 / (1 + x).",
    example=""">>> float(jax.grad(jaxbp.log1p)(1.0))
0.5
>>> f"{jaxbp.log1p(1e-5):.6e}, where jnp.log(1 + x) gives {jnp.log(1 + jnp.float32(1e-5)):.6e}"
'9.999950e-06, where jnp.log(1 + x) gives 1.001353e-05'""",
    version=2,
)


def logit_fwd(x):
    lower = x < 0.5
    # Of the smaller of x and 1 - x, exactly.
    y = elementary.log_odds(jnp.where(lower, x, 1 - x))
    return jnp.where(lower, -y, y), (x,)


def logit_bwd(res, ct):
    (x,) = res
    z, f = lift(x)
    return (ct / (z * (1 - z)) * f,)


def textbook_logit_fwd(x):
    return jnp.log(x / (1 - x)), (x,)


def textbook_logit_bwd(res, ct):
    (x,) = res
    return (ct / (x * (1 - x)),)


def logit_reference(x):
    return np.where(np.abs(x - 0.5) < 0.25, np.log1p((2 * x - 1) / (1 - x)), np.log(x / (1 - x)))


logit = Op(
    name="logit",
    summary="log(x / (1 - x)), the inverse of the logistic function; NaN outside [0, 1]. x [...] -> y [...], floating.",
    formula="log(x / (1 - x)); ct_x = ct / (x (1 - x))",
    rules=(
        Rule(
            "stable",
            logit_fwd,
            logit_bwd,
            "The logarithm of a quotient that is never formed: right around its zero, and for subnormal x.",
            Accuracy((1.6, 2.6), (2, 2.6)),
        ),
        Rule(
            "textbook",
            textbook_logit_fwd,
            textbook_logit_bwd,
            "log(x / (1 - x)): the rounded quotient has lost the digits of the result around x = 1/2.",
        ),
    ),
    stock=jax.scipy.special.logit,
    reference=logit_reference,
    reference_vjp=lambda ct, x: (ct / (x * (1 - x)),),
    elementwise=True,
    domain={"x": Domain(0.0, 1.0)},
    kinks=(
        Kink((0.0,), dict.fromkeys(("stable", "textbook"), (np.inf,)), "The one-sided derivative, as stock JAX."),
        Kink((1.0,), dict.fromkeys(("stable", "textbook"), (np.inf,)), "The one-sided derivative, as stock JAX."),
    ),
    hard=(0.25, 0.75),
    cases=elementwise_cases(Uniform(0.01, 0.99)),
    flops=Flops(26, 5),
    torch=lambda torch: torch.logit,
    source="The inverse of the logistic function s: 1 / s'(logit(x)) = 1 / (x (1 - x)).",
    example=""">>> y, (ct_x,) = jaxbp.logit.value_and_vjp((0.5,), 1.0)
>>> float(y), float(ct_x)
(0.0, 4.0)""",
    version=3,
)
