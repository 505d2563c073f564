"""Verdicts: only what the whole interval supports, on samples whose truth is planted."""

import math

import numpy as np
import pytest

from jaxbp.measure.verdict import Interval, goes_on, median_interval, over_processes, ratio_interval, verdict

ROUNDS = 40


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.70, 0.90, "faster"),
        (0.70, 0.979, "faster"),
        (0.70, 0.98, "cannot say"),
        (0.70, 1.00, "cannot say"),
        (0.70, 1.30, "cannot say"),
        (0.98, 1.02, "same"),
        (0.99, 1.01, "same"),
        (0.979, 1.01, "cannot say"),
        (0.99, 1.021, "cannot say"),
        (1.00, 1.30, "cannot say"),
        (1.02, 1.30, "cannot say"),
        (1.021, 1.30, "slower"),
        (1.50, 1.60, "slower"),
        (math.nan, math.nan, "cannot say"),
    ],
)
def test_truth_table(low, high, expected):
    # The value itself decides nothing.
    for value in (0.5, 1.0, 2.0):
        assert verdict(Interval(value, low, high)) == expected


def test_the_margin_is_the_callers():
    interval = Interval(1.07, 1.06, 1.08)
    assert verdict(interval) == "slower"
    assert verdict(interval, margin=0.10) == "same"
    assert verdict(interval, margin=0.07) == "cannot say"


def paired(seed: int, slowdown: float) -> tuple[np.ndarray, np.ndarray]:
    """Two sides of the same rounds: the machine's mood (30 %) strikes both, their own noise (3 %) one each."""
    rng = np.random.default_rng(seed)
    mood = np.exp(0.3 * rng.normal(size=ROUNDS))
    own = np.exp(0.03 * rng.normal(size=(2, ROUNDS)))
    return 100 * slowdown * mood * own[0], 100 * mood * own[1]


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_slowdown_is_found(seed):
    samples, baseline = paired(seed, 1.10)
    assert verdict(ratio_interval(samples, baseline, paired=True)) == "slower"
    assert verdict(ratio_interval(baseline, samples, paired=True)) == "faster"


def test_equal_sides_are_seldom_called_different():
    verdicts = [verdict(ratio_interval(*paired(seed, 1.0), paired=True)) for seed in range(40)]
    # 95 % intervals and the margin of 2 %: below one in twenty.
    assert sum(v in ("faster", "slower") for v in verdicts) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_equal_sides_on_a_quiet_machine_are_the_same(seed):
    samples, baseline = np.exp(0.01 * np.random.default_rng(seed).normal(size=(2, ROUNDS)))
    assert verdict(ratio_interval(samples, baseline, paired=True)) == "same"


@pytest.mark.parametrize("seed", range(5))
def test_pairing_cancels_what_strikes_both_sides(seed):
    samples, baseline = paired(seed, 1.10)
    together = ratio_interval(samples, baseline, paired=True)
    apart = ratio_interval(samples, baseline, paired=False)
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_intervals_cover_the_truth_about_as_often_as_stated():
    covered = 0
    for seed in range(100):
        samples = np.random.default_rng(seed).exponential(size=ROUNDS)
        interval = median_interval(samples)
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= math.log(2) <= interval.high
    assert 88 <= covered <= 99


def test_the_value_is_the_median_and_the_trimmed_mean_of_the_rounds():
    assert median_interval([5.0, 1.0, 100.0]).value == 5.0
    # Rounds of ratio 2, 2, 8 and two that are cut off; without rounds in common medians 8 and 4.
    samples, baseline = [2.0, 4.0, 8.0, 9.0, 800.0], [1.0, 2.0, 4.0, 72.0, 8.0]
    assert ratio_interval(samples, baseline, paired=True).value == pytest.approx(2.0)
    assert ratio_interval([8.0, 2.0, 9.0], [4.0, 1.0, 100.0], paired=False).value == 2.0


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_of_two_moods_does_not_hide_the_ratio(seed):
    """Half of the rounds are slow for both sides: a median of one side lies now in the one mood, now in the other."""
    rng = np.random.default_rng(seed)
    slow = np.where(rng.random(400) < 0.5, 1.8, 1.0)
    samples, baseline = 100 * slow * np.exp(0.03 * rng.normal(size=(2, 400)))
    ratio = ratio_interval(samples, baseline, paired=True)
    assert verdict(ratio) == "same"
    assert verdict(ratio_interval(1.1 * samples, baseline, paired=True)) == "slower"
    assert verdict(ratio_interval(samples, baseline, paired=False)) == "cannot say"


def test_rounds_that_resemble_their_neighbours_do_not_feign_a_narrow_interval():
    """2,000 rounds in which one side is slower now and then for 20 rounds together: as if there were 100."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        spells = np.repeat(np.exp(0.1 * rng.normal(size=100)), 20)
        ratio = ratio_interval(spells, np.ones(2000), paired=True)
        missed += not ratio.low <= 1 <= ratio.high
    # Taken for independent they would miss the truth more often than not.
    assert missed <= 0.35 * 60


def test_a_single_sample_says_nothing():
    interval = median_interval([3.0])
    assert interval.value == 3.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    for a, b in (([3.0], [1.0]), ([3.0], [1.0, 1.0]), ([3.0, 3.0], [1.0])):
        ratio = ratio_interval(a, b, paired=False)
        assert ratio.value == 3.0
        assert math.isnan(ratio.low)
        assert verdict(ratio) == "cannot say"


def test_what_differs_between_processes_is_in_the_interval_of_several():
    """Here a process is some 3 % off for as long as it lives, which its own intervals know nothing of."""
    rng = np.random.default_rng(1)

    def process():
        speed = np.exp(0.03 * rng.normal())
        return ratio_interval(speed * rng.normal(1.0, 0.01, 50), rng.normal(1.0, 0.01, 50), paired=True)

    runs = [[process() for _ in range(4)] for _ in range(200)]
    covers = [[i.low <= 1 <= i.high for i in (run[0], over_processes(run))] for run in runs]
    alone, together = np.mean(covers, axis=0)
    assert alone < 0.2
    assert 0.9 <= together <= 0.99


def test_further_processes_make_no_verdicts_by_chance():
    """Of rules a margin faster than autodiff, in processes some 4 % off, few more are called faster than should be.

    That is 2.5 %. Who asks for a verdict after each process finds far more.
    """
    rng = np.random.default_rng(0)
    by_width, by_verdict = [], []
    for _ in range(1000):
        found = [Interval(ratio, ratio, ratio) for ratio in 0.98 * np.exp(0.04 * rng.normal(size=20))]
        taken = next(k for k in range(5, 21) if k == 20 or not goes_on(found[:k], 5))
        by_width.append(verdict(over_processes(found[:taken])) == "faster")
        by_verdict.append(any(verdict(over_processes(found[:k])) == "faster" for k in range(5, 21)))
    assert np.mean(by_width) < 0.05
    assert np.mean(by_verdict) > 0.07


def test_intervals_are_reproducible():
    samples, baseline = paired(0, 1.0)
    assert ratio_interval(samples, baseline, paired=True) == ratio_interval(samples, baseline, paired=True)
