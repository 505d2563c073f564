"""Run the tasks of a plan in worker processes, and write every row to the run's journal as it comes.

A worker that crashes, hangs or meets an op that raises costs its task, which becomes a failed row with the reason;
the sweep goes on with a new worker.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

from jaxbp.engines import Owner
from jaxbp.environment import ALLOCATORS, accelerators
from jaxbp.errors import ResultsError
from jaxbp.measure.plan import LEVELS, Task
from jaxbp.measure.resident import resident_row

Row = dict[str, Any]

#: With an accelerator JAX takes no more of its memory than it needs: there is a process for float64 and one for torch.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
#: One thread for the NumPy that computes the reference in a process whose JAX computes on the same cores.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
STARTUP_SECONDS = 120.0
#: The share of the machine's memory that a process may hold while another measures.
HELD = 1 / 6


def environment_of(owner: Owner, allocator: str = "kept") -> dict[str, str]:
    """What the environment of a process adds in which that owner's engines are measured."""
    if owner != "jax":
        return {**ALLOCATORS[allocator], **(SHARED if accelerators() else {}), "JAX_PLATFORMS": "cpu"}
    return {**ALLOCATORS[allocator], **(SHARED if accelerators() else ONE_THREAD)}


class WorkerError(RuntimeError):
    """A worker died or hung; its text says how and what it printed last."""


class HasJson(Protocol):
    """What a worker can be asked for."""

    def to_json(self) -> dict[str, Any]: ...


class Worker:
    """A process that measures the tasks of one owner; killed when it takes too long."""

    def __init__(self, owner: Owner, *, x64: bool, allocator: str = "kept") -> None:
        self.environment = {**environment_of(owner, allocator), "JAX_ENABLE_X64": "1" if x64 else "0"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jaxbp.measure.worker", owner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            env={**os.environ, **self.environment},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.about = self._next(time.monotonic() + STARTUP_SECONDS)
        except WorkerError:
            self.close()
            raise

    @property
    def facts(self) -> Row:
        """The columns that all rows of this process share."""
        shared = {name: fact for name, fact in self.about.items() if name not in ("kind", "owner")}
        return {**shared, "environment": json.dumps(self.environment)}

    @property
    def resident_bytes(self) -> int:
        """What the process holds of the machine's memory; 0 where it has ended."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._process.pid).memory_info().rss
        return 0

    def rows(self, task: HasJson, timeout_seconds: float) -> Iterator[Row]:
        """The rows of a task as they are measured."""
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout_seconds
        try:
            self._process.stdin.write(json.dumps(task.to_json()) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        while (row := self._next(deadline))["kind"] != "done":
            yield row

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # A task that the dead process never read.
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _next(self, deadline: float) -> Row:
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise WorkerError("The worker took too long and was stopped.") from None
        if line is None:
            raise self._died()
        row = _parse_row(line)
        if row is None:
            raise WorkerError(f"The worker printed what is no row: {line.strip()[:300]!r}.")
        return row

    def _died(self) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._process.kill()  # It may have closed its output and gone on.
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or ["nothing"]
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return WorkerError(f"The worker ended with {how}; it printed last: {last[0][:300]}")


#: By owner of a thread pool, whether with 64 bits, and repetition, the process that measures.
Workers = dict[tuple[Owner, bool, int], Worker]


class Journal:
    """The rows of a run as JSON lines; each is on the disk before the next is measured.

    A row of kind `task` opens each task and one of kind `done` closes it, and says whether an engine failed; a run
    that is resumed repeats the tasks without the latter and those that failed, and what an earlier attempt has left
    counts no more.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, *, anew: bool = False) -> None:
        self.path = folder / self.NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _drop_cut_off_line(self.path)
            self._file = self.path.open("w" if anew else "a")
        except OSError as error:
            raise ResultsError(f"The results folder {folder} cannot be written: {error.strerror}.") from error

    def append(self, row: Row) -> None:
        """Write one row through to the disk."""
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ResultsError(
                f"{self.path} cannot be written: {error.strerror}; the rows before this one are kept."
            ) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # What a full disk refused is tried again here; `append` has said so.
            self._file.close()


def read_journal(folder: Path) -> list[Row]:
    """The rows of a run's journal; a last line that was cut off when the run was killed is left out."""
    path = folder / Journal.NAME
    try:
        *lines, _ = path.read_text(errors="replace").split("\n")
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        row = _parse_row(line)
        if row is None:
            raise ResultsError(f"{path} is broken at line {number}: {line[:80]!r} is no row.")
        rows.append(row)
    return rows


def _parse_row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "kind" in row else None


def _drop_cut_off_line(path: Path) -> None:
    """Remove a last line without an end, so that the next row does not continue it."""
    if path.is_file():
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)


def remaining(tasks: list[Task], rows: list[Row], *, and_failed: bool = False) -> list[Task]:
    """The tasks that the rows of a journal do not close; with `and_failed` those too of which an engine failed."""
    about = [field.name for field in dataclasses.fields(Task)]  # On a cluster a row names its machine as well.
    closed = (row for row in rows if row["kind"] == "done" and not (and_failed and row.get("failed")))
    done = [{name: row.get(name) for name in about} for row in closed]
    return [task for task in tasks if json.loads(json.dumps(task.to_json())) not in done]


def begun(rows: list[Row]) -> list[Task]:
    """The tasks that the rows of a journal open, each once: those of a plan, and what was added to it."""
    about = [field.name for field in dataclasses.fields(Task)]
    opened = ({name: row[name] for name in about} for row in rows if row["kind"] == "task")
    return list(dict.fromkeys(Task(**{**task, "engines": tuple(task["engines"])}) for task in opened))


def run_tasks(
    tasks: list[Task],
    journal: Journal,
    *,
    progress: Callable[[Task], None] = lambda task: None,
    peak_rss: bool = False,
) -> None:
    """Measure all tasks, one at a time; `progress` is told of each before it starts.

    With `peak_rss` each engine that could be timed runs once more, in a process of its own, for its peak memory.
    """
    workers: Workers = {}
    try:
        for task in tasks:
            progress(task)
            for row in task_rows(task, workers, peak_rss=peak_rss):
                journal.append(row)
    finally:
        for worker in workers.values():
            worker.close()


def task_rows(task: Task, workers: Workers, *, peak_rss: bool = False) -> Iterator[Row]:
    """All that the journal holds of a task, measured by one of the workers, or by a new one, which joins them.

    Those of another repetition end: another process is what it is for. So do those that hold much memory: what an
    allocator keeps for one owner another may need.
    """
    yield {**task.to_json(), "kind": "task"}
    key = (task.owner, task.dtype == "float64", task.repetition)
    most = psutil.virtual_memory().total * HELD
    for other in [k for k, w in workers.items() if k[2] != task.repetition or (k != key and w.resident_bytes > most)]:
        workers.pop(other).close()
    settled: dict[str, str] = {}
    try:
        if key not in workers:
            workers[key] = Worker(task.owner, x64=key[1], allocator=task.allocator)
        worker = workers[key]
        about = {**worker.facts, "level": task.level}
        for row in worker.rows(task, LEVELS[task.level].timeout_seconds):
            yield {**row, **about}
            if row["kind"] in ("time", "failure"):
                settled[row["engine"]] = row["kind"]
        measured = [name for name, kind in settled.items() if kind == "time"]
        for engine in measured if peak_rss and not task.repetition else ():
            row = resident_row(task, engine, worker.environment)
            settled[engine] = row["kind"]
            yield {**row, **about}
    except WorkerError as error:
        if key in workers:
            workers.pop(key).close()
        for engine in (name for name in task.engines if name not in settled):
            settled[engine] = "failure"
            yield {**task.to_json(), "engine": engine, "kind": "failure", "reason": str(error)}
    yield {**task.to_json(), "kind": "done", "failed": "failure" in settled.values()}
