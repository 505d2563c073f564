"""Powers and roots: square, sqrt, rsqrt, cbrt, hypot, power."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.broadcasting import sum_to
from jaxbp.cases import LogUniform, Normal, Uniform, elementwise_cases
from jaxbp.declaration import BROADCAST, Accuracy, Domain, Flops, Kink, Rule
from jaxbp.devices import computed_again, on_processor
from jaxbp.elementary import cube_root, cube_root_slope, exp2_growth, lift_to_cube, log2_in_parts
from jaxbp.floats import (
    LIFT,
    is_edge,
    is_positive,
    lift,
    nearest_whole,
    order_key,
    power_of_two,
    rounded,
    scale_exponent,
    sign_bit,
    split_centred,
    split_exponent,
    upper_half,
)
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
    return jnp.sqrt(z) * jnp.where(f == 1, 1, LIFT**-0.5)


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
    return lax.rsqrt(z) * jnp.where(f == 1, 1, LIFT**0.5)


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


def _seen(y):
    """y, but 4 times the smallest normal number in place of all below: XLA would take them, or their halves, for 0.

    x^y is 1 for both, unless x is 0, infinite or negative, where the sign of y and y not being whole is what counts.
    """
    least = 4 * jnp.finfo(y.dtype).tiny
    magnitude = order_key(jnp.abs(y))
    below = (magnitude > 0) & (magnitude < order_key(jnp.asarray(least)))
    return jnp.where(below, jnp.where(sign_bit(y), -least, least), y)


def _power_in_parts(x, y):
    """`(g, n, log, m, k, edge)`: |x|^y = g 2^n with g between 0.7 and 1.5, log(|x|), and m and k of `split_centred`.

    x^y may overflow or vanish where its derivatives do not. At the edges, where x is 0, infinite or NaN, g is the
    power, and the logarithm |x|: so it is 0 at 0.
    """
    finfo, size, edge = jnp.finfo(x.dtype), jnp.abs(x), is_edge(x)
    m, k = split_centred(x)
    high, low = log2_in_parts(m, k.astype(x.dtype))
    # Beyond these limits the power is 1, 0 or infinite, and so is it with them.
    clipped = jnp.clip(y, -(2.0 ** (finfo.nmant + 11)), 2.0 ** (finfo.nmant + 11))
    y_high, limit = upper_half(clipped), 4.0 * finfo.maxexp
    whole, rest = y_high * high, (clipped - y_high) * high + clipped * low
    inside = jnp.abs(whole) < limit
    whole, rest = jnp.clip(whole, -limit, limit), jnp.where(inside, rest, 0)
    nearest, n = nearest_whole(whole + rest)
    g = 1 + exp2_growth((whole - nearest) + rest)
    one = (y == 0) | (x == 1)
    at_edge = jnp.where(y > 0, size, jnp.where(y < 0, _inverse_of_edge(size), jnp.nan))
    g = jnp.where(one, 1, jnp.where(edge, at_edge, g))
    log = jnp.where(edge, size, math.log(2) * (high + low))
    return g, jnp.where(one | edge, 0, n), log, m, k, edge


def _kind(x, y):
    """Whether y is even and whole, whether it is odd, and whether x^y is undefined: for x < 0 beside a whole y."""
    whole, even = jnp.floor(y) == y, jnp.floor(y / 2) * 2 == y
    return even, whole & ~even, is_positive(-x) & ~whole


def power_fwd(x, y):
    if not is_inexact(x):
        return jnp.power(x, y), (x, y)
    seen = _seen(y)
    g, n, *_ = _power_in_parts(x, seen)
    _, odd, undefined = _kind(x, seen)
    z = scale_exponent(g, n)
    z = jnp.where(sign_bit(x) & odd, -z, z)
    # As C's pow, infinite bases have all powers.
    return jnp.where(undefined & jnp.isfinite(x), jnp.nan, z), (x, y)


def _inverse_of_edge(size):
    """1 / size for 0, infinity and NaN, without a division for all other numbers."""
    return jnp.where(size == 0, jnp.inf, jnp.where(size == jnp.inf, 0, size))


def _power_slope_x(x, y, g, n, m, k, edge):
    """y x^(y-1) for x >= 0, given what `_power_in_parts` tells."""
    mantissa_y, exponent_y = split_exponent(y)
    slope = scale_exponent(g * (mantissa_y / m), exponent_y - k + n)
    # An infinite y is outdone by the power where that vanishes.
    slope = jnp.where(jnp.isinf(y) & (n < 0), 0, slope)
    # At the edges the power is 0, 1 or infinite.
    size = jnp.abs(x)
    at_edge = jnp.where(y > 1, size, _inverse_of_edge(size)) * jnp.sign(mantissa_y)
    at_edge = jnp.where((y == 1) & (size == size), 1, at_edge)
    return jnp.where(mantissa_y == 0, 0, jnp.where(edge, at_edge, slope))


def _unless_at_0(x, vanishing, slope):
    """The slope, but 0 at x = 0 where the other factor vanishes: beside it the slope, infinite there, is nothing."""
    return jnp.where((x == 0) & (vanishing == 0), 0, vanishing * slope)


def _mixed_slope(x, y):
    """The derivative x^(y-1) (1 + y log(x)) of y x^(y-1) by y, and of x^y log(x) by x."""
    slope = _unless_at_0(x, y, _power_ct_y(x, y - 1, jnp.ones_like(y)))
    return jnp.where(is_positive(-x), jnp.nan, power_fwd(x, y - 1)[0] + slope)


# Their own derivatives by the formulas: where x^y is constant in x or in y, what is computed is so in both.
@jax.custom_jvp
def _power_ct_x(x, y, ct):
    seen = _seen(y)
    g, n, _, m, k, edge = _power_in_parts(x, seen)
    even, _, undefined = _kind(x, seen)
    slope = _power_slope_x(x, y, g, n, m, k, edge)
    # x^(y-1) is negative for an odd y - 1.
    return ct * jnp.where(undefined, jnp.nan, jnp.where(sign_bit(x) & even, -slope, slope))


@_power_ct_x.defjvp
def _power_ct_x_jvp(primals, tangents):
    (x, y, ct), (t_x, t_y, t_ct) = primals, tangents
    one = jnp.ones_like(ct)
    by_x = _unless_at_0(x, y, _power_ct_x(x, y - 1, one))
    return _power_ct_x(x, y, ct), (t_ct * _power_ct_x(x, y, one) + t_x * (ct * by_x) + t_y * (ct * _mixed_slope(x, y)))


@jax.custom_jvp
def _power_ct_y(x, y, ct):
    seen = _seen(y)
    g, n, log, *_ = _power_in_parts(x, seen)
    slope = jnp.where(g == 0, 0, scale_exponent(g * log, n))
    return ct * jnp.where((log == 0) & (g == jnp.inf), -jnp.inf, jnp.where(is_positive(-x), jnp.nan, slope))


@_power_ct_y.defjvp
def _power_ct_y_jvp(primals, tangents):
    (x, y, ct), (t_x, t_y, t_ct) = primals, tangents
    slope = _power_ct_y(x, y, jnp.ones_like(ct))
    by_y = _unless_at_0(x, slope, jnp.log(x))
    return _power_ct_y(x, y, ct), (t_ct * slope + t_x * (ct * _mixed_slope(x, y)) + t_y * (ct * by_y))


def power_bwd(res, ct):
    x, y = res
    of_x = of_y = (x, y, ct)
    if on_processor():
        # XLA's CPU backend hands all of a dozen arrays from loop to loop, where to compute them again takes half of the
        # time.
        of_x = (*computed_again((x, y)), ct)
        of_y = computed_again((x, y, ct))
    return sum_to(_power_ct_x(*of_x), x), sum_to(_power_ct_y(*of_y), y)


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
