"""Errors in units in the last place (ULP) of a result's own dtype, against a truth that is not rounded to it.

For a dtype of precision ``p`` and smallest normal number ``2**emin``,

    ulp(v) = 2 ** (max(floor(log2(abs(v))), emin) - (p - 1))

which below ``2**emin``, and at 0, is the spacing of the subnormal numbers.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_DTYPES = tuple(np.dtype(t) for t in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))
_TRUTHS = (np.dtype(np.float64), np.dtype(np.longdouble))

# Temporaries of one chunk fit in a core's cache: faster than whole-array passes, and no second array is held.
_CHUNK = 1 << 14

_EXPONENT = np.int64(0x7FF << 52)

# No warnings: infinities are expected here, and a signaling NaN sets off even a comparison in bfloat16.
quiet = np.errstate(all="ignore")


def ulp_error(actual: ArrayLike, exact: ArrayLike, *, nan_equal: bool = False) -> NDArray[np.float64]:
    """The error of `actual` in units in the last place of its dtype: ``abs(actual - exact) / ulp(exact)``.

    A correctly rounded result has at most 0.5. The unit is taken at the exact value (see `spacing`), so that
    an error is measured with the same stick whichever side it falls on.

    **Arguments:**

    - `actual`: float64, float32, float16 or bfloat16; an array (NumPy or JAX) of any shape, or a scalar.
    - `exact`: the true values, of the same shape, in float64 or `numpy.longdouble`, *not* rounded to
        `actual`'s dtype. For a float64 `actual` pass longdouble: a float64 truth may be half a unit off
        itself.
    - `nan_equal`: whether two NaNs are equal.

    **Returns:** a float64 array of that shape, never negative, never NaN. It is computed in longdouble if
    `exact` is longdouble or `actual` is float64, else in float64. An error of ``2**1024`` units or more is
    inf.

    **Special values:**

    | actual | exact | error |
    |---|---|---|
    | infinite | rounds to the same infinity | 0 |
    | infinite | anything else | inf |
    | finite | infinite | inf |
    | finite | finite, too large for the dtype | measured in units of the top binade |
    | NaN on either side, or on both | | inf |
    | NaN | NaN, and `nan_equal` | 0 |
    | 0.0 or -0.0 | 0.0 or -0.0 | 0 |

    **Raises:** `TypeError` for another dtype, `ValueError` for shapes that differ (nothing is broadcast).

    >>> x = np.array([1.0, 1.0, np.inf], np.float32)
    >>> ulp_error(x, np.array([1.0, 1.0 + 3 * 2.0**-23, 1e39])).tolist()
    [0.0, 3.0, 0.0]
    """
    return _error(*_pair(actual, exact), _ulp, nan_equal)


def relative_error(actual: ArrayLike, exact: ArrayLike, *, nan_equal: bool = False) -> NDArray[np.float64]:
    """The relative error ``abs(actual - exact) / abs(exact)``.

    It is 0 where both are zero, and inf where only `exact` is. Shapes, dtypes, infinities, NaN and errors
    are as in `ulp_error`. Below the smallest normal number even a correctly rounded result may be off by as
    much as 1.

    >>> relative_error(np.float32([2.5, 0.0, 1.0]), np.array([2.0, 0.0, 0.0])).tolist()
    [0.25, 0.0, inf]
    """
    return _error(*_pair(actual, exact), _magnitude, nan_equal)


@quiet
def spacing(exact: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """One unit in the last place of `dtype` at the values `exact`.

    It is ``2 ** (max(floor(log2(abs(exact))), emin) - (p - 1))``: the distance between neighbours in the
    binade of the exact value, the spacing of the subnormals below the smallest normal number and at 0, and
    that of the top binade at any larger magnitude, infinity included. NaN gives NaN.

    **Arguments:**

    - `exact`: float64 or `numpy.longdouble`, any shape.
    - `dtype`: float64, float32, float16 or bfloat16.

    **Returns:** an array of `exact`'s shape and dtype.

    **Raises:** `TypeError` for another dtype.

    >>> spacing(np.array([1.0, 1.99, 2.0, 0.0]), np.float16).tolist() == [2**-10, 2**-10, 2**-9, 2**-24]
    True
    """
    exact = _truth(exact)
    return np.where(np.isnan(exact), exact, _ulp(exact, _known(np.dtype(dtype), "dtype")))


@quiet
def flushed(actual: ArrayLike, exact: ArrayLike) -> NDArray[np.bool_]:
    """Where a subnormal result was flushed to zero.

    That is where `actual` is zero and `exact` is below the smallest normal number, yet does not round to
    zero. XLA's CPU backend flushes these, even in the last half unit, where they would round up to a normal
    number. It costs up to ``2**(p - 1)`` units, which `ulp_error` reports, but it is no fault of the
    formula. A zero where `exact` rounds to zero is right, and a zero where it is a normal number is wrong:
    neither is flushed.

    Only the results are looked at. If a subnormal *input* was flushed, the function was evaluated at 0.
    Where the true result is subnormal too (as for ``2 * x``), the entry counts as flushed. Where it is not
    (as for ``1 / x``, infinite in place of a large number), it counts as an ordinary error, because nothing
    in the pair shows the cause. A caller who knows the inputs leaves such entries out beforehand.

    Arguments and errors are those of `ulp_error`. Returns a boolean array of `actual`'s shape.

    >>> flushed(np.float32([0.0, 0.0, 0.0, 1e-40]), np.array([1e-40, 1e-30, 1e-60, 1e-40])).tolist()
    [True, False, False, False]
    """
    actual, exact = _pair(actual, exact)
    limits = _limits(actual.dtype, exact.dtype)
    magnitude = np.abs(exact)
    return np.asarray((actual == 0) & (magnitude > limits.to_zero) & (magnitude < limits.smallest_normal))


class _Limits(NamedTuple):
    """Magnitudes at which a dtype changes its ways. The comments say what rounds how; ties go to even."""

    smallest_normal: Any
    top_binade: Any  # the largest power of two
    epsilon: Any  # ulp(1)
    to_zero: Any  # the largest that rounds to zero: half the smallest subnormal
    to_infinity: Any  # the smallest that rounds to infinity: half a unit above the largest finite number


@lru_cache
def _limits(dtype: np.dtype[Any], wide: np.dtype[Any]) -> _Limits:
    """The limits of `dtype`, as scalars of the dtype `wide` of the values that they are compared with."""
    info = ml_dtypes.finfo(dtype)
    precision, emin, emax = int(info.nmant) + 1, int(info.minexp), int(info.maxexp) - 1

    def power(exponent: int) -> np.longdouble:
        return np.ldexp(np.longdouble(1), exponent)

    # float64 has no room for the last two limits of float64 itself. They round to 0 and to infinity, and no
    # float64 lies in between: comparisons with them still come out right.
    with np.errstate(over="ignore", under="ignore"):
        return _Limits(
            smallest_normal=wide.type(power(emin)),
            top_binade=wide.type(power(emax)),
            epsilon=wide.type(power(1 - precision)),
            to_zero=wide.type(power(emin - precision)),
            to_infinity=wide.type(power(emax + 1) - power(emax - precision)),
        )


def _ulp(exact: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The unit at `exact`; at NaN, whose error is NaN whatever it is divided by, any number."""
    limits = _limits(dtype, exact.dtype)
    if exact.dtype == np.float64:
        # The exponent's bits alone are its binade's power of two: a third of the passes.
        power = (exact.view(np.int64) & _EXPONENT).view(np.float64)
        return np.clip(power, limits.smallest_normal, limits.top_binade) * limits.epsilon
    clipped = np.clip(np.abs(exact), limits.smallest_normal, limits.top_binade)
    # A number over its own significand, in [1, 2), is its binade's power of two, and exact.
    significand, _ = np.frexp(clipped)
    return clipped / (2 * significand) * limits.epsilon


def _magnitude(exact: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.abs(exact)


@quiet
def _error(
    actual: NDArray[Any],
    exact: NDArray[Any],
    unit: Callable[[NDArray[Any], np.dtype[Any]], NDArray[Any]],
    nan_equal: bool,
) -> NDArray[np.float64]:
    dtype = actual.dtype
    # The difference of two float64 numbers can overflow float64, though it is a moderate number of units.
    wide = np.dtype(np.longdouble) if dtype == np.float64 else exact.dtype
    to_infinity = _limits(dtype, exact.dtype).to_infinity
    out = np.empty(actual.shape, np.float64)
    flat_actual, flat_exact, flat_out = actual.reshape(-1), exact.reshape(-1), out.reshape(-1)
    for start in range(0, out.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        a = flat_actual[part].astype(wide)
        e = flat_exact[part]
        error = np.abs(a - e) / unit(e, dtype)
        if not np.isfinite(error).all():
            # NaN: a NaN came in, or inf - inf, inf / inf or 0 / 0.
            error[np.isnan(error)] = np.inf
            both_infinite = np.isinf(a) & (np.abs(e) >= to_infinity) & (np.signbit(a) == np.signbit(e))
            error[both_infinite | (a == e)] = 0
            if nan_equal:
                error[np.isnan(a) & np.isnan(e)] = 0
        flat_out[part] = error
    return out


def _pair(actual: ArrayLike, exact: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    actual, exact = np.asarray(actual), _truth(exact)
    _known(actual.dtype, "actual")
    if actual.shape != exact.shape:
        raise ValueError(
            f"exact must have the shape of actual, {actual.shape}, but it has shape {exact.shape}: "
            "nothing is broadcast."
        )
    return actual, exact


def _known(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    if dtype not in _DTYPES:
        raise TypeError(f"{name} must be one of {', '.join(map(str, _DTYPES))}, but it is {dtype}.")
    return dtype


def _truth(exact: ArrayLike) -> NDArray[Any]:
    exact = np.asarray(exact)
    if exact.dtype not in _TRUTHS:
        raise TypeError(
            "exact must be float64 or numpy.longdouble, to hold the true value before rounding, "
            f"but it is {exact.dtype}."
        )
    return exact
