"""The errors of a whole array in one record: order statistics, counts of what is wrong, the worst entry."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxbp.accuracy.ulp import flushed, quiet, relative_error, ulp_error


@dataclass(frozen=True)
class ErrorSummary:
    """What `summarize` found. Every field is a plain Python number, or a tuple of them.

    **Statistics** are over all entries but the flushed ones; they are NaN if no other is left. The median
    and the 99th percentile are by nearest rank: the smallest error that at least 50 % (99 %) of the entries
    do not exceed. It is always the error of some entry, and defined where other errors are infinite.

    - `max_ulp`, `median_ulp`, `p99_ulp`: of `ulp_error`.
    - `max_rel`, `median_rel`, `p99_rel`: of `relative_error`.

    **Counts** are over all entries. One entry may count twice: a zero in place of an infinity is a wrong
    zero and a wrong infinity.

    - `count`: the entries.
    - `wrong_zeros`: zero, where the exact value is a normal number or larger than all of them.
    - `wrong_infinities`: infinite, where the exact value does not round to that infinity; or finite, where
        the exact value is infinite.
    - `wrong_nans`: NaN on one side only; or on both, unless `nan_equal`.
    - `flushed`: zero, where the exact value is below the smallest normal number and does not round to zero.

    **The worst entry** is the first of the largest ULP error among those not flushed; if all are, the first
    entry.

    - `worst_index`: its index, one integer for each axis; `()` for a scalar.
    - `worst_actual`, `worst_exact`: its values as `float` (a longdouble truth is rounded).
    """

    count: int
    max_ulp: float
    median_ulp: float
    p99_ulp: float
    max_rel: float
    median_rel: float
    p99_rel: float
    wrong_zeros: int
    wrong_infinities: int
    wrong_nans: int
    flushed: int
    worst_index: tuple[int, ...]
    worst_actual: float
    worst_exact: float


@quiet
def summarize(actual: ArrayLike, exact: ArrayLike, *, nan_equal: bool = False) -> ErrorSummary:
    """Sum up the errors of `actual` against the true values `exact`, as described in `ErrorSummary`.

    Flushed entries are counted in `flushed` and left out of every maximum, median and percentile: a single
    one would hide what the rest is like.

    Arguments and errors are those of `ulp_error`, scalars included. An array without entries is a
    `ValueError`.

    >>> s = summarize(np.float32([1, 2, 0, 0]), np.array([1, 2 + 2**-22, 1e-3, 1e-40]))
    >>> s.median_ulp, s.max_rel, s.wrong_zeros, s.flushed, s.worst_index
    (1.0, 1.0, 1, 1, (2,))
    """
    actual, exact = np.asarray(actual), np.asarray(exact)
    ulp = ulp_error(actual, exact, nan_equal=nan_equal)
    if ulp.size == 0:
        raise ValueError(f"actual must have at least one entry to sum up, but it has shape {actual.shape}.")
    was_flushed = flushed(actual, exact)
    infinite_error = np.isinf(ulp)
    any_nan = np.isnan(actual) | np.isnan(exact)
    any_infinity = np.isinf(actual) | np.isinf(exact)
    # A zero is right where the truth is within half a unit of it, wrong or flushed elsewhere.
    missed_zero = (actual == 0) & (ulp > 0.5) & ~np.isnan(exact)
    worst = np.unravel_index(np.argmax(np.where(was_flushed, -1.0, ulp)), ulp.shape)
    kept = ~was_flushed
    max_ulp, median_ulp, p99_ulp = _order_statistics(ulp[kept])
    max_rel, median_rel, p99_rel = _order_statistics(relative_error(actual, exact, nan_equal=nan_equal)[kept])
    return ErrorSummary(
        count=ulp.size,
        max_ulp=max_ulp,
        median_ulp=median_ulp,
        p99_ulp=p99_ulp,
        max_rel=max_rel,
        median_rel=median_rel,
        p99_rel=p99_rel,
        wrong_zeros=_count(missed_zero & kept),
        wrong_infinities=_count(any_infinity & infinite_error & ~any_nan),
        wrong_nans=_count(any_nan & infinite_error),
        flushed=_count(was_flushed),
        worst_index=tuple(int(i) for i in worst),
        worst_actual=float(actual[worst]),
        worst_exact=float(exact[worst]),
    )


def _order_statistics(errors: NDArray[np.float64]) -> tuple[float, float, float]:
    """Maximum, median and 99th percentile, by nearest rank: to interpolate towards inf would give NaN."""
    n = errors.size
    if n == 0:
        return (np.nan, np.nan, np.nan)
    # Ranks in integers: 0.99 * n may land just above a whole number.
    ranks = [n - 1, (n + 1) // 2 - 1, (99 * n + 99) // 100 - 1]
    ordered = np.partition(errors, sorted(set(ranks)))
    return (float(ordered[ranks[0]]), float(ordered[ranks[1]]), float(ordered[ranks[2]]))


def _count(mask: NDArray[Any]) -> int:
    return int(np.count_nonzero(mask))
