"""Entry by entry: is what came within what rounding alone may do there, and does it have the digits it could have?"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxbp.check.rounding import unit

#: An error counts from this many times the largest of the noisy evaluations' errors on, and of unit roundoffs.
#: Correct rules of XLA's own functions reach 0.1 to 0.5 of the sum.
SAFETY = 4.0
#: Digits count as lost from this many times the error of a backward-stable evaluation on: 6 bits.
LOST = 64.0
#: An error is the rounding's, and not the formula's, if float64 leaves no more of it than this.
ROUNDED = 2.0**-10
#: What may be off, relative to the truth, where that is itself known to some tolerance of an iteration alone.
TOLERANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The errors of one output or cotangent.

    Attributes:
        got: what came, in float64.
        expected: the truth.
        allowed: how far off each entry may be; infinite where the truth has no answer in this dtype.
        wrong: the entries that are further off, NaN and infinities in place of numbers included.
        doubt: how far off the truth itself may be.
        unit: the unit roundoff of the dtype.
    """

    got: np.ndarray
    expected: np.ndarray
    allowed: np.ndarray
    wrong: np.ndarray
    doubt: np.ndarray
    unit: float

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

    def where(self, keep: np.ndarray) -> "Comparison":
        """The same with no other entries wrong than those kept."""
        return dataclasses.replace(self, wrong=self.wrong & keep)

    def like(self, own: np.ndarray) -> np.ndarray:
        """Where this is what a plain evaluation gives, to a few units, or that gives nothing finite."""
        plain = own.astype(np.float64)
        with np.errstate(all="ignore"):
            return ~np.isfinite(plain) | (np.abs(self.got - plain) <= SAFETY * self.unit * np.abs(plain))

    def of_another_order(self, conditioning: np.ndarray) -> np.ndarray:
        """Where an error is what another order of the same sums, or a sum that was rounded and kept, may cost.

        What the inputs' last bits are worth, or a few bits of the entry itself: no fault. `conditioning` is how far the
        truth moves with those bits. What is lost is told from `LOST` on.
        """
        with np.errstate(invalid="ignore"):
            allowed = SAFETY * conditioning + LOST * self.unit * np.abs(self.expected)
            return np.abs(self.got - self.expected) <= allowed

    def of_a_right_formula(self, formula: np.ndarray, conditioning: np.ndarray, far: bool) -> np.ndarray:
        """Where the rule's own `formula`, evaluated in float64, is right, so that all it loses is digits.

        `far` from the inputs that are given it may lose any; at them, and beside, half of those of the largest entry.
        A softmax that is recomputed from its logsumexp is off by the last bits of the scores. A formula that is wrong
        by as little is as wrong in float64.
        """
        with np.errstate(invalid="ignore"):
            off, largest = np.abs(self.got - self.expected), np.abs(self.expected[np.isfinite(self.expected)])
            half = SAFETY * conditioning + math.sqrt(self.unit) * np.max(largest, initial=0)
            return (np.abs(formula - self.expected) <= ROUNDED * off) & ((off <= half) | (far & np.isfinite(off)))

    def beyond_a_tolerance(self) -> np.ndarray:
        """Where an error is more than iterations that end at some tolerance leave."""
        with np.errstate(invalid="ignore"):
            return ~(np.abs(self.got - self.expected) <= TOLERANCE * np.abs(self.expected))

    def lost(self, conditioning: np.ndarray) -> "Comparison":
        """The entries that are right as the primal's own arithmetic goes, but have lost digits that it need not lose.

        `conditioning` is how far the truth moves with the inputs' last bits; what is allowed is `LOST` times as much.
        """
        with np.errstate(all="ignore"):
            allowed = LOST * (conditioning + self.unit * np.abs(self.expected)) + self.doubt
            # Below the dtype's normal numbers there are no digits to lose.
            allowed = np.where(np.isfinite(self.allowed), allowed + self._tiny, np.inf)
            lost = np.isfinite(allowed) & (np.abs(self.got - self.expected) > allowed) & ~self.wrong
        return dataclasses.replace(self, allowed=allowed, wrong=lost)

    @property
    def _tiny(self) -> float:
        narrow = (dtype for dtype in ("float64", "float32", "bfloat16", "float16") if unit(dtype) == self.unit)
        return float(jnp.finfo(next(narrow)).tiny)


def compare(got: np.ndarray, expected: np.ndarray, noisy: np.ndarray | None = None) -> Comparison:
    """Compare an output with its truth, allowing for each entry what noisy evaluations of it lose, or a few units."""
    finfo, roundoff = jnp.finfo(got.dtype), unit(got.dtype)
    with np.errstate(all="ignore"):
        actual = got.astype(np.float64)
        spread = np.zeros(expected.shape) if noisy is None else np.max(np.abs(noisy - expected), axis=0, initial=0.0)
        allowed = SAFETY * (spread + roundoff * np.abs(expected)) + float(finfo.tiny)
        # Where even the truth is no number, or beyond the dtype, or one that noise turns into no number, all is right.
        no_answer = ~np.isfinite(expected) | ~np.isfinite(allowed)
        no_answer |= np.abs(expected) + allowed > float(finfo.max)
        allowed = np.where(no_answer, np.inf, allowed)
        wrong = ~no_answer & ~(np.abs(actual - expected) <= allowed)
    # Rounding in float64 does to the truth what the noise of the dtype does, in proportion.
    doubt = np.minimum(1.0, unit(np.float64) / roundoff) * SAFETY * np.where(np.isfinite(spread), spread, np.inf)
    return Comparison(actual, expected, allowed, wrong, doubt, roundoff)
