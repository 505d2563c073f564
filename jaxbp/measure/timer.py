"""Time functions against each other: calibrated samples in interleaved rounds of random order."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np

Thunk = Callable[[], object]
#: What takes longer is slow by itself, and no interruption by something else.
INTERRUPTION_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to time one case.

    Attributes:
        seconds: for all rounds of one group of functions together.
        min_rounds: taken even where the budget is spent.
        max_rounds: never more.
        sample_seconds: a sample repeats its call until it takes at least this long, so that the clock and one
            interruption do not matter.
    """

    seconds: float
    min_rounds: int
    max_rounds: int
    sample_seconds: float = 0.002


@dataclasses.dataclass(frozen=True)
class Samples:
    """Seconds per call, one sample a round, and how many calls each sample averages over."""

    seconds: list[float]
    inner: int


def sample(thunk: Thunk, inner: int) -> float:
    """Seconds per call over `inner` calls in a row."""
    start = time.perf_counter()
    for _ in range(inner):
        thunk()
    return (time.perf_counter() - start) / inner


def calibrate(thunk: Thunk, sample_seconds: float) -> int:
    """The number of calls that fill a sample; doubles until it does, which also warms the function up."""
    inner = 1
    while (elapsed := _undisturbed(thunk, inner, sample_seconds / 2)) < sample_seconds / 2:
        inner *= 2
    return max(1, round(inner * sample_seconds / elapsed)) if elapsed < sample_seconds else inner


def _undisturbed(thunk: Thunk, inner: int, enough: float) -> float:
    """Seconds of `inner` calls; again where they are enough for a sample, since that may be an interruption's doing.

    A function that is taken for a slow one by mistake is sampled with so few calls that waking up threads counts.
    """
    elapsed = sample(thunk, inner) * inner
    if enough <= elapsed < INTERRUPTION_SECONDS:
        elapsed = min(elapsed, *(sample(thunk, inner) * inner for _ in range(2)))
    return elapsed


def interleave(thunks: Mapping[str, Thunk], budget: Budget, rng: np.random.Generator) -> dict[str, Samples]:
    """Sample all functions once a round, each round in a new random order.

    What disturbs the machine for longer than a sample then disturbs all of them alike, and the order favours
    none. Functions must wait for their own results.
    """
    inner = {name: calibrate(thunk, budget.sample_seconds) for name, thunk in thunks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in thunks}
    names = list(thunks)
    start = time.perf_counter()
    for done in range(budget.max_rounds):
        if done >= budget.min_rounds and time.perf_counter() - start > budget.seconds:
            break
        for name in rng.permutation(names).tolist():
            seconds[name].append(sample(thunks[name], inner[name]))
    return {name: Samples(seconds[name], inner[name]) for name in names}
