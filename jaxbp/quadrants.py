"""Sine and cosine by arithmetic that vectorizes, of every float32 on a processor; elsewhere they are XLA's.

XLA's CPU backend calls the C library's for one number after the other.
"""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.devices import on_processor
from jaxbp.elementary import Coefficients, polynomial, two_parts
from jaxbp.floats import rounded, two_product, upper_half

#: The first 256 binary digits of 2 / pi after the point.
TWO_OVER_PI = 0xA2F9836E_4E441529_FC2757D1_F534DDC0_DB629599_3C439041_FE5163AB_DEBBC561
#: They from the 25th place before the point on, in words of 32.
_WORDS = tuple(np.uint32(TWO_OVER_PI >> 26 + 32 * i & 0xFFFFFFFF) for i in reversed(range(8)))
#: pi / 2, to 45 digits; as a float32, and what that lacks.
QUARTER_TURN = "1.57079632679489661923132169163975144209858470"
_QUARTER_TURN, _QUARTER_TURN_LOW = two_parts(QUARTER_TURN, 24)
#: -1/6 likewise.
_SIXTH, _SIXTH_LOW = two_parts(Fraction(-1, 6), 24)
#: Of (sin(r) / r - 1) / r^2, the first without _SIXTH, and (cos(r) - 1 + r^2 / 2) / r^4, in r^2 for |r| <= pi/4.
#: Minimax, by Remez's algorithm in 60 digits; errors 2^-37 and 2^-33 of sine and cosine.
_SINE: Coefficients = {jnp.dtype("float32"): (_SIXTH_LOW, 0.0083333293, -0.000198393115, 2.71811406e-06)}
_COSINE: Coefficients = {jnp.dtype("float32"): (0.0416666457, -0.00138873156, 2.44330827e-05)}


@jax.custom_jvp
def sine(x: jax.Array) -> jax.Array:
    """sin(x) for x in radians, NaN at infinities; as accurate as the op `sin` states.

    >>> [round(y, 4) for y in sine(jnp.float32([1.0, -1e20, jnp.inf])).tolist()]
    [0.8415, -0.6566, nan]
    """
    if not _by_arithmetic(x):
        return jnp.sin(x)
    y = _of_quadrant(x, 0)
    # The sign of x; subnormal numbers are 0 to a comparison.
    return jnp.where(x == 0, x, _float(_bits(y) ^ (_bits(x) & np.uint32(1 << 31))))


@jax.custom_jvp
def cosine(x: jax.Array) -> jax.Array:
    """cos(x) likewise.

    >>> [round(y, 4) for y in cosine(jnp.float32([1.0, -1e20, jnp.inf])).tolist()]
    [0.5403, 0.7543, nan]
    """
    return _of_quadrant(x, 1) if _by_arithmetic(x) else jnp.cos(x)


sine.defjvp(lambda primals, tangents: (sine(*primals), tangents[0] * cosine(*primals)))
cosine.defjvp(lambda primals, tangents: (cosine(*primals), -tangents[0] * sine(*primals)))


def _by_arithmetic(x: jax.Array) -> bool:
    return on_processor() and x.dtype == jnp.float32


def _bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.uint32)


def _float(bits: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(bits, jnp.float32)


def _count(word: jax.Array) -> jax.Array:
    """A word as the signed number that it is, rounded to a float32."""
    return lax.bitcast_convert_type(word, jnp.int32).astype(jnp.float32)


def _of_quadrant(x: jax.Array, further: int) -> jax.Array:
    """The sine of |x| and so many quarter turns; NaN at infinities."""
    r, low, quarter_turns = _reduced(jnp.abs(x))
    quarter_turns = quarter_turns + further
    # Of a square this is what `two_product` is, in fewer instructions.
    square = rounded(r * r)
    half = upper_half(r)
    square_low = (half * half - square) + (r - half) * (r + half)
    # r less a sixth of its cube: the terms that are large are rounded once.
    rest = square * polynomial(square, _SINE) + square_low * _SIXTH
    sin = r + (r * (square * _SIXTH + rest) + (low - low * (0.5 * square)))
    linear = rounded(1 - 0.5 * square)
    rest = ((1 - linear) - 0.5 * square) - (0.5 * square_low + r * low)
    cos = linear + (rest + (square * square) * polynomial(square, _COSINE))
    y = jnp.where(quarter_turns & 1 == 1, cos, sin)
    return jnp.where(jnp.abs(x) < jnp.inf, _float(_bits(y) ^ ((quarter_turns & 2) << 30)), jnp.nan)


def _reduced(y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(r, low, n)`: y = n pi/2 + r + low for y >= 0, with |r| at most about pi/4 and n modulo 4.

    y is a whole number of 24 digits times a power of 2, and y 2/pi is needed modulo 4: of the digits of 2/pi those are
    left out that make whole turns, and those that are too small (Payne and Hanek 1983, Radian reduction for
    trigonometric functions). The 96 in between leave 30 more than r has, wherever y is.
    """
    bits = _bits(y)
    exponent = bits >> 23
    # For the last binade the place would need a third bit: there the number is twice as large in place of it.
    last = exponent > 253
    number = ((bits & 0x7FFFFF) | 0x800000) << last.astype(jnp.uint32)
    place = jnp.where(last, np.uint32(253), exponent) - 126
    words = list(_WORDS)
    for step, bit in ((2, 64), (1, 32)):
        words = [jnp.where(place & bit != 0, *two) for two in zip(words[step:], words, strict=False)]
    shift = place & 31
    first, second, third = (a << shift | b >> 1 >> 31 - shift for a, b in itertools.pairwise(words[:4]))
    product = number * second
    lower = product + _upper_word(number, third)
    upper = number * first + _upper_word(number, second) + (lower < product).astype(jnp.uint32)
    # In these 64 bits the first two count quarter turns.
    n = upper + (1 << 29) >> 30
    upper = upper - (n << 30)
    # 24 bits at a time, which floats hold. The first part is negative where less than a half was taken for a whole.
    a = _count(lax.bitcast_convert_type(lax.bitcast_convert_type(upper, jnp.int32) >> 8, jnp.uint32)) * 2.0**-22
    b = _count((upper & 0xFF) << 16 | lower >> 16) * 2.0**-46
    fraction = rounded(a + b)
    rest = (b - (fraction - a)) + _count(lower & 0xFFFF) * 2.0**-62
    r, error = two_product(fraction, jnp.asarray(_QUARTER_TURN, y.dtype))
    low = error + (fraction * _QUARTER_TURN_LOW + rest * _QUARTER_TURN)
    near = y < 0.5  # There nothing is taken off, and the exponent is below 126.
    return jnp.where(near, y, r), jnp.where(near, 0, low), jnp.where(near, 0, n)


def _upper_word(number: jax.Array, word: jax.Array) -> jax.Array:
    """The upper 32 bits of the product of a number below 2^25 and a word."""
    low, high = number & 0xFFFF, number >> 16
    word_low, word_high = word & 0xFFFF, word >> 16
    middle = low * word_high + (low * word_low >> 16)
    return high * word_high + (middle >> 16) + ((middle & 0xFFFF) + high * word_low >> 16)
