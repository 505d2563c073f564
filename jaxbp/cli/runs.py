"""What the commands that write runs share: the folder of a run, its journal, and how it is stopped and goes on."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jaxbp.errors import ResultsError
from jaxbp.measure.machine import describe_machine, measure_noise, now
from jaxbp.measure.sweep import Journal
from jaxbp.report.run import MACHINE, read_machine, write_machine
from jaxbp.terminal import err, interrupts, progress

T = TypeVar("T")


def machine_facts() -> dict[str, Any]:
    """What this machine is, and how noisy it is now."""
    noise = measured_noise()  # First: it would hear the work of asking for the rest.
    return {**describe_machine(), "noise": noise}


def measured_noise() -> dict[str, Any]:
    """How noisy this machine is now."""
    noise = measure_noise()
    return {**dataclasses.asdict(noise), "verdict": noise.verdict}


def new_run(results: Path, level: str, asked: dict[str, Any], setting: str = "") -> Path:
    """The folder of a new run, with what this machine is and what is asked of the run.

    A setting that changes its times joins the machine's name, so that they are compared with their like.
    """
    facts, started = machine_facts(), now()
    name = f"{facts['name']}-{setting}" if setting else facts["name"]
    folder = results / name / f"{started.replace(':', '')}-{level}"
    write_machine(folder, {**facts, "name": name, "started": started, "level": level, **asked})
    return folder


def resumed(folder: Path, name: str, command: str, read: Callable[[dict[str, Any]], T]) -> T:
    """What the stopped run in `folder` was asked for, read from its part of that name in `machine.json`.

    Refused on another machine.
    """
    machine = read_machine(folder)
    if name not in machine:
        raise ResultsError(f"{folder} was not written by {command}, so there is nothing to resume.")
    try:
        asked, then = read(machine[name]), _common(machine)
    except (AttributeError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{folder / MACHINE} is not as {command} wrote it ({type(error).__name__}: {error}), so the run cannot go "
            "on; start a new one."
        ) from error
    here = _common(describe_machine())
    if other := [fact for fact in {**then, **here} if then.get(fact) != here.get(fact)]:
        told = (", ".join(f"{fact} {facts.get(fact, 'none')}" for fact in other) for facts in (then, here))
        raise ResultsError(
            f"{folder} was begun with {next(told)}, and would go on with {next(told)}; its rows are compared with each "
            "other. Go on as it was begun, or start a new run."
        )
    return asked


def _common(machine: dict[str, Any]) -> dict[str, Any]:
    """Of a machine, what a run tells once and all its rows have in common."""
    told = {name: machine[name] for name in ("cpu", "cores", "accelerators", "python", "commit") if name in machine}
    return {**told, **machine["versions"], **machine.get("variables", {})}


@contextlib.contextmanager
def telling(tasks: int) -> Iterator[Callable[[str], None]]:
    """What is told of each of so many tasks before it starts: it shows the progress, and raises after a Ctrl-C."""
    with progress(tasks) as advance, interrupts() as check:

        def tell(name: str) -> None:
            check()
            advance(name)

        yield tell


def uninterrupted(tasks: int, work: Callable[[Callable[[str], None]], None]) -> bool:
    """Do so many tasks, whose work tells of each before it starts; False where a Ctrl-C has ended them."""
    try:
        with telling(tasks) as tell:
            work(tell)
    except KeyboardInterrupt:
        return False
    return True


def into_journal(folder: Path, tasks: int, work: Callable[[Journal, Callable[[str], None]], None]) -> bool:
    """As `uninterrupted`, into the run's journal."""
    with contextlib.closing(Journal(folder)) as journal:
        return uninterrupted(tasks, functools.partial(work, journal))


def new_record(folder: Path) -> dict[str, Any]:
    """What this machine is, written into the folder of a record.

    Before anything else is done: a folder that cannot be written would cost all of it.
    """
    machine = {**describe_machine(), "started": now()}
    write_machine(folder, machine)
    return machine


def stopped_early(folder: Path, command: str) -> NoReturn:
    """Say how to go on with a run that was stopped, and leave with the exit status of an interruption."""
    err.print(
        f"Stopped early; what was done is kept. Go on with: {command} --resume {folder}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    sys.exit(130)
