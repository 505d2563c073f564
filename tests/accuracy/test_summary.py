"""Summaries: order statistics by sorting, each kind of wrong entry counted once, the worst entry found."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxbp.accuracy import ErrorSummary, flushed, relative_error, summarize, ulp_error

ULP = 2.0**-23


def off_by(ulps):
    """Float32 ones, and truths that are off by so many units."""
    ulps = np.asarray(ulps, np.float64)
    return np.ones(ulps.shape, np.float32), 1 + ulps * ULP


def test_every_field_of_a_small_example():
    actual, exact = off_by([[0, 3, 0.25], [1, 2, 0.5]])
    assert summarize(actual, exact) == ErrorSummary(
        count=6,
        max_ulp=3.0,
        median_ulp=0.5,
        p99_ulp=3.0,
        max_rel=3 * ULP / (1 + 3 * ULP),
        median_rel=0.5 * ULP / (1 + 0.5 * ULP),
        p99_rel=3 * ULP / (1 + 3 * ULP),
        wrong_zeros=0,
        wrong_infinities=0,
        wrong_nans=0,
        flushed=0,
        worst_index=(0, 1),
        worst_actual=1.0,
        worst_exact=1 + 3 * ULP,
    )


def test_fields_are_plain_python_values_and_frozen():
    summary = summarize(*off_by([[1.0]]))
    for name, value in dataclasses.asdict(summary).items():
        expected = (
            tuple if name == "worst_index" else float if name.endswith(("_ulp", "_rel", "actual", "exact")) else int
        )
        assert type(value) is expected, name
    assert [type(i) for i in summary.worst_index] == [int, int]
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.count = 0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("count", "median", "p99"),
    [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 4), (99, 50, 99), (100, 50, 99), (101, 51, 100), (200, 100, 198)],
)
def test_quantiles_are_by_nearest_rank(count, median, p99):
    ulps = np.random.default_rng(0).permutation(np.arange(1, count + 1))
    summary = summarize(*off_by(ulps))
    assert (summary.median_ulp, summary.p99_ulp, summary.max_ulp) == (median, p99, count)
    assert summary.median_rel == median * ULP / (1 + median * ULP)
    assert summary.p99_rel == p99 * ULP / (1 + p99 * ULP)
    assert summary.worst_index == (np.argmax(ulps),)


def test_infinite_errors_leave_the_other_quantiles_finite():
    actual, exact = off_by([1, 2, 3, 4])
    actual[2:] = np.inf
    summary = summarize(actual, exact)
    assert (summary.median_ulp, summary.p99_ulp, summary.max_ulp) == (2, np.inf, np.inf)
    assert summary.median_rel == 2 * ULP / (1 + 2 * ULP)
    assert (summary.worst_index, summary.worst_actual) == ((2,), np.inf)


TINY = 2.0**-126  # the smallest normal float32
# actual, exact, the counts that it raises, those with nan_equal
KINDS = [
    (0.0, TINY, {"wrong_zeros"}, {"wrong_zeros"}),
    (-0.0, -1.0, {"wrong_zeros"}, {"wrong_zeros"}),
    (0.0, TINY - 2.0**-150, {"flushed"}, {"flushed"}),  # would round to TINY
    (0.0, 1e39, {"wrong_zeros"}, {"wrong_zeros"}),
    (0.0, np.inf, {"wrong_zeros", "wrong_infinities"}, {"wrong_zeros", "wrong_infinities"}),
    (0.0, TINY / 2, {"flushed"}, {"flushed"}),
    (-0.0, 1e-44, {"flushed"}, {"flushed"}),
    (0.0, 2.0**-150, set(), set()),  # rounds to zero
    (0.0, -0.0, set(), set()),
    (1e-40, 1.0, set(), set()),  # wrong, but not zero
    (np.inf, 1.0, {"wrong_infinities"}, {"wrong_infinities"}),
    (np.inf, -1e39, {"wrong_infinities"}, {"wrong_infinities"}),
    (-np.inf, np.inf, {"wrong_infinities"}, {"wrong_infinities"}),
    (1.0, -np.inf, {"wrong_infinities"}, {"wrong_infinities"}),
    (np.inf, 1e39, set(), set()),  # rounds to infinity
    (-np.inf, -np.inf, set(), set()),
    (3e38, 1e39, set(), set()),
    (np.nan, 1.0, {"wrong_nans"}, {"wrong_nans"}),
    (np.nan, np.inf, {"wrong_nans"}, {"wrong_nans"}),
    (np.inf, np.nan, {"wrong_nans"}, {"wrong_nans"}),
    (0.0, np.nan, {"wrong_nans"}, {"wrong_nans"}),
    (np.nan, np.nan, {"wrong_nans"}, set()),
    (1.0, 1.0, set(), set()),
]
COUNTS = ("wrong_zeros", "wrong_infinities", "wrong_nans", "flushed")


@pytest.mark.parametrize("nan_equal", [False, True])
@pytest.mark.parametrize(("actual", "exact", "kinds", "kinds_nan_equal"), KINDS)
def test_each_kind_of_wrong_entry_is_counted(actual, exact, kinds, kinds_nan_equal, nan_equal):
    expected = kinds_nan_equal if nan_equal else kinds
    for copies in (1, 3):
        summary = summarize(np.full(copies, actual, np.float32), np.full(copies, exact), nan_equal=nan_equal)
        assert {name: getattr(summary, name) for name in COUNTS} == {
            name: copies * (name in expected) for name in COUNTS
        }


@pytest.mark.parametrize("nan_equal", [False, True])
def test_every_infinite_error_has_its_count(nan_equal):
    actual = np.array([row[0] for row in KINDS], np.float32)
    exact = np.array([row[1] for row in KINDS])
    summary = summarize(actual, exact, nan_equal=nan_equal)
    infinite = np.count_nonzero(np.isinf(ulp_error(actual, exact, nan_equal=nan_equal)))
    assert summary.wrong_infinities + summary.wrong_nans == infinite
    assert summary.wrong_nans == (4 if nan_equal else 5)
    assert summary.count == len(KINDS)


@pytest.mark.parametrize(
    ("dtype", "subnormal"), [(np.float64, 1e-310), (np.float32, 1e-40), (np.float16, 1e-6), (ml_dtypes.bfloat16, 1e-40)]
)
def test_flushed_entries_are_counted_and_left_out(dtype, subnormal):
    actual = np.array([0, 1, 0, 1, 0], dtype)
    unit = float(np.spacing(np.float64(1))) if dtype is np.float64 else 2.0 ** -int(ml_dtypes.finfo(dtype).nmant)
    exact = np.array([subnormal, 1 + unit, -subnormal, 1 + 2 * unit, subnormal])
    summary = summarize(actual, exact)
    assert (summary.count, summary.flushed, summary.wrong_zeros) == (5, 3, 0)
    assert (summary.median_ulp, summary.max_ulp, summary.worst_index) == (1, 2, (3,))
    assert summary.max_rel == pytest.approx(2 * unit / (1 + 2 * unit))
    assert summary.median_rel == pytest.approx(unit / (1 + unit))


def test_all_flushed():
    summary = summarize(np.zeros((2, 2), np.float32), np.full((2, 2), 1e-40))
    assert (summary.count, summary.flushed) == (4, 4)
    assert np.isnan([summary.max_ulp, summary.median_ulp, summary.p99_ulp]).all()
    assert np.isnan([summary.max_rel, summary.median_rel, summary.p99_rel]).all()
    assert (summary.worst_index, summary.worst_actual, summary.worst_exact) == ((0, 0), 0.0, 1e-40)


def test_the_first_of_equally_bad_entries_is_the_worst():
    assert summarize(*off_by([0, 2, 1, 2])).worst_index == (1,)
    assert summarize(*off_by([0, 0, 0])).worst_index == (0,)
    flushed_first = summarize(np.array([0, 1, 1], np.float32), np.array([1e-40, 1, 1]))
    assert (flushed_first.worst_index, flushed_first.max_ulp) == ((1,), 0)


def test_equal_nans_have_no_error_of_either_kind():
    nans = np.full(3, np.nan)
    equal, different = summarize(nans, nans, nan_equal=True), summarize(nans, nans)
    assert (equal.max_ulp, equal.median_ulp, equal.max_rel, equal.median_rel) == (0, 0, 0, 0)
    assert (different.median_ulp, different.median_rel) == (np.inf, np.inf)


def test_relative_error_where_the_truth_is_zero():
    summary = summarize(np.array([0, 0, 1e-45], np.float32), np.zeros(3))
    assert (summary.median_rel, summary.max_rel, summary.max_ulp) == (0, np.inf, 1)


def test_scalars_jax_arrays_and_longdouble():
    scalar = summarize(np.float32(1), np.float64(1 + 2 * ULP))
    assert (scalar.count, scalar.max_ulp, scalar.worst_index) == (1, 2, ())
    assert summarize(jnp.ones((2, 2), jnp.bfloat16), np.full((2, 2), 1.0 + 2.0**-7)).max_ulp == 1
    exact = np.nextafter(np.longdouble(1), np.longdouble(2))
    wide = summarize(np.ones(2), np.array([exact, exact]))
    assert wide.max_ulp == float((exact - 1) * np.longdouble(2) ** 52)
    assert wide.worst_exact == float(exact)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"^actual must have at least one entry to sum up, .* shape \(0, 3\)"):
        summarize(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"^exact must have the shape of actual"):
        summarize(np.zeros(2), np.zeros(3))
    with pytest.raises(TypeError, match=r"^actual must be one of"):
        summarize([1, 2], np.zeros(2))


@settings(deadline=None)
@given(
    hnp.arrays(np.uint16, st.integers(1, 40)),
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(width=32)),
    st.booleans(),
)
def test_agrees_with_sorting(bits, exact, nan_equal):
    size = min(bits.size, exact.size)
    actual, exact = bits[:size].view(ml_dtypes.bfloat16), exact[:size]
    summary = summarize(actual, exact, nan_equal=nan_equal)
    kept = ~flushed(actual, exact)
    assert summary.flushed == size - kept.sum()
    for error, name in ((ulp_error, "ulp"), (relative_error, "rel")):
        values = np.sort(error(actual, exact, nan_equal=nan_equal)[kept])
        if values.size == 0:
            continue
        assert getattr(summary, f"max_{name}") == values[-1]
        for quantile, field in ((0.5, "median"), (0.99, "p99")):
            value = getattr(summary, f"{field}_{name}")
            # The smallest error that at least this share of the entries do not exceed.
            assert np.mean(values <= value) >= quantile
            assert np.mean(values < value) < quantile
            assert value in values
    if kept.any():
        assert ulp_error(actual, exact, nan_equal=nan_equal)[summary.worst_index] == summary.max_ulp
