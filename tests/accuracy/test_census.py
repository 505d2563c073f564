"""The census leaves no float out, adds errors up rightly, and catches a rule spoilt in one binade."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Rule
from jaxbp.accuracy import census as census_module
from jaxbp.accuracy.census import Census, chunk_arguments, plan_census, score_chunk, sweep
from jaxbp.accuracy.score import CLASSES, COUNTS, Score
from jaxbp.accuracy.summary import summarize
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.errors import UsageError


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_float_occurs_once(dtype):
    whole = plan_census(jaxbp.exp, dtype)
    bits = np.concatenate([chunk_arguments(whole, chunk)[0].view(np.uint16) for chunk in range(whole.chunks)])
    assert np.array_equal(np.sort(bits), np.arange(2**16))


def test_every_float32_occurs_once():
    whole = plan_census(jaxbp.exp, "float32")
    assert whole.chunks * 2**23 == 2**32
    for chunk in (0, 1, 255, 256, 511):
        bits = chunk_arguments(whole, chunk)[0].view(np.uint32)
        assert bits[0] == chunk << 23
        assert np.all(np.diff(bits) == 1)
        assert bits.size == 2**23


def test_every_pair_of_bfloat16_occurs_once():
    whole = plan_census(jaxbp.divide, "bfloat16")
    x, y = chunk_arguments(whole, 300)
    pairs = x.view(np.uint16).astype(np.uint32) << 16 | y.view(np.uint16)
    assert np.array_equal(pairs, (300 << 23) + np.arange(2**23, dtype=np.uint32))


def test_all_engines_are_scored_in_one_pass():
    rules = tuple(f"rule:{name}" for name in jaxbp.sigmoid.rules)
    assert plan_census(jaxbp.sigmoid, "float32").engines[: len(rules) + 1] == (*rules, "autodiff")
    assert plan_census(jaxbp.sigmoid, "float32", ("stable",)).engines[:2] == ("rule:stable", "autodiff")


@pytest.mark.parametrize(
    ("op", "dtype", "rules", "sentence"),
    [
        (jaxbp.matmul, "float32", (), "There is no census of matmul"),
        (jaxbp.exp, "float46", (), "no dtype of a census called 'float46'; did you mean 'float"),
        (jaxbp.exp, "float32", ("outptu",), "did you mean 'output'"),
    ],
)
def test_what_cannot_be_swept_is_told(op, dtype, rules, sentence):
    with pytest.raises(UsageError, match=sentence):
        plan_census(op, dtype, rules)


def test_an_option_that_the_op_does_not_have_is_told():
    with pytest.raises(UsageError, match=r"no option of gelu called 'aproximate'; did you mean 'approximate'"):
        plan_census(jaxbp.gelu, "float32", aproximate=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_meets_every_magnitude_sorted_and_repeatable(dtype):
    whole = plan_census(jaxbp.divide, dtype)
    assert whole.inputs == "a sample"
    assert plan_census(jaxbp.exp, "float64").inputs == "a sample"
    exponents = set()
    for chunk in range(0, whole.chunks, 5):
        x, y = chunk_arguments(whole, chunk)
        assert x.shape == y.shape
        assert np.isfinite(x).all()
        assert np.isfinite(y).all()
        assert np.all(np.diff(x) >= 0)
        exponents |= set(np.frexp(x[x != 0])[1].tolist())
        assert np.array_equal(x, chunk_arguments(whole, chunk)[0])
    assert len(exponents) > 0.2 * (np.finfo(dtype).maxexp - np.finfo(dtype).minexp)


def test_a_sample_ends_with_the_hard_points():
    whole = plan_census(jaxbp.divide, "float32")
    x, y = chunk_arguments(whole, whole.chunks - 1)
    assert {(0.0, 0.0), (1.0, float(np.finfo("f").tiny))} <= set(zip(x.tolist(), y.tolist(), strict=True))


def test_a_sample_of_float64_is_held_against_certified_values():
    rows = score_chunk(Census("sigmoid", "float64", ("rule:stable", "autodiff")), 95)
    ours, autodiff = (row for row in rows if row["quantity"] == "ct_x")
    assert 0.5 < ours["max_ulp"] < 4
    assert autodiff["max_ulp"] > 1e6
    assert ours["left_out"] == 0


def reference_score(actual, exact):
    return summarize(actual, exact, nan_equal=True)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 4000, 4001, 4007, 2**18 - 3])
def test_no_part_of_a_chunk_has_so_few_entries_that_its_worst_says_nothing(n):
    """A sample leaves entries out, so that its chunks have sizes of any kind: of one too many a picture had a comb."""
    starts = Score(n).row((np.arange(n),))["part_start"]
    parts = np.diff([*starts, n])
    assert len(parts) <= 8
    assert parts[-1] >= parts[0] / 2


def test_a_score_agrees_with_the_summary_of_the_whole_array():
    """Block by block against all at once, on errors of every size, zeros, infinities, NaN and flushed results."""
    rng = np.random.default_rng(0)
    n = 3 * census_module.BLOCK // 2
    exact = np.exp2(rng.uniform(-140, 127, n))
    actual = (exact * (1 + rng.normal(size=n) * 1e-7 * 10.0 ** rng.integers(0, 7, n))).astype(np.float32)
    actual[rng.integers(0, n, 50)] = 0
    actual[rng.integers(0, n, 50)] = np.inf
    actual[rng.integers(0, n, 50)] = np.nan
    score = Score(n)
    for start in range(0, n, census_module.BLOCK):
        score.add(start, actual[start : start + census_module.BLOCK], exact[start : start + census_module.BLOCK])
    row, truth = score.row((actual,)), reference_score(actual, exact)
    assert sum(row["histogram"]) + row["flushed"] == n
    assert row["max_ulp"] == truth.max_ulp == np.inf
    assert (row["wrong_zeros"], row["wrong_nans"], row["flushed"]) == (
        truth.wrong_zeros,
        truth.wrong_nans,
        truth.flushed,
    )
    error = ulp_error(actual, exact, nan_equal=True)
    kept = error[~((actual == 0) & (exact < 2.0**-126))]
    assert sum(row["histogram"][:3]) == np.count_nonzero(kept <= CLASSES[2])
    assert max(row["part_max"]) == np.inf


def test_entries_that_are_not_counted_are_in_no_class_and_no_maximum():
    score = Score(8)
    actual = np.array([1, 0, np.nan, np.inf, 2, 2, 0, 1], np.float32)
    exact = np.array([1, 1, 1, 1, 2, 2 + 2**-22, 1e-40, 1])
    score.add(0, actual, exact, np.array([True, False, False, False, True, True, False, False]))
    row = score.row((actual,))
    assert row["max_ulp"] == 1
    assert row["histogram"][:2] == [2, 1]
    assert sum(row["histogram"]) == 3
    np.testing.assert_array_equal(row["part_max"], [0, *[np.nan] * 3, 0, 1, *[np.nan] * 2])
    assert all(row[name] == 0 for name in COUNTS)


def test_an_accuracy_that_is_stated_in_part_has_rows_of_its_own_for_every_engine():
    """Everywhere wrong zeros are counted, and within what is stated there are none; autodiff is held to both, too."""
    whole = plan_census(jaxbp.geglu, "bfloat16")
    assert whole.stated is jaxbp.geglu.default_rule.rule.accuracy
    note = whole.about()["within"]
    assert note
    assert plan_census(jaxbp.geglu, "bfloat16", ("stable",)).stated is None
    # x from 2^73: its products with activations below all numbers are far above them.
    rows = score_chunk(whole, 200)
    assert {row["within"] for row in rows if "within" in row} == {note}
    by = {(row["engine"], row["quantity"], "within" in row): row for row in rows}
    assert len(by) == len(rows) == 2 * 3 * len(whole.engines)
    everywhere, stated = (by["rule:normal_range", "value", part] for part in (False, True))
    assert everywhere["wrong_zeros"] > 0
    assert stated["wrong_zeros"] == 0
    assert stated["max_ulp"] <= 0.51
    assert 0 < sum(stated["histogram"]) < sum(everywhere["histogram"])
    assert by["autodiff", "value", True]["wrong_zeros"] > 0


def test_wrong_infinities_are_counted():
    score = Score(8)
    score.add(0, np.full(8, np.inf, np.float32), np.full(8, 1e30))
    assert score.counts == {"wrong_zeros": 0, "wrong_infinities": 8, "wrong_nans": 0, "flushed": 0}
    assert set(score.counts) == set(COUNTS)


def test_matching_nans_and_infinities_are_right():
    score = Score(4)
    score.add(0, np.array([np.nan, np.inf, -np.inf, 0], np.float32), np.array([np.nan, 1e39, -1e39, 0]))
    assert score.worst[0] == 0


@pytest.fixture
def spoilt(monkeypatch):
    """sigmoid with a default rule that is off by one part in 10^6 for x in [2, 4), and nowhere else."""

    def bwd(res, ct):
        (x,) = res
        (ct_x,) = jaxbp.sigmoid.default_rule.bwd(res, ct)
        return (jnp.where((x >= 2) & (x < 4), ct_x * (1 + 1e-6), ct_x),)

    rule = jaxbp.sigmoid.default_rule.rule
    op = jaxbp.sigmoid.replace(rules=(Rule(rule.name, rule.fwd, bwd),))
    monkeypatch.setattr(census_module, "OPS", (op,))
    return op


def worst(chunk: int) -> float:
    (row,) = (r for r in score_chunk(Census("sigmoid", "float32", ("rule:stable",)), chunk) if r["quantity"] == "ct_x")
    return row["max_ulp"]


def test_the_default_rule_is_right_in_a_binade():
    assert worst(128) <= 4  # [2, 4)


def test_a_rule_spoilt_in_one_binade_is_caught_there_alone(spoilt):
    assert worst(128) > 8
    assert worst(127) <= 4


def test_no_gradient_is_asked_where_a_function_has_no_value(monkeypatch):
    """Below 0 the logarithm has none: NaN is as good as 1 / x there, and above 0 it is wrong."""

    def bwd(res, ct):
        (x,) = res
        return (jnp.where((x < 0) | (x > 2), jnp.nan, ct / x),)

    rule = jaxbp.log.default_rule.rule
    monkeypatch.setattr(census_module, "OPS", (jaxbp.log.replace(rules=(Rule(rule.name, rule.fwd, bwd),)),))
    whole = Census("log", "float16", ("rule:quotient",))
    negative, positive = (score_chunk(whole, chunk)[1] for chunk in (48, 16))
    assert (negative["quantity"], negative["wrong_nans"], negative["max_ulp"]) == ("ct_x", 0, 0)
    assert positive["wrong_nans"] == 1023


def test_sweeps_in_processes_agree_with_this_one_and_leave_out_what_is_done():
    whole = plan_census(jaxbp.tanh, "float16", ("stable",))
    swept = dict(sweep(whole, skip=range(2, whole.chunks)))
    assert set(swept) == {0, 1}
    assert swept[1] == score_chunk(whole, 1)


def test_bfloat16_sigmoid_has_no_wrong_zero_where_autodiff_has_hundreds():
    whole = plan_census(jaxbp.sigmoid, "bfloat16")
    zeros = {"rule:stable": 0, "autodiff": 0}
    for chunk in range(whole.chunks):
        for row in score_chunk(whole, chunk):
            if row["quantity"] == "ct_x" and row["engine"] in zeros:
                zeros[row["engine"]] += row["wrong_zeros"]
    assert zeros["rule:stable"] == 0
    assert zeros["autodiff"] > 400
