"""Smooth maxima of x and 0: softplus, log_sigmoid."""

import jax
import jax.numpy as jnp

from jaxbp import numerics
from jaxbp.cases import Uniform, elementwise_cases
from jaxbp.declaration import Accuracy, Fault, Flops, Rule
from jaxbp.numerics import logistic, numpy_logistic, numpy_softplus
from jaxbp.op import Op


def softplus_fwd(x):
    return numerics.softplus(x), (x,)


def softplus_bwd(res, ct):
    (x,) = res
    return (ct * logistic(x),)


def textbook_softplus_fwd(x):
    return jnp.log(1 + jnp.exp(x)), (x,)


def textbook_softplus_bwd(res, ct):
    (x,) = res
    return (ct / (1 + jnp.exp(-x)),)


softplus = Op(
    name="softplus",
    summary="log(1 + e^x), a smooth max(x, 0). x [...] -> y [...], floating.",
    formula="log(1 + e^x) = max(x, 0) + log1p(e^-|x|); ct_x = ct / (1 + e^-x)",
    rules=(
        Rule(
            "stable",
            softplus_fwd,
            softplus_bwd,
            "One exponential of -|x|: no overflow, and right in the small tail.",
            Accuracy((1.9, 2.5), (2, 2.5)),
        ),
        Rule(
            "textbook",
            textbook_softplus_fwd,
            textbook_softplus_bwd,
            "log(1 + e^x): infinite from x = 89 on in float32, and 0 below x = -17.",
            faults=(Fault("value", lambda x: (x < -3) | (x > 88), "for x < -3 and x > 88"),),
        ),
    ),
    stock=jax.nn.softplus,
    reference=numpy_softplus,
    reference_vjp=lambda ct, x: (ct * numpy_logistic(x),),
    elementwise=True,
    hard=(-87.33655, 88.72284, -16.635532, 16.635532, -708.3964185322641, 709.782712893384, -36.7368, 36.7368),
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(58, 30),
    torch=lambda torch: torch.nn.functional.softplus,
    source="d log(1 + e^x) / dx = e^x / (1 + e^x), the logistic function.",
    example=""">>> round(float(jaxbp.softplus(0.0)), 4), float(jax.grad(jaxbp.softplus)(0.0))
(0.6931, 0.5)
>>> float(jaxbp.softplus(1000.0)), float(jaxbp.softplus.rules["textbook"](1000.0))
(1000.0, inf)""",
    version=2,
)


def log_sigmoid_fwd(x):
    return -numerics.softplus(-x), (x,)


def log_sigmoid_bwd(res, ct):
    (x,) = res
    return (ct * logistic(-x),)


def textbook_log_sigmoid_fwd(x):
    return jnp.log(1 / (1 + jnp.exp(-x))), (x,)


def textbook_log_sigmoid_bwd(res, ct):
    (x,) = res
    return (ct * (1 - 1 / (1 + jnp.exp(-x))),)


log_sigmoid = Op(
    name="log_sigmoid",
    summary="The logarithm of the logistic function, a smooth min(x, 0). x [...] -> y [...], floating.",
    formula="log(1 / (1 + e^-x)) = -softplus(-x); ct_x = ct / (1 + e^x)",
    rules=(
        Rule(
            "stable",
            log_sigmoid_fwd,
            log_sigmoid_bwd,
            "One exponential of -|x|: no overflow, and right in the small tail.",
            Accuracy((1.9, 2.5), (2, 2.5)),
        ),
        Rule(
            "textbook",
            textbook_log_sigmoid_fwd,
            textbook_log_sigmoid_bwd,
            "The logarithm of a rounded sigmoid: -infinity below x = -88 in float32, and 0 from x = 17 on.",
            faults=(
                Fault("value", lambda x: (x > 3) | (x < -87), "for x > 3 and x < -87"),
                Fault("gradient", lambda x: x > 3, "for x > 3"),
            ),
        ),
    ),
    stock=jax.nn.log_sigmoid,
    reference=lambda x: -numpy_softplus(-x),
    reference_vjp=lambda ct, x: (ct * numpy_logistic(-x),),
    elementwise=True,
    hard=tuple(-x for x in softplus.hard),
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(60, 31),
    torch=lambda torch: torch.nn.functional.logsigmoid,
    source="log_sigmoid(x) = -softplus(-x), and the chain rule.",
    example=""">>> round(float(jaxbp.log_sigmoid(0.0)), 4), float(jax.grad(jaxbp.log_sigmoid)(0.0))
(-0.6931, 0.5)
>>> float(jaxbp.log_sigmoid(-1000.0)), float(jaxbp.log_sigmoid.rules["textbook"](-1000.0))
(-1000.0, -inf)""",
    version=2,
)
