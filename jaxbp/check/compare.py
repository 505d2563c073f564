"""Entry by entry: is what came within what rounding alone may do there?"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxbp.check.arithmetic import unit

#: An error counts from this many times the largest of the noisy evaluations' errors on, and of unit roundoffs.
#: Correct rules of XLA's own functions reach 0.1 to 0.5 of the sum (see tests/check/test_arithmetic.py).
SAFETY = 4.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The errors of one output or cotangent.

    Attributes:
        got: what came, in float64.
        expected: the truth.
        allowed: how far off each entry may be; infinite where the truth has no answer in this dtype.
        wrong: the entries that are further off, NaN and infinities in place of numbers included.
    """

    got: np.ndarray
    expected: np.ndarray
    allowed: np.ndarray
    wrong: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Errors as multiples of what is allowed; infinite for NaN in place of a number."""
        with np.errstate(all="ignore"):
            ratio = np.abs(self.got - self.expected) / self.allowed
        ratio = np.where(np.isnan(ratio), np.inf, ratio)
        return np.where(self.wrong, np.maximum(ratio, 1), 0)

    @property
    def worst(self) -> tuple[int, ...]:
        """The index of the largest error."""
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(self.error)), self.error.shape))


def compare(got: np.ndarray, expected: np.ndarray, noisy: np.ndarray) -> Comparison:
    """Compare an output with its truth, allowing for each entry what noisy evaluations of it lose."""
    finfo = jnp.finfo(got.dtype)
    with np.errstate(all="ignore"):
        actual = got.astype(np.float64)
        spread = np.max(np.abs(noisy - expected), axis=0, initial=0.0)
        allowed = SAFETY * (spread + unit(got.dtype) * np.abs(expected)) + float(finfo.tiny)
        # Where even the truth is no number, or beyond the dtype, or one that noise turns into no number, all is right.
        no_answer = ~np.isfinite(expected) | ~np.isfinite(allowed)
        no_answer |= np.abs(expected) + allowed > float(finfo.max)
        allowed = np.where(no_answer, np.inf, allowed)
        wrong = ~no_answer & ~(np.abs(actual - expected) <= allowed)
    return Comparison(actual, expected, allowed, wrong)
