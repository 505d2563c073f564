"""Stable building blocks that rules of several families share."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.floats import nearest_whole, power_of_two, rounded, two_product

#: Where `exponential` begins to take care, a little below the logarithm of the largest number.
_NEAR_OVERFLOW = {jnp.dtype("float32"): 88.0, jnp.dtype("float64"): 709.0}

#: ln 2 = high + low. High is ln 2 cut to 15 and 32 bits, so that its product with an exponent is exact.
LN2 = {
    jnp.dtype("float32"): (0.693145751953125, 1.4286068203094173e-06),
    jnp.dtype("float64"): (0.6931471803691238, 1.9082149292705877e-10),
}
#: Polynomials p for (e^r - 1 - r) / r^2 on |r| <= 0.35, the constant term first: minimax, by Remez's algorithm in 60
#: digits. r + r^2 p(r) is off by 2^-30.9 r and 2^-60.7 r, before the coefficients are rounded.
_EXPM1 = {
    jnp.dtype("float32"): (0.500000001, 0.166666668, 0.0416664568, 0.0083332841, 0.00139345442, 0.000199089089),
    jnp.dtype("float64"): (
        0.5,
        0.16666666666666671,
        0.041666666666666686,
        0.0083333333333255441,
        0.0013888888888873209,
        0.00019841269876866046,
        2.4801587350128378e-5,
        2.7557252831676962e-6,
        2.7557250244109562e-7,
        2.5106275400986465e-8,
        2.0922482752909912e-9,
    ),
}


def exponential(x: jax.Array) -> jax.Array:
    """exp(x), right up to where it overflows: XLA's CPU backend is 5 ULP off in the last 0.02 before that.

    8 is subtracted exactly there, since x has no bit below its binade's unit to lose.
    """
    near_overflow = x > _NEAR_OVERFLOW[x.dtype]
    return jnp.exp(jnp.where(near_overflow, x - 8, x)) * jnp.where(near_overflow, math.exp(8), 1).astype(x.dtype)


def expm1(x: jax.Array) -> jax.Array:
    """exp(x) - 1, from x = k ln 2 + r and e^x - 1 = 2^k (e^r - 1) + (2^k - 1): XLA's own is 5 ULP off."""
    finfo = jnp.finfo(x.dtype)
    # Beyond these bounds the result is -1 or infinite.
    k, r, _ = _reduced(jnp.clip(x, -math.log(2) * (finfo.nmant + 3), math.log(2) * (finfo.maxexp + 0.4)))
    # 2^k overflows where e^x does not yet.
    half = power_of_two(k - 1, x.dtype)
    y = half * (r + _exponential_remainder(r)) + (half - 0.5)
    # half * r may underflow where r does not; for x as small as that the result is x.
    return jnp.where(jnp.abs(x) < finfo.eps / 4, x, y + y)


def exponential_parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(high, low, scale)`: exp(x) = (high + low) scale for x <= 0, with several digits more than a float has.

    The scale is a power of 2; it is 0 where the result is subnormal.
    """
    finfo = jnp.finfo(x.dtype)
    k, r, rest = _reduced(jnp.maximum(x, math.log(2) * (finfo.minexp - 1)))
    linear = rounded(1 + r)
    tail = (r - (linear - 1)) + (rest + _exponential_remainder(r))
    high = rounded(linear + tail)
    return high, tail - (high - linear), power_of_two(k, x.dtype)


def growth_and_exponent(x: jax.Array, low: jax.Array | float = 0.0) -> tuple[jax.Array, jax.Array]:
    """`(p, k)`: exp(x + low) = (1 + p) 2^k; p = exp(x) - 1 to all its digits where k = 0. For |x| below 2000."""
    k, r, _ = _reduced(x)
    r = r + low
    return r + _exponential_remainder(r), k


def quotient_of_parts(n: jax.Array, n_low: jax.Array, d: jax.Array, d_low: jax.Array) -> jax.Array:
    """(n + n_low) / (d + d_low), rounded hardly more than once; both must be far from overflow and underflow."""
    y = n / d
    p, p_low = two_product(y, d)
    return y + ((n - p) - p_low + n_low - y * d_low) / d


def log1p(x: jax.Array) -> jax.Array:
    """log(1 + x), from the rounded sum u as log(u) + (1 + x - u) / u: XLA's own is 97 ULP off in float64."""
    u = rounded(1 + x)
    y = jnp.log(u)
    missing = x - (u - 1)
    # At -1, infinity and beyond there is nothing to add, and the quotient is NaN.
    return jnp.where(x == 0, x, y + jnp.where(jnp.isfinite(y), missing / u, 0))


def tanh(x: jax.Array) -> jax.Array:
    """tanh(x) from exp(-2|x|) = (1 + p) 2^k, which never overflows, and keeps the digits of a small x: p has them.

    XLA's own is 4.7 ULP off in float32 and 6.9 in float64.
    """
    # From nmant / 2 on it is 1.
    p, k = growth_and_exponent(-2 * jnp.minimum(jnp.abs(x), jnp.finfo(x.dtype).nmant / 2))
    scale = power_of_two(k, x.dtype)
    return jnp.copysign(((1 - scale) - p * scale) / ((1 + scale) + p * scale), x)


def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) from exp(-|x|), which never overflows and keeps the small tail exact."""
    return jnp.maximum(x, 0) + log1p(jnp.exp(-jnp.abs(x)))


def logistic(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)) from exp(-|x|), which never overflows and keeps the small tail exact."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1, e) / (1 + e)


def logistic_slope(x: jax.Array) -> jax.Array:
    """The derivative of `logistic`, e / (1 + e)^2 with e = exp(-|x|).

    s (1 - s) with s = logistic(x) says 0 as soon as s rounds to 1, at x = 17 in float32; this form is right to
    a few ULP as long as the result is a normal number. (1 + e)^2 multiplied out rounds less: 2.4 ULP, not 4.1.
    """
    # Not as `logistic` writes it: of what both passes share XLA's CPU backend makes an array, which takes longer to
    # write and to read twice than a second exponential.
    e = jnp.exp(jnp.minimum(x, -x))
    return e / (1 + e * (2 + e))


def exponent_shift(x: jax.Array, axis: int | tuple[int, ...] | None, axis_name: str | None = None) -> jax.Array:
    """What to subtract from x before its exponentials are summed over `axis`: the largest entry, or 0 where infinite.

    The axis is kept. What is computed so does not depend on the shift, which therefore counts as a constant. With
    `axis_name` the entries are spread over that axis of the mesh, too.
    """
    m = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf))
    m = m if axis_name is None else jax.lax.pmax(m, axis_name)
    return jnp.where(jnp.isfinite(m), m, 0)


def numpy_logistic(x: np.ndarray) -> np.ndarray:
    """`logistic` in NumPy, for references."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def numpy_logistic_slope(x: np.ndarray) -> np.ndarray:
    """`logistic_slope` in NumPy, for references."""
    e = np.exp(-np.abs(x))
    return e / (1 + e * (2 + e))


def numpy_softplus(x: np.ndarray) -> np.ndarray:
    """`softplus` in NumPy, for references."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def numpy_exponent_shift(x: np.ndarray, axis: int | tuple[int, ...] | None) -> np.ndarray:
    """`exponent_shift` in NumPy, for references."""
    m = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.where(np.isfinite(m), m, 0)


def numpy_sum_to(ct: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`broadcasting.sum_to` in NumPy, for references."""
    new_axes = ct.ndim - np.ndim(like)
    stretched = tuple(i + new_axes for i, n in enumerate(np.shape(like)) if n == 1 != ct.shape[i + new_axes])
    return ct.sum(axis=(*range(new_axes), *stretched)).reshape(np.shape(like))


def _reduced(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(k, r, rest)` with x = k ln 2 + r + rest, |r| <= 0.35, and the rest what rounding left out of r."""
    high, low = LN2[x.dtype]
    k, n = nearest_whole(x * (1 / math.log(2)))
    first = x - k * high
    r = rounded(first - k * low)
    return n, r, (first - r) - k * low


def _exponential_remainder(r: jax.Array) -> jax.Array:
    """exp(r) - 1 - r for |r| <= 0.35."""
    polynomial = jnp.zeros_like(r)
    for coefficient in reversed(_EXPM1[r.dtype]):
        polynomial = polynomial * r + coefficient
    return r * r * polynomial
