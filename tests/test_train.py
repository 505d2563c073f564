"""`jaxbp train`, from what is typed to what is printed, written and returned; stopped, and finished later."""

import contextlib
import dataclasses
import json

import pandas as pd
import pytest

from jaxbp.cli import runs
from jaxbp.measure.machine import Noise
from jaxbp.measure.sweep import read_journal
from jaxbp.measure.timer import Budget
from jaxbp.report import training_plots
from jaxbp.training import experiment, plan
from jaxbp.training import run as training_run
from tests.machine import MACHINE

WORDS = ("train", "--quick", "--loss", "softmax", "--model", "linear", "--batch", "64", "--schedule", "cosine")


class InProcess:
    """An executor without a process of its own; it is interrupted at its task of that number."""

    interrupt_at = -1
    done = 0

    def submit(self, f, task):
        if InProcess.done == InProcess.interrupt_at:
            raise KeyboardInterrupt
        InProcess.done += 1
        self.value = f(task)
        return self

    def result(self):
        return self.value


@pytest.fixture
def small(monkeypatch):
    """Levels that take no time, in this process."""
    level = dataclasses.replace(plan.LEVELS["quick"], steps=12, rows=10**6, widths=(2,), evaluations=9, rate_steps=2)
    level = dataclasses.replace(level, budget=Budget(0.01, 3, 3), slow_budget=Budget(0.01, 1, 1))
    monkeypatch.setitem(plan.LEVELS, "quick", level)
    monkeypatch.setattr(plan, "DIMENSIONS", (1,))
    monkeypatch.setattr(plan, "METHODS", ("random",))
    monkeypatch.setattr(experiment, "SCALES", (1.0,))
    monkeypatch.setattr(training_plots, "figures", lambda frames, kind: iter(()))  # They take seconds.
    monkeypatch.setattr(training_run, "owner_pool", lambda owner, environment: contextlib.nullcontext(InProcess()))
    monkeypatch.setattr(runs, "describe_machine", lambda: dict(MACHINE))
    monkeypatch.setattr(runs, "measure_noise", lambda: Noise(0.1, 0.02))
    monkeypatch.setattr(InProcess, "interrupt_at", -1)
    monkeypatch.setattr(InProcess, "done", 0)
    return InProcess


@pytest.fixture
def descents_alone(monkeypatch):
    """The other parts of a run give nothing."""
    for what in ("step", "growth", "search", "rates"):
        monkeypatch.setitem(experiment.PARTS, what, lambda task: iter(()))


def only_run(out):
    (folder,) = out.glob("training/test-2-core/*")
    return folder


def test_a_run_is_stopped_and_finished(run, small, tmp_path, monkeypatch):
    monkeypatch.setattr(small, "interrupt_at", 3)
    result = run(*WORDS, "--engines", "autodiff,numpy", "--out", tmp_path)
    folder = only_run(tmp_path)
    assert result.code == 130
    assert f"jaxbp train --resume {folder}" in result.err
    assert "Stopped early" in (folder / "train.md").read_text()
    before = pd.read_csv(folder / "summary.csv")
    assert before["engine"].tolist() == ["autodiff", "numpy"]

    monkeypatch.setattr(small, "interrupt_at", -1)
    result = run("train", "--resume", folder, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["folder"] == str(folder)
    assert [row["engine"] for row in found["summary"]] == ["autodiff", "numpy"]
    assert {row["status"] for row in found["summary"]} == {"ok"}
    assert all(row["test_accuracy"] > 0.5 for row in found["summary"])
    machine = json.loads((folder / "machine.json").read_text())
    assert machine["unfinished"] == 0
    assert machine["training"]["batches"] == [64]
    assert {path.name for path in folder.iterdir()} >= {
        *("machine.json", "journal.jsonl", "curves.csv", "summary.csv", "train.md"),
        *("growth.csv", "search.csv", "rates.csv"),
    }
    assert "Stopped early" not in (folder / "train.md").read_text()
    # What the first attempt did was not done again, and now there is nothing left to do.
    tasks = len(read_journal(folder))
    assert small.done == tasks
    assert run("train", "--resume", folder).code == 0
    assert small.done == tasks


def test_a_run_whose_machine_was_changed_by_hand_is_not_resumed(run, small, tmp_path):
    assert run(*WORDS, "--engines", "numpy", "--out", tmp_path).code == 0
    path = only_run(tmp_path) / "machine.json"
    machine = json.loads(path.read_text())
    for held in ([1], {"epochs": 3}, {"strength": "much"}):
        path.write_text(json.dumps({**machine, "training": held}))
        result = run("train", "--resume", path.parent)
        assert result.code == 2
        assert f"{path} is not as jaxbp train wrote it" in " ".join(result.err.split())


def test_a_rate_that_diverges_is_reported(run, small, descents_alone, tmp_path):
    result = run(*WORDS, "--engines", "rule,numpy", "--rate", "1e38", "--out", tmp_path)
    assert result.code == 0, result.err
    summary = pd.read_csv(only_run(tmp_path) / "summary.csv")
    assert summary["status"].tolist() == ["diverged", "diverged"]
    assert summary["reason"].str.contains("not finite at step").all()
    assert "(diverged)" in result.out


def test_a_process_that_dies_costs_its_task_until_the_run_is_resumed(run, small, descents_alone, tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    def killed(self, f, task):
        if task.engines == ("rule",) and task.what == "descent":
            raise BrokenProcessPool("it was terminated abruptly")
        self.value = f(task)
        return self

    alive = small.submit
    monkeypatch.setattr(small, "submit", killed)
    result = run(*WORDS, "--engines", "rule,autodiff", "--out", tmp_path)
    assert result.code == 1
    folder = only_run(tmp_path)
    summary = pd.read_csv(folder / "summary.csv").set_index("engine")
    assert summary["status"].to_dict() == {"rule": "failed", "autodiff": "ok"}
    assert "terminated abruptly" in str(summary.loc["rule", "reason"])
    # It is done again, and alone.
    monkeypatch.setattr(small, "submit", alive)
    before = small.done
    assert run("train", "--resume", folder).code == 0
    assert small.done == before + 1
    assert set(pd.read_csv(folder / "summary.csv")["status"]) == {"ok"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--engines", "autodif"), "did you mean 'autodiff'"),
        (("--batch", "5000"), "A batch has 1 to 1437 images"),
        (("--batch", "many"), "--batch says 'many'"),
        (("--rate", "-1"), "must be a positive number, not -1"),
        (("--resume", "{folder}", "--steps", "3"), "leave out the other options"),
        (("--resume", "{folder}"), "was not written by jaxbp train"),
    ],
)
def test_what_makes_no_sense_ends_in_a_sentence(run, tmp_path, words, sentence):
    level = {"started": "", "level": "quick", "noise": {}}
    (tmp_path / "machine.json").write_text(json.dumps({**MACHINE, **level}))
    result = run("train", *(word.format(folder=tmp_path) for word in words), "--out", tmp_path)
    assert result.code == 2
    assert sentence in result.err
    assert not list(tmp_path.glob("training"))
