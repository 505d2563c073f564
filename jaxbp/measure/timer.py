"""Time functions against each other: calibrated samples in interleaved rounds of random order."""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from jaxbp.measure.verdict import approximate_width

Thunk = Callable[[], object]
#: What a function is known by.
Name = TypeVar("Name", bound=Hashable)


#: Intervals are looked at again after this fraction of the rounds so far.
LOOKS = 4


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to time one case.

    Attributes:
        seconds: for all rounds of one group of functions together.
        min_rounds: taken even where the budget is spent.
        max_rounds: never more.
        width: rounds end before the budget is spent once every ratio to a baseline is known to within this, up or down.
        sample_seconds: a sample repeats its call until it takes at least this long, so that the clock and one
            interruption do not matter.
    """

    seconds: float
    min_rounds: int
    max_rounds: int
    sample_seconds: float = 0.002
    width: float = 0.008


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
    while (elapsed := sample(thunk, inner) * inner) < sample_seconds / 2:
        inner *= 2
    return max(1, round(inner * sample_seconds / elapsed)) if elapsed < sample_seconds else inner


def interleave(
    thunks: Mapping[Name, Thunk],
    budget: Budget,
    rng: np.random.Generator,
    baselines: Mapping[Name, Name] = MappingProxyType({}),
) -> dict[Name, Samples]:
    """Sample all functions once a round, each round in a new random order.

    What disturbs the machine for longer than a sample then disturbs all of them alike, and the order favours
    none. Functions must wait for their own results. `baselines` names the function that another is compared with; when
    to stop goes by how well their ratio is known, never by what it says.
    """
    inner = {name: calibrate(thunk, budget.sample_seconds) for name, thunk in thunks.items()}
    seconds: dict[Name, list[float]] = {name: [] for name in thunks}
    names = list(thunks)
    start = time.perf_counter()
    look = budget.min_rounds
    for done in range(budget.max_rounds):
        if done >= budget.min_rounds and time.perf_counter() - start > budget.seconds:
            break
        if done >= look and baselines:
            widths = (approximate_width(seconds[a], seconds[b]) for a, b in baselines.items())
            if all(width <= budget.width for width in widths):
                break
            look = done + max(1, done // LOOKS)
        for name in (names[i] for i in rng.permutation(len(names))):
            seconds[name].append(sample(thunks[name], inner[name]))
    return {name: Samples(seconds[name], inner[name]) for name in names}
