"""Powers and roots: square, sqrt, rsqrt, cbrt, hypot, power."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp import real_powers
from jaxbp.broadcasting import sum_to
from jaxbp.cases import LogUniform, Normal, Uniform, elementwise_cases
from jaxbp.declaration import BROADCAST, Accuracy, Domain, Flops, Kink, Rule
from jaxbp.devices import computed_again, on_processor
from jaxbp.elementary import cube_root, cube_root_slope, lift_to_cube
from jaxbp.floats import LIFT, lift, order_key, power_of_two, rounded
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.promotion import is_inexact


def square_fwd(x):
    return x * x, (x,)


def square_bwd(res, ct):
    (x,) = res
    # Twice a subnormal number may be a normal one.
    z, f = lift(x)
    return (ct * (z + z) * jnp.where(f == 1, 1, 1 / LIFT),)


square = Op(
    name="square",
    summary="x^2. x [...] -> y [...], floating.",
    formula="x^2; ct_x = 2 ct x",
    rules=(
        Rule("double", square_fwd, square_bwd, "Keeps x, which costs nothing extra.", Accuracy((0.5, 0), (0.5, 0))),
    ),
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
    version=2,
)


def _sqrt(x):
    z, f = lift(x)
    y = jnp.sqrt(z)
    # Last the choice, as in `fusion.whole`: a root that value and gradient share is then written once for a sum, too.
    return jnp.where(f == 1, y, y * LIFT**-0.5)


def sqrt_fwd(x):
    # The residual is x: in the narrow dtypes it is exact, where the output was rounded.
    return _sqrt(x), (x,)


def sqrt_bwd(res, ct):
    (x,) = res
    return (ct * (0.5 / _sqrt(x)),)


sqrt = Op(
    name="sqrt",
    summary="The square root; NaN below 0. x [...] -> y [...], floating.",
    formula="sqrt(x); ct_x = ct / (2 sqrt(x))",
    rules=(
        Rule("quotient", sqrt_fwd, sqrt_bwd, "Keeps x, and takes the root again.", Accuracy((0.5, 1.6), (0.5, 1.6))),
    ),
    stock=jnp.sqrt,
    reference=np.sqrt,
    reference_vjp=lambda ct, x: (ct / (2 * np.sqrt(x)),),
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(Kink((0.0,), {"quotient": (np.inf,)}, "The one-sided derivative, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-20, 20, signed=False)),
    flops=Flops(1, 3),
    torch=lambda torch: torch.sqrt,
    source="Power rule.",
    example=""">>> float(jax.grad(jaxbp.sqrt)(4.0))
0.25""",
    version=2,
)


def _rsqrt(x):
    z, f = lift(x)
    y = lax.rsqrt(z)  # As in `_sqrt`.
    return jnp.where(f == 1, y, y * LIFT**0.5)


def rsqrt_fwd(x):
    return _rsqrt(x), (x,)


def rsqrt_bwd(res, ct):
    (x,) = res
    # Half of it first: the whole quotient may overflow where half of it does not.
    return (ct * (-0.5 * _rsqrt(x) / x),)


rsqrt = Op(
    name="rsqrt",
    summary="1 / sqrt(x); infinite at 0, NaN below. x [...] -> y [...], floating.",
    formula="1 / sqrt(x); ct_x = -ct / (2 x sqrt(x))",
    rules=(Rule("quotient", rsqrt_fwd, rsqrt_bwd, "Divides by x, which is exact.", Accuracy((2, 3), (1.5, 2))),),
    stock=lax.rsqrt,
    reference=lambda x: 1 / np.sqrt(x),
    reference_vjp=lambda ct, x: (-0.5 * ct / np.sqrt(x) / x,),
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(Kink((0.0,), {"quotient": (-np.inf,)}, "The one-sided derivative, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-20, 20, signed=False)),
    flops=Flops(2, 5),
    torch=lambda torch: torch.rsqrt,
    source="Power rule.",
    example=""">>> float(jax.grad(jaxbp.rsqrt)(4.0))
-0.0625""",
)


def cbrt_fwd(x):
    z, s = lift_to_cube(x)
    return cube_root(z) * s, (x,)


def cbrt_bwd(res, ct):
    (x,) = res
    z, s = lift_to_cube(x)
    return (ct * (cube_root_slope(z, cube_root(z)) / (s * s)),)


def cbrt_reference_vjp(ct, x):
    y = np.cbrt(x)
    return (ct / (3 * y * y),)


cbrt = Op(
    name="cbrt",
    summary="The cube root, of negative numbers too. x [...] -> y [...], floating.",
    formula="cbrt(x); ct_x = ct / (3 cbrt(x)^2) = ct cbrt(x) / (3 x)",
    rules=(
        Rule(
            "quotient",
            cbrt_fwd,
            cbrt_bwd,
            "Keeps x, and takes the root again, from bits.",
            Accuracy((1, 2.8), (1, 2.8)),
        ),
    ),
    stock=jnp.cbrt,
    reference=np.cbrt,
    reference_vjp=cbrt_reference_vjp,
    elementwise=True,
    domain={"x": Domain(excluded=(0.0,))},
    kinks=(Kink((0.0,), {"quotient": (np.inf,)}, "Infinite from both sides, as stock JAX."),),
    cases=elementwise_cases(LogUniform(-20, 20)),
    flops=Flops(37, 42),
    source="Power rule; Kahan 1991, Computing a real cube root, for the bits that it begins with.",
    example=""">>> round(float(jax.grad(jaxbp.cbrt)(-8.0)), 6)
0.083333""",
    version=4,
)


def _scaled_pair(x, y):
    """`(u, v, r, e)`: x = u 2^e and y = v 2^e with the larger of them about 1, and r = sqrt(u^2 + v^2)."""
    finfo = jnp.finfo(x.dtype)
    larger = jnp.maximum(order_key(jnp.abs(x)), order_key(jnp.abs(y)))
    e = jnp.clip((larger >> finfo.nmant) - (finfo.maxexp - 1), finfo.minexp, -finfo.minexp)
    scale = power_of_two(-e, x.dtype)
    (zx, fx), (zy, fy) = lift(x), lift(y)
    u = zx * (scale * jnp.where(fx == 1, 1, 1 / LIFT))
    v = zy * (scale * jnp.where(fy == 1, 1, 1 / LIFT))
    return u, v, jnp.sqrt(u * u + v * v), e


def hypot_fwd(x, y):
    _, _, r, e = _scaled_pair(x, y)
    infinite = jnp.isinf(x) | jnp.isinf(y)
    return jnp.where(infinite, jnp.inf, r * power_of_two(e, r.dtype)), (x, y)


def hypot_bwd(res, ct):
    x, y = res
    u, v, r, _ = _scaled_pair(x, y)
    x_infinite, y_infinite = jnp.isinf(x), jnp.isinf(y)
    # 0 / 0 at the origin; towards infinity along one axis the slope is that axis's sign.
    r = rounded(jnp.where(r == 0, 1, r))
    slope_x = jnp.where(x_infinite & jnp.isfinite(y), jnp.sign(x), u / r)
    slope_y = jnp.where(y_infinite & jnp.isfinite(x), jnp.sign(y), v / r)
    return sum_to(ct * slope_x, x), sum_to(ct * slope_y, y)


def hypot_reference(x, y):
    # np.hypot is NaN for infinity and a signaling NaN.
    return np.where(np.isinf(x) | np.isinf(y), np.inf, np.hypot(x, y))


def hypot_reference_vjp(ct, x, y):
    h = np.hypot(x, y)
    h = np.where(h == 0, 1, h)
    slope_x = np.where(np.isinf(x) & np.isfinite(y), np.sign(x), x / h)
    slope_y = np.where(np.isinf(y) & np.isfinite(x), np.sign(y), y / h)
    return numpy_sum_to(ct * slope_x, x), numpy_sum_to(ct * slope_y, y)


def hypot_exact(x, y):
    """With the gradient 0 at the origin."""
    origin = (x == 0) & (y == 0)
    return jnp.where(origin, 0, jnp.hypot(jnp.where(origin, 1, x), y))


hypot = Op(
    name="hypot",
    summary="The length of the hypotenuse, without overflow or underflow on the way. Infinite where an argument is, "
    "even beside NaN. " + BROADCAST,
    formula="h = sqrt(x^2 + y^2); ct_x = ct x / h, ct_y = ct y / h",
    rules=(
        Rule(
            "scaled",
            hypot_fwd,
            hypot_bwd,
            "Divides both by a power of two close to the larger first.",
            Accuracy((1.4, 2.6), (1.4, 2.6)),
        ),
    ),
    stock=jnp.hypot,
    exact=hypot_exact,
    reference=hypot_reference,
    reference_vjp=hypot_reference_vjp,
    elementwise=True,
    kinks=(Kink((0.0, 0.0), {"scaled": (0.0, 0.0)}, "The middle of the subgradients; stock JAX gives half for each."),),
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(6, 9),
    torch=lambda torch: torch.hypot,
    source="Pythagoras; the scaling as in C's hypot.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.hypot.value_and_vjp((3e30, 4e30), 1.0)
>>> f"{y:.0e}", round(float(ct_x), 6), round(float(ct_y), 6)
('5e+30', 0.6, 0.8)""",
)


def power_fwd(x, y):
    return real_powers.power(x, y) if is_inexact(x) else jnp.power(x, y), (x, y)


def power_bwd(res, ct):
    x, y = res
    of_x = of_y = (x, y, ct)
    if on_processor():
        # XLA's CPU backend hands all of a dozen arrays from loop to loop, where to compute them again takes half of the
        # time.
        of_x = (*computed_again((x, y)), ct)
        of_y = computed_again((x, y, ct))
    return sum_to(real_powers.slope_by_base(*of_x), x), sum_to(real_powers.slope_by_exponent(*of_y), y)


def power_reference_vjp(ct, x, y):
    a = np.abs(x)
    power = np.power(a, y - 1)
    slope_x = np.where(power == 0, 0, y * power)
    # Below 0 the power has the other sign if y - 1 is odd, and is not defined if y is not whole.
    slope_x = np.where(np.signbit(x) & (np.floor(y / 2) * 2 == y), -slope_x, slope_x)
    slope_x = np.where(np.isnan(x) | (x < 0) & (np.floor(y) != y), np.nan, slope_x)
    z = np.power(a, y)
    slope_y = np.where((z == 0) & (x > 0), 0, z * np.log(np.where(x == 0, 1, x)))
    slope_y = np.where((x == 0) & (y < 0), -np.inf, slope_y)
    return numpy_sum_to(ct * np.where(y == 0, 0, slope_x), x), numpy_sum_to(ct * slope_y, y)


power = Op(
    name="power",
    summary="x to the power of y. For x < 0 value and gradients are NaN unless y is a whole number, and the gradient "
    "for y always: x^y is not defined beside a whole y. " + BROADCAST,
    formula="x^y; ct_x = ct y x^(y-1), ct_y = ct x^y log(x)",
    rules=(
        Rule(
            "parts",
            power_fwd,
            power_bwd,
            "Mantissa and exponent of the power apart: it leaves the range of numbers before the gradients do.",
            Accuracy((1.2, 3.2), (3, 4)),
        ),
    ),
    stock=jnp.power,
    reference=np.power,
    reference_vjp=power_reference_vjp,
    elementwise=True,
    domain={"x": Domain(low=0.0)},
    kinks=(
        Kink((0.0, 2.0), {"parts": (0.0, 0.0)}, "The limit of x^y log(x) from the right, as stock JAX."),
        Kink((0.0, 0.0), {"parts": (0.0, 0.0)}, "0^0 = 1, and x^0 is constant in x; stock JAX gives NaN for x."),
        Kink((0.0, -1.0), {"parts": (-np.inf, -np.inf)}, "The limits from the right; stock JAX gives NaN for y."),
    ),
    cases=elementwise_cases(Uniform(0.05, 8), Uniform(-4, 4)),
    flops=Flops(75, 90),
    torch=lambda torch: torch.pow,
    source="Power rule; jax.numpy.power for the conventions at 0.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.power.value_and_vjp((2.0, 3.0), 1.0)
>>> float(y), float(ct_x), round(float(ct_y), 4)
(8.0, 12.0, 5.5452)""",
    version=4,
)
