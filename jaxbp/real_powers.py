"""x^y for real x and y, its derivatives, and theirs; right to a few ULP, also where the power leaves the numbers."""

import math

import jax
import jax.numpy as jnp

from jaxbp.elementary import exp2_growth, log2_in_parts
from jaxbp.floats import (
    is_edge,
    is_positive,
    nearest_whole,
    order_key,
    scale_exponent,
    sign_bit,
    split_centred,
    split_exponent,
    upper_half,
)


def _seen(y):
    """y, but 4 times the smallest normal number in place of all below: XLA would take them, or their halves, for 0.

    x^y is 1 for both, unless x is 0, infinite or negative, where the sign of y and y not being whole is what counts.
    """
    least = 4 * jnp.finfo(y.dtype).tiny
    magnitude = order_key(jnp.abs(y))
    below = (magnitude > 0) & (magnitude < order_key(jnp.asarray(least)))
    return jnp.where(below, jnp.where(sign_bit(y), -least, least), y)


def _in_parts(x, y):
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


# The derivatives of all three by the formulas: where x^y is constant in x or in y, what is computed is so in both.
@jax.custom_jvp
def power(x: jax.Array, y: jax.Array) -> jax.Array:
    """x^y, NaN for x < 0 unless y is a whole number."""
    seen = _seen(y)
    g, n, *_ = _in_parts(x, seen)
    _, odd, undefined = _kind(x, seen)
    z = scale_exponent(g, n)
    z = jnp.where(sign_bit(x) & odd, -z, z)
    # As C's pow, infinite bases have all powers.
    return jnp.where(undefined & jnp.isfinite(x), jnp.nan, z)


@power.defjvp
def _power_jvp(primals, tangents):
    (x, y), (t_x, t_y) = primals, tangents
    one = jnp.ones(jnp.broadcast_shapes(x.shape, y.shape), x.dtype)
    return power(x, y), t_x * slope_by_base(x, y, one) + t_y * slope_by_exponent(x, y, one)


def _inverse_of_edge(size):
    """1 / size for 0, infinity and NaN, without a division for all other numbers."""
    return jnp.where(size == 0, jnp.inf, jnp.where(size == jnp.inf, 0, size))


def _slope_x(x, y, g, n, m, k, edge):
    """y x^(y-1) for x >= 0, given what `_in_parts` tells."""
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
    slope = _unless_at_0(x, y, slope_by_exponent(x, y - 1, jnp.ones_like(y)))
    return jnp.where(is_positive(-x), jnp.nan, power(x, y - 1) + slope)


@jax.custom_jvp
def slope_by_base(x: jax.Array, y: jax.Array, ct: jax.Array) -> jax.Array:
    """ct y x^(y-1); NaN where the power is not defined."""
    seen = _seen(y)
    g, n, _, m, k, edge = _in_parts(x, seen)
    even, _, undefined = _kind(x, seen)
    slope = _slope_x(x, y, g, n, m, k, edge)
    # x^(y-1) is negative for an odd y - 1.
    return ct * jnp.where(undefined, jnp.nan, jnp.where(sign_bit(x) & even, -slope, slope))


@slope_by_base.defjvp
def _slope_by_base_jvp(primals, tangents):
    (x, y, ct), (t_x, t_y, t_ct) = primals, tangents
    one = jnp.ones_like(ct)
    by_x = _unless_at_0(x, y, slope_by_base(x, y - 1, one))
    return slope_by_base(x, y, ct), (
        t_ct * slope_by_base(x, y, one) + t_x * (ct * by_x) + t_y * (ct * _mixed_slope(x, y))
    )


@jax.custom_jvp
def slope_by_exponent(x: jax.Array, y: jax.Array, ct: jax.Array) -> jax.Array:
    """ct x^y log(x); NaN for x < 0, as there is no power beside a whole y."""
    seen = _seen(y)
    g, n, log, *_ = _in_parts(x, seen)
    slope = jnp.where(g == 0, 0, scale_exponent(g * log, n))
    return ct * jnp.where((log == 0) & (g == jnp.inf), -jnp.inf, jnp.where(is_positive(-x), jnp.nan, slope))


@slope_by_exponent.defjvp
def _slope_by_exponent_jvp(primals, tangents):
    (x, y, ct), (t_x, t_y, t_ct) = primals, tangents
    slope = slope_by_exponent(x, y, jnp.ones_like(ct))
    by_y = _unless_at_0(x, slope, jnp.log(x))
    return slope_by_exponent(x, y, ct), (t_ct * slope + t_x * (ct * _mixed_slope(x, y)) + t_y * (ct * by_y))
