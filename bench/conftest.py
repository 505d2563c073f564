"""The benchmark session: settings before JAX starts, and a run's folder and report at the end."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxbp.engines import Owner
from jaxbp.environment import keep_memory
from jaxbp.measure import worker
from jaxbp.measure.machine import describe_machine, measure_noise, now
from jaxbp.measure.plan import ALL_MODES, Task, find_dtype, plan
from jaxbp.measure.sweep import Journal
from jaxbp.report.html.page import PAGE, write_page
from jaxbp.report.markdown import write_report
from jaxbp.report.run import write_frames, write_machine

#: The field study is no benchmark, and needs an environment of its own.
collect_ignore_glob = ["field*"]

LEVEL = "standard"
REPORT = pytest.StashKey[Path]()
#: JAX first: the threads that NumPy and torch leave spinning would slow it down.
OWNERS: tuple[Owner, ...] = ("jax", "numpy", "torch")
#: As the environment of the workers of `jaxbp bench` has it: before the first large array.
KEPT = keep_memory()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark per cell, owner after owner, the engines of a case side by side."""
    if "cell" not in metafunc.fixturenames:
        return
    dtypes = [find_dtype(name.strip()) for name in str(metafunc.config.getoption("--dtypes")).split(",")]
    accelerated = jax.default_backend() != "cpu"
    tasks = sorted(plan(dtypes=dtypes, level=LEVEL, accelerated=accelerated), key=lambda task: OWNERS.index(task.owner))
    cells = [(task, engine, mode) for task in tasks for engine in task.engines for mode in _modes(task, engine)]
    metafunc.parametrize("cell", cells, ids=["-".join((t.op, t.case, t.dtype, e, m)) for t, e, m in cells])


def _modes(task: Task, engine: str) -> tuple[str, ...]:
    if engine.endswith("_difference"):
        return ("fwd_bwd",)
    return ALL_MODES if task.owner == "jax" else ("fwd", "fwd_bwd")


@dataclasses.dataclass
class Recorder:
    """The run that a session writes: its rows go to the journal as they are measured."""

    folder: Path
    journal: Journal

    def add(self, row: dict[str, Any], owner: Owner) -> dict[str, Any]:
        """Write one row, and return it as it was written."""
        written = {**row, **_about(owner)}
        self.journal.append(written)
        return written


@functools.cache
def _about(owner: Owner) -> dict[str, Any]:
    return {**worker.describe(owner), "environment": json.dumps(KEPT), "level": LEVEL}


@pytest.fixture(scope="session")
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Opens the run's folder before the first benchmark, writes frames and report after the last."""
    noise, started = measure_noise(), now()
    machine = describe_machine()
    folder = Path(str(request.config.getoption("--out"))) / machine["name"] / f"{started.replace(':', '')}-pytest"
    facts = {"noise": {**dataclasses.asdict(noise), "verdict": noise.verdict}, "started": started, "level": "pytest"}
    write_machine(folder, {**machine, **facts})
    recorder = Recorder(folder, Journal(folder))
    yield recorder
    recorder.journal.close()
    run = write_frames(folder)
    request.config.stash[REPORT] = write_report(run)
    write_page([run], folder / PAGE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the report is."""
    if REPORT in config.stash:
        terminalreporter.write_line(f"Report: {config.stash[REPORT]}")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Name the machine in the JSON as in the folder of the run, for `jaxbp compare`."""
    machine_info["jaxbp"] = describe_machine()


def pytest_configure(config: pytest.Config) -> None:
    """No hop to another thread per call, as in the workers of `jaxbp bench`."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
