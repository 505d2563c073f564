"""Runs that do not end as planned: Ctrl-C, a full disk, engines that fail; and how a run is finished later."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from jaxbp import terminal
from jaxbp.cli import bench, runs
from jaxbp.measure import sweep
from jaxbp.measure.machine import Noise
from jaxbp.measure.plan import Task, plan
from jaxbp.measure.sweep import Journal, read_journal
from jaxbp.measure.task import measure
from tests.machine import MACHINE


class InProcess:
    """A worker without a process of its own; it is interrupted before it hands over its row of that number."""

    interrupt_at = -1
    handed_over = 0
    resident_bytes = 0

    def __init__(self, owner: str, *, x64: bool, allocator: str) -> None:
        self.facts = {"device": "cpu", "floor_us": 0.1, "precision": "default", "environment": "{}"}

    def rows(self, task: Task, timeout_seconds: float) -> Iterator[dict[str, Any]]:
        for row in measure(task):
            if InProcess.handed_over == InProcess.interrupt_at:
                raise KeyboardInterrupt
            InProcess.handed_over += 1
            yield row

    def close(self) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> type[InProcess]:
    """Workers and machine without the seconds they cost."""
    monkeypatch.setattr(sweep, "Worker", InProcess)
    monkeypatch.setattr(runs, "describe_machine", lambda: dict(MACHINE))
    monkeypatch.setattr(runs, "measure_noise", lambda: Noise(0.1, 0.02))
    monkeypatch.setattr(InProcess, "interrupt_at", -1)
    monkeypatch.setattr(InProcess, "handed_over", 0)
    return InProcess


def only_run(out: Path) -> Path:
    (folder,) = out.glob("*/*")
    return folder


def cells(folder: Path) -> list[tuple[str, ...]]:
    """The cells of a run's summary, as often as they are in it."""
    summary = pd.read_csv(folder / "summary.csv")
    assert set(summary["status"]) <= {"ok"}
    return sorted(summary[["op", "case", "engine", "mode"]].itertuples(index=False, name=None))


def planned(*ops: str) -> list[tuple[str, ...]]:
    tasks = plan(ops=ops, cases=["small"], level="quick")
    return sorted((task.op, task.case, engine, "fwd_bwd") for task in tasks for engine in task.engines)


# The first rows of exp's task; its last; before any row at all.
@pytest.mark.parametrize("interrupt_at", [11, 14, 0])
def test_an_interrupted_run_is_readable_and_can_be_finished(run, in_process, monkeypatch, tmp_path, interrupt_at):
    monkeypatch.setattr(in_process, "interrupt_at", interrupt_at)
    ops = ("sigmoid", "exp")
    result = run("bench", "--quick", "--ops", ",".join(ops), "--cases", "small", "--out", tmp_path)
    folder = only_run(tmp_path)
    assert result.code == 130
    assert f"jaxbp bench --resume {folder}" in result.err
    assert (folder / "report.md").exists()
    expected = planned(*ops)
    before = cells(folder)
    assert len(before) < len(expected)
    assert set(before) <= set(expected)
    assert (("sigmoid", "small", "numpy", "fwd_bwd") in before) == (interrupt_at > 0)

    monkeypatch.setattr(in_process, "interrupt_at", -1)
    monkeypatch.setattr(in_process, "handed_over", 0)
    assert run("bench", "--resume", folder).code == 0
    assert only_run(tmp_path) == folder
    assert cells(folder) == expected
    accuracy = pd.read_csv(folder / "accuracy.csv")
    assert not accuracy.duplicated(["op", "case", "engine", "quantity"]).any()
    # What was finished is not measured again: only exp's tasks, unless nothing was.
    rows_of_sigmoid = 3 * 3
    assert in_process.handed_over == 2 * rows_of_sigmoid - (rows_of_sigmoid if interrupt_at else 0)
    # There is nothing left to do.
    monkeypatch.setattr(in_process, "handed_over", 0)
    assert run("bench", "--resume", folder).code == 0
    assert in_process.handed_over == 0
    assert cells(folder) == expected


def test_ctrl_c_reaches_a_real_run(tmp_path):
    """SIGINT to the command and its workers, as a terminal sends it, once there are rows of an op."""
    script = "import signal; signal.signal(2, signal.default_int_handler); from jaxbp.cli import main; main()"
    words = ["bench", "--quick", "--cases", "small", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not any('"accuracy"' in path.read_text() for path in tmp_path.glob("*/*/journal.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    folder = only_run(tmp_path)
    assert "Go on with: jaxbp bench --resume" in err
    assert (folder / "report.md").exists()
    assert pd.read_csv(folder / "accuracy.csv").shape[0] >= 1
    assert set(cells(folder)) <= set(planned())


def test_a_run_that_was_killed_at_any_moment_can_be_finished(run, in_process, monkeypatch, tmp_path):
    """What a kill leaves is the journal up to some byte, as each row is on the disk before the next is measured."""
    monkeypatch.setattr(bench, "write_report", lambda run: run.folder)  # Not what is looked at here, and slow.
    assert run("bench", "--quick", "--ops", "sigmoid,exp", "--cases", "small", "--out", tmp_path / "whole").code == 0
    whole = only_run(tmp_path / "whole")
    journal = (whole / Journal.NAME).read_bytes()
    tasks = plan(ops=["sigmoid", "exp"], cases=["small"], level="quick")
    for moment, byte in enumerate(np.random.default_rng(1).integers(len(journal), size=10)):
        folder = tmp_path / str(moment)
        shutil.copytree(whole, folder)
        (folder / Journal.NAME).write_bytes(journal[:byte])
        before = journal[:byte].count(b'"kind": "done", "failed": false}\n')
        in_process.handed_over = 0
        assert run("bench", "--resume", folder).code == 0
        assert cells(folder) == planned("sigmoid", "exp")
        accuracy = pd.read_csv(folder / "accuracy.csv")
        assert sorted(map(tuple, accuracy[["op", "engine", "quantity"]].to_numpy())) == sorted(
            (op, engine, quantity) for op, _, engine, _ in planned("sigmoid", "exp") for quantity in ("value", "ct_x")
        )
        # Finished tasks are not measured again: three rows for each engine of the others.
        assert in_process.handed_over == 3 * sum(len(task.engines) for task in tasks[before:])


def test_kill_9_of_a_worker_and_of_the_sweep(tmp_path):
    """In a real run: the worker's task fails with the reason; it and the sweep's are measured by the next."""
    words = [sys.executable, "-m", "jaxbp.cli", "bench"]
    new = ["--quick", "--ops", "exp", "--cases", "small", "--out", str(tmp_path)]

    def started(*options: str) -> subprocess.Popen:
        return subprocess.Popen([*words, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(process: subprocess.Popen, text: str) -> None:
        deadline = time.monotonic() + 60
        while not any(text in path.read_text() for path in tmp_path.glob("*/*/journal.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    sweep_ = started(*new)
    wait_for(sweep_, '"accuracy"')
    (worker,) = (p for p in psutil.Process(sweep_.pid).children() if "jaxbp.measure.worker" in p.cmdline())
    worker.kill()
    wait_for(sweep_, '"done"')
    sweep_.kill()
    sweep_.communicate()
    folder = only_run(tmp_path)
    failed = [row for row in read_journal(folder) if row["kind"] == "failure"]
    assert failed
    assert all("The worker ended with signal 9" in row["reason"] for row in failed)
    finish = started("--resume", str(folder))
    _, err = finish.communicate(timeout=120)
    assert finish.returncode == 0, err
    summary = pd.read_csv(folder / "summary.csv")
    assert sorted(summary[["op", "case", "engine"]].itertuples(index=False, name=None)) == [
        cell[:3] for cell in planned("exp")
    ]
    assert set(summary["status"]) == {"ok"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="The device that is always full is Linux's.")
def test_a_full_disk_is_a_sentence(run, in_process, monkeypatch, tmp_path):
    monkeypatch.setattr(Journal, "NAME", "/dev/full")
    result = run("bench", "--quick", "--ops", "exp", "--cases", "small", "--out", tmp_path)
    assert result.code == 2
    assert "jaxbp: /dev/full cannot be written: No space left on device" in result.err
    assert "Traceback" not in result.err


def test_failed_cells_are_said_and_reported(run, in_process, monkeypatch, tmp_path):
    rows_of = in_process.rows

    def failing(self: InProcess, task: Task, seconds: float) -> Iterator[dict[str, Any]]:
        for row in rows_of(self, task, seconds):
            if row["engine"] == "numpy":
                if row["kind"] != "time":
                    continue
                row = {name: row[name] for name in ("op", "case", "dtype", "engine")}
                row |= {"kind": "failure", "reason": "planted"}
            yield row

    monkeypatch.setattr(in_process, "rows", failing)
    result = run("bench", "--quick", "--ops", "exp", "--cases", "small", "--out", tmp_path)
    assert "failed: exp small float32 numpy: planted" in result.err
    assert "## Failed: 1" in (only_run(tmp_path) / "report.md").read_text()


def test_a_stopped_run_says_so_and_a_finished_one_does_not(run, in_process, tmp_path):
    in_process.interrupt_at = 14
    run("bench", "--quick", "--ops", "exp,log", "--cases", "small", "--out", tmp_path)
    folder = only_run(tmp_path)
    assert "Stopped early: " in (folder / "report.md").read_text()
    in_process.interrupt_at = -1
    assert run("bench", "--resume", folder).code == 0
    assert "Stopped early" not in (folder / "report.md").read_text()


def test_a_swallowed_interrupt_is_raised_again():
    with terminal.interrupts() as check:
        check()
        with pytest.raises(KeyboardInterrupt):  # Swallowed here, as a callback of JAX does.
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
