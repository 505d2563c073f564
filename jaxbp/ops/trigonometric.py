"""The circular functions: sin, cos, arctan."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import LogUniform, Uniform, elementwise_cases
from jaxbp.declaration import Accuracy, Flops, Rule
from jaxbp.elementary import Coefficients, polynomial, two_parts
from jaxbp.floats import rounded
from jaxbp.op import Op
from jaxbp.quadrants import QUARTER_TURN, cosine, sine

#: Up to here, and from the reciprocal on, an arctangent is had without the addition theorem. There it is just above
#: 1/2: what is added to pi/4 below that would be rounded to half as much.
_NEAR = 0.55
# Formatted by hand: the formatter gives each coefficient a line.
# fmt: off
#: Of (arctan(z) / z - 1) / z^2 in z^2, for |z| <= 0.55: minimax, by Remez's algorithm in 60 digits; errors 2^-30 and
#: 2^-58 of arctan(z) / z, before they are rounded.
_ARCTAN: Coefficients = {
    jnp.dtype("float32"): (-0.333333158, 0.199988443, -0.142600304, 0.108438255, -0.0763102933, 0.0339773987),
    jnp.dtype("float64"): (-0.33333333333333146, 0.1999999999995039, -0.14285714281116023, 0.11111110895918834,
        -0.090909031317328068, 0.076922011861593339, -0.066653728866526953, 0.058713351505394226,
        -0.051962716879737248, 0.044708111326883351, -0.03442869306401538, 0.020102296907405155,
        -0.0062888472286074328),
}
# fmt: on


_VECTORIZED = (
    "Keeps x, an argument. On a processor float32 is computed by arithmetic that vectorizes; float64, and "
    "on a GPU or TPU all, as by `library`."
)
_LIBRARY = "Keeps x; XLA's own functions, which on a CPU are the C library's, for one number after the other."
#: Closest to a multiple of pi / 2 among the float32 from 1 on, of which there is nothing closer.
_CLOSE = (252.89820861816406, 21999384576.0, 7.729178919452902e28, 1.5458357838905804e29)


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
    return sine(x), (x,)


def sin_bwd(res, ct):
    (x,) = res
    return (ct * cosine(x),)


def library_sin_fwd(x):
    return jnp.sin(x), (x,)


def library_sin_bwd(res, ct):
    (x,) = res
    return (ct * jnp.cos(x),)


sin = Op(
    name="sin",
    summary="The sine of x in radians; NaN at infinities. x [...] -> y [...], floating.",
    formula="sin(x); ct_x = ct cos(x)",
    rules=(
        Rule("vectorized", sin_fwd, sin_bwd, _VECTORIZED, Accuracy((0.65, 0.65), (0.6, 0.6))),
        Rule("library", library_sin_fwd, library_sin_bwd, _LIBRARY, Accuracy((0.6, 0.6), (0.6, 0.6))),
    ),
    stock=jnp.sin,
    reference=np.sin,
    reference_vjp=lambda ct, x: (ct * np.cos(x),),
    reference_both=sin_both,
    elementwise=True,
    cases=elementwise_cases(Uniform(-10, 10)),
    hard=_CLOSE,
    version=2,
    flops=Flops(110, 111),
    torch=lambda torch: torch.sin,
    source="sin' = cos.",
    example=""">>> float(jax.grad(jaxbp.sin)(0.0))
1.0""",
)


def cos_fwd(x):
    return cosine(x), (x,)


def cos_bwd(res, ct):
    (x,) = res
    return (-ct * sine(x),)


def library_cos_fwd(x):
    return jnp.cos(x), (x,)


def library_cos_bwd(res, ct):
    (x,) = res
    return (-ct * jnp.sin(x),)


cos = Op(
    name="cos",
    summary="The cosine of x in radians; NaN at infinities. x [...] -> y [...], floating.",
    formula="cos(x); ct_x = -ct sin(x)",
    rules=(
        Rule("vectorized", cos_fwd, cos_bwd, _VECTORIZED, Accuracy((0.65, 0.65), (0.6, 0.6))),
        Rule("library", library_cos_fwd, library_cos_bwd, _LIBRARY, Accuracy((0.6, 0.6), (0.6, 0.6))),
    ),
    stock=jnp.cos,
    reference=np.cos,
    reference_vjp=lambda ct, x: (-ct * np.sin(x),),
    reference_both=cos_both,
    elementwise=True,
    cases=elementwise_cases(Uniform(-10, 10)),
    hard=_CLOSE,
    version=2,
    flops=Flops(110, 112),
    torch=lambda torch: torch.cos,
    source="cos' = -sin.",
    example=""">>> round(float(jax.grad(jaxbp.cos)(np.pi / 2)), 6)
-1.0""",
)


@jax.custom_jvp
def _arctan(x):
    """arctan(x) = b + arctan(z), with b = 0, pi/4 or pi/2 and one division for z."""
    y = jnp.abs(x)
    near, far = y <= _NEAR, y > 1 / _NEAR
    z = jnp.where(near, y, jnp.where(far, -1, y - 1) / jnp.where(far, y, y + 1))
    square = z * z
    high, low = two_parts(QUARTER_TURN, jnp.finfo(x.dtype).nmant + 1)
    base = jnp.where(near, 0, jnp.where(far, high, high / 2))
    rest = (z * square) * polynomial(square, _ARCTAN) + base * (low / high)
    # What the sum rounds off is added to what is small beside it.
    angle = rounded(base + z)
    angle = angle + ((z - (angle - base)) + rest)
    return jnp.where(x == 0, x, jnp.copysign(angle, x))  # -0, and subnormal x.


@_arctan.defjvp
def _arctan_jvp(primals, tangents):
    (x,) = primals
    return _arctan(x), tangents[0] / (1 + x * x)


def arctan_fwd(x):
    return _arctan(x), (x,)


def arctan_bwd(res, ct):
    (x,) = res
    # x^2 overflows only where the quotient is below the smallest normal number.
    return (ct / (1 + x * x),)


arctan = Op(
    name="arctan",
    summary="The angle in (-pi/2, pi/2) whose tangent is x. x [...] -> y [...], floating.",
    formula="arctan(x); ct_x = ct / (1 + x^2)",
    rules=(
        Rule(
            "quotient",
            arctan_fwd,
            arctan_bwd,
            "Keeps x, which costs nothing extra. The value is not XLA's, which takes many times as long on a CPU.",
            Accuracy((1, 1.6), (1, 1.6)),
        ),
    ),
    stock=jnp.arctan,
    reference=np.arctan,
    reference_vjp=lambda ct, x: (ct / (1 + x * x),),
    elementwise=True,
    cases=elementwise_cases(LogUniform(-20, 20)),
    flops=Flops(30, 4),
    torch=lambda torch: torch.arctan,
    source="arctan'(x) = 1 / (1 + x^2).",
    version=3,
    example=""">>> float(jax.grad(jaxbp.arctan)(1.0))
0.5""",
)
