"""Time functions against each other: calibrated samples in interleaved rounds of random order."""

import dataclasses
import importlib
import time
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from jaxbp.measure.verdict import Side, approximate_width

Thunk = Callable[[], object]
#: What a function is known by.
Name = TypeVar("Name", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Queued:
    """A function that a device beside the processor computes, one call after the other.

    A sample hands over all of its calls and waits for the last, as a program does: the way there and back, which takes
    longer than many a gradient, is then paid once a sample, and the device never waits for the next call.

    Attributes:
        start: hands one call over.
        wait: waits for what `start` has returned, and so for all calls before.
    """

    start: Callable[[], Any]
    wait: Callable[[Any], object]

    def __call__(self) -> Any:
        result = self.start()
        self.wait(result)
        return result


#: What takes longer is slow by itself, and was not merely interrupted.
INTERRUPTION_SECONDS = 0.1
#: How well a ratio is known is looked at after so many rounds (fewer would not tell), and again after this fraction of
#: the rounds so far.
FIRST_LOOK, LOOKS = 100, 4
#: A sample of queued calls takes at least this long, so that the way to the device and back is a small part of it.
QUEUED_SECONDS = 0.004
#: So many blocks of up to so many bytes are held during a round.
HELD, HELD_BYTES = 3, 2**20


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to time one case.

    Attributes:
        seconds: for all rounds of one group of functions together.
        min_rounds: taken even where the budget is spent.
        max_rounds: never more.
        width: rounds end before the budget is spent once every ratio to a baseline is known to within this, up or down.
        sample_seconds: a sample repeats its call until it takes at least this long, so that the clock does not matter.
            Short, so that an interruption strikes few samples, and the two sides of a round lie close together: ten
            times as long, intervals are several times as wide.
    """

    seconds: float
    min_rounds: int
    max_rounds: int
    sample_seconds: float = 0.0002
    width: float = 0.008


@dataclasses.dataclass(frozen=True)
class Samples:
    """One sample a round.

    Attributes:
        seconds: per call.
        cores: CPU seconds per second that passed; below 1 the process waited for a core. Empty where nobody knows.
        inner: how many calls each sample averages over.
    """

    seconds: list[float]
    cores: list[float]
    inner: int


def sample(thunk: Thunk, inner: int) -> tuple[float, float]:
    """Seconds per call over `inner` calls in a row, and CPU seconds per second meanwhile."""
    call = thunk.start if isinstance(thunk, Queued) else thunk
    used = time.process_time()
    start = time.perf_counter()
    for _ in range(inner - 1):
        call()
    thunk()
    passed = time.perf_counter() - start
    return passed / inner, (time.process_time() - used) / passed


def calibrate(thunk: Thunk, sample_seconds: float, earlier: float = 0.0) -> int:
    """The number of calls that fill a sample; doubles until it does, which also warms the function up.

    `earlier` is how many seconds a call took before; 0 if there was none.
    """
    if isinstance(thunk, Queued):
        sample_seconds = max(sample_seconds, QUEUED_SECONDS)
    inner, enough = 1, sample_seconds / 2
    while True:
        elapsed = sample(thunk, inner)[0] * inner
        if enough <= elapsed < INTERRUPTION_SECONDS:
            # It may only have been interrupted; hardly twice in a row.
            again = earlier if inner == 1 and earlier else sample(thunk, inner)[0] * inner
            elapsed = min(elapsed, again)
        if elapsed >= enough:
            return max(1, round(inner * sample_seconds / elapsed)) if elapsed < sample_seconds else inner
        inner *= 2


def interleave(
    thunks: Mapping[Name, Thunk],
    budget: Budget,
    rng: np.random.Generator,
    baselines: Mapping[Name, Name] = MappingProxyType({}),
    earlier: Mapping[Name, float] = MappingProxyType({}),
) -> dict[Name, Samples]:
    """Sample all functions once a round, each round in a new random order.

    What disturbs the machine for longer than a sample then disturbs all of them alike, and the order favours none. In
    each round results lie elsewhere in memory: where two arrays lie may make a call much slower and, if it were the
    same in all rounds of a process, would be taken for the function's own.

    Functions must wait for their own results. `baselines` names the function that another is compared with; when to
    stop goes by how well their ratio is known, never by what it says. `earlier` are the seconds of calls before.
    """
    inner = {name: calibrate(thunk, budget.sample_seconds, earlier.get(name, 0.0)) for name, thunk in thunks.items()}
    for base in set(baselines.values()):
        # What is compared averages over equally many calls: else an interruption weighs more on one side.
        alike = [base, *(name for name, other in baselines.items() if other == base)]
        inner |= dict.fromkeys(alike, max(inner[name] for name in alike))
    taken = {name: Samples([], [], inner[name]) for name in thunks}
    names = list(thunks)
    if baselines:
        # What tells how well a ratio is known takes half a second to load, which is not to lie between two rounds.
        importlib.import_module("scipy.stats")
    start = time.perf_counter()
    look = max(FIRST_LOOK, budget.min_rounds)
    for done in range(budget.max_rounds):
        if done >= budget.min_rounds and time.perf_counter() - start > budget.seconds:
            break
        if done >= look and baselines:
            if all(_width(taken[a], taken[b], budget.min_rounds) <= budget.width for a, b in baselines.items()):
                break
            look = done + max(1, done // LOOKS)
        held = [np.empty(size, np.uint8) for size in rng.integers(1, HELD_BYTES, HELD)]
        for name in (names[i] for i in rng.permutation(len(names))):
            seconds, cores = sample(thunks[name], inner[name])
            taken[name].seconds.append(seconds)
            if not isinstance(thunks[name], Queued):  # Whoever waits for a device needs no core.
                taken[name].cores.append(cores)
        del held
    return taken


def _width(a: Samples, b: Samples, least: int) -> float:
    """How well a ratio is known from the rounds without interruption, if there are enough of them."""
    rounds = Side(a.seconds, a.cores).quiet & Side(b.seconds, b.cores).quiet
    if rounds.sum() < least:
        return np.inf
    return approximate_width(np.asarray(a.seconds)[rounds], np.asarray(b.seconds)[rounds])
