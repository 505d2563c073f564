"""How steady a cell's samples were: drift from the first round to the last, and samples far from the others."""

import numpy as np
import scipy
from numpy.typing import ArrayLike

from jaxbp.measure.verdict import CONFIDENCE

#: Rounds that a statement about drift needs.
LEAST = 9
#: Consecutive rounds are first summed up by the medians of so many blocks: a slope of all pairs would take long.
BLOCKS = 40
#: A sample is far out beyond so many interquartile ranges from the quartiles (Tukey's outer fence).
FENCE = 3.0


def drift(samples: ArrayLike) -> float:
    """By how much the time changed from the first round to the last, relative to its median; 0 where it may be chance.

    The slope of Theil and Sen, 0 where its 95 % interval holds 0; NaN for fewer than `LEAST` samples. A ratio of two
    functions that were sampled in the same rounds does not drift with them.

    >>> float(drift(np.linspace(1.0, 1.1, 50))).__round__(3)
    0.095
    >>> drift([1.0, 1.2, 0.9, 1.1, 1.0, 0.9, 1.2, 1.0, 1.1]), drift([1.0, 2.0])
    (0.0, nan)
    """
    x = np.asarray(samples, np.float64)
    if x.size < LEAST:
        return float("nan")
    blocks = np.array_split(np.arange(x.size), min(BLOCKS, x.size))
    medians, centres = [np.median(x[block]) for block in blocks], [block.mean() for block in blocks]
    slope, _, low, high = map(float, scipy.stats.theilslopes(medians, centres, alpha=CONFIDENCE))
    return 0.0 if low <= 0 <= high else float(slope * (x.size - 1) / np.median(x))


def outliers(samples: ArrayLike) -> float:
    """The share of samples far from the others.

    >>> outliers([1.0, 1.1, 1.2, 1.1, 9.0])
    0.2
    """
    x = np.asarray(samples, np.float64)
    low, high = np.quantile(x, [0.25, 0.75])
    far = FENCE * (high - low)
    return float(np.mean((x < low - far) | (x > high + far)))
