"""Comparing runs: planted slowdowns and lost digits are found, two runs of the same code are not called anything."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import OPS, as_run, noisy_rows, noisy_run
from scipy import stats
from synthetic import accuracy_row, failure_row, time_row

from jaxbp.report.compare import CHANGE_COLUMNS, compare_runs
from jaxbp.report.compare_report import sentences
from jaxbp.report.compare_times import BETWEEN_RUNS, CELL_FREEDOM, FALSE_DISCOVERY_RATE, time_changes
from jaxbp.report.run import Run

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def base() -> Run:
    return noisy_run("base", 0)


def said(changes: pd.DataFrame, verdict: str) -> set[str]:
    """The ops that rows of a verdict are about."""
    return set(changes.loc[changes["verdict"] == verdict, "op"])


def test_the_columns_are_the_documented_ones(base):
    changes = compare_runs(base, noisy_run("after", 1))
    assert list(changes.columns) == list(CHANGE_COLUMNS)
    assert set(changes["base"]) == {"test-2-core/base"}
    assert set(changes["run"]) == {"test-2-core/after"}
    empty = compare_runs(as_run([], "a"), as_run([], "b"))
    assert list(empty.columns) == list(CHANGE_COLUMNS)
    assert len(empty) == 0


def test_a_slower_rule_is_found_and_nothing_else(base):
    changes = compare_runs(base, noisy_run("after", 1, slow={"tanh": 1.1}, speed=1.3))
    assert said(changes, "slower") == {"tanh"}
    assert set(changes.loc[changes["regression"], "op"]) == {"tanh"}
    whole = changes[(changes["op"] == "tanh") & (changes["mode"] == "") & (changes["measure"] == "ratio")].iloc[0]
    assert whole["verdict"] == "slower"
    assert whole["change_low"] < 1.1 < whole["change_high"]
    assert whole["p"] < FALSE_DISCOVERY_RATE
    back = compare_runs(noisy_run("after", 1, slow={"tanh": 1.1}), base)
    assert said(back, "faster") == {"tanh"}
    assert not back["regression"].any()


def test_runs_of_the_same_code_are_no_regression_however_the_machine_drifts():
    runs = [noisy_run(str(i), 10 + i, speed=1 + 0.2 * i) for i in range(5)]
    pairs = [(a, b) for a in runs[:2] for b in runs[2:]]
    alarms = sum(bool(time_changes(a, b)["verdict"].isin(("slower", "faster")).any()) for a, b in pairs)
    assert alarms == 0


BUSY = {"noise": {"load": 2.0, "spread": 0.5, "verdict": "busy"}}


@pytest.mark.parametrize(("peak", "told"), [(240e9, False), (125e9, True)])
def test_half_of_a_machines_arithmetic_is_said(peak, told, base):
    def measured(name, peak, reason=""):
        found = {"device": "cpu", "dtype": "float32", "copies": [[2**24, 1e11]], "products": [[512, 4e11]]}
        return noisy_run(name, 0, {"limits": [{**found, "polynomials": [[2**18, peak]], "reason": reason}]})

    def sentence(first, second):
        return [text for text in sentences(first, second, compare_runs(first, second), 0.02) if "polynomials" in text]

    found = sentence(measured("a", 250e9), measured("b", peak))
    assert ["reached 250, then 125 GFLOP/s: the machine was another" in text for text in found] == [True] * told
    assert not sentence(measured("a", 250e9), measured("b", peak, reason="none"))
    assert not sentence(base, measured("b", peak))


def test_where_cells_differ_between_runs_anyway_no_such_difference_is_stated():
    # Intervals within 1 % that say nothing of a shift by 6 % between the runs.
    runs = [noisy_run(str(i), 30 + i, BUSY, shift=0.06) for i in range(3)]
    pairs = list(itertools.combinations(runs, 2))
    beyond = stated = 0
    for a, b in pairs:
        changes = time_changes(a, b)
        stated += int(changes["verdict"].isin(("slower", "faster")).any())
        widths = [np.log(side.summary["ratio_high"] / side.summary["ratio_low"]) / 2 for side in (a, b)]
        naive = np.sqrt(sum(np.median(width) ** 2 for width in widths))
        beyond += int(np.sum(np.abs(np.log(changes["change"])) > 2 * naive))
    assert beyond > 5 * len(pairs)
    assert stated == 0
    # What is far beyond is still found.
    slow = noisy_run("slow", 39, BUSY, shift=0.06, slow={"tanh": 2.0})
    assert said(compare_runs(runs[0], slow), "slower") == {"tanh"}


def test_what_is_common_to_the_cells_of_a_rule_differs_between_runs_too():
    # All modes of a rule lie off by the same few percent, as two runs of a day did; intervals say nothing of it.
    ops = [f"op{i}" for i in range(16)]

    def run(seed, **planted):
        moods = dict(zip(ops, np.exp(np.random.default_rng(seed).normal(0, 0.06, len(ops))), strict=True))
        slow = {op: mood * planted.get(op, 1.0) for op, mood in moods.items()}
        return noisy_run(str(seed), seed, ops=ops, slow=slow, noise=0.02)

    runs = [run(seed) for seed in range(50, 54)]
    for a, b in itertools.combinations(runs, 2):
        assert not time_changes(a, b)["verdict"].isin(("slower", "faster")).any()
    assert "op3" in said(compare_runs(runs[0], run(54, op3=2.0)), "slower")


def test_the_tails_of_a_busy_machine_are_heavier():
    sides = [
        [noisy_run(name, seed, machine, slow=slow) for name, seed, slow in (("a", 1, None), ("b", 2, {"exp": 1.1}))]
        for machine in ({}, BUSY)
    ]
    p = [compare_runs(*pair).query("op == 'exp' and engine != 'autodiff' and mode == ''")["p"].min() for pair in sides]
    assert p[0] < p[1] / 10


def test_few_cells_on_a_busy_machine_say_little():
    # One cell a rule: nothing tells how far cells differ between such runs.
    few = {"ops": ["exp", "tanh"], "modes": ["fwd_bwd"], "noise": 0.01}
    for machine, expected in (({}, {"exp"}), (BUSY, set())):
        a, b = (noisy_run(name, 1, machine, slow={"exp": slow}, **few) for name, slow in (("a", 1.0), ("b", 1.2)))
        assert said(time_changes(a, b), "slower") == expected


def recorded(run: int, slow: float = 1.0) -> Run:
    """One pass of `jaxbp selftest --measure` over copies of ops on a real machine as a run, one of them slowed down."""
    (path,) = RESULTS.glob("selftest-measure/*/comparisons.csv")
    found = pd.read_csv(path).query(f"planted == 'the same' and run == {run}").reset_index(drop=True)
    cells = as_run([time_row(engine="rule:stable")], str(run)).summary
    columns = ["op", "n", "time_us", "ratio", "ratio_low", "ratio_high", "rounds", "interrupted"]
    summary = pd.concat([cells] * len(found), ignore_index=True).assign(
        **{name: found[name] for name in columns},
        **dict.fromkeys(("time_us_low", "time_us_high"), found["time_us"]),
        case=found["n"].astype(str),
        verdict=found["verdict"],
        floor_us=0.1,
    )
    first = (summary["op"] == "tanh").astype(float)
    for name in ("time_us", "ratio", "ratio_low", "ratio_high"):
        summary[name] *= 1 + (slow - 1) * first
    return Run(Path(str(run)), as_run([], "x").machine, summary, as_run([], "x").accuracy, as_run([], "x").options)


def test_copies_that_a_real_machine_measured_are_no_regression_and_one_of_them_slowed_is():
    runs = [recorded(i) for i in range(4)]
    # In one of them divide of 10^5 entries had its arrays where it took 7 % longer than in the others.
    for a, b in itertools.permutations(runs, 2):
        assert not time_changes(a, b)["verdict"].isin(("slower", "faster")).any()
    changes = compare_runs(runs[0], recorded(2, slow=1.1))
    assert said(changes, "slower") == {"tanh"}


def test_many_cells_are_accounted_for():
    # One interval in twenty lies off by chance; among so many cells none may be stated.
    a, b = (
        noisy_run(str(seed), seed, ops=[f"op{i}" for i in range(40)], rounds=30, modes=["fwd_bwd"]) for seed in (1, 2)
    )
    changes = compare_runs(a, b)
    cells = changes[changes["measure"] == "ratio"]
    # Of a normal distribution; that which is used has heavier tails.
    wide, usual = np.log(cells["change_high"] / cells["change_low"]) / 2, stats.norm.ppf(0.975)
    beyond = np.abs(np.log(cells["change"])) > wide * usual / stats.t(CELL_FREEDOM).ppf(0.975)
    assert beyond.sum() >= 1
    assert not cells["verdict"].isin(("slower", "faster")).any()


def test_few_rounds_say_little():
    # A ratio that is 20 % larger, by three samples a side that agree.
    sides = [
        as_run([time_row(samples_us=[t, t + 1, t + 2], engine=e) for e, t in times.items()], "x")
        for times in ({"rule:stable": 100, "autodiff": 100}, {"rule:stable": 120, "autodiff": 100})
    ]
    cell: Any = compare_runs(*sides).set_index("engine").loc["rule:stable"]
    assert cell["change"] > 1.15
    assert cell["verdict"] == "cannot say"


def test_of_several_processes_the_scatter_between_them_counts():
    """Standard errors from what three processes say, and not from their many rounds."""

    def run_of(name, *ratios):
        rows = []
        for i, ratio in enumerate(ratios):
            times = {"autodiff": 100.0, "rule:a": 100.0 * ratio}
            rows += [time_row(samples_us=[t] * 50, engine=e, repetition=i) for e, t in times.items()]
        return as_run(rows, name)

    before, after = (1.0, 1.1, 1.21), (2.0, 2.2, 2.42)
    changes = time_changes(run_of("a", *before), run_of("b", *after))
    (change,) = changes[changes["engine"] == "rule:a"].to_dict("records")
    error = math.sqrt(2 * np.var(np.log(before), ddof=1) / 3 + BETWEEN_RUNS**2)
    assert change["change"] == pytest.approx(2)
    assert math.log(change["change_high"] / 2) == pytest.approx(stats.t.ppf(0.975, CELL_FREEDOM) * error, rel=1e-3)


@pytest.mark.parametrize("swapped", [False, True])
def test_two_processes_tell_of_a_single_one_and_all_cells_of_a_rule_share_it(swapped):
    def run_of(name, *ratios):
        rows = []
        for i, ratio in enumerate(ratios):
            for engine, time in {"autodiff": 100.0, "rule:a": 100.0 * ratio}.items():
                rows += [time_row(mode, [time] * 50, engine=engine, repetition=i) for mode in ("fwd", "fwd_bwd")]
        return as_run(rows, name)

    ratios = (1.0, 1.2)
    several, single = run_of("several", *ratios), run_of("single", 2.0)
    changes = time_changes(single, several) if swapped else time_changes(several, single)
    cells = changes[(changes["engine"] == "rule:a") & (changes["mode"] != "")]
    (rule,) = changes[(changes["engine"] == "rule:a") & (changes["mode"] == "")].to_dict("records")

    def half(variance, freedom):
        return stats.t.ppf(0.975, freedom) * math.sqrt(variance)

    # That of the mean of two, and that of the one, each of one degree of freedom.
    between = np.var(np.log(ratios), ddof=1)
    common, freedom, own = between / 2 + between, (1 / 2 + 1) ** 2 / (1 / 4 + 1), BETWEEN_RUNS**2
    for low, high in zip(cells["change_low"], cells["change_high"], strict=True):
        assert math.log(high / low) / 2 == pytest.approx(half(common + own, freedom), rel=1e-6)
    # Of two cells the rule knows no more of what they share, and half as much variance of the rest.
    of_rule = (own / 2 + common) ** 2 / ((own / 2) ** 2 / (2 * freedom) + common**2 / freedom)
    spread = math.log(rule["change_high"] / rule["change_low"]) / 2
    assert spread == pytest.approx(half(own / 2 + common + own, of_rule), rel=1e-6)


def test_the_luck_of_a_single_process_is_no_change():
    """Its cells agree with each other; only the processes of the other run tell how far a process may be off."""

    def run_of(name, lucks, **slow):
        rows = []
        for i, luck in enumerate(lucks):
            moods = {op: luck**sign * slow.get(op, 1.0) for op, sign in (("exp", 1), ("tanh", -1), ("cos", 1))}
            some = noisy_rows(40 + i, ops=list(moods), slow=moods, noise=0.01, rounds=60)
            rows += [{**row, "repetition": i} for row in some if i == 0 or row["kind"] == "time"]
        return as_run(rows, name)

    several = run_of("several", (0.9, 0.95, 1.0, 1.05, 1.1))
    for lucky in (0.93, 1.07):
        single = run_of("single", (lucky,))
        for pair in ((several, single), (single, several)):
            assert not time_changes(*pair)["verdict"].isin(("slower", "faster")).any()
        assert time_changes(run_of("other", (1.0,)), single)["verdict"].isin(("slower", "faster")).any()
    assert said(time_changes(several, run_of("single", (1.07,), cos=3.0)), "slower") == {"cos"}


def test_a_margin_and_what_runs_differ_by_are_on_top_of_the_interval():
    quiet = {"ops": ["exp"], "noise": 0.0005, "modes": ["fwd_bwd"]}
    a = noisy_run("a", 1, **quiet)
    slightly = noisy_run("b", 2, slow={"exp": 1.015}, **quiet)
    assert said(compare_runs(a, slightly), "slower") == set()
    assert said(compare_runs(a, slightly), "same") == {"exp"}
    far = noisy_run("b", 2, slow={"exp": 1.2}, **quiet)
    assert said(compare_runs(a, far), "slower") == {"exp"}
    assert said(compare_runs(a, far, margin=0.25), "slower") == set()
    cell = compare_runs(a, far).query("measure == 'ratio'").iloc[0]
    assert np.log(cell["change_high"] / cell["change_low"]) > 2 * 1.9 * BETWEEN_RUNS


NEWER = {"versions": {"jax": "0.12.0", "numpy": "2.4.6"}}


def test_what_a_new_jax_does_to_both_is_no_regression(base):
    both = dict.fromkeys(("cos",), 1.4)
    changes = compare_runs(base, noisy_run("after", 3, NEWER, slow=both, autodiff=both))
    assert not changes["regression"].any()
    assert said(changes[changes["engine"] == "autodiff"], "slower") == {"cos"}
    assert said(changes[changes["engine"] != "autodiff"], "slower") == set()


def test_a_ratio_that_autodiff_changed_is_not_the_rules(base):
    faster = compare_runs(base, noisy_run("after", 3, NEWER, autodiff={"cos": 0.7}))
    assert said(faster, "autodiff faster") == {"cos"}
    assert not faster["regression"].any()
    # By the versions, nothing but the rule can have changed.
    assert said(compare_runs(base, noisy_run("after", 3, autodiff={"cos": 0.7})), "slower") == {"cos"}
    ours = compare_runs(base, noisy_run("after", 3, NEWER, slow={"cos": 1.4}))
    assert said(ours, "slower") == {"cos"}
    assert ours["regression"].any()


def test_of_two_machines_only_ratios_are_compared(base):
    changes = compare_runs(base, noisy_run("after", 4, {"name": "other-8-core"}, speed=0.2, slow={"silu": 1.5}))
    assert set(changes["measure"]) == {"ratio", "ulp", "p99_ulp", "wrong"}
    assert said(changes, "slower") == {"silu"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (2.0, 2.0, "same"),
        (2.0, 2.45, "same"),
        (0.1, 0.5, "same"),
        (1e5, 1.2e5, "same"),
        (2.0, 2.6, "less accurate"),
        (2.6, 2.0, "more accurate"),
        (2.0, math.inf, "less accurate"),
        (math.inf, math.inf, "same"),
        (2.0, math.nan, "cannot say"),
    ],
)
def test_errors_change_by_a_quarter_and_half_a_unit(before, after, expected):
    sides = [as_run([accuracy_row(max_ulp=error, op="exp", engine="rule:stable")], "x") for error in (before, after)]
    changes: Any = compare_runs(*sides).set_index("measure")
    assert changes.loc["ulp", "verdict"] == changes.loc["p99_ulp", "verdict"] == expected
    assert changes.loc["ulp", "regression"] == (expected == "less accurate")


def test_lost_digits_are_found_where_the_largest_error_hides_them():
    errors = [{"max_ulp": 1e5, "p99_ulp": p99} for p99 in (1.0, 50.0)]
    sides = [as_run([{**accuracy_row(op="exp", engine="rule:stable"), **error}], "x") for error in errors]
    changes = compare_runs(*sides)
    assert changes.loc[changes["regression"], "measure"].tolist() == ["p99_ulp"]


def test_entries_of_sums_are_judged_by_the_largest_entry():
    # Reordered sums: the ULP of entries that cancel says nothing.
    errors = [
        {"max_ulp": ulp, "p99_ulp": ulp, "norm_rel": 2.0**-23 * of_largest} for ulp, of_largest in ((5, 1), (900, 1))
    ]
    sides = [as_run([{**accuracy_row(op="matmul", engine="rule:transpose"), **error}], "x") for error in errors]
    assert not compare_runs(*sides)["regression"].any()
    worse = {**accuracy_row(op="matmul", engine="rule:transpose"), "norm_rel": 2.0**-23 * 3}
    assert said(compare_runs(sides[0], as_run([worse], "x")), "less accurate") == {"matmul"}


@pytest.mark.parametrize("name", ["wrong_zeros", "wrong_infinities", "wrong_nans"])
def test_newly_wrong_entries_are_a_loss(name):
    sides = [as_run([{**accuracy_row(op="exp", engine="rule:stable"), name: n}], "x") for n in (0, 1)]
    changes = compare_runs(*sides)
    assert changes.loc[changes["regression"], "measure"].tolist() == ["wrong"]
    assert not compare_runs(*sides[::-1])["regression"].any()


def test_a_numerical_gradient_at_other_entries_is_not_compared():
    """As many are sampled as there is time for: the errors of other entries are others, and nothing has changed."""

    def run_of(name, count, error):
        rows = [accuracy_row(max_ulp=error, count=count, engine=e) for e in ("rule:a", "central_difference")]
        return as_run(rows, name)

    first = run_of("a", 132, 10.0)
    assert said(compare_runs(first, run_of("b", 132, 1e4)), "less accurate") == {"multiply"}
    changes = compare_runs(first, run_of("b", 188, 1e4))
    assert not changes["verdict"].isin(["less accurate", "more accurate"]).any()


def test_other_engines_are_told_and_do_not_count(base):
    changes = compare_runs(base, as_run([accuracy_row(max_ulp=99, op="exp"), accuracy_row("value", 99, op="exp")], "b"))
    assert said(changes, "less accurate") == {"exp"}
    assert not changes["regression"].any()


def test_other_versions_and_shapes_are_not_compared_and_say_so(base):
    rows = noisy_rows(1, slow=dict.fromkeys(OPS, 2.0))
    for row in rows:
        row |= {"tanh": {"op_version": 2}, "exp": {"shapes": "[[9]]"}}.get(row["op"], {})
    changes = compare_runs(base, as_run(rows, "after"))
    notes = changes[changes["verdict"] == "not compared"].groupby("op")["note"].unique()
    assert {op: list(told) for op, told in notes.items()} == {
        "tanh": ["op_version 1, then 2"],
        "exp": ["shapes [[1024], [1024]], then [[9]]"],
    }
    assert said(changes, "slower") == set(OPS) - {"tanh", "exp"}
    # Nor are their errors.
    assert set(changes.loc[changes["measure"] == "ulp", "op"]) == set(OPS) - {"tanh", "exp"}


def test_what_is_new_gone_or_fails_is_told(base):
    rows = noisy_rows(1, ops=[*OPS[1:], "log"])
    rows = [row for row in rows if (row["op"], row["engine"]) != ("tanh", "rule:stable")]
    run = as_run([*rows, failure_row("it raised", op="tanh", engine="rule:stable")], "after")
    changes = compare_runs(base, run)
    assert said(changes, "gone") == {"exp"}
    assert said(changes, "new") == {"log"}
    failed = changes[changes["verdict"] == "failed"]
    assert failed[["op", "engine", "note", "regression"]].values.tolist() == [
        ["tanh", "rule:stable", "it raised", True]
    ]
    back = compare_runs(run, base)
    assert said(back, "mended") == {"tanh"}
    assert not back["regression"].any()


def test_calls_that_cost_what_a_call_costs_get_no_verdict():
    sides = [
        noisy_run(name, seed, ops=["exp"], slow={"exp": slow}, floor_us=400.0)
        for name, seed, slow in (("a", 1, 1), ("b", 2, 1.5))
    ]
    changes = compare_runs(*sides)
    times = changes[changes["measure"].isin(("ratio", "time"))]
    assert set(times["verdict"]) == {"dispatch"}


def test_rounds_that_waited_for_a_core_say_nothing():
    rows = noisy_rows(2, ops=["exp"], slow={"exp": 2.0})
    busy = [{**row, "cores": [0.5] * 120} if row["kind"] == "time" else row for row in rows]
    changes = compare_runs(noisy_run("a", 1, ops=["exp"]), as_run(busy, "b"))
    assert set(changes.loc[changes["measure"] == "ratio", "verdict"]) == {"cannot say"}
