"""From samples to statements: medians and ratios with bootstrap intervals, and verdicts against a stated margin."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

#: Ratios within this of 1 count as the same speed.
MARGIN = 0.02
#: A call that takes less than this many times the dispatch floor gets no verdict on its speed.
FLOOR_FACTOR = 2
CONFIDENCE = 0.95
#: Quiet rounds that a statement needs, if there were others.
LEAST_ROUNDS = 5
#: A sample during which the process had less of a core than this was interrupted.
UNDISTURBED = 0.95
RESAMPLES = 2000

Verdict = Literal["faster", "same", "slower", "cannot say", "dispatch", "moved"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A median, or a ratio of medians, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def median_interval(samples: ArrayLike) -> Interval:
    """The median of the samples with its percentile bootstrap interval; a single sample has none.

    >>> i = median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    >>> i.value, i.low >= 1.0, i.high <= 100.0
    (3.0, True, True)
    """
    x = np.asarray(samples, np.float64)
    value = float(np.median(x))
    if x.size < 2:
        return Interval(value, np.nan, np.nan)
    return Interval(value, *_bootstrap((x,), lambda a, axis: np.median(a, axis=axis), paired=False))


def ratio_interval(samples: ArrayLike, baseline: ArrayLike, *, paired: bool) -> Interval:
    """median(samples) / median(baseline) with its percentile bootstrap interval.

    `paired` says that the samples were taken in the same rounds; whole rounds are then resampled, so that what
    slows down a round slows both sides and cancels.

    >>> ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], paired=True)
    Interval(value=2.0, low=2.0, high=2.0)
    """
    a, b = np.asarray(samples, np.float64), np.asarray(baseline, np.float64)
    value = float(np.median(a) / np.median(b))
    if min(a.size, b.size) < 2:
        return Interval(value, np.nan, np.nan)
    return Interval(
        value,
        *_bootstrap((a, b), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis), paired=paired),
    )


@dataclasses.dataclass(frozen=True)
class Side:
    """The samples of one side of a comparison, one a round, and the cores that the process had; empty if unknown."""

    samples: ArrayLike
    cores: Sequence[float] = ()

    @property
    def quiet(self) -> np.ndarray:
        """The rounds in which the process did not wait for a core, as far as anybody knows.

        >>> Side([8.0, 9.0, 8.0], [1.0, 0.5, 1.9]).quiet
        array([ True, False,  True])
        """
        return np.asarray(self.cores) >= UNDISTURBED if len(self.cores) else np.ones(np.size(self.samples), bool)


def enough(quiet: np.ndarray) -> bool:
    """Whether so many rounds are quiet that the others can be left out."""
    return int(quiet.sum()) >= min(LEAST_ROUNDS, quiet.size)


def compare_sides(side: Side, baseline: Side, *, paired: bool) -> tuple[Interval, Verdict]:
    """The ratio of medians of the quiet rounds, and its verdict; where they are too few, of all, and none.

    >>> ratio, says = compare_sides(Side([2.0, 4.0, 60.0], [1, 1, 0.2]), Side([1.0, 2.0, 3.0]), paired=True)
    >>> says
    'cannot say'
    """
    sides, masks = (side, baseline), [side.quiet, baseline.quiet]
    if paired:
        masks = [masks[0] & masks[1]] * 2
    known = all(map(enough, masks))
    a, b = (np.asarray(s.samples)[mask if known else ...] for s, mask in zip(sides, masks, strict=True))
    ratio = ratio_interval(a, b, paired=paired)
    return ratio, verdict(ratio) if known else "cannot say"


def approximate_width(samples: ArrayLike, baseline: ArrayLike) -> float:
    """About half of what `ratio_interval` would span, relative to the ratio; cheap enough to be asked again and again.

    The standard error of a median, by the quartiles of the rounds' ratios.

    >>> round(approximate_width([1.0, 1.1, 0.9, 1.0], [1.0, 1.0, 1.0, 1.0]), 3)
    0.046
    """
    ratios = np.asarray(samples, np.float64) / np.asarray(baseline, np.float64)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    deviation = (high - low) / (2 * stats.norm.ppf(0.75))
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(np.pi / 2) * deviation / np.sqrt(ratios.size)
    return float(half / middle)


def verdict(ratio: Interval, *, margin: float = MARGIN) -> Verdict:
    """What a ratio to the baseline's time says: only what its whole interval supports.

    >>> verdict(Interval(0.8, 0.7, 0.9)), verdict(Interval(1.2, 0.9, 1.5)), verdict(Interval(1.0, 0.99, 1.01))
    ('faster', 'cannot say', 'same')
    """
    if ratio.high < 1 - margin:
        return "faster"
    if ratio.low > 1 + margin:
        return "slower"
    if ratio.low >= 1 - margin and ratio.high <= 1 + margin:
        return "same"
    return "cannot say"


def _bootstrap(data: tuple[np.ndarray, ...], statistic, *, paired: bool) -> tuple[float, float]:
    result = stats.bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        paired=paired,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
