"""The gated activations and their slopes as textbooks, NumPy and exact arithmetic have them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.elementary import two_parts
from jaxbp.gating import BELL, CUBE, ERF_CROSSING, SILU_CROSSING, SLOPE, TANH_CROSSING
from jaxbp.numerics import numpy_logistic


def textbook_logistic(x: jax.Array) -> jax.Array:
    return 1 / (1 + jnp.exp(-x))


def textbook_silu_slope(x: jax.Array, s: jax.Array) -> jax.Array:
    """The derivative of silu, where s is the logistic function of x."""
    return s * (1 + x * (1 - s))


def textbook_gelu(x: jax.Array, approximate: bool) -> tuple[jax.Array, jax.Array]:
    """gelu and its derivative."""
    square = x * x
    if not approximate:
        below = 0.5 * lax.erfc(-x * math.sqrt(0.5))
        return x * below, below + x * (BELL * jnp.exp(-0.5 * square))
    slope, cube = float(SLOPE) / 2, float(CUBE) / float(SLOPE)
    t = jnp.tanh(slope * (x * (1 + cube * square)))
    half = 0.5 * (1 + t)
    return x * half, half + (0.5 * x) * ((1 - t * t) * (slope * (1 + 3 * cube * square)))


def meant_gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """What gelu means, for `exact_vjp`: `jax.nn.gelu` without constants that are rounded."""
    if approximate:
        # 0.044715 = 165/1000 (256 + 15)/1000: whole numbers that are exact in every dtype.
        cube = 165 * (x * x * x) / 1000
        return x * jax.nn.sigmoid(jnp.sqrt(2 / jnp.arctan(1.0)) * (x + (256 * cube + 15 * cube) / 1000))
    return x * lax.erfc(-x / jnp.sqrt(2.0)) / 2


def numpy_silu(x: np.ndarray) -> np.ndarray:
    # -10^4 gates to -0, and so does -inf in the limit.
    return np.maximum(x, -1e4) * numpy_logistic(x)


def numpy_silu_slope(x: np.ndarray) -> np.ndarray:
    y = np.minimum(np.abs(x), 1e4)
    e = np.exp(-y)
    # 1 - y + e is t + e^r (e^t - 1), with t from the root r: nothing cancels.
    root, rest = two_parts(SILU_CROSSING.root, 53)
    t = (-y - root) - rest
    tail = t + math.exp(root) * np.expm1(t)
    return np.where(x >= 0, 1 + e * (1 + y), e * tail) / (1 + e * (2 + e))


def numpy_gelu(x: np.ndarray, approximate: bool) -> np.ndarray:
    # -100 gates to -0, and so does -inf in the limit.
    y = np.maximum(x, -100)
    return y * (numpy_logistic(_numpy_cubic(y, 1)) if approximate else _numpy_normal(y))


def numpy_gelu_slope(x: np.ndarray, approximate: bool) -> np.ndarray:
    y = np.minimum(np.abs(x), 100)
    if not approximate:
        slope = _numpy_erf_slope(-y)
        return np.where(x >= 0, 1 - slope, slope)
    e = np.exp(-_numpy_cubic(y, 1))
    # As in silu, with differences of the cubics divided by t.
    root, rest = two_parts(TANH_CROSSING.root, 53)
    t = (-y - root) - rest
    squares = y * y - y * root + root * root
    slope, cube = float(SLOPE), float(CUBE)
    risen = math.exp(_numpy_cubic(root, 1)) * np.expm1(t * (slope + cube * squares))
    tail = t * (slope + 3 * cube * squares) + risen
    return np.where(x >= 0, 1 + e * (1 + _numpy_cubic(y, 3)), e * tail) / (1 + e * (2 + e))


def _numpy_cubic(x, times):
    return x * (float(SLOPE) + float(CUBE) * times * (x * x))


def _numpy_normal(x):
    from scipy import special

    return special.ndtr(np.asarray(x, np.float64)).astype(x.dtype)


def _numpy_erf_slope(x):
    bell = BELL * np.exp(x * x / -2)
    # Close to the root its Taylor series there, for the terms cancel.
    r, rest = two_parts(ERF_CROSSING.root, 53)
    t = (x - r) - rest
    higher = -(r**4) + 7 * r**2 - 4 + t / 4 * (r**5 - 11 * r**3 + 18 * r)
    series = 2 - r**2 + t / 2 * (r**3 - 4 * r + t / 3 * higher)
    return np.where(np.abs(t) < 1e-3, BELL * math.exp(r * r / -2) * t * series, _numpy_normal(x) + x * bell)
