"""The circular functions: sin, cos, arctan."""

import jax.numpy as jnp
import numpy as np

from jaxbp.cases import LogUniform, Uniform, elementwise_cases
from jaxbp.declaration import Accuracy, Flops, Rule
from jaxbp.op import Op


def _sine_and_cosine(x):
    """Of float64, in one pass: the argument is reduced once, which for large ones is most of the work."""
    turned = np.zeros(x.shape, np.complex128)
    turned.imag = x
    np.exp(turned, out=turned)
    return turned.imag, turned.real


def sin_both(ct, x):
    sine, cosine = _sine_and_cosine(x)
    return sine, ct * cosine


def cos_both(ct, x):
    sine, cosine = _sine_and_cosine(x)
    return cosine, -ct * sine


def sin_fwd(x):
    return jnp.sin(x), (x,)


def sin_bwd(res, ct):
    (x,) = res
    return (ct * jnp.cos(x),)


sin = Op(
    name="sin",
    summary="The sine of x in radians; NaN at infinities. x [...] -> y [...], floating.",
    formula="sin(x); ct_x = ct cos(x)",
    rules=(Rule("cosine", sin_fwd, sin_bwd, "Keeps x, which costs nothing extra.", Accuracy((0.6, 0.6), (0.6, 0.6))),),
    stock=jnp.sin,
    reference=np.sin,
    reference_vjp=lambda ct, x: (ct * np.cos(x),),
    reference_both=sin_both,
    elementwise=True,
    cases=elementwise_cases(Uniform(-10, 10)),
    flops=Flops(12, 13),
    torch=lambda torch: torch.sin,
    source="sin' = cos.",
    example=""">>> float(jax.grad(jaxbp.sin)(0.0))
1.0""",
)


def cos_fwd(x):
    return jnp.cos(x), (x,)


def cos_bwd(res, ct):
    (x,) = res
    return (-ct * jnp.sin(x),)


cos = Op(
    name="cos",
    summary="The cosine of x in radians; NaN at infinities. x [...] -> y [...], floating.",
    formula="cos(x); ct_x = -ct sin(x)",
    rules=(Rule("sine", cos_fwd, cos_bwd, "Keeps x, which costs nothing extra.", Accuracy((0.6, 0.6), (0.6, 0.6))),),
    stock=jnp.cos,
    reference=np.cos,
    reference_vjp=lambda ct, x: (-ct * np.sin(x),),
    reference_both=cos_both,
    elementwise=True,
    cases=elementwise_cases(Uniform(-10, 10)),
    flops=Flops(12, 14),
    torch=lambda torch: torch.cos,
    source="cos' = -sin.",
    example=""">>> round(float(jax.grad(jaxbp.cos)(np.pi / 2)), 6)
-1.0""",
)


def arctan_fwd(x):
    # XLA's is within 1 ULP where it computes vectors, and within 4 in short arrays and in the rest of long ones.
    return jnp.arctan(x), (x,)


def arctan_bwd(res, ct):
    (x,) = res
    # x^2 overflows only where the quotient is below the smallest normal number.
    return (ct / (1 + x * x),)


arctan = Op(
    name="arctan",
    summary="The angle in (-pi/2, pi/2) whose tangent is x. x [...] -> y [...], floating.",
    formula="arctan(x); ct_x = ct / (1 + x^2)",
    rules=(
        Rule("quotient", arctan_fwd, arctan_bwd, "Keeps x, which costs nothing extra.", Accuracy((4, 1.6), (4, 1.6))),
    ),
    stock=jnp.arctan,
    reference=np.arctan,
    reference_vjp=lambda ct, x: (ct / (1 + x * x),),
    elementwise=True,
    cases=elementwise_cases(LogUniform(-20, 20)),
    flops=Flops(20, 4),
    torch=lambda torch: torch.arctan,
    source="arctan'(x) = 1 / (1 + x^2).",
    version=2,
    example=""">>> float(jax.grad(jaxbp.arctan)(1.0))
0.5""",
)
