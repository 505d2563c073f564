"""Witnesses that do not trust JAX's own derivatives, or float64: differences of values, and certified arithmetic."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxbp.accuracy.exact import exact_program
from jaxbp.check.compare import TOLERANCE
from jaxbp.check.reference import Reference
from jaxbp.errors import MissingExtraError

#: Steps of the differences: the first, relative to the entry or to 1 if that is less, each half of the one before.
FIRST, HALVINGS = 2.0**-5, 5
#: How far the slope to the left, to the right and across may differ, and how far all of them from the derivative.
AGREEMENT, DISAGREEMENT = 1e-4, 1e-2
#: The same for iterations that end at a tolerance, so that their values are steps.
COARSE_AGREEMENT, COARSE_DISAGREEMENT = 2e-2, TOLERANCE
#: Entries of each argument that are looked at.
SAMPLED = 4
#: Arguments and outputs up to so many entries are evaluated in certified arithmetic.
CERTIFIED_ENTRIES = 1024


@dataclasses.dataclass(frozen=True)
class Slope:
    """A derivative found by differences of values.

    Attributes:
        leaf: of which argument.
        index: of which entry.
        slope: what was found.
        derivative: what JAX's derivative of the primal is.
        tolerance: how far off that may be, relative to the larger, to agree.
    """

    leaf: int
    index: tuple[int, ...]
    slope: float
    derivative: float
    tolerance: float = DISAGREEMENT

    @property
    def disagrees(self) -> bool:
        """Whether JAX's derivative of the primal is not the slope of its values."""
        return abs(self.slope - self.derivative) > self.tolerance * max(abs(self.slope), abs(self.derivative))


def slopes(reference: Reference, leaves: Sequence[np.ndarray], cts: Sequence[np.ndarray], seed: int) -> Iterator[Slope]:
    """Slopes at sampled entries, by differences that are extrapolated to step 0 (Richardson), where they converge."""
    subject = reference.subject
    rng = np.random.default_rng(seed)
    gradients = reference.truth(*leaves, *cts)[len(subject.shapes) :]
    base = _weighted(reference, leaves, cts)
    if not np.isfinite(base):
        return
    for i, gradient in zip(subject.floats, gradients, strict=True):
        for flat in rng.choice(gradient.size, min(SAMPLED, gradient.size), replace=False):
            index = tuple(int(k) for k in np.unravel_index(int(flat), gradient.shape))
            derivative = float(gradient[index])
            if not np.isfinite(derivative) or not np.isfinite(leaves[i][index]):
                continue
            wide = leaves[i].astype(np.float64)

            def value(x: float, i: int = i, wide: np.ndarray = wide, index: tuple[int, ...] = index) -> float:
                moved = wide.copy()
                moved[index] = x
                return _weighted(reference, [moved if k == i else y for k, y in enumerate(leaves)], cts)

            at = float(wide[index])
            slope = _extrapolated(value, at, base)
            if slope is not None:
                yield Slope(i, index, slope, derivative)
            elif reference.converges and (slope := _coarse(value, at)) is not None:
                yield Slope(i, index, slope, derivative, COARSE_DISAGREEMENT)


def _size(at: float) -> float:
    """As small as the function may vary fast, and no smaller than the entry's own last bits."""
    size = min(abs(at), 1.0) or 1.0
    return max(size, 2.0**-12 * abs(at)) if abs(at) > 2.0**20 else size


def _coarse(value: Callable[[float], float], at: float) -> float | None:
    """The slope of the chord; None where a chord of half the length has another."""
    h = FIRST * _size(at)
    wide, narrow = ((value(at + h / k) - value(at - h / k)) / (2 * h / k) for k in (1, 2))
    return wide if abs(wide - narrow) <= COARSE_AGREEMENT * abs(wide) and wide != 0 else None


def _extrapolated(value: Callable[[float], float], at: float, base: float) -> float | None:
    """The limit of the difference quotients; None where those to both sides do not agree on one."""
    size = _size(at)
    limits = []
    for side in (1, -1):
        step = side * FIRST * size
        row: list[float] = []
        for k in range(HALVINGS):
            h = step * 2.0**-k
            column = [(value(at + h) - base) / ((at + h) - at)]
            for order, previous in enumerate(row, 1):
                column.append(column[-1] + (column[-1] - previous) / (2**order - 1))
            row = column
        limits.append(row[-1])
        if not np.isfinite(limits[-1]) or abs(row[-1] - row[-2]) > AGREEMENT * abs(row[-1]):
            return None
    # What is left when large values cancel is no slope.
    noise = 2.0**-45 * abs(base) / (FIRST * size * 2.0**-HALVINGS)
    if abs(limits[0] - limits[1]) > AGREEMENT * abs(limits[0]) or noise > AGREEMENT * abs(limits[0]):
        return None
    return (limits[0] + limits[1]) / 2


def _weighted(reference: Reference, leaves: Sequence[np.ndarray], cts: Sequence[np.ndarray]) -> float:
    outs = reference.value(*leaves)
    with np.errstate(all="ignore"):
        return float(
            sum(
                np.sum(outs[i] * ct.astype(np.float64)) for i, ct in zip(reference.subject.float_outs, cts, strict=True)
            )
        )


def certified(reference: Reference, xs: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Values and cotangents for the arguments `(*leaves, *cts)` in certified arithmetic.

    None where a primitive has no rule there, where there is too much to do, or the extra `exact` is not installed.
    """
    if sum(x.size for x in xs) > CERTIFIED_ENTRIES:
        return None
    try:
        return exact_program(reference.program, xs)
    except (NotImplementedError, ArithmeticError, MissingExtraError):
        return None
