"""From samples to statements: medians and ratios with their intervals, and verdicts against a stated margin."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

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
#: Of the ratios of rounds so much is cut off at either end before the rest is averaged.
TRIMMED = 0.2
#: More rounds than so many are first gathered into that many blocks of consecutive ones, which are resampled whole:
#: what lasts longer than a round is then no longer taken for independent, and the bootstrap of a long series is cheap.
BLOCKS = 200

Verdict = Literal["faster", "same", "slower", "cannot say", "dispatch", "moved", "same program"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A median, or a ratio of two functions' times, with its 95 % interval."""

    value: float
    low: float
    high: float


def median_interval(samples: ArrayLike) -> Interval:
    """The median of the samples between two of them, which hold the true median in at least 95 % of all cases.

    Which two follows from the binomial distribution, whatever that of the samples is. A single sample has none.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    Interval(value=3.0, low=1.0, high=100.0)
    """
    x = np.sort(np.asarray(samples, np.float64))
    value = float(np.median(x))
    if x.size < 2:
        return Interval(value, np.nan, np.nan)
    # So many samples lie below the median, or more, in 97.5 % of all cases.
    below = max(0, int(scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, x.size, 0.5)) - 1)
    return Interval(value, float(x[below]), float(x[-1 - below]))


def ratio_interval(samples: ArrayLike, baseline: ArrayLike, *, paired: bool) -> Interval:
    """How many times the baseline's time the samples take, with its percentile bootstrap interval.

    `paired` says that the samples were taken in the same rounds. The ratio is then the trimmed mean of the rounds' own
    ratios, in logarithms, and whole rounds are resampled: what slows down a round slows both sides and cancels. The
    ratio of the two medians would not do. Where a machine has two moods, a fast one and a slow one, each median lies
    in the gap between them, and jumps. Without rounds in common it is the ratio of the medians.

    >>> ratio_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], paired=True)
    Interval(value=2.0, low=2.0, high=2.0)
    """
    a, b = np.asarray(samples, np.float64), np.asarray(baseline, np.float64)
    if paired:
        logs = _in_blocks(np.log2(a / b))
        data, statistic = (logs,), lambda x, axis: np.exp2(scipy.stats.trim_mean(x, TRIMMED, axis=axis))
    else:
        data, statistic = (a, b), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis)
    value = float(statistic(*data, axis=-1))
    if min(a.size, b.size) < 2:
        return Interval(value, np.nan, np.nan)
    return Interval(value, *_bootstrap(data, statistic))


def _in_blocks(series: np.ndarray) -> np.ndarray:
    """Trimmed means of at most `BLOCKS` blocks of equally many consecutive entries; what is left over goes."""
    size = -(-series.size // BLOCKS)
    return scipy.stats.trim_mean(series[: series.size // size * size].reshape(-1, size), TRIMMED, axis=1)


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


def over_processes(found: Sequence[Interval]) -> Interval:
    """What several processes found together: their geometric mean, and its 95 % interval by Student's t.

    Where code and arrays lie in memory may make a process some percent faster or slower for as long as it lives: its
    own intervals know nothing of that. What they do know is in the differences between processes as well. Source:
    Georges, Buytaert and Eeckhout, Statistically Rigorous Java Performance Evaluation (2007). One process stands for
    itself.

    >>> over_processes([Interval(1.01, 1.0, 1.02)])
    Interval(value=1.01, low=1.0, high=1.02)
    >>> both = over_processes([Interval(0.5, 0.49, 0.51), Interval(2.0, 1.99, 2.01)])
    >>> both.value, both.high > 1000
    (1.0, True)
    """
    if len(found) == 1:
        return found[0]
    logs = np.log2([interval.value for interval in found])
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, logs.size - 1) * np.std(logs, ddof=1) / np.sqrt(logs.size)
    low, value, high = np.exp2(np.mean(logs) + half * np.array([-1, 0, 1]))
    return Interval(float(value), float(low), float(high))


def goes_on(found: Sequence[Interval], processes: int) -> bool:
    """Whether another process is worth its time, after at least so many `processes`, whose ratios these are.

    It is where the first of them left a verdict open, until the interval of all reaches no further than the margin,
    whatever the ratio then is: who looked at the verdict after each process, and stopped when there is one, would have
    one by chance in the end.

    >>> first = [Interval(ratio, ratio, ratio) for ratio in (0.95, 1.05, 1.0)]
    >>> goes_on(first, 3), goes_on(first + [Interval(1.0, 1.0, 1.0)] * 10, 3)
    (True, False)
    """
    now = over_processes(found)
    return verdict(over_processes(found[:processes])) == "cannot say" and now.high > now.value * (1 + MARGIN)


def side_ratio(side: Side, baseline: Side, *, paired: bool) -> tuple[Interval, bool]:
    """The ratio in the quiet rounds; where they are too few, that in all of them, and False."""
    sides, masks = (side, baseline), [side.quiet, baseline.quiet]
    if paired:
        masks = [masks[0] & masks[1]] * 2
    known = all(map(enough, masks))
    a, b = (np.asarray(s.samples)[mask if known else ...] for s, mask in zip(sides, masks, strict=True))
    return ratio_interval(a, b, paired=paired), known


def compare_sides(side: Side, baseline: Side, *, paired: bool) -> tuple[Interval, Verdict]:
    """The ratio of `side_ratio` and its verdict, for which it takes enough quiet rounds.

    >>> ratio, says = compare_sides(Side([2.0, 4.0, 60.0], [1, 1, 0.2]), Side([1.0, 2.0, 3.0]), paired=True)
    >>> says
    'cannot say'
    """
    ratio, known = side_ratio(side, baseline, paired=paired)
    return ratio, verdict(ratio) if known else "cannot say"


def approximate_width(samples: ArrayLike, baseline: ArrayLike) -> float:
    """About half of what `ratio_interval` spans for samples of the same rounds, cheap enough to be asked often.

    By the standard error of a trimmed mean, from the winsorized variance, and Student's t (Yuen).

    >>> round(approximate_width([1.0, 1.1, 0.9, 1.0, 1.1], [1.0, 1.0, 1.0, 1.0, 1.0]), 3)
    0.167
    """
    logs = np.sort(_in_blocks(np.log(np.asarray(samples, np.float64) / np.asarray(baseline, np.float64))))
    cut = int(TRIMMED * logs.size)
    winsorized = np.clip(logs, logs[cut], logs[-1 - cut])
    error = np.std(winsorized, ddof=1) / ((1 - 2 * TRIMMED) * np.sqrt(logs.size))
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, logs.size - 2 * cut - 1) * error)


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


def _bootstrap(data: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> tuple[float, float]:
    result = scipy.stats.bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
