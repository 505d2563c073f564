"""The timer: calibrated samples, rounds that visit every function, and ratios that mean what they say."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxbp.environment import ALLOCATOR
from jaxbp.measure import timer
from jaxbp.measure.timer import Budget, Queued, Thunk, calibrate, interleave, sample


class Clock:
    """A clock that only moves when a function of known cost is called, so that nothing here depends on the machine."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited = 0.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now - self.waited

    def costing(self, seconds: float, name: str = "") -> Thunk:
        def call() -> None:
            self.now += seconds
            self.calls.append(name)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer, "time", clock)
    return clock


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("inner", [1, 7])
def test_a_sample_is_seconds_per_call(clock, inner):
    assert sample(clock.costing(0.25), inner) == (0.25, 1.0)
    assert len(clock.calls) == inner


def test_a_sample_knows_that_it_waited_for_a_core(clock):
    def call() -> None:
        clock.now += 0.5
        clock.waited += 0.25

    assert sample(call, 4) == (0.5, 0.5)


@pytest.mark.parametrize("cost", [1e-7, 3e-6, 1e-5, 9e-4, 0.0019, 0.002, 0.5])
def test_calibrate_fills_a_sample(clock, cost):
    inner = calibrate(clock.costing(cost), 0.002)
    # As many calls as fit into it, and one where a single call is longer.
    assert inner == max(1, round(0.002 / cost))


def test_calibrate_stops_once_it_knows(clock):
    calibrate(clock.costing(5.0), 0.002)
    assert len(clock.calls) == 1  # A slow function is not called to find out what one call has said.


def test_an_interruption_does_not_pass_for_a_slow_function(clock):
    costs = iter([0.03])

    def interrupted() -> None:
        clock.now += next(costs, 1e-5)

    # As many as without it; taken at its word, the first call fills fifteen samples.
    assert calibrate(interrupted, 0.002) == 200


def test_what_an_earlier_call_took_is_not_found_out_again(clock):
    assert calibrate(clock.costing(0.03), 0.002, 0.03) == 1
    assert len(clock.calls) == 1
    # It was cold, interrupted, or imported a library.
    for earlier in (0.03, 5.0):
        assert calibrate(clock.costing(1e-5), 0.002, earlier) == 200


def rounds_of(clock: Clock, names: str, budget: Budget) -> list[list[str]]:
    """The order in which each round visits functions that each fill a sample with one call."""
    samples = interleave({name: clock.costing(1.0, name) for name in names}, budget, rng())
    visits = clock.calls[len(names) :]  # The first call of each calibrates.
    rounds = [visits[i : i + len(names)] for i in range(0, len(visits), len(names))]
    assert {name: s.seconds for name, s in samples.items()} == {name: [1.0] * len(rounds) for name in names}
    assert {s.inner for s in samples.values()} == {1}
    return rounds


def test_every_round_visits_every_function_once(clock):
    rounds = rounds_of(clock, "abcd", Budget(1e9, 5, 48, 1.0))
    assert len(rounds) == 48
    assert all(sorted(visited) == list("abcd") for visited in rounds)


def test_the_order_varies_and_favours_none(clock):
    rounds = rounds_of(clock, "abcd", Budget(1e9, 5, 48, 1.0))
    assert len({tuple(visited) for visited in rounds}) > 12
    first = [visited[0] for visited in rounds]
    assert all(6 <= first.count(name) <= 18 for name in "abcd")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # A round of three functions takes 3 s; the budget is looked at before each.
        (Budget(10.0, 2, 100, 1.0), 4),
        (Budget(10.0, 6, 100, 1.0), 6),
        (Budget(10.0, 2, 3, 1.0), 3),
        (Budget(0.0, 1, 100, 1.0), 1),
    ],
    ids=["budget", "min_rounds", "max_rounds", "no_budget"],
)
def test_rounds_keep_to_the_budget(clock, budget, expected):
    assert len(rounds_of(clock, "abc", budget)) == expected


def test_each_sample_averages_over_the_calls_of_its_function(clock):
    thunks = {"fast": clock.costing(1e-4, "fast"), "slow": clock.costing(4e-4, "slow")}
    samples = interleave(thunks, Budget(1e9, 3, 3, 0.01), rng())
    assert samples["fast"].cores == [1.0] * 3
    assert samples["fast"].inner == 100
    assert samples["slow"].inner == 25
    assert samples["fast"].seconds == pytest.approx([1e-4] * 3)
    assert samples["slow"].seconds == pytest.approx([4e-4] * 3)


def test_twice_the_work_reads_about_two():
    """On the real clock: the same arithmetic once and twice."""
    x = np.random.default_rng(0).normal(size=2**13)
    # Into an array that is there: of two new ones the system may take the memory back after each call, and clear it.
    y = np.empty_like(x)
    thunks = {"once": lambda: np.exp(x, out=y), "twice": lambda: (np.exp(x, out=y), np.exp(x, out=y))}
    start = time.perf_counter()
    samples = interleave(thunks, Budget(10.0, 60, 60), rng())
    wall = time.perf_counter() - start
    once, twice = (np.asarray(samples[name].seconds) for name in thunks)
    # What else runs here only adds to a sample, and not to all of them.
    assert 1.7 < twice.min() / once.min() < 2.3
    # Another unit would pass the ratio too: all calls together fill the time that passed, but for the calibration,
    # which takes its time on a busy machine.
    assert 0.1 * wall < sum(sum(s.seconds) * s.inner for s in samples.values()) <= wall


def test_what_is_compared_averages_over_equally_many_calls(clock):
    thunks = {name: clock.costing(cost, name) for name, cost in (("a", 1e-4), ("b", 2e-4), ("c", 4e-4), ("d", 1e-3))}
    samples = interleave(thunks, Budget(1e9, 3, 3, 0.01), rng(), {"a": "b", "c": "b"})
    assert [samples[name].inner for name in "abcd"] == [100, 100, 100, 10]


def noisy(clock: Clock, seconds: float, noise: float, seed: int) -> Thunk:
    """A function whose calls vary."""
    draws = np.random.default_rng(seed)

    def call() -> None:
        clock.now += seconds * float(np.exp(noise * draws.normal()))

    return call


@pytest.mark.parametrize(("noise", "least", "most"), [(0.001, 100, 100), (0.04, 125, 450), (0.3, 900, 900)])
def test_rounds_go_on_until_the_ratio_is_known(clock, noise, least, most):
    thunks = {"a": noisy(clock, 1.0, noise, 1), "b": noisy(clock, 1.0, noise, 2)}
    samples = interleave(thunks, Budget(1e9, 9, 900, 1.0), rng(), {"a": "b"})
    assert least <= len(samples["a"].seconds) <= most


def test_what_the_ratio_says_is_no_reason_to_stop(clock):
    """As many rounds for a rule that is plainly slower as for one that is not."""
    rounds = []
    for cost in (1.0, 1.5):
        thunks = {"a": noisy(clock, cost, 0.02, 1), "b": noisy(clock, 1.0, 0.02, 2)}
        rounds.append(len(interleave(thunks, Budget(1e9, 9, 500, 0.5), rng(), {"a": "b"})["a"].seconds))
    assert rounds[0] == rounds[1]


def test_a_sample_costs_less_than_a_microsecond_beside_what_it_measures():
    assert 0 <= min(sample(lambda: None, 1)[0] for _ in range(2000)) < 1e-6


class Device:
    """A device that computes what it is handed, one after the other, and is a millisecond away."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.ready, self.waits = clock, seconds, 0.0, 0

    def start(self) -> str:
        self.ready = max(self.ready, self.clock.now) + self.seconds
        return "a result"

    def wait(self, result: str) -> None:
        assert result == "a result"
        self.waits += 1
        self.clock.now = max(self.ready, self.clock.now) + 0.001

    @property
    def queued(self) -> Queued:
        return Queued(self.start, self.wait)


def test_queued_calls_are_handed_over_together_and_waited_for_once(clock):
    device = Device(clock, 1e-4)
    assert sample(device.queued, 50)[0] == pytest.approx((50 * 1e-4 + 0.001) / 50)
    assert device.waits == 1
    assert device.queued() == "a result"
    assert device.waits == 2


def test_the_way_to_a_device_is_a_small_part_of_a_sample(clock):
    device, other = Device(clock, 1e-4), Device(clock, 2e-4)
    taken = interleave({"a": device.queued, "b": other.queued}, Budget(1.0, 5, 20), rng(), {"b": "a"})
    # A processor's sample would hold two calls, and be five sixths way.
    assert taken["a"].inner == taken["b"].inner >= 25
    assert np.median(taken["b"].seconds) / np.median(taken["a"].seconds) == pytest.approx(2, rel=0.2)


def test_whoever_waits_for_a_device_was_not_interrupted(clock):
    taken = interleave({"a": Device(clock, 1e-4).queued, "b": clock.costing(1e-3)}, Budget(1.0, 5, 20), rng())
    assert taken["a"].cores == []
    assert set(taken["b"].cores) == {1.0}


ADDRESSES = """
import numpy as np
from jaxbp.measure.timer import Budget, interleave

addresses = []
note = lambda: addresses.append(np.empty(2**24, np.uint8).ctypes.data)
interleave({"a": note}, Budget(5, 40, 40), np.random.default_rng(0))
print(len(set(addresses)))
"""


def test_results_lie_elsewhere_in_each_round():
    environment = {**os.environ, **ALLOCATOR}
    done = subprocess.run(
        [sys.executable, "-c", ADDRESSES], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) > 20
