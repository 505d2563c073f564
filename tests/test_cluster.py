"""A census and a sweep on a Dask cluster on loopback: as here, whatever happens to a worker."""

import concurrent.futures
import contextlib
import json
import logging
import os
import signal
import types

import pytest

from jaxbp.accuracy.census import plan_census, sweep
from jaxbp.cluster import TIMING, Scorer, cluster, run_tasks_on, score_here, sweep_on
from jaxbp.errors import ResultsError, UsageError
from jaxbp.measure.plan import plan
from jaxbp.measure.sweep import Journal, read_journal, remaining
from jaxbp.ops import OPS

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
OP = next(op for op in OPS if op.name == "sigmoid")


@contextlib.contextmanager
def on_loopback(workers, **resources):
    """The address of a scheduler with so many workers, each a process."""
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        resources=resources,
        silence_logs=logging.CRITICAL,
    ) as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def address():
    """Of a scheduler with two workers that measure."""
    with on_loopback(2, **{TIMING: 1}) as there:
        yield there


def processes(address):
    """Of the workers."""
    with distributed.Client(address, set_as_default=False) as client:
        return list(client.run(os.getpid).values())


def test_a_census_is_the_same_bit_for_bit_though_a_worker_is_killed(address):
    census = plan_census(OP, "bfloat16", ("stable",))
    here = dict(sweep(census, range(400)))
    there = {}
    with cluster(address) as executor:
        for chunk, rows in sweep_on(executor, census, range(400)):
            there[chunk] = rows
            if len(there) == 5:
                os.kill(processes(address)[0], signal.SIGKILL)
    assert sorted(there) == list(range(400, 512))
    assert json.dumps([there[chunk] for chunk in sorted(there)]) == json.dumps([here[chunk] for chunk in sorted(here)])


def test_the_command_writes_the_same_record(run, address, tmp_path):
    words = ("census", "square", "--dtype", "f16")
    assert run(*words, "--out", tmp_path / "here").code == 0
    assert run(*words, "--out", tmp_path / "there", "--scheduler", address).code == 0
    here, there = (sorted(p for p in (tmp_path / name).rglob("*.csv")) for name in ("here", "there"))
    assert here
    assert [path.read_text() for path in here] == [path.read_text() for path in there]


def test_times_are_measured_by_workers_and_name_their_machine(run, address, tmp_path):
    command = ("bench", "--quick", "--ops", "exp,log", "--out", tmp_path, "--scheduler", address)
    result = run(*command, "--processes", 2, "--most-processes", 3)
    assert result.code == 0, result.err
    (folder,) = (path.parent for path in tmp_path.rglob("journal.jsonl"))
    rows = read_journal(folder)
    assert {row["op"] for row in rows if row["kind"] == "time"} == {"exp", "log"}
    assert {row["repetition"] for row in rows if row["kind"] == "time"} >= {0, 1}
    machine = json.loads((folder / "machine.json").read_text())
    assert {row["machine"] for row in rows} == {machine["name"]}
    assert machine["unfinished"] == 0


def test_a_cluster_that_cannot_do_it_is_a_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxbp.cluster.PATIENCE_SECONDS", 1)
    result = run("census", "exp", "--dtype", "bf16", "--out", tmp_path, "--scheduler", "tcp://localhost:1")
    assert result.code == 2
    assert "No Dask scheduler answers at tcp://localhost:1" in result.err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with (
        on_loopback(1) as address,
        pytest.raises(UsageError, match=f"--resources {TIMING}=1"),
        cluster(address, timing=True),
    ):
        pass


def test_a_worker_with_other_versions_is_refused(address, monkeypatch):
    monkeypatch.setattr("jaxbp.cluster.version", lambda name: "1")  # Here, and not there.
    with pytest.raises(UsageError, match="results would differ"), cluster(address):
        pass


class Answers(concurrent.futures.Executor):
    """A cluster whose work ends so."""

    def __init__(self, error):
        self.error = error

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_exception(self.error)
        return future


def test_work_that_kills_its_workers_is_a_failure_and_a_scheduler_that_is_gone_leaves_it_undone(tmp_path):
    tasks = plan(("exp",), ("f32",), ("cache",), "quick")
    journal = Journal(tmp_path)
    with pytest.raises(ResultsError, match="jaxbp bench --resume"):
        run_tasks_on(
            Answers(concurrent.futures.CancelledError()), tasks, journal, progress=lambda task: None, peak_rss=False
        )
    assert remaining(tasks, read_journal(tmp_path)) == tasks
    killed = distributed.KilledWorker("task", None, 3)
    run_tasks_on(Answers(killed), tasks, journal, progress=lambda task: None, peak_rss=False)
    journal.close()
    rows = read_journal(tmp_path)
    assert remaining(tasks, rows) == []
    assert {row["reason"] for row in rows if row["kind"] == "failure"} == {
        "It killed one worker of the cluster after the other."
    }
    with pytest.raises(ResultsError, match="the same command goes on"):
        list(sweep_on(Answers(killed), plan_census(OP, "bfloat16"), ()))


def test_an_error_of_a_chunk_is_raised_and_a_process_that_died_is_replaced(monkeypatch):
    census, held = plan_census(OP, "bfloat16", ("stable",)), types.SimpleNamespace(own=Scorer())
    expected = dict(sweep(census, set(range(512)) - {3}))[3]
    monkeypatch.setattr("jaxbp.cluster._SCORERS", held)
    with pytest.raises(OverflowError):
        score_here(census, 10**6)
    first = held.own
    assert score_here(census, 3) == expected
    first._process.kill()
    first._process.wait()
    with pytest.raises((EOFError, OSError)):
        score_here(census, 3)
    assert score_here(census, 3) == expected
    assert held.own is not first
    held.own.close()
