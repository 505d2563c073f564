"""Sweeps: whatever a worker does, its task becomes rows, the next one runs, and the journal can be read."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxbp.environment import ALLOCATOR
from jaxbp.errors import ResultsError
from jaxbp.measure import sweep
from jaxbp.measure.plan import Task
from jaxbp.measure.sweep import Journal, Worker, WorkerError, read_journal, remaining, run_tasks

# A worker that does what the name of the op says; it starts in no time, as it imports nothing.
FAKE = """
import json, os, signal, sys, time

def write(row):
    print(json.dumps(row), flush=True)

def time_row(engine):
    write({"kind": "time", "engine": engine, "pid": os.getpid()})

if sys.argv[1] == "torch":
    sys.exit("planted: no torch here")
write({"kind": "worker", "device": "cpu", "floor_us": 1.0, "precision": "default", "owner": sys.argv[1]})
for line in sys.stdin:
    task = json.loads(line)
    first, *others = task["engines"]
    time_row(first)
    match task["op"]:
        case "exit":
            print("a line\\nthe last words", file=sys.stderr, flush=True)
            os._exit(3)
        case "silent exit":
            os._exit(4)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case "garbage":
            print("Hello from an op!", flush=True)
        case "bytes":
            sys.stdout.buffer.write(b"\\xff\\xfe\\n")
            sys.stdout.flush()
        case "number":
            print("42", flush=True)
        case "failure":
            write({"kind": "failure", "engine": others.pop(0), "reason": "its own"})
        case "failure and exit":
            write({"kind": "failure", "engine": others[0], "reason": "its own"})
            os._exit(5)
    for engine in others:
        time_row(engine)
    write({"kind": "done"})
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Workers run the script above; the environments they are given are collected."""
    script = tmp_path / "fake_worker.py"
    script.write_text(FAKE)
    environments = []
    popen = subprocess.Popen

    def start(command: list[str], env: dict[str, str], **options: Any) -> subprocess.Popen:
        assert command[:3] == [sys.executable, "-m", "jaxbp.measure.worker"]
        environments.append(env)
        return popen([sys.executable, str(script), command[3]], env=env, **options)

    monkeypatch.setattr(sweep, "accelerators", tuple)  # Where one is installed, a process would look for it.
    monkeypatch.setattr(sweep.subprocess, "Popen", start)
    return environments


def task(op: str, owner: Any = "jax", dtype: str = "float32") -> Task:
    return Task(op, "small", dtype, owner, ("rule:a", "autodiff", "central_difference"), "quick")


def run(tasks: list[Task], folder: Path) -> list[dict[str, Any]]:
    journal = Journal(folder)
    try:
        run_tasks(tasks, journal)
    finally:
        journal.close()
    return read_journal(folder)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("exit", "The worker ended with exit status 3; it printed last: the last words"),
        ("silent exit", "The worker ended with exit status 4; it printed last: nothing"),
        ("kill", "The worker ended with signal 9; it printed last: nothing"),
        ("hang", "The worker took too long and was stopped."),
        ("garbage", "The worker printed what is no row: 'Hello from an op!'."),
        ("bytes", "The worker printed what is no row: '\ufffd\ufffd'."),
        ("number", "The worker printed what is no row: '42'."),
    ],
)
def test_a_worker_that_fails_costs_its_task(fake, tmp_path, monkeypatch, op, reason):
    quick = sweep.LEVELS["quick"]
    seconds = 0.5 if op == "hang" else 60.0
    monkeypatch.setitem(sweep.LEVELS, "quick", type(quick)(**{**vars(quick), "timeout_seconds": seconds}))
    tasks = [task("before"), task(op), task("after")]
    rows = run(tasks, tmp_path / "run")
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("time", "failure", "done")}
    # The engine that was timed before stays; the others are failed rows that name the task.
    assert [(row["op"], row["engine"], row["reason"]) for row in by_kind["failure"]] == [
        (op, "autodiff", reason),
        (op, "central_difference", reason),
    ]
    assert {(row["case"], row["dtype"]) for row in by_kind["failure"]} == {("small", "float32")}
    assert len(by_kind["time"]) == 3 + 1 + 3
    # The same process before the fault, a new one after, and none is left.
    pids = [row["pid"] for row in by_kind["time"]]
    assert pids[0] == pids[3] != pids[4]
    assert len(fake) == 2
    assert not any(alive(pid) for pid in pids)
    assert [row["op"] for row in by_kind["done"]] == ["before", op, "after"]
    # A run that is resumed tries it again, until it has succeeded once.
    assert remaining(tasks, rows) == []
    assert remaining(tasks, rows, and_failed=True) == [tasks[1]]
    succeeded = {**by_kind["done"][1], "failed": False}
    assert remaining(tasks, [*rows, succeeded], and_failed=True) == []


def test_the_peak_resident_set_is_asked_for_of_each_engine_that_was_timed(fake, tmp_path, monkeypatch):
    asked = []

    def resident_row(task: Task, engine: str, environment: dict[str, str]) -> dict[str, Any]:
        asked.append((task.op, engine, environment["JAX_ENABLE_X64"]))
        return {"kind": "resident", "op": task.op, "engine": engine, "peak_rss_bytes": 5}

    monkeypatch.setattr(sweep, "resident_row", resident_row)
    tasks = [task("a"), task("failure", dtype="float64"), task("exit")]
    journal = Journal(tmp_path / "run")
    run_tasks(tasks, journal, peak_rss=True)
    journal.close()
    rows = read_journal(tmp_path / "run")
    found = [row for row in rows if row["kind"] == "resident"]
    assert asked == [
        *(("a", engine, "0") for engine in ("rule:a", "autodiff", "central_difference")),
        *(("failure", engine, "1") for engine in ("rule:a", "central_difference")),
    ]
    assert [(row["op"], row["engine"]) for row in found] == [(op, engine) for op, engine, _ in asked]
    assert {(row["device"], row["level"]) for row in found} == {("cpu", "quick")}
    # A task is done when this is.
    assert [row["kind"] for row in rows][7] == "done"
    assert remaining(tasks, rows) == []


def test_a_peak_resident_set_that_could_not_be_had_is_asked_for_again(fake, tmp_path, monkeypatch):
    failure = {"kind": "failure", "reason": "No peak resident set: planted."}
    monkeypatch.setattr(sweep, "resident_row", lambda task, engine, _: {**failure, "op": task.op, "engine": engine})
    journal = Journal(tmp_path / "run")
    run_tasks([task("a")], journal, peak_rss=True)
    journal.close()
    rows = read_journal(tmp_path / "run")
    assert remaining([task("a")], rows) == []
    assert remaining([task("a")], rows, and_failed=True) == [task("a")]


def test_the_peak_resident_set_is_not_measured_unasked(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "resident_row", lambda *args: pytest.fail("measured all the same"))
    run([task("a")], tmp_path / "run")


def test_the_reason_that_a_worker_gave_is_kept(fake, tmp_path):
    rows = run([task("failure and exit")], tmp_path / "run")
    reasons = {row["engine"]: row["reason"] for row in rows if row["kind"] == "failure"}
    assert reasons["autodiff"] == "its own"
    assert "exit status 5" in reasons["central_difference"]


def test_a_worker_that_does_not_start_fails_its_tasks(fake, tmp_path):
    rows = run([task("a", "torch"), task("b")], tmp_path / "run")
    failed = [row for row in rows if row["kind"] == "failure"]
    assert {row["op"] for row in failed} == {"a"}
    assert {row["reason"] for row in failed} == {
        "The worker ended with exit status 1; it printed last: planted: no torch here"
    }
    assert len([row for row in rows if row["kind"] == "time"]) == 3


def test_a_worker_that_hangs_at_the_start_is_ended(fake, monkeypatch):
    monkeypatch.setattr(sweep, "STARTUP_SECONDS", -1.0)  # Too late before it begins.
    started = []
    close = Worker.close
    monkeypatch.setattr(Worker, "close", lambda self: (started.append(self._process), close(self)))
    with pytest.raises(WorkerError, match="took too long"):
        Worker("jax", x64=False)
    assert started[0].returncode is not None


def test_one_worker_per_owner_and_precision(fake, tmp_path):
    tasks = [task("a"), task("b", "numpy"), task("c"), task("d", dtype="float64"), task("e", dtype="bfloat16")]
    rows = run(tasks, tmp_path / "run")
    assert [(env["JAX_ENABLE_X64"], env.get("JAX_PLATFORMS")) for env in fake] == [
        ("0", None),
        ("0", "cpu"),
        ("1", None),
    ]
    assert all(env.items() >= ALLOCATOR.items() for env in fake)
    # Each row says what its worker's environment added, and what all rows of the process share.
    timed = [row for row in rows if row["kind"] == "time"]
    assert all(json.loads(row["environment"]).items() >= ALLOCATOR.items() for row in timed)
    assert all((row["device"], row["floor_us"], row["level"]) == ("cpu", 1.0, "quick") for row in timed)


def test_a_process_that_holds_much_memory_ends_before_another_measures(fake, tmp_path, monkeypatch):
    tasks = [task("a"), task("b", "numpy"), task("c")]
    assert len({row["pid"] for row in run(tasks, tmp_path / "little") if row["kind"] == "time"}) == 2
    monkeypatch.setattr(sweep, "HELD", 0.0)
    timed = [row for row in run([*tasks, task("d")], tmp_path / "much") if row["kind"] == "time"]
    # One process for each change of owner; the last task finds its own.
    pids = list(dict.fromkeys(row["pid"] for row in timed))
    assert [pids.index(row["pid"]) for row in timed if row["engine"] == "rule:a"] == [0, 1, 2, 2]
    assert not any(alive(pid) for pid in pids)


def test_a_process_that_has_ended_holds_nothing(fake):
    worker = Worker("jax", x64=False)
    assert worker.resident_bytes > 2**20
    worker.close()
    assert worker.resident_bytes == 0


def test_memory_is_the_c_librarys_where_that_is_asked_for(fake, tmp_path):
    rows = run([dataclasses.replace(task("a"), allocator="system")], tmp_path / "run")
    assert not any(name.startswith("MALLOC") for env in fake for name in env)
    assert not any("MALLOC" in row["environment"] for row in rows if row["kind"] == "time")


def test_each_repetition_has_a_process_of_its_own(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "resident_row", lambda task, *_: {"kind": "resident", "repetition": task.repetition})
    ended = []
    close = Worker.close
    monkeypatch.setattr(Worker, "close", lambda self: (ended.append(self._process.pid), close(self)))
    journal = Journal(tmp_path / "run")
    tasks = [dataclasses.replace(task(op), repetition=i) for i in range(2) for op in "ab"]
    run_tasks(tasks, journal, peak_rss=True)
    journal.close()
    assert len(fake) == len(set(ended)) == 2
    rows = read_journal(tmp_path / "run")
    assert {row["repetition"] for row in rows if row["kind"] == "resident"} == {0}
    assert remaining([*tasks, dataclasses.replace(task("a"), repetition=2)], rows) == [
        dataclasses.replace(task("a"), repetition=2)
    ]


def test_progress_is_told_before_each_task_and_an_interrupt_ends_the_workers(fake, tmp_path):
    seen = []

    def progress(now: Task) -> None:
        seen.append(now.op)
        if now.op == "b":
            raise KeyboardInterrupt

    journal = Journal(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task("a"), task("b"), task("c")], journal, progress=progress)
    journal.close()
    assert seen == ["a", "b"]
    rows = read_journal(tmp_path / "run")
    assert [row["kind"] for row in rows] == ["task", *["time"] * 3, "done"]
    assert not alive(rows[1]["pid"])


def test_rows_come_before_the_task_ends(fake):
    worker = Worker("jax", x64=False)
    try:
        # The first row of a task that never ends.
        assert next(worker.rows(task("hang"), 60.0))["engine"] == "rule:a"
    finally:
        worker.close()


ROWS = [{"kind": "time", "engine": "a", "n": float("inf")}, {"kind": "done", "text": "a\nb\u2028c"}]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a journal with `ROWS` in it."""
    journal = Journal(tmp_path)
    for row in ROWS:
        journal.append(row)
    journal.close()
    return tmp_path


def test_each_row_is_on_the_disk_after_its_append(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(sweep.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    journal = Journal(tmp_path / "new" / "folder")
    for done, row in enumerate(ROWS, 1):
        journal.append(row)
        assert read_journal(tmp_path / "new" / "folder") == ROWS[:done]
        assert synced[-1] == journal.path.stat().st_size
    assert len(synced) == len(ROWS)
    journal.close()


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_cut_off_last_line_is_left_out_and_a_resumed_run_does_not_continue_it(written, cut):
    path = written / Journal.NAME
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_journal(written) == ROWS[:1]
    journal = Journal(written)
    journal.append({"kind": "next"})
    journal.close()
    assert read_journal(written) == [ROWS[0], {"kind": "next"}]


@pytest.mark.parametrize("line", [b'{"kind": "ti', b"{}", b"42", b"\xff\xfe\x00", b""])
def test_a_broken_line_is_a_sentence_that_names_file_and_line(written, line):
    path = written / Journal.NAME
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n" + line + b"\n", 1))
    with pytest.raises(ResultsError) as error:
        read_journal(written)
    assert str(error.value).startswith(f"{path} is broken at line 2: ")


def test_a_missing_journal_is_a_sentence(tmp_path):
    with pytest.raises(ResultsError, match=re.escape(f"{tmp_path / Journal.NAME} cannot be read: No such file")):
        read_journal(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with pytest.raises(
        ResultsError, match=re.escape(f"The results folder {folder} cannot be written: Not a directory")
    ):
        Journal(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="The device that is always full is Linux's.")
def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(Journal, "NAME", "/dev/full")
    journal = Journal(tmp_path)
    with pytest.raises(ResultsError, match=r"^/dev/full cannot be written: No space left on device; the rows before"):
        journal.append(ROWS[0])
    journal.close()  # Python tries to write again here; the sentence above must not be lost for it.


def test_only_finished_tasks_are_dropped():
    tasks = [task("a"), task("b"), task("a", dtype="float64"), task("a", "numpy")]
    rows = [
        {**tasks[0].to_json(), "kind": "time"},
        {**tasks[1].to_json(), "kind": "done"},
        {**tasks[3].to_json(), "kind": "failure"},
    ]
    as_read = json.loads(json.dumps(rows))
    assert remaining(tasks, as_read) == [tasks[0], tasks[2], tasks[3]]
    assert remaining(tasks, []) == tasks
    named = [{**row, "machine": "one of a cluster"} for row in as_read]
    assert remaining(tasks, named) == remaining(tasks, as_read)
    # Another level measures something else.
    assert remaining([dataclasses.replace(tasks[1], level="full")], as_read) != []


def test_numpy_has_all_cores_where_jax_computes_elsewhere(monkeypatch):
    monkeypatch.setattr(sweep, "accelerators", lambda: ())
    assert sweep.environment_of("jax")["OPENBLAS_NUM_THREADS"] == "1"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in sweep.environment_of("jax")
    monkeypatch.setattr(sweep, "accelerators", lambda: ("a GPU",))
    assert "OPENBLAS_NUM_THREADS" not in sweep.environment_of("jax")
    for owner in ("jax", "torch"):
        assert sweep.environment_of(owner)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "OPENBLAS_NUM_THREADS" not in sweep.environment_of("numpy")
