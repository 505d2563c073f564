"""The errors of one engine and quantity over a chunk of a census, added up block by block."""

from typing import Any

import numpy as np

from jaxbp.accuracy.ulp import flushed, ulp_error

Row = dict[str, Any]

#: Upper ends of the histogram's classes in ULP; 0.5 is correctly rounded. The last class has no end.
CLASSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 256.0, 65536.0)
#: What is counted besides: plainly wrong results, and zeros where the exact value is subnormal.
COUNTS = ("wrong_zeros", "wrong_infinities", "wrong_nans", "flushed")
#: Parts of a chunk whose largest errors are kept for the picture.
PARTS = 8
#: A zero in place of a normal number, an infinity and a NaN are further off than this in every dtype.
SURELY_WRONG = 64


class Score:
    """Histogram, counts, and largest error of a chunk of `size` entries."""

    def __init__(self, size: int) -> None:
        self.histogram = np.zeros(len(CLASSES) + 1, np.int64)
        # Rounded up: a part of the few entries that are left over would have a small error for that alone.
        self.part_size = max(1, -(-size // PARTS))
        self.part_max = np.full(-(-size // self.part_size), np.nan)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.worst = (-1.0, 0, 0.0, 0.0)

    def add(self, start: int, actual: np.ndarray, exact: np.ndarray, counted: np.ndarray | None = None) -> None:
        """Score a block that starts at entry `start` of the chunk, or the entries that are `counted`."""
        if counted is not None:
            actual, exact = (np.where(counted, x, x.dtype.type(0)) for x in (actual, exact))
            # They are right, and in no class.
            self.histogram[0] -= np.count_nonzero(~counted)
        if np.isnan(exact[0]) and np.isnan(exact).all() and np.isnan(actual).all():
            error = np.zeros(exact.shape)  # Far faster than to divide NaN by NaN, and half of log's arguments.
        else:
            error = ulp_error(actual, exact, nan_equal=True)
        if error.max() > CLASSES[0]:
            gone = flushed(actual, exact)
            flushed_here = int(np.count_nonzero(gone))
            self.counts["flushed"] += flushed_here
            self.histogram[0] -= flushed_here  # They are set to 0 for the maximum's sake, and in no class.
            error[gone] = 0
        below = 0
        for i, end in enumerate(CLASSES):
            up_to = int(np.count_nonzero(error <= end))
            self.histogram[i] += up_to - below
            below = up_to
            if below == error.size:
                break
        self.histogram[-1] += error.size - below
        worst = int(np.argmax(error))
        if error[worst] > SURELY_WRONG:
            self._count_what_is_wrong(actual, exact, error)
        if error[worst] > self.worst[0]:
            self.worst = (float(error[worst]), start + worst, float(actual[worst]), float(exact[worst]))
        if counted is not None:
            error = np.where(counted, error, np.nan)
        # A part may be larger than a block, or smaller: either way its largest error is the largest of its entries, and
        # NaN where none is counted.
        for offset in range(0, error.size, self.part_size):
            part = (start + offset) // self.part_size
            largest = np.fmax.reduce(error[offset : offset + self.part_size])
            self.part_max[part] = np.fmax(self.part_max[part], largest)

    def _count_what_is_wrong(self, actual: np.ndarray, exact: np.ndarray, error: np.ndarray) -> None:
        wrong = error > SURELY_WRONG
        actual, exact = actual[wrong], exact[wrong]
        with np.errstate(all="ignore"):
            nans = np.isnan(actual) | np.isnan(exact)
            self.counts["wrong_nans"] += int(np.count_nonzero(nans))
            infinite = (np.isinf(actual) | np.isinf(exact)) & ~nans
            self.counts["wrong_infinities"] += int(np.count_nonzero(infinite))
            self.counts["wrong_zeros"] += int(np.count_nonzero((actual == 0) & ~nans & ~infinite))

    def row(self, args: tuple[np.ndarray, ...]) -> Row:
        """The chunk's numbers, ready for JSON; `args` are its arguments."""
        error, index, actual, exact = self.worst
        with np.errstate(invalid="ignore"):  # Signaling NaNs.
            starts = args[0][:: self.part_size].astype(np.float64)
        return {
            "max_ulp": error,
            "worst_args": [float(x[index]) for x in args],
            "worst_actual": actual,
            "worst_exact": exact,
            "histogram": self.histogram.tolist(),
            "part_start": starts.tolist(),
            "part_max": self.part_max.tolist(),
            **self.counts,
        }
