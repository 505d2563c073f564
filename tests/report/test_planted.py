"""What `compare` finds of slowdowns that are planted into real runs, and into runs whose noise is known."""

from pathlib import Path

import pytest
from runs import noisy_rows
from synthetic import MACHINE

from jaxbp.report.planted import pairs_of_runs, planted, recorded_planted, slowed
from jaxbp.report.run import read_run, write_frames, write_machine

RESULTS = Path(__file__).parents[2] / "results"
#: Of the made-up runs.
LEVEL = str(MACHINE.get("level"))
OPS = ("exp", "tanh", "sigmoid")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three runs of the same code, and one of other code."""
    folder = tmp_path_factory.mktemp("results")
    for seed, commit in enumerate(("a", "a", "a", "b")):
        run = folder / "machine" / f"{seed}"
        write_machine(run, {**MACHINE, "started": f"2026-01-0{seed + 1}T00:00:00Z", "commit": commit})
        write_frames(run, noisy_rows(seed, ops=OPS))
    return folder


def test_a_rule_that_is_slower_is_found_and_nobody_else(results):
    base, run = (read_run(results / "machine" / name) for name in "01")
    assert planted(base, run, 1.0)["found"].tolist() == [False] * 3
    found = planted(base, run, 1.3)
    assert found["op"].tolist() == list(OPS)
    assert found["found"].all()
    assert found["accused"].tolist() == [""] * 3


def test_the_rules_of_one_op_alone_take_longer(results):
    run = read_run(results / "machine" / "0")
    before, after = run.summary, slowed(run, "tanh", 2.0).summary
    changed = (after["time_us"] / before["time_us"]).round(6) == 2
    rules = before["engine"].str.startswith("rule:")
    assert (changed == ((before["op"] == "tanh") & rules)).all()
    known = changed & before["ratio"].notna()
    assert (after.loc[known, "ratio"] / before.loc[known, "ratio"]).round(6).eq(2).all()


def test_the_two_newest_runs_of_the_same_code_are_compared(results):
    assert [[path.name for path in pair] for pair in pairs_of_runs(results, LEVEL)] == [["1", "2"]]
    assert "3 of 3" in recorded_planted(results, LEVEL)


def test_in_the_full_runs_of_record_a_tenth_is_found_and_nobody_is_accused():
    pairs = pairs_of_runs(RESULTS, "full")
    assert pairs
    for base, run in (map(read_run, pair) for pair in pairs):
        nothing, tenth = (planted(base, run, factor) for factor in (1.0, 1.1))
        assert not nothing["found"].any()
        assert tenth["found"].all()
        assert not (nothing["accused"] + tenth["accused"]).any()


def test_the_command_says_what_would_be_found(run, results):
    words = ("compare", results / "machine" / "0", results / "machine" / "1", "--planted")
    result = run(*words, "1.3")
    assert (result.code, result.out.splitlines()[-1]) == (
        0,
        "1.3 times as long: found in 3 of 3 ops; others accused 0 times.",
    )
    assert '"found":true' in run(*words, "1.3", "--json").out.replace(" ", "")
    wrong = run(*words, "-1")
    assert wrong.code == 2
    assert "give how many times as long" in wrong.err
