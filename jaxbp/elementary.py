"""Elementary functions by arithmetic that vectorizes, where the backend's own is slow or loses digits.

Cube roots, logarithms of odds, binary logarithms in two parts, and powers of 2.
"""

import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.floats import LIFT, lift, power_of_two, upper_half
from jaxbp.numerics import LN2

Coefficients = Mapping[np.dtype, tuple[float, ...]]

# Formatted by hand: the formatter gives each coefficient a line.
# fmt: off
#: Of (2^f - 1) / f on |f| <= 0.501, the constant term first, as in all of these. They interpolate at Chebyshev nodes,
#: computed in 60 digits and rounded to 9 and 17; relative errors before that 2^-26 and 2^-61.
_EXP2: Coefficients = {
    jnp.dtype("float32"): (0.693147188, 0.240226508, 0.0555035669, 0.00961808219, 0.00133910879, 0.000154533573),
    jnp.dtype("float64"): (0.6931471805599453, 0.24022650695910072, 0.055504108664821625, 0.00961812910762848,
        0.0013333558146406126, 0.0001540353039337056, 1.5252733841998576e-05, 1.3215486808924243e-06,
        1.017805686096008e-07, 7.054897191908525e-09, 4.4558581456653997e-10, 2.5729523340946688e-11),
}
#: Of (atanh(s) / s - 1 - s^2 / 3) / s^4 in s^2, for |s| <= 0.173; errors 2^-34 and 2^-70 of atanh(s) / s.
_ATANH: Coefficients = {
    jnp.dtype("float32"): (0.20000008, 0.142809298, 0.115325779),
    jnp.dtype("float64"): (0.2, 0.14285714285714743, 0.1111111111079172, 0.090909091758258748, 0.076922966212897565,
        0.066674486542735324, 0.058518903864746844, 0.058743016828040466),
}
#: Of atanh(s) / s - 1 over s^2 in s^2, for |s| <= 0.203; errors 2^-33 and 2^-60 of atanh(s) / s.
_ATANH_WIDE: Coefficients = {
    jnp.dtype("float32"): (0.333333331, 0.20000173, 0.142649491, 0.119016966),
    jnp.dtype("float64"): (0.33333333333333332, 0.20000000000004988, 0.14285714283187837, 0.11111111597898001,
        0.090908631220391673, 0.076946575390207064, 0.066005270197144651, 0.068372110761650367),
}
# fmt: on
#: 2 / (3 ln 2), to 45 digits.
_TWO_THIRDS_LOG2_E = "0.961796693925975604906616454001261424951097303"
#: Bits less a third of those of z are one over the cube root of z to 3.5 %: the exponent is right, and of the mantissa
#: no line comes closer.
_INVERSE_CUBE_ROOT = {jnp.dtype("float32"): 0x54A23215, jnp.dtype("float64"): 0x553EF0ED3D859C8D}
#: Numbers below the first have rounding errors that are subnormal; the cube of the second lifts them.
_SMALL = {jnp.dtype("float32"): (2.0**-60, 2.0**22), jnp.dtype("float64"): (2.0**-700, 2.0**100)}


def polynomial(x: jax.Array, coefficients: Coefficients) -> jax.Array:
    """Horner's scheme, with the coefficients for the dtype of x."""
    *lower, last = coefficients[x.dtype]
    return functools.reduce(lambda y, coefficient: y * x + coefficient, reversed(lower), jnp.full_like(x, last))


def two_parts(number: str, digits: int) -> tuple[float, float]:
    """A number as one of that many binary digits, and the rest."""
    exact = Fraction(number)
    mantissa, exponent = math.frexp(exact)
    high = math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)
    return high, float(exact - Fraction(high))


def halves(number: str, dtype: np.dtype) -> tuple[float, float]:
    """A number in two parts, of which the first has as many digits as `upper_half` leaves."""
    return two_parts(number, (jnp.finfo(dtype).nmant + 1) // 2)


def exp2_growth(f: jax.Array) -> jax.Array:
    """2^f - 1 for |f| <= 0.501.

    >>> round(float(exp2_growth(jnp.float32(0.5))), 6)
    0.414214
    """
    return f * polynomial(f, _EXP2)


def log2_in_parts(m: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(high, low)` with log2(m 2^k) = high + low, to half as many digits again as a float has; 0.707 <= m <= 1.415.

    high has half of its digits, so that its product with another half is exact.

    >>> high, low = log2_in_parts(jnp.float32(1.25), jnp.float32(3))
    >>> float(high), round(float(high) + float(low), 9)
    (3.3212890625, 3.321928095)
    """
    # With s = (m - 1) / (m + 1), log(m) = 2 atanh(s) = 2/3 s (3 + s^2 + r). All products of halves are exact. After
    # Sun's e_pow.c of 1993.
    c, d = halves(_TWO_THIRDS_LOG2_E, m.dtype)
    above, below = m - 1, m + 1
    inverse = 1 / below
    s = above * inverse
    s_high, below_high = upper_half(s), upper_half(below)
    s_low = ((above - s_high * below_high) - s_high * (m - (below_high - 1))) * inverse
    square = s * s
    r = 3 * square * square * polynomial(square, _ATANH) + s_low * (s_high + s)
    factor = upper_half(3 + s_high * s_high + r)
    factor_low = r - ((factor - 3) - s_high * s_high)
    others = s_low * factor + factor_low * s
    high = upper_half(s_high * factor + others)
    low = others - (high - s_high * factor)
    scaled, scaled_low = c * high, d * high + (c + d) * low
    total = upper_half(k + (scaled + scaled_low))
    return total, scaled_low - ((total - k) - scaled)


def log_odds(m: jax.Array) -> jax.Array:
    """log((1 - m) / m) for normal m from 0 to 1/2, within 1.5 ULP.

    >>> round(float(log_odds(jnp.float32(0.25))), 6)
    1.098612
    """
    finfo = jnp.finfo(m.dtype)
    rest = 1 - m
    bits = [lax.bitcast_convert_type(x, jnp.dtype(f"int{finfo.bits}")) for x in (rest, m)]
    # The bits of a number are about its binary logarithm: (1 - m) / (m 2^k) is between 2/3 and 3/2.
    k = (bits[0] - bits[1] + (1 << (finfo.nmant - 1))) >> finfo.nmant
    scaled = m * power_of_two(k, m.dtype)
    # Either difference is exact: 1 - m is not, for m a little below 1/2.
    s = jnp.where(k == 0, 1 - 2 * m, (1 - scaled) - m) / (rest + scaled)
    high, low = LN2[m.dtype]
    exponent = k.astype(m.dtype)
    return exponent * high + (exponent * low + 2 * (s + s * (s * s) * polynomial(s * s, _ATANH_WIDE)))


def lift_to_cube(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(z, s)` with x = z s^3 exactly, where z is 0 or its rounding errors are normal numbers.

    >>> z, s = lift_to_cube(jnp.float32([-8.0, 1e-45]))
    >>> z.tolist(), s.tolist()
    ([-8.0, 1.0339757656912846e-25], [1.0, 2.384185791015625e-07])
    """
    least, factor = _SMALL[x.dtype]
    z, f = lift(x)
    small = jnp.abs(z) < jnp.where(f == 1, least, jnp.inf)
    return jnp.where(small, z * (jnp.where(f == 1, 1, 1 / LIFT) * factor**3), z), jnp.where(small, 1 / factor, 1)


@jax.custom_jvp
def cube_root(z: jax.Array) -> jax.Array:
    """The cube root of what `lift_to_cube` gives, within 0.9 ULP; XLA's own is 2.7 ULP off in float64.

    XLA's CPU backend computes a power for each entry, one after the other: this takes a tenth of the time.

    >>> [round(float(y), 4) for y in cube_root(jnp.float32([-27.0, 0.0, 2.0]))]
    [-3.0, 0.0, 1.2599]
    """
    bits = lax.bitcast_convert_type(jnp.abs(z), jnp.dtype(f"int{8 * z.dtype.itemsize}"))
    inverse = lax.bitcast_convert_type(_INVERSE_CUBE_ROOT[z.dtype] - lax.div(bits, lax.full_like(bits, 3)), z.dtype)
    size = jnp.abs(z)
    for _ in range(2):
        # z^(-1/3) = r (1 - h)^(-1/3), by the first terms of its series: each step triples the digits.
        h = 1 - (size * inverse) * (inverse * inverse)
        inverse = inverse + inverse * (h * (1 / 3 + 2 / 9 * h))
    y = z * inverse * inverse
    # A step of Newton's method for y^3 = z, without a division.
    y = y - (y * y * y - z) * (inverse * inverse * (1 / 3))
    return jnp.where((z != 0) & jnp.isfinite(z), y, z)


@cube_root.defjvp
def _cube_root_jvp(primals, tangents):
    y = cube_root(*primals)
    return y, tangents[0] * cube_root_slope(primals[0], y)


def cube_root_slope(z: jax.Array, y: jax.Array) -> jax.Array:
    """The derivative at z, from the root y of z."""
    # y / (3 z) has the error of y once, 1 / (3 y^2) twice; at 0 and at infinity it says 0 / 0.
    ordinary = (z != 0) & jnp.isfinite(z)
    return jnp.where(ordinary, (y / 3) / jnp.where(ordinary, z, 1), 1 / (y * y))
