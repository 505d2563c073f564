"""Powers and roots: square, sqrt, power."""

import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import sum_to
from jaxbp.cases import LogUniform, Uniform, elementwise_cases
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import BROADCAST, Domain, Flops, Kink, Op, Rule


def square_fwd(x):
    return x * x, (x,)


def square_bwd(res, ct):
    (x,) = res
    return (ct * (x + x),)


square = Op(
    name="square",
    summary="x^2. x [...] -> y [...], floating.",
    formula="x^2; ct_x = 2 ct x",
    rules=(Rule("double", square_fwd, square_bwd, "Keeps x, which costs nothing extra."),),
    stock=jnp.square,
    reference=np.square,
    reference_vjp=lambda ct, x: (2 * ct * x,),
    elementwise=True,
    cases=elementwise_cases(LogUniform(-20, 20)),
    flops=Flops(1, 2),
    torch=lambda torch: torch.square,
    source="Power rule.",
    example=""">>> float(jax.grad(jaxbp.square)(-3.0))
-6.0""",
)


def sqrt_fwd(x):
    y = jnp.sqrt(x)
    return y, (y,)


def sqrt_bwd(res, ct):
    (y,) = res
    return (ct / (y + y),)


sqrt = Op(
    name="sqrt",
    summary="The square root; NaN below 0. x [...] -> y [...], floating.",
    formula="sqrt(x); ct_x = ct / (2 sqrt(x))",
    rules=(Rule("quotient", sqrt_fwd, sqrt_bwd, "Keeps y, so that the root is taken once."),),
    stock=jnp.sqrt,
    reference=np.sqrt,
    reference_vjp=lambda ct, x: (ct / (2 * np.sqrt(x)),),
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(Kink((0.0,), {"quotient": (np.inf,)}, "The one-sided derivative, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-20, 20, signed=False)),
    flops=Flops(1, 2),
    torch=lambda torch: torch.sqrt,
    source="Power rule.",
    example=""">>> float(jax.grad(jaxbp.sqrt)(4.0))
0.25""",
)


def power_fwd(x, y):
    z = jnp.power(x, y)
    return z, (x, y, z)


def power_bwd(res, ct):
    x, y, z = res
    # Masked before, not after: 0 * inf and log(0) would turn into NaN.
    slope_x = y * jnp.power(x, jnp.where(y == 0, 1, y - 1))
    slope_y = jnp.where(x == 0, 0, z * jnp.log(jnp.where(x == 0, 1, x)))
    return sum_to(ct * jnp.where(y == 0, 0, slope_x), x), sum_to(ct * slope_y, y)


def power_reference_vjp(ct, x, y):
    slope_x = np.where(y == 0, 0, y * np.power(x, np.where(y == 0, 1, y - 1)))
    slope_y = np.where(x == 0, 0, np.power(x, y) * np.log(np.where(x == 0, 1, x)))
    return numpy_sum_to(ct * slope_x, x), numpy_sum_to(ct * slope_y, y)


power = Op(
    name="power",
    summary="x to the power of y. For x < 0 the value is NaN unless y is a whole number, and the gradient for y "
    "is NaN: x^y is not defined beside a whole y. " + BROADCAST,
    formula="x^y; ct_x = ct y x^(y-1), ct_y = ct x^y log(x)",
    rules=(Rule("masked", power_fwd, power_bwd, "Keeps the output; the zeros of x and y are masked first."),),
    stock=jnp.power,
    reference=np.power,
    reference_vjp=power_reference_vjp,
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(
        Kink((0.0, 2.0), {"masked": (0.0, 0.0)}, "The limit of x^y log(x) from the right, as stock JAX."),
        Kink((0.0, 0.0), {"masked": (0.0, 0.0)}, "0^0 = 1, and x^0 is constant in x; stock JAX gives NaN for x."),
    ),
    cases=elementwise_cases(Uniform(0.05, 8), Uniform(-4, 4)),
    flops=Flops(10, 25),
    torch=lambda torch: torch.pow,
    source="Power rule; jax.numpy.power for the conventions at 0.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.power.value_and_vjp((2.0, 3.0), 1.0)
>>> float(y), float(ct_x), round(float(ct_y), 4)
(8.0, 12.0, 5.5452)""",
)
