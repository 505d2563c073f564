"""The gates of the exponential function: exp and log."""

import jax.numpy as jnp
import numpy as np

from jaxbp.cases import LogUniform, Uniform, elementwise_cases
from jaxbp.op import NOTES, Domain, Flops, Kink, Op, Rule


def exp_fwd(x):
    y = jnp.exp(x)
    return y, (y,)


def exp_bwd(res, ct):
    (y,) = res
    return (ct * y,)


exp = Op(
    name="exp",
    summary="e^x. x [...] -> y [...], floating.",
    formula="e^x; ct_x = ct e^x",
    rules=(Rule("output", exp_fwd, exp_bwd, "Keeps the output, which is the derivative."),),
    stock=jnp.exp,
    reference=np.exp,
    reference_vjp=lambda ct, x: (ct * np.exp(x),),
    elementwise=True,
    cases=elementwise_cases(Uniform(-80, 80)),
    flops=Flops(8, 1),
    torch=lambda torch: torch.exp,
    source=f"{NOTES}: f(x) = e^x, df/dx = e^x.",
    example=""">>> float(jax.grad(jaxbp.exp)(0.0))
1.0""",
)


def log_fwd(x):
    return jnp.log(x), (x,)


def log_bwd(res, ct):
    (x,) = res
    return (ct / x,)


log = Op(
    name="log",
    summary="The natural logarithm; NaN below 0. x [...] -> y [...], floating.",
    formula="log(x); ct_x = ct / x",
    rules=(Rule("quotient", log_fwd, log_bwd, "Keeps x, which costs nothing extra."),),
    stock=jnp.log,
    reference=np.log,
    reference_vjp=lambda ct, x: (ct / x,),
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(Kink((0.0,), {"quotient": (np.inf,)}, "The one-sided derivative, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-60, 60, signed=False)),
    flops=Flops(8, 1),
    torch=lambda torch: torch.log,
    source="d log(x) / dx = 1 / x.",
    example=""">>> float(jax.grad(jaxbp.log)(4.0))
0.25""",
)
