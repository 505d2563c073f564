"""The checker's proof: corpora of wrong and of right rules through ours and others, in processes that may die."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import jax

from jaxbp.check import rivals
from jaxbp.check.rivals import RIGHT, UNABLE, WRONG
from jaxbp.check.run import Checker
from jaxbp.errors import UsageError

Row = dict[str, Any]

#: The name of our own checker among the others.
OURS = "jaxbp"
#: The module of the corpora, which is part of a checkout and not of the package.
CORPORA = "tests.mutants"
#: A worker that says nothing for so long is stopped; a check takes seconds.
LIMIT_SECONDS = 120.0
#: Until it has loaded the corpora.
STARTUP_SECONDS = 300.0
#: Of so many tasks a worker keeps what is compiled, as a test suite would. Kept of thousands, it fills the memory;
#: thrown away after each, the rivals, which run operation by operation, would compile the same ones again and again.
KEPT = 100
#: What the outcomes depend on, of the package.
SOURCES = ("*.py", "accuracy/*.py", "check/*.py", "ops/*.py")


@dataclasses.dataclass(frozen=True)
class Item:
    """A function of the corpora.

    Attributes:
        name: its own.
        wrong: whether its rule is wrong.
        group: how it was made: a mutant's operator, or the first word of a right function's name.
        function: it, with its arguments, as the corpora hold it.
    """

    name: str
    wrong: bool
    group: str
    function: Any


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker is given at a time: one function, one checker, and the seeds to run it with."""

    item: str
    checker: str
    seeds: tuple[int, ...]


#: How a checker is run: for a function of the corpora and seeds, one row per seed, as it comes.
Examine = Callable[[Any, Sequence[int]], Iterator[Row]]


def corpora() -> list[Item]:
    """Both corpora of the checkout in the current directory."""
    corpus = _corpus_module()
    ops = {op.name for op in importlib.import_module("jaxbp").OPS}

    def group(mutant: Any) -> str:
        return mutant.name.split("/", 1)[1] if mutant.op in ops else "written by hand"

    def kind(right: Any) -> str:
        first = right.name.split("/", 1)[0]
        return "ops" if first in ops else first

    return [
        *(Item(mutant.name, True, group(mutant), mutant) for mutant in corpus.mutants()),
        *(Item(right.name, False, kind(right), right) for right in corpus.rights()),
    ]


def sources() -> str:
    """A digest of the sources that the outcomes depend on; what was measured with others cannot be gone on with."""
    package = Path(__file__).parents[1]
    folder = Path(_corpus_module().__file__).parent
    paths = [*(path for pattern in SOURCES for path in package.glob(pattern)), *folder.glob("*.py")]
    paths = [path for path in paths if path.name != "cli.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def _corpus_module() -> Any:
    # An installed script has its own folder on the path, not the current one.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(CORPORA)
    except ImportError as error:
        raise UsageError(
            f"The corpora of rules are in a checkout's tests/, and {CORPORA} cannot be imported from here ({error}). "
            "Run jaxbp selftest in the top folder of a clone of jaxbp, installed with: pip install -e '.[test]'"
        ) from error


def checkers(*, others: bool = True) -> dict[str, Examine]:
    """Ours, and the others that are installed."""
    names = rivals.available() if others else ()
    return {OURS: ours, **{name: functools.partial(rival, name) for name in names}}


def ours(function: Any, seeds: Sequence[int]) -> Iterator[Row]:
    """What `check_vjp` says, at the level that the function asks for; what is compiled serves all seeds."""
    corpus = _corpus_module()
    checker = None
    for seed in seeds:
        start = time.perf_counter()
        try:
            with jax.enable_x64(corpus.x64(function)):
                if checker is None:
                    checker = Checker(function.f, *function.args, domain=dict(function.domain), level=function.level)
                report = checker.run(seed)
        except Exception as error:
            yield _row(seed, UNABLE, f"{type(error).__name__}: {error}", start)
            continue
        outcome = corpus.outcome(function, report, time.perf_counter() - start)
        yield {**_row(seed, WRONG if outcome.flagged else RIGHT, outcome.said, start), "named": outcome.named}


def rival(name: str, function: Any, seeds: Sequence[int]) -> Iterator[Row]:
    """What a rival says; it has no seed of its own, so all but the first are left out."""
    if 0 in seeds:
        start = time.perf_counter()
        verdict = rivals.ask(name, function.f, function.args, x64=_corpus_module().x64(function))
        yield _row(0, verdict.verdict, verdict.said, start)


def _row(seed: int, verdict: str, said: str, start: float) -> Row:
    seconds = round(time.perf_counter() - start, 4)
    return {"seed": seed, "verdict": verdict, "said": said[:500], "named": None, "seconds": seconds}


def plan(
    items: Sequence[Item], names: Collection[str], seeds: int, every: int = 1, done: Collection[Mapping[str, Any]] = ()
) -> list[Task]:
    """Every function under ours with all seeds, and every so manieth under the others; without what `done` holds."""
    held = {(row["item"], row["checker"], row["seed"]) for row in done}
    tasks = []
    for name in names:
        for item in items if name == OURS else items[::every]:
            asked = range(seeds if name == OURS else 1)
            missing = tuple(seed for seed in asked if (item.name, name, seed) not in held)
            if missing:
                tasks.append(Task(item.name, name, missing))
    return tasks


def run_selftest(
    tasks: Sequence[Task],
    examine: Mapping[str, Examine],
    *,
    workers: int = 1,
    limit_seconds: float = LIMIT_SECONDS,
    load: Callable[[], list[Item]] = corpora,
    progress: Callable[[Task], None] = lambda task: None,
) -> Iterator[Row]:
    """The rows of all tasks, one per seed, as they come; `progress` is told of each task before it starts.

    A worker that dies, or says nothing for `limit_seconds`, costs its task, whose missing rows say why.
    """
    waiting = collections.deque(tasks)
    pool = [_Worker(load, examine) for _ in range(min(workers, len(tasks)))]
    try:
        while busy := [worker for worker in pool if worker.working]:
            patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            speaking = wait([worker.connection for worker in busy], timeout=patience)
            for i, worker in enumerate(pool):
                if worker.connection in speaking:
                    yield from worker.listen(limit_seconds)
                elif worker.working and time.monotonic() >= worker.deadline:
                    yield from worker.give_up(f"It took more than {limit_seconds:g} s and was stopped.")
                if waiting and not worker.alive:
                    pool[i] = _Worker(load, examine)
                elif waiting and not worker.working:
                    progress(waiting[0])
                    worker.give(waiting.popleft(), limit_seconds)
    finally:
        for worker in pool:
            worker.close()


class _Worker:
    """A process with the corpora in it, that works on one task at a time; the first thing it does is to load them."""

    def __init__(self, load: Callable[[], list[Item]], examine: Mapping[str, Examine]) -> None:
        # Not forked: JAX runs threads.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, load, dict(examine)), daemon=True)
        self._process.start()
        theirs.close()
        self.alive = self.working = True
        self.deadline = time.monotonic() + STARTUP_SECONDS
        self._task: Task | None = None
        self._missing: list[int] = []

    def give(self, task: Task, limit_seconds: float) -> None:
        self._task, self._missing = task, list(task.seeds)
        self.working, self.deadline = True, time.monotonic() + limit_seconds
        # One that died meanwhile is found out when it is listened to.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(task)

    def listen(self, limit_seconds: float) -> Iterator[Row]:
        """What the worker says now: a row, that it is ready for another task, or nothing because it is dead."""
        self.deadline = time.monotonic() + limit_seconds
        try:
            row = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            yield from self.give_up(f"The process that ran it ended with {how}.")
            return
        if row is None:
            self.working = False
        else:
            self._missing.remove(row["seed"])
            yield self._named(row)

    def give_up(self, why: str) -> Iterator[Row]:
        """Rows for the seeds that have none, and the end of the process."""
        self.close()
        if self._task is None:
            raise UsageError(f"A process that should check the corpora never came up. {why}")
        for seed in self._missing:
            yield self._named(_row(seed, UNABLE, why, time.perf_counter()))

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
        self.alive = self.working = False

    def _named(self, row: Row) -> Row:
        assert self._task is not None
        return {"kind": "outcome", "item": self._task.item, "checker": self._task.checker, **row}


def _serve(connection: Connection, load: Callable[[], list[Item]], examine: Mapping[str, Examine]) -> None:
    """What a worker does: says None when it is ready, takes a task, sends its rows, and so on until nobody listens."""
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a rule prints must not stand among the command's results.
    os.dup2(2, 1)
    # A corpus for each checker, since a rule that caches would remember the calls of the one before.
    functions = {name: {item.name: item.function for item in load()} for name in examine}
    with contextlib.suppress(EOFError, BrokenPipeError):
        for done in itertools.count(1):
            connection.send(None)
            task = connection.recv()
            for row in examine[task.checker](functions[task.checker][task.item], task.seeds):
                connection.send(row)
            if done % KEPT == 0:
                jax.clear_caches()
