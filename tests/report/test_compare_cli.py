"""`jaxbp compare` and the history of `jaxbp report`, from what is typed to what is printed, written and returned."""

import json
import shutil
from pathlib import Path

import pytest
from runs import noisy_rows
from synthetic import MACHINE

from jaxbp.report.compare import CHANGE_COLUMNS
from jaxbp.report.run import write_frames, write_machine

OPS = ("exp", "tanh", "sigmoid")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine's folder: a run, one of the same code, and one whose tanh is 15 % slower and whose exp lost digits."""
    machine = tmp_path_factory.mktemp("results") / "machine"
    planted = {"1-base": {}, "2-same": {}, "3-worse": {"slow": {"tanh": 1.15}, "ulp": {"exp": 50.0}}}
    for seed, (name, changes) in enumerate(planted.items()):
        write_machine(machine / name, {**MACHINE, "started": f"2026-01-0{seed + 1}T00:00:00Z"})
        write_frames(machine / name, noisy_rows(seed, ops=OPS, **changes))
    return machine


@pytest.fixture
def runs(measured, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(measured, tmp_path / "results" / "machine"))


def test_runs_of_the_same_code_are_status_0(run, measured):
    result = run("compare", measured / "1-base", measured / "2-same")
    assert result.code == 0
    assert result.err == ""
    assert result.out.splitlines()[-1] == "No regression found"


def test_a_regression_is_status_1_and_is_named(run, measured):
    result = run("compare", measured / "1-base", measured / "3-worse")
    assert result.code == 1
    assert result.out.splitlines()[-1] == "Regression: slower tanh; less accurate exp"
    assert "Slower: " in result.out
    # The other way round it is an improvement.
    assert run("compare", measured / "3-worse", measured / "1-base").code == 0


def test_a_margin_may_be_given(run, measured):
    result = run("compare", measured / "1-base", measured / "3-worse", "--margin", "0.5")
    assert result.out.splitlines()[-1] == "Regression: less accurate exp"
    assert run("compare", measured / "1-base", measured / "3-worse", "--margin", "7").code == 2


def test_all_runs_of_a_folder_are_compared_with_the_first(run, measured):
    result = run("compare", measured)
    assert result.code == 1
    assert result.out.count("compared with test-2-core/1-base") == 2


def test_json_is_the_frame(run, measured):
    result = run("compare", measured / "1-base", measured / "2-same", measured / "3-worse", "--json")
    assert result.code == 1
    rows = json.loads(result.out)
    assert list(rows[0]) == list(CHANGE_COLUMNS)
    assert {row["op"] for row in rows if row["regression"]} == {"tanh", "exp"}
    assert {row["run"] for row in rows if row["regression"]} == {"test-2-core/3-worse"}


def test_markdown_for_a_pull_request(run, measured, tmp_path):
    path = tmp_path / "deep" / "comment.md"
    assert run("compare", measured / "1-base", measured / "3-worse", "--markdown", path).code == 1
    text = path.read_text()
    assert text.startswith("## Regression: slower tanh; less accurate exp\n")
    assert "### Slower: " in text
    assert "<details>" in text
    # Every rule has its interval, in each mode and over all of them.
    assert text.count(" ±") == len(OPS) * 5
    assert len(text) < 65536


def test_what_cannot_be_read_is_named_and_the_rest_is_compared(run, runs):
    (runs / "2-same" / "machine.json").write_text("{")
    table = runs / "3-worse" / "summary.csv"
    table.write_text(table.read_text()[:-9])
    result = run("compare", runs / "1-base", runs / "2-same", runs / "3-worse", runs / "none")
    # Of the last, its errors.
    assert result.code == 1
    assert result.out.splitlines()[-1] == "Regression: less accurate exp"
    told = result.err.splitlines()
    for name in ("2-same/machine.json", "3-worse/summary.csv", "none"):
        assert any(name in line for line in told)


def test_without_two_runs_nothing_is_compared(run, runs):
    for words in (
        [runs / "1-base"],
        [runs / "none", runs / "1-base", runs / "2-same"],
        [runs / "1-base", runs / "none"],
    ):
        result = run("compare", *words)
        assert result.code == 2
        assert "compared" in result.err.splitlines()[-1]


def test_runs_with_nothing_in_common_are_status_2(run, tmp_path):
    for name in ("exp", "tanh"):
        write_machine(tmp_path / name, MACHINE)
        write_frames(tmp_path / name, noisy_rows(0, ops=[name], modes=["fwd_bwd"]))
    result = run("compare", tmp_path / "exp", tmp_path / "tanh")
    assert result.code == 2
    assert result.err.splitlines()[-1] == "jaxbp: These runs have no cell in common that could be compared."


def test_the_history_of_a_folder_is_written_there_or_where_it_is_told(run, runs):
    result = run("report", runs.parent)
    assert result.code == 0
    assert result.out == f"History of 3 runs: {runs.parent / 'history.md'}\n"
    assert (runs.parent / "history-test-2-core-float32-ratio.png").exists()
    # The runs' own reports are not touched.
    assert not list(runs.glob("*/report.md"))
    (runs / "2-same" / "machine.json").write_text("{")
    result = run("report", runs, "--markdown", runs / "elsewhere.md")
    assert result.code == 2
    assert "2-same" in result.err
    assert (runs / "elsewhere.md").read_text().startswith("# History of 2 runs\n")


def test_a_folder_without_runs_has_no_history(run, tmp_path):
    result = run("report", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} holds no run" in result.err
