"""Stable building blocks that rules of several families share."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import reduced_axes
from jaxbp.elementary import decay, growth_in_factors, log_of_sum, tangent_and_exponent
from jaxbp.floats import power_of_biased, two_product
from jaxbp.fusion import once


def quotient_of_parts(n: jax.Array, n_low: jax.Array, d: jax.Array, d_low: jax.Array) -> jax.Array:
    """(n + n_low) / (d + d_low), rounded hardly more than once; both must be far from overflow and underflow."""
    y = n / d
    p, p_low = two_product(y, d)
    return y + ((n - p) - p_low + n_low - y * d_low) / d


def tanh(x: jax.Array) -> jax.Array:
    """tanh(x) from exp(-2|x|) = 2^k (1 + t) / (1 - t), which never overflows. Where k = 0 it is -t, with its digits.

    XLA's own is 4.9 ULP off in float32 and 6.9 in float64.
    """
    finfo = jnp.finfo(x.dtype)
    # From nmant / 2 on it is 1.
    t, k = tangent_and_exponent(-jnp.minimum(jnp.abs(x), finfo.nmant / 2), finfo.maxexp - 1)
    scale = power_of_biased(k, x.dtype)
    y = ((1 - scale) - t * (1 + scale)) / ((1 + scale) - t * (1 - scale))
    # A GPU's quotients are up to 2 ULP off: more than 1, they would be no tangent.
    return jnp.copysign(jnp.minimum(y, 1), x)


def tanh_slope(x: jax.Array) -> jax.Array:
    """Its derivative r (1 - r / 4) with r = 4 / (1 + exp(2|x|)), which 1 - tanh(x)^2 cancels to."""
    finfo = jnp.finfo(x.dtype)
    scale = finfo.nmant + 4
    y = jnp.minimum(jnp.abs(x), math.log(2) / 2 * (scale - finfo.minexp))
    f, q, n = growth_in_factors(y, finfo.maxexp - 1 - scale, times=2)
    # exp(2|x|) may overflow where results do not vanish.
    r = scaled_share(f, q, power_of_biased(n, x.dtype), 2.0**-scale, 4 * 2.0**-scale)
    return r * (1 - 0.25 * r)


@jax.custom_jvp
def scaled_share(
    f: jax.Array, q: jax.Array, power: jax.Array, one: jax.Array | float, of: jax.Array | float = 1.0
) -> jax.Array:
    """of / (one (1 + e)) for one e = (1 + f q) power, both powers of 2; `one` may be 0 where 1 is nothing to e.

    e itself may overflow. XLA's CPU backend computes it once for both passes, and divides in each, where it waits for
    memory anyway; with the same `of` in both it divides once.
    """
    return of / (once((1 + f * q) * power) + one)


@scaled_share.defjvp
def _scaled_share_jvp(primals, tangents):
    # Both powers are constants. Not by the square of the share, which vanishes long before its derivative does.
    (f, q, power, one, _), (df, dq, _, _, d_of) = primals, tangents
    share = scaled_share(*primals)
    rise = (df * q + f * dq) * (power / ((1 + f * q) * power + one))
    return share, scaled_share(f, q, power, one, d_of) - share * rise


def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) from exp(-|x|), which never overflows and keeps the small tail exact."""
    return jnp.maximum(x, 0) + log_of_sum(decay(-jnp.abs(x)))


def logistic(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)) from exp(-|x|), which never overflows and keeps the small tail exact."""
    e = decay(-jnp.abs(x))
    return jnp.where(x >= 0, 1, e) / (1 + e)


def logistic_slope(x: jax.Array) -> jax.Array:
    """The derivative of `logistic`, e / (1 + e)^2 with e = exp(-|x|).

    s (1 - s) with s = logistic(x) says 0 as soon as s rounds to 1, at x = 17 in float32; this form is right to
    a few ULP as long as the result is a normal number. (1 + e)^2 multiplied out rounds less: 2.4 ULP, not 4.1.
    """
    e = decay(-jnp.abs(x))
    return e / (1 + e * (2 + e))


def exponent_shift(x: jax.Array, axis: int | tuple[int, ...] | None, axis_name: str | None = None) -> jax.Array:
    """What to subtract from x before its exponentials are summed over `axis`: the largest entry, or 0 where infinite.

    The axis is kept. What is computed so does not depend on the shift, which therefore counts as a constant. With
    `axis_name` the entries are spread over that axis of the mesh, too.
    """
    m = jax.lax.stop_gradient(jnp.max(x, axis=axis, initial=-jnp.inf))
    m = m if axis_name is None else jax.lax.pmax(m, axis_name)
    # Kept at the end: what is computed from m without it, XLA would compute along an axis of length 1 otherwise.
    return jnp.expand_dims(jnp.where(jnp.isfinite(m), m, 0), reduced_axes(jnp.ndim(x), axis))


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
