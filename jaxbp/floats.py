"""Floating-point numbers by their parts: subnormal arguments, exponents, order, exact halves of a product.

XLA's CPU backend takes a subnormal argument of an arithmetic operation for 0, and so do GPUs in places. Bits are not
arithmetic: what is done here by bits sees every number. Everything is differentiable where the arithmetic that it
stands for is, so that rules built on it have second derivatives.
"""

import jax
import jax.numpy as jnp
from jax import lax

#: What a subnormal argument is multiplied with to become a normal number, in float32 and float64 alike.
LIFT = 2.0**64


def lift(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(z, f)` with z = x f exactly and f = 1, but where x is subnormal or 0 f = 2^64, and z is normal or 0.

    >>> z, f = lift(jnp.float32([1e-40, 3.0]))
    >>> [f"{v:.4g}" for v in z], [f"{v:.3g}" for v in f]
    (['1.845e-21', '3'], ['1.84e+19', '1'])
    """
    return _lifted(x), _factor(x)


def _is_tiny(x: jax.Array) -> jax.Array:
    """Whether x is subnormal or 0."""
    return _magnitude(x) < 1 << jnp.finfo(x.dtype).nmant


def _factor(x: jax.Array) -> jax.Array:
    """The f of `lift`."""
    return jnp.where(_is_tiny(x), LIFT, 1).astype(x.dtype)


@jax.custom_jvp
def _lifted(x: jax.Array) -> jax.Array:
    """The z of `lift`."""
    return jnp.where(_is_tiny(x), _with_sign(_tiny_lifted(x), x), x)


def _tiny_lifted(x: jax.Array) -> jax.Array:
    """The bits of |x| 2^64 for subnormal x."""
    finfo = jnp.finfo(x.dtype)
    # The bits count units of the smallest subnormal number, 2^(minexp - nmant); the cast is exact.
    return _bits(_magnitude(x).astype(x.dtype) * 2.0 ** (finfo.minexp - finfo.nmant + 64))


@_lifted.defjvp
def _lifted_jvp(primals, tangents):
    return _lifted(*primals), tangents[0] * _factor(*primals)


def total(x: jax.Array, y: jax.Array) -> jax.Array:
    """x + y, subnormal terms included.

    >>> print(f"{total(jnp.float32(1e-40), jnp.float32(2e-38)):.4g}")
    2.01e-38
    """
    # Numbers below 2 are added 2^64 times as large, where none of them is subnormal. All bits of 2 but one are 0.
    below_two = _magnitude(x) | _magnitude(y) < _bits(jnp.asarray(2, x.dtype))
    exact = jnp.where(below_two, (_raised(x) + _raised(y)) * (1 / LIFT), x + y)
    fewer, more = sorted((x, y), key=jnp.size)
    if jnp.size(fewer) != 1 or jnp.size(more) == 1:
        return exact
    # The last digit of such a number is worth eight least normal ones, so that no subnormal term beside it counts, and
    # no sum but 0 is subnormal. Where it is one for many, the compiler makes a loop of its own of the plain sum.
    finfo = jnp.finfo(x.dtype)
    enough = jnp.asarray(2.0 ** (finfo.minexp + finfo.nmant + 3), x.dtype)
    return jnp.where(_magnitude(fewer) >= _bits(enough), x + y, exact)


def _raised(x: jax.Array) -> jax.Array:
    """x 2^64, where that is no overflow, subnormal x included: as z 2^64 / f of `lift`, in fewer instructions."""
    return jnp.where(_is_tiny(x), _lifted(x), x * LIFT)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y, subnormal factors included.

    >>> print(f"{product(jnp.float32(1e-40), jnp.float32(1e5)):.4g}")
    1e-35
    """
    (zx, fx), (zy, fy) = lift(x), lift(y)
    # With two subnormal factors it is 0 after one division by 2^64 too.
    return zx * zy * jnp.where((fx == 1) & (fy == 1), 1, 1 / LIFT)


def is_small(x: jax.Array) -> jax.Array:
    """Whether |x| is less than twice the least normal number: so small that half of it may be subnormal."""
    return _magnitude(x) < 2 << jnp.finfo(x.dtype).nmant


def half_if_small(x: jax.Array, y: jax.Array) -> jax.Array:
    """y, but x / 2 where x `is_small`; in bfloat16 it can round to a normal number.

    >>> print(f"{half_if_small(jnp.float32(-1e-40), jnp.float32(0)):.4g}")
    -5e-41
    """
    return jnp.where(is_small(x), _with_sign(_magnitude(x) >> 1, x), y)


@jax.custom_jvp
def times_small(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y for x that `is_small`, subnormal x included: in fewer instructions than `product`.

    >>> print(f"{times_small(jnp.float32(-1e-40), jnp.float32(1e5)):.4g}")
    -1e-35
    """
    return _units(x) * y * 2.0 ** (jnp.finfo(x.dtype).minexp + 1)


def _units(x: jax.Array) -> jax.Array:
    """x 2^-(minexp + 1) for x that `is_small`: its bits count units of the smallest subnormal number."""
    return _with_sign(_bits(_magnitude(x).astype(x.dtype) * 2.0 ** -(jnp.finfo(x.dtype).nmant + 1)), x)


@times_small.defjvp
def _times_small_jvp(primals, tangents):
    (x, y), (t_x, t_y) = primals, tangents
    return times_small(x, y), t_x * y + lax.stop_gradient(_units(x)) * t_y * 2.0 ** (jnp.finfo(x.dtype).minexp + 1)


def is_positive(x: jax.Array) -> jax.Array:
    """Whether x > 0, subnormal numbers included; NaN is not."""
    bits, infinity = _bits(x), _bits(jnp.asarray(jnp.inf, x.dtype))
    return (bits > 0) & (bits <= infinity)


def is_negative(x: jax.Array) -> jax.Array:
    """Whether x < 0, subnormal numbers included, in one comparison; NaN is by its sign.

    >>> is_negative(jnp.float32([-1e-45, -0.0, 2.0, -jnp.inf])).tolist()
    [True, False, False, True]
    """
    return _bits(-x) > 0


def is_edge(x: jax.Array) -> jax.Array:
    """Whether x is 0, infinite or NaN.

    In one comparison: of two, whose result many steps need, XLA's CPU backend makes an array.

    >>> is_edge(jnp.float32([0.0, -jnp.inf, jnp.nan, 1e-45, -3.0])).tolist()
    [True, True, True, False, False]
    """
    return _is_zero_or_from(x, _bits(jnp.asarray(jnp.inf, x.dtype)))


def is_zero_or_nan(x: jax.Array) -> jax.Array:
    """Whether x is 0 or NaN, in one comparison likewise.

    >>> is_zero_or_nan(jnp.float32([0.0, -jnp.inf, jnp.nan, 1e-45, -3.0])).tolist()
    [True, False, True, False, False]
    """
    return _is_zero_or_from(x, _bits(jnp.asarray(jnp.inf, x.dtype)) + 1)


def _is_zero_or_from(x: jax.Array, least: jax.Array) -> jax.Array:
    """Whether the bits of |x| are 0, or at least these."""
    lowest = jnp.iinfo(least.dtype).min
    # As integers without a sign, of which 0 - 1 is the largest.
    return (_magnitude(x) - 1) + lowest >= (least - 1) + lowest


def sign_bit(x: jax.Array) -> jax.Array:
    """Whether the sign bit of x is set, as for -0."""
    return _bits(x) < 0


def order_key(x: jax.Array) -> jax.Array:
    """Integers in the order of the floats, subnormal numbers included; 0 and -0 have the same. NaN is outermost.

    Compare them with each other: a comparison with 0, and `bits == 0` too, LLVM turns back into one of floats.

    >>> order_key(jnp.float32([-1e-40, -0.0, 0.0, 1e-40])).tolist()
    [-71362, 0, 0, 71362]
    """
    magnitude = _magnitude(x)
    return jnp.where(sign_bit(x), -magnitude, magnitude)


def split_exponent(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(m, e)` with x = m 2^e exactly and 1 <= |m| < 2; 0, infinities and NaN are their own m, with e = 0.

    >>> m, e = split_exponent(jnp.float32([-12.0, 1e-45, 0.0]))
    >>> m.tolist(), e.tolist()
    ([-1.5, 1.0, 0.0], [3, -149, 0])
    """
    bits, below = normal_bits(x)
    finfo = jnp.finfo(x.dtype)
    e = (bits >> finfo.nmant) - (finfo.maxexp - 1) - below
    return _mantissa(x), jnp.where(is_edge(x), 0, e)


def normal_bits(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(bits, k)`: the bits of |x| 2^k, where k is 0 but for subnormal x."""
    finfo, magnitude, tiny = jnp.finfo(x.dtype), _magnitude(x), _is_tiny(x)
    # The bits of a subnormal number count units of the smallest; the cast is exact.
    return (
        jnp.where(tiny, _bits(magnitude.astype(x.dtype)), magnitude),
        jnp.where(tiny, finfo.nmant - finfo.minexp, 0).astype(magnitude.dtype),
    )


def positive_bits(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(own, bits, tiny)`: the bits of x, those of x 2^k, and whether k is not 0, as in `normal_bits`, for x from 0 up.

    Of negative numbers and NaN only the first says anything: in fewer instructions than `normal_bits`.
    """
    own = _bits(x)
    tiny = own < 1 << jnp.finfo(x.dtype).nmant
    return own, jnp.where(tiny, _bits(own.astype(x.dtype)), own), tiny


def is_ordinary(bits: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Whether these are the bits of a number that is positive and finite, as integers with a sign."""
    return (bits > 0) & (bits < _bits(jnp.asarray(jnp.inf, dtype)))


@jax.custom_jvp
def _mantissa(x: jax.Array) -> jax.Array:
    """x with the exponent 0 in place of its own; 0, infinities and NaN as they are."""
    bits, _ = normal_bits(x)
    exponent, one = _bits(jnp.asarray(jnp.inf, x.dtype)), _bits(jnp.asarray(1, x.dtype))
    return jnp.where(is_edge(x), x, _with_sign((bits & ~exponent) | one, x))


@_mantissa.defjvp
def _mantissa_jvp(primals, tangents):
    m, e = split_exponent(*primals)
    # 2^-e alone may overflow or be subnormal.
    a, b = two_powers(-e, m.dtype)
    return m, tangents[0] * a * b


def split_centred(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(m, k)` with |x| = m 2^k exactly and 0.707 < m < 1.415; m and k say nothing of 0, infinities and NaN.

    >>> m, k = split_centred(jnp.float32([-12.0, 1e-45]))
    >>> m.tolist(), k.tolist()
    ([0.75, 1.0], [4, -149])
    """
    bits, below = normal_bits(x)
    return _centred_mantissa(x), centred(bits, x.dtype)[1] - below


def centred(bits: jax.Array, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
    """`(m, k)`: the normal number of these bits is m 2^k with 0.707 < m < 1.415."""
    nmant = jnp.finfo(dtype).nmant
    k = (bits - _bits(jnp.asarray(0.5**0.5, dtype))) >> nmant
    return lax.bitcast_convert_type(bits - (k << nmant), dtype), k


@jax.custom_jvp
def _centred_mantissa(x: jax.Array) -> jax.Array:
    """The m of `split_centred`."""
    return centred(normal_bits(x)[0], x.dtype)[0]


@_centred_mantissa.defjvp
def _centred_mantissa_jvp(primals, tangents):
    (x,) = primals
    m, k = split_centred(x)
    finfo = jnp.finfo(x.dtype)
    # 2^-k alone may overflow or be subnormal. At 0 k is further away than any number's.
    a, b = two_powers(-jnp.maximum(k, finfo.minexp - finfo.nmant), x.dtype)
    return m, jnp.where(sign_bit(x), -tangents[0], tangents[0]) * a * b


def scale_exponent(m: jax.Array, e: jax.Array) -> jax.Array:
    """m 2^e, rounded at most once, for |m| in [1/8, 8]; overflows to infinity, and flushes as the device does.

    >>> [f"{v:.4g}" for v in scale_exponent(jnp.float32([1.5, 1.5, 1.5]), jnp.array([3, 127, 300]))]
    ['12', '2.552e+38', 'inf']
    """
    finfo = jnp.finfo(m.dtype)
    limit = 2 * finfo.maxexp - 4
    e = jnp.clip(e, -limit, limit)
    a, b = two_powers(e, m.dtype)
    return m * a * b


@jax.custom_jvp
def product_over_square(a: jax.Array, b: jax.Array, y: jax.Array) -> jax.Array:
    """a b / y^2, b and y of any size: neither a b nor y^2 overflows or vanishes where the result does not.

    A subnormal a counts as 0. At y = 0 it is infinite, or NaN where a b is 0.

    >>> print(f"{product_over_square(*jnp.float32([1e-37, 3e-40, 1e-35])):.4g}")
    3e-07
    """
    finfo, one = jnp.finfo(y.dtype), jnp.asarray(1, y.dtype)
    m, p = _mantissa_and_inverse(y)
    z, _ = lift(b)
    # A power of 2, once for each factor, and what undoes it: so a b / m^2 and its product with one `inverse` are normal
    # numbers, and where `inverse` itself overflows or vanishes, the result does.
    size, far = jnp.abs(a * z), finfo.maxexp * 3 // 4
    step = 2.0 ** (finfo.maxexp // 2 + 4)
    scale = jnp.where(size >= 2.0**far, 1 / step, jnp.where(size < 2.0**-far, step, one))
    half_back = lax.bitcast_convert_type(_bits(one / 2) + _bits(one) - _bits(scale), y.dtype)
    # In this order: beside a subnormal b, p times the factor of a subnormal y would overflow too early.
    inverse = p * half_back * jnp.where(_is_tiny(b), LIFT**-0.5, one) * _factor(y)
    scaled = (a * scale) * (z * scale)
    # 0 times infinity: beside 0 or an infinite number a scale can but do harm.
    scaled = jnp.where(jnp.isnan(scaled), a * z, scaled)
    return jnp.where(jnp.isnan(y), y, scaled) * inverse / (m * m) * inverse


@product_over_square.defjvp
def _product_over_square_jvp(primals, tangents):
    # By the formula: the powers of 2 above are steps, beside which that of a product of 0 is far from 1.
    (a, b, y), (t_a, t_b, t_y) = primals, tangents
    by_a, by_b = b / y / y, a / y / y
    return product_over_square(a, b, y), t_a * by_a + t_b * by_b - t_y * (2 * (a * by_a) / y)


@jax.custom_jvp
def _mantissa_and_inverse(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(m, p)` with |y| p f = 2 m, 1 <= m < 2, p a power of 2, f as in `lift`; p is infinite at 0, 0 from inf on."""
    bits = jnp.where(_is_tiny(y), _tiny_lifted(y), _magnitude(y))
    exponent, one = _bits(jnp.asarray(jnp.inf, y.dtype)), _bits(jnp.asarray(1, y.dtype))
    m = (bits & ((1 << jnp.finfo(y.dtype).nmant) - 1)) | one
    return lax.bitcast_convert_type(m, y.dtype), lax.bitcast_convert_type(~bits & exponent, y.dtype)


@_mantissa_and_inverse.defjvp
def _mantissa_and_inverse_jvp(primals, tangents):
    (y,), (t,) = primals, tangents
    m, p = _mantissa_and_inverse(y)
    return (m, p), (jnp.where(sign_bit(y), -t, t) / 2 * p * _factor(y), jnp.zeros_like(p))


def two_powers(e: jax.Array, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, jax.Array]:
    """2^e as the product of two, which are normal numbers where it need not be one."""
    half = e >> 1
    return power_of_two(half, dtype), power_of_two(e - half, dtype)


def power_of_two(e: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """2^e exactly, for integers e that leave it a normal number."""
    finfo = jnp.finfo(dtype)
    return power_of_biased((e + (finfo.maxexp - 1)).astype(f"int{finfo.bits}"), dtype)


def power_of_biased(e: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The power of 2 whose biased exponent this is, in integers of as many bits as the dtype's."""
    return lax.bitcast_convert_type(e << jnp.finfo(dtype).nmant, jnp.dtype(dtype))


def nearest_whole(x: jax.Array, plus: int = 0) -> tuple[jax.Array, jax.Array]:
    """The nearest whole number, as a float and as an integer, for |x| < 2^22 in float32, 2^51 in float64.

    In its last bits the sum with 1.5 2^23, or 2^52, has the whole number. A conversion takes XLA several instructions
    more, for numbers that no integer holds. The integer is returned with `plus` added, at no cost: with the bias of
    exponents, or less, for `power_of_biased`. Ties go to even numbers where it is even, to odd ones where it is odd.

    >>> k, n = nearest_whole(jnp.float32([-149.6, 2.5, 3.5]))
    >>> k.tolist(), n.tolist()
    ([-150.0, 2.0, 4.0], [-150, 2, 4])
    """
    zero = 1.5 * 2.0 ** jnp.finfo(x.dtype).nmant
    shifted = rounded(lax.stop_gradient(x) + (zero + plus))
    return shifted - (zero + plus), _bits(shifted) - _bits(jnp.asarray(zero, x.dtype))


def rounded(x: jax.Array) -> jax.Array:
    """x, as it is in its dtype: keeps XLA from cancelling (1 + x) - 1 to x before rounding happened.

    It asks for one bit more than there are: a reduction to exactly those that there are is one that XLA's GPU compiler
    takes out, and cancels.
    """
    finfo = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, finfo.nexp, finfo.nmant + 1)


@jax.custom_jvp
def upper_half(x: jax.Array) -> jax.Array:
    """x cut to half of its digits, so that its square is exact; x minus it is exact and has the rest."""
    # Far fewer instructions than `reduce_precision`. As many digits are cut as the others are, or one more.
    return lax.bitcast_convert_type(_bits(x) & -(1 << (jnp.finfo(x.dtype).nmant + 2) // 2), x.dtype)


@upper_half.defjvp
def _upper_half_jvp(primals, tangents):
    return upper_half(*primals), tangents[0]


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(s, t)`: the rounded sum, and what rounding left out: a + b = s + t exactly, whichever is larger (Knuth)."""
    s = rounded(a + b)
    b_part = rounded(s - a)
    return s, (a - rounded(s - b_part)) + (b - b_part)


def two_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(p, t)`: the rounded product, and what rounding left out: a b = p + t exactly (Dekker).

    Both must be far from overflow, and the product far from underflow.
    """
    p = rounded(a * b)
    a1, b1 = upper_half(a), upper_half(b)
    a2, b2 = a - a1, b - b1
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def _bits(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.dtype(f"int{8 * x.dtype.itemsize}"))


def _magnitude(x: jax.Array) -> jax.Array:
    bits = _bits(x)
    return bits & jnp.iinfo(bits.dtype).max


def _with_sign(magnitude: jax.Array, x: jax.Array) -> jax.Array:
    """The number whose bits are these but for the sign, which is that of x: in fewer instructions than `copysign`."""
    return lax.bitcast_convert_type(magnitude | (_bits(x) & jnp.iinfo(magnitude.dtype).min), x.dtype)
