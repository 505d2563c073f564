"""How far an array of floats is from exact numbers, entry by entry."""

import dataclasses
import math

import ml_dtypes
import numpy as np

from jaxbp.accuracy.exact import nearest, with_lost_digits
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.jaxprs import is_float

Index = tuple[int, ...]
#: Integers and booleans are right or wrong, by as much as a float32 can be.
WRONG = 2.0**23


@dataclasses.dataclass(frozen=True)
class Error:
    """How far one entry of an array is off.

    Attributes:
        ulp: its error, in units in the last place of its dtype.
        lost: its relative error, in units of the dtype's rounding: 1 is a wrong last bit, and `worthless` says that no
            digit is right. Unlike `ulp` it sees digits that went below the smallest normal number.
        worthless: what `lost` is at most.
        what: `overflow` or `underflow` where a finite number became infinite or lost its digits below the normal
            numbers, else empty.
        index: where the entry is.
        given: the entry.
        exact: what it should be, to float64.
    """

    ulp: float
    lost: float
    worthless: float
    what: str
    index: Index
    given: float
    exact: float

    @property
    def relative(self) -> float:
        """The relative error, at most 1: no digit is right."""
        return self.lost / self.worthless


@dataclasses.dataclass(frozen=True, eq=False)
class Errors:
    """The errors of all entries; the attributes are those of `Error`, as arrays."""

    ulp: np.ndarray
    lost: np.ndarray
    worthless: float
    overflow: np.ndarray
    underflow: np.ndarray
    given: np.ndarray
    exact: np.ndarray

    def at(self, index: Index) -> Error:
        """The error of one entry."""
        what = "overflow" if self.overflow[index] else "underflow" if self.underflow[index] else ""
        numbers = (float(x[index]) for x in (self.given, self.exact))
        return Error(float(self.ulp[index]), float(self.lost[index]), self.worthless, what, index, *numbers)

    @property
    def worst(self) -> Error:
        """The error of the entry that lost most, with the largest error in ULP of all entries."""
        # Of several entries without a right digit rather one that is no number.
        order = self.lost + (np.isnan(self.given) & ~np.isnan(self.exact))
        found = self.at(tuple(int(i) for i in np.unravel_index(int(np.argmax(order)), self.lost.shape)))
        return dataclasses.replace(found, ulp=float(self.ulp.max()))


def compare(given: np.ndarray, exact: np.ndarray) -> Errors | None:
    """The errors of floats against an object array of balls, or of integers against integers; None if not known."""
    if given.shape != exact.shape or not given.size:
        return None
    if exact.dtype != object:
        return _unequal(given, exact) if given.dtype.kind in "iub" else None
    if not is_float(given.dtype):
        return None
    values = [nearest(x) for x in exact.flat]
    if any(v is None for v in values):
        return None
    return _floats(given, exact, np.array(values, np.float64).reshape(exact.shape))


def _floats(given: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> Errors | None:
    try:
        info = ml_dtypes.finfo(given.dtype)
    except ValueError:
        return None
    truth = with_lost_digits(exact, rounded) if given.dtype == np.float64 else rounded
    finite = np.array([x.is_finite() for x in exact.flat]).reshape(exact.shape)
    zero = np.array([bool(x.is_zero()) for x in exact.flat]).reshape(exact.shape)
    wide, eps = given.astype(np.float64), float(info.eps)
    with np.errstate(all="ignore"):
        lost = np.abs(wide.astype(np.longdouble) - truth) / np.abs(truth) / eps
    # Zeros, infinities and NaNs are right if the exact value is one, and not beyond the range of float64.
    special = (wide == 0) & zero | np.isinf(wide) & ~finite & (wide == rounded) | np.isnan(wide) & np.isnan(rounded)
    lost = np.where(special, 0, np.where(np.isnan(lost), np.inf, lost))
    lost = np.minimum(lost, 1 / eps).astype(np.float64)
    # Eight bits are too few for what is known of the last place.
    ulps = ulp_error(given, truth, nan_equal=True) if given.dtype.itemsize > 1 else lost
    overflow = finite & np.isinf(wide) & (np.abs(rounded) > float(info.max))
    underflow = ~zero & (np.abs(rounded) < float(info.smallest_normal)) & (lost > 1)
    return Errors(ulps, lost, 1 / eps, overflow, underflow, wide, rounded)


def _unequal(given: np.ndarray, exact: np.ndarray) -> Errors:
    wrong = np.asarray(given != exact)
    never = np.zeros(given.shape, bool)
    return Errors(
        np.where(wrong, math.inf, 0.0),
        np.where(wrong, WRONG, 0.0),
        WRONG,
        never,
        never,
        given.astype(np.float64),
        exact.astype(np.float64),
    )
