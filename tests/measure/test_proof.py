"""The measurements' proof: planted work reads as what it is, and every comparison is made and described once."""

import collections
import statistics

import pytest

from jaxbp.measure.proof import PLANTED, SAME, Comparison, comparisons, measure, prove
from jaxbp.report.proof import COMPARISON_COLUMNS


def test_there_are_as_many_comparisons_as_are_asked_for():
    asked = comparisons()
    assert len(set(asked)) == len(asked)
    counts = collections.Counter(comparison.planted for comparison in asked)
    assert counts[SAME] >= 200
    assert set(counts) == {SAME, *PLANTED}
    assert all(counts[what] >= 100 for what in PLANTED)
    assert {c.n for c in asked if c.planted == SAME} == {10**3, 10**4, 10**5, 10**6, 10**7}


@pytest.mark.parametrize(("planted", "least", "most"), [(SAME, 0.6, 1.6), ("twice", 1.5, 2.7)])
def test_planted_work_shows(planted, least, most):
    # Wide, and the middle of three, for whatever else runs here; how near it comes is what the record says.
    rows = [measure(Comparison(planted, "sigmoid", 10**4, run), "standard") for run in range(3)]
    assert least < statistics.median(row["ratio"] for row in rows) < most
    for row in rows:
        assert list(row) == list(COMPARISON_COLUMNS)
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert 0 <= row["interrupted"] <= 1


def test_comparisons_are_measured_in_a_process_of_their_own():
    told = []
    asked = [Comparison(SAME, "add", 10**3, run) for run in range(2)]
    rows = list(prove(asked, level="quick", progress=told.append))
    assert [row["run"] for row in rows] == [0, 1]
    assert told == ["the same, add, 1,000 entries"] * 2
