"""Work on a Dask cluster: the chunks of a census and the tasks of a sweep, on whichever workers there are."""

import concurrent.futures
import contextlib
import functools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from jaxbp.accuracy.census import PROCESS, Census, score_chunk, sweep
from jaxbp.errors import ResultsError, UsageError, import_extra
from jaxbp.measure.alone import alone
from jaxbp.measure.machine import describe_machine
from jaxbp.measure.plan import Task
from jaxbp.measure.sweep import Journal, Row, Worker, task_rows

#: The resource of workers that measure times, of which a task takes one.
TIMING = "timing"
#: How long a scheduler may take to answer.
PATIENCE_SECONDS = 10
#: What has to be the same on all machines, or results would not be.
SAME = ("jaxbp", "jax", "jaxlib", "numpy")


@contextlib.contextmanager
def cluster(address: str, *, timing: bool = False) -> Iterator[concurrent.futures.Executor]:
    """An executor whose work is done by the workers of a Dask scheduler; a worker that dies costs no work.

    With `timing` only by those with the resource `timing`, one task at a time for each that they have.

    Raises:
        UsageError: no scheduler answers, it has no workers for this, or one has other versions.
    """
    distributed = import_extra("distributed", "cluster")
    try:
        client = distributed.Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"No Dask scheduler answers at {address}: {str(error).splitlines()[0]}") from None
    with client:
        _require_workers(client, address, timing=timing)
        yield client.get_executor(pure=False, **({"resources": {TIMING: 1}} if timing else {}))


def _require_workers(client: Any, address: str, *, timing: bool) -> None:
    held = client.scheduler_info(n_workers=-1)["workers"].values()
    able = [worker for worker in held if not timing or worker["resources"].get(TIMING, 0) >= 1]
    if not able:
        resource = f" --resources {TIMING}=1" if timing else ""
        raise UsageError(
            f"The Dask scheduler at {address} has {len(held) or 'no'} workers, and none of them for this. Start some "
            f"with: dask worker {address} --nthreads 1{resource}"
        )
    ours = versions()
    for worker, theirs in client.run(versions).items():
        if theirs != ours:
            raise UsageError(
                f"The Dask worker {worker} has {_listed(theirs)}, but here are {_listed(ours)}; results would differ. "
                "Install the same versions."
            )


def versions() -> dict[str, str]:
    """Of what has to be the same on all machines."""
    return {name: version(name) for name in SAME}


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def sweep_on(
    executor: concurrent.futures.Executor, census: Census, skip: Iterable[int]
) -> Iterator[tuple[int, list[Row]]]:
    """As `sweep`, on a cluster.

    Raises:
        ResultsError: a chunk has killed several workers, or the scheduler is gone.
    """
    try:
        yield from sweep(census, skip, executor, score_here)
    except (OSError, _killed_worker(), concurrent.futures.CancelledError) as error:
        raise ResultsError(
            f"The cluster could not go on with the census ({type(error).__name__}). What is done is kept; the same "
            "command goes on with it."
        ) from error


def run_tasks_on(
    executor: concurrent.futures.Executor,
    tasks: list[Task],
    journal: Journal,
    *,
    progress: Callable[[Task], None],
    peak_rss: bool,
) -> None:
    """As `run_tasks`, on a cluster; every row names the machine that measured it.

    Raises:
        ResultsError: the scheduler is gone.
    """
    waiting = {executor.submit(measure_here, task, peak_rss): task for task in tasks}
    try:
        for done in concurrent.futures.as_completed(waiting):
            task = waiting[done]
            progress(task)
            try:
                rows = done.result()
            except _killed_worker():
                about, reason = task.to_json(), "It killed one worker of the cluster after the other."
                failed = [{**about, "engine": name, "kind": "failure", "reason": reason} for name in task.engines]
                rows = [{**about, "kind": "task"}, *failed, {**about, "kind": "done", "failed": True}]
            for row in rows:
                journal.append(row)
    except ResultsError:
        raise  # Of the journal, and not of the cluster.
    except (OSError, concurrent.futures.CancelledError) as error:
        raise ResultsError(
            f"The cluster could not go on with the run ({type(error).__name__}). What is done is kept: go on with "
            f"jaxbp bench --resume {journal.path.parent}"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _killed_worker() -> type[Exception]:
    return import_extra("distributed", "cluster").KilledWorker


class Scorer:
    """A process that scores chunks for this one, in the environment of a census.

    A Dask worker is started with an allocator that gives memory back at once, which takes a chunk several times as
    long, and its daemon may have no children of multiprocessing's.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from jaxbp.cluster import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **PROCESS},
        )

    def score(self, census: Census, chunk: int) -> list[Row]:
        """The rows of a chunk; an error of its own is raised here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((census, chunk), self._process.stdin)
        self._process.stdin.flush()
        found = pickle.load(self._process.stdout)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # What a dead process never read.
            self._process.communicate()


def serve() -> None:
    """Score chunks for the process that has started this one, until that ends; what is printed is an error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            census, chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found: Any = score_chunk(census, chunk)
        except Exception as error:
            found = error
        pickle.dump(found, answers)
        answers.flush()


#: By thread of a worker of the cluster, its scorer; it ends when the worker does.
_SCORERS = threading.local()


def score_here(census: Census, chunk: int) -> list[Row]:
    """The rows of a chunk, as a worker of the cluster computes them: on one thread, in a process of its own."""
    if not hasattr(_SCORERS, "own"):
        _SCORERS.own = Scorer()
    try:
        return _SCORERS.own.score(census, chunk)
    except (EOFError, OSError):  # It died: the next chunk gets another.
        _SCORERS.own.close()
        del _SCORERS.own
        raise


#: The processes that measure for this one, a worker of the cluster; they end when it does.
_WORKERS: dict[Any, Worker] = {}


def measure_here(task: Task, peak_rss: bool) -> list[Row]:
    """The rows of a task, as a worker of the cluster measures it while nothing else is measured on its machine."""
    with alone(wait=True):
        return [{**row, "machine": _machine()} for row in task_rows(task, _WORKERS, peak_rss=peak_rss)]


@functools.cache
def _machine() -> str:
    return describe_machine()["name"]
