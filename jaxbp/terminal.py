"""What the commands share: consoles, tables, progress, Ctrl-C, and options that are written as text."""

import ast
import contextlib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxbp.errors import UsageError

#: Where the output is no terminal, tables keep their rows whole.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True)


def names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def interval(text: str) -> tuple[str, tuple[float, float]]:
    """`0=0.1:5` as the name of the first argument and an interval."""
    match = re.fullmatch(r"(\d+)=([^:]*):([^:]*)", text)
    try:
        assert match
        low, high = float(match[2] or "-inf"), float(match[3] or "inf")
    except (AssertionError, ValueError):
        raise UsageError(f"--domain says {text!r}; give ARGUMENT=LOW:HIGH, such as 0=0.1:5 or 1=0:.") from None
    return f"args[{match[1]}]", (low, high)


def options_of(text: str) -> dict[str, Any]:
    """`a=1,b=False` as keyword arguments; the values are Python's."""
    options = {}
    for part in names(text):
        name, _, value = part.partition("=")
        try:
            options[name.strip()] = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise UsageError(f"--options says {part!r}; give name=value with a Python value, such as False.") from None
    return options


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C raise as ever, and again in the check that is handed out: callbacks of JAX may swallow the first."""
    hit = False

    def remember(signum: int, frame: Any) -> None:
        nonlocal hit
        hit = True
        raise KeyboardInterrupt

    def check() -> None:
        if hit:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar with the time left on a terminal, about twenty plain lines elsewhere; told of each step's name."""
    if not err.is_terminal:
        done = 0

        def line(name: str) -> None:
            nonlocal done
            if done % max(1, total // 20) == 0:
                print(f"{done}/{total} {name}", file=sys.stderr, flush=True)
            done += 1

        yield line
        return
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        handle = bar.add_task("starting", total=total)
        started = False

        def advance(name: str) -> None:
            nonlocal started
            bar.update(handle, description=name, advance=int(started))
            started = True

        yield advance


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the step at hand, for work whose length is not known beforehand; silent where nobody watches."""
    if not err.is_terminal:
        yield lambda name: None
        return
    with err.status(what) as status:
        yield lambda name: status.update(f"{what}: {name}")


def print_table(rows: list[dict[Any, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(str(value).replace("[", "\\[") for value in row.values()))
    out.print(table)
    out.print()
