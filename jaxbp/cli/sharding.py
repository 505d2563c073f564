"""`jaxbp shard`."""

import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxbp.cli.root import app
from jaxbp.cli.runs import new_record, uninterrupted
from jaxbp.errors import UsageError
from jaxbp.measure.machine import describe_machine
from jaxbp.report.sharding import FOLDER, agreement_overview, not_right, read_sharding, write_sharding
from jaxbp.sharding.agreement import Task, compare, plan
from jaxbp.sharding.group import group
from jaxbp.sharding.layouts import LAYOUTS
from jaxbp.sharding.scaling import agreement_of, measure_layout, plan_scaling
from jaxbp.sharding.ways import DEVICES
from jaxbp.terminal import err, names, out, print_table

Row = dict[str, Any]


@app.command()
def shard(
    ops: Annotated[str, typer.Option(help="Ops, separated by commas; all by default.")] = "",
    devices: Annotated[str, typer.Option(help="Numbers of devices: 1, 2, 4, 8, separated by commas.")] = "8",
    processes: Annotated[str, typer.Option(help="Numbers of processes that they belong to, likewise.")] = "1",
    time: Annotated[bool, typer.Option(help="Time the layers that are divided by hand; two minutes.")] = True,
    update: Annotated[bool, typer.Option("--update", help="Keep what the record has of others.")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
) -> None:
    """Compare the gradients of many devices with those of one, and count what the devices send each other.

    Exit status 1 says that some are wrong, or do not run. All devices are the processor's own.
    """
    counts, groups = _numbers("devices", devices), _numbers("processes", processes)
    jobs = [(n, p, plan(names(ops), (), (n,), p)) for p in groups for n in counts if n >= p]
    timed = plan_scaling() if time and not names(ops) else []
    layouts = [] if names(ops) else list(LAYOUTS)
    folder = out_folder / FOLDER / describe_machine()["name"]
    earlier = read_sharding(folder) if update else None
    machine, agreement, scaling = new_record(folder), [], []

    def work(tell: Callable[[str], None]) -> None:
        for n, p, tasks in jobs:
            for rows in _agreement(n, p, tasks, layouts, tell):
                agreement.extend(rows)
        with group(max(DEVICES)) as together:
            for layout, kind in timed:
                tell(f"{layout}, {kind}")
                scaling.extend(together.run(measure_layout, layout, kind))

    finished = uninterrupted(sum(len(tasks) + len(layouts) for _, _, tasks in jobs) + len(timed), work)
    if not agreement:
        raise UsageError("Stopped before anything was compared; nothing was written.")
    path, frame = write_sharding(folder, machine, agreement, scaling, earlier)
    print_table(agreement_overview(frame).to_dict("records"))
    out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)
    if not finished:
        err.print("Stopped early; the report has what was compared.", markup=False)
        raise typer.Exit(130)
    if not_right(frame):
        raise typer.Exit(1)


def _agreement(
    n: int, p: int, tasks: list[Task], layouts: list[str], tell: Callable[[str], None]
) -> Iterator[list[Row]]:
    """The rows of each that is compared on n devices of p processes; a process that crashes costs what it was at."""
    about = {"devices": n, "processes": p, "status": "failed"}
    calls = [({"op": t.op, "way": t.way}, compare, (t,)) for t in tasks]
    calls += [({"op": name, "way": "layout"}, agreement_of, (name, n, p)) for name in layouts]
    while calls:
        try:
            with group(n, p) as together:
                while calls:
                    what, f, args = calls.pop(0)
                    tell(f"{what['op']}, {what['way']}, {n} devices" + (f" of {p} processes" if p > 1 else ""))
                    try:
                        yield together.run(f, *args)
                    except concurrent.futures.BrokenExecutor as error:
                        yield [{**what, **about, "reason": f"A process crashed, or was stopped: {error}"[:500]}]
                        break
        except concurrent.futures.BrokenExecutor:
            continue  # What is left of a group cannot say goodbye to one that is gone.


def _numbers(what: str, text: str) -> list[int]:
    try:
        numbers = [int(word) for word in names(text)]
    except ValueError:
        raise UsageError(f"--{what} takes whole numbers, separated by commas, not {text!r}.") from None
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--{what} names no number of {what}; give some, such as 2,4.")
    return numbers
