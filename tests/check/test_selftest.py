"""The selftest counts right: extreme checkers, workers that die or hang, runs that were stopped, tables and CSV."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from jaxbp.check.rivals import RIGHT, UNABLE, WRONG
from jaxbp.check.selftest import OURS, Item, Task, corpora, plan, run_selftest
from jaxbp.report import selftest
from jaxbp.report.selftest import (
    OUTCOME_COLUMNS,
    OUTCOMES,
    SUMMARY,
    SUMMARY_COLUMNS,
    by_group,
    mistakes,
    outcomes_frame,
    overview,
    readme_selftest,
    record_selftest,
    summary_frame,
)

NAMES = ["sin/zero", "sin/half", "tanh/zero", "exp/float32", "shape/scalar"]


def always(verdict, function, seeds):
    """A checker that always says the same."""
    for seed in seeds:
        yield {"seed": seed, "verdict": verdict, "said": f"{verdict}!", "named": None, "seconds": 0.5 + seed}


def sick(function, seeds):
    """A checker that dies on one function, hangs on another, and is killed between two seeds of a third."""
    for seed in seeds:
        if function == "dies":
            os._exit(3)
        if function == "hangs":
            time.sleep(600)
        if function == "is killed" and seed == 1:
            os.abort()
        yield from always(RIGHT, function, [seed])


def patients():
    return [Item(name, False, "group", name) for name in ("well", "dies", "hangs", "is killed", "well again")]


def remembers(function, seeds):
    """A checker that leaves a trace in what it checks, as a call does in a rule that caches."""
    function.append("seen")
    yield {**next(always(RIGHT, function, seeds)), "said": f"seen {len(function)} times"}


def with_a_state():
    return [Item("a", True, "group", []), Item("b", True, "group", [])]


def not_loaded():
    os._exit(4)


def rows_of(items, examine, seeds):
    return [
        {"kind": "outcome", "item": item.name, "checker": name, **row}
        for item in items
        for name, check in examine.items()
        for row in check(item.function, range(seeds))
    ]


def few():
    """Some of the corpora by name, without the seconds that all of them take to load."""
    groups = ("zero", "half", "zero", "ops", "shape")
    return [Item(name, i < 3, group, None) for i, (name, group) in enumerate(zip(NAMES, groups, strict=True))]


@pytest.fixture(scope="module")
def items():
    return few()


class Steps:
    """A progress bar that remembers how long it was, and the names of the steps."""

    def __init__(self):
        self.totals, self.names = [], []

    @contextlib.contextmanager
    def __call__(self, total):
        self.totals.append(total)
        yield self.names.append


@pytest.fixture
def steps():
    return Steps()


def test_the_corpora_have_one_name_for_each_function():
    found = corpora()
    assert len({item.name for item in found}) == len(found)
    assert {item.wrong for item in found} == {True, False}
    known = {item.name: (item.wrong, item.group) for item in found}
    assert [known[item.name] for item in few()] == [(item.wrong, item.group) for item in few()]


def test_one_that_always_says_right_finds_nothing_and_accuses_nobody(items):
    examine = {OURS: functools.partial(always, RIGHT)}
    outcomes = outcomes_frame(items, examine, 2, rows_of(items, examine, 2))
    (row,) = overview(summary_frame(outcomes)).to_dict("records")
    assert row["wrong rules detected"] == "0 of 3"
    assert row["right functions accused"] == "0 of 2"
    assert set(mistakes(outcomes)["item"]) == {"sin/zero", "sin/half", "tanh/zero"}


def test_one_that_always_says_wrong_finds_all_and_accuses_everybody(items):
    examine = {OURS: functools.partial(always, WRONG)}
    outcomes = outcomes_frame(items, examine, 2, rows_of(items, examine, 2))
    (row,) = overview(summary_frame(outcomes)).to_dict("records")
    assert row["wrong rules detected"] == "3 of 3"
    assert row["right functions accused"] == "2 of 2"
    assert set(mistakes(outcomes)["item"]) == {"exp/float32", "shape/scalar"}


def test_one_that_cannot_be_run_neither_finds_nor_passes(items):
    examine = {OURS: functools.partial(always, UNABLE)}
    outcomes = outcomes_frame(items, examine, 1, rows_of(items, examine, 1))
    (row,) = overview(summary_frame(outcomes)).to_dict("records")
    assert row["wrong rules detected"] == "0 of 3"
    assert row["wrong ones without verdict"] == "3 cannot be run"
    assert row["right ones without verdict"] == "2 cannot be run"
    assert "seconds a check" not in row
    assert len(mistakes(outcomes)) == 5
    assert set(outcomes["said"]) == {"cannot be run!"}


def test_found_under_one_seed_of_two_is_not_found(items):
    examine = {OURS: functools.partial(always, WRONG)}
    rows = rows_of(items, examine, 2)
    for row in rows:
        if row["seed"] == 1:
            row["verdict"] = RIGHT
    outcomes = outcomes_frame(items, examine, 2, rows)
    (row,) = overview(summary_frame(outcomes)).to_dict("records")
    assert row["wrong rules detected"] == "0 of 3"
    assert row["right functions accused"] == "2 of 2"
    assert len(mistakes(outcomes)) == 5
    # Of a longer run, what is asked for alone counts.
    assert set(outcomes_frame(items, examine, 1, rows)["flagged"]) == {1}


def test_a_worker_that_dies_or_hangs_costs_its_task_alone():
    tasks = [Task(item.name, "sick", (0, 1, 2)) for item in patients()]
    started = []
    rows = list(
        run_selftest(
            tasks, {"sick": sick}, workers=2, limit_seconds=2, load=patients, progress=lambda t: started.append(t.item)
        )
    )
    said = {(row["item"], row["seed"]): row["said"] for row in rows}
    assert len(rows) == len(said) == 15
    assert sorted(started) == sorted(item.name for item in patients())
    for seed in range(3):
        assert said["well", seed] == said["well again", seed] == "right!"
        assert said["dies", seed] == "The process that ran it ended with exit status 3."
        assert said["hangs", seed] == "It took more than 2 s and was stopped."
    assert [said["is killed", seed] for seed in range(3)] == [
        "right!",
        *["The process that ran it ended with SIGABRT."] * 2,
    ]
    assert {row["verdict"] for row in rows if row["said"] != "right!"} == {UNABLE}


def test_no_checker_sees_what_another_left_in_a_rule_with_a_state():
    tasks = [Task(item, checker, (0,)) for item in "ab" for checker in ("one", "two")]
    rows = run_selftest(tasks, {"one": remembers, "two": remembers}, load=with_a_state)
    assert [row["said"] for row in rows] == ["seen 1 times"] * 4


def test_workers_that_never_come_up_are_an_error():
    with pytest.raises(ValueError, match=r"never came up\. .* exit status 4"):
        list(run_selftest([Task("well", "sick", (0,))], {"sick": sick}, load=not_loaded))


def test_a_plan_leaves_out_what_is_done(items):
    done = [
        {"item": "sin/zero", "checker": OURS, "seed": 0},
        {"item": "sin/zero", "checker": OURS, "seed": 2},
        {"item": "sin/zero", "checker": "check_grads", "seed": 0},
    ]
    tasks = plan(items, [OURS, "check_grads"], 3, done=done)
    assert tasks[0] == Task("sin/zero", OURS, (1,))
    assert len(tasks) == 2 * len(items) - 1
    assert {task.seeds for task in tasks if task.checker == "check_grads"} == {(0,)}
    some = [task.item for task in plan(items, [OURS, "check_grads"], 3, every=2) if task.checker == "check_grads"]
    assert some == [item.name for item in items[::2]]


def test_a_run_that_was_stopped_goes_on(items, steps, tmp_path, monkeypatch):
    examine = {OURS: functools.partial(always, RIGHT), "check_grads": functools.partial(always, WRONG)}
    asked = {"seeds": 2, "workers": 1, "progress": steps, "load": few}
    report, whole = record_selftest(tmp_path, items, examine, **asked)
    # Its head, the first function under ours with both seeds, the second with one, and one row cut off.
    journal = report.parent / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 3 * len(items)
    journal.write_text("".join(lines[:4]) + lines[4][:20])
    _, again = record_selftest(tmp_path, items, examine, **asked)
    pd.testing.assert_frame_equal(again, whole)
    assert len(journal.read_text().splitlines()) == len(lines)
    record_selftest(tmp_path, items, examine, **asked)
    # Another checker is another matter.
    monkeypatch.setattr(selftest, "sources", lambda: "others")
    record_selftest(tmp_path, items, examine, **asked)
    assert steps.totals == [10, 9, 0, 10]
    assert len(journal.read_text().splitlines()) == len(lines)


def test_the_tables_are_those_of_the_files(items, steps, tmp_path):
    examine = {OURS: functools.partial(always, WRONG), "check_grads": functools.partial(always, UNABLE)}
    report, outcomes = record_selftest(tmp_path, items, examine, seeds=2, workers=1, progress=steps, load=few)
    folder = report.parent
    machine = json.loads((folder / "machine.json").read_text())
    assert folder == tmp_path / "selftest" / machine["name"]
    assert (machine["seeds"], machine["checkers"]) == (2, [OURS, "check_grads"])

    read = pd.read_csv(folder / OUTCOMES, keep_default_na=False, na_values=[""])
    assert list(read.columns) == list(OUTCOME_COLUMNS)
    assert read[["item", "checker", "flagged"]].to_dict("list") == outcomes[["item", "checker", "flagged"]].to_dict(
        "list"
    )
    assert set(read["said"].dropna()) == {"cannot be run!", "wrong!"}
    own = read[read["checker"] == OURS]
    assert set(own["seconds"]) == {0.5}
    assert set(own["further_seconds"]) == {1.5}

    summary = pd.read_csv(folder / SUMMARY)
    assert list(summary.columns) == list(SUMMARY_COLUMNS)
    pd.testing.assert_frame_equal(
        summary_frame(read)[["corpus", "group", "checker", "items", "flagged", "cannot_run", "checks"]],
        summary[["corpus", "group", "checker", "items", "flagged", "cannot_run", "checks"]],
    )
    first, second = overview(summary).to_dict("records")
    assert (first["checker"], first["wrong rules detected"], first["seeds"]) == (OURS, "3 of 3", "2")
    assert first["seconds a check"] == "0.5 wrong, 0.5 right"
    assert (second["wrong rules detected"], second["wrong ones without verdict"]) == ("0 of 3", "3 cannot be run")
    groups = by_group(summary, "mutants").set_index("group")
    assert groups.loc["zero"].to_dict() == {OURS: "2 of 2", "check_grads": "0 of 2, 2 none"}

    readme = readme_selftest(tmp_path)
    for text in (report.read_text(), readme):
        assert "| 3 of 3 " in text
        assert "- Not run: check_grads rev," in text
    assert f"`{tmp_path.name}/selftest/{machine['name']}/report.md`" in readme
    assert "mistaken: 2" in report.read_text()


def test_no_record_is_a_sentence(tmp_path):
    assert readme_selftest(tmp_path) == "There is no record of a selftest yet."


def test_the_command(run):
    result = run("selftest", "--only", "sin/sign_flipped", "--rivals-every", 0, "--json", "--workers", 1)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    (row,) = found["summary"]
    assert (row["checker"], row["wrong rules detected"], row["bugs named"]) == (OURS, "1 of 1", "100% of checks")
    assert found["mistakes"] == []


def test_a_name_that_nothing_has_is_a_sentence(run):
    result = run("selftest", "--only", "no such rule")
    assert (result.code, result.out) == (2, "")
    assert "'no such rule', which is in the name of no function" in result.err


def test_without_a_checkout_there_is_a_sentence(tmp_path):
    # Tests of somebody else's, for those of an editable install are found from everywhere.
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    command = [sys.executable, "-m", "jaxbp.cli", "selftest"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("jaxbp: The corpora of rules are in a checkout's tests/")
    assert "in the top folder of a clone of jaxbp" in done.stderr
