"""The field study: `check_vjp` over the public custom rules of other packages, and the table of what it says.

The packages live in an environment of their own:

    python -m venv /path/to/field
    /path/to/field/bin/pip install -c constraints.txt -r bench/field-requirements.txt -e '.[test]'
    /path/to/field/bin/python -m bench.field_study --level quick --out results/field

Each function is checked in a worker with a time limit. What the checker says is journalled as it comes, so that a run
goes on where it stopped; without `journal.jsonl`, or a line of it, it is checked anew. What a finding turned out to be
is data of the catalog (`bench.field`): a judgement, a sentence, and where possible a confirmation, whose numbers are
computed anew whenever the tables are written.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from bench.field.entry import Entry
from bench.field.report import Row, key, write
from jaxbp.accuracy.exact_control import called_jaxpr
from jaxbp.check.findings import Finding
from jaxbp.check.run import LEVELS, check_vjp
from jaxbp.errors import UsageError
from jaxbp.measure.machine import describe_machine, git_commit, now

MODULES = ("of_jax", "of_networks", "of_numerics", "of_tfp")
#: Seconds a worker may take to import its packages.
IMPORT_LIMIT = 180
#: What comes before the part of a path that is the same on every machine.
ELSEWHERE = re.compile(rf"[^\s`'\"]*/site-packages/|{re.escape(str(Path(__file__).parents[1]))}/")


def catalog(module: str) -> tuple[Entry, ...]:
    """The entries of a module of `bench.field`, whose packages it imports."""
    return importlib.import_module(f"bench.field.{module}").ENTRIES


def rules(entry: Entry, args: tuple[Any, ...]) -> list[str]:
    """Where the custom rules are that a call of the function meets: the package's own first."""
    found: dict[str, None] = {}

    def visit(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name.startswith(("custom_jvp_call", "custom_vjp_call")):
                source = str(getattr(called_jaxpr(eqn).jaxpr.debug_info, "func_src_info", ""))
                name, _, place = source.partition(" at ")
                found[ELSEWHERE.sub("", f"{name} {place}")] = None
            for value in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
            ):
                if isinstance(value, Jaxpr | ClosedJaxpr):
                    visit(value)

    visit(jax.make_jaxpr(entry.f)(*args).jaxpr)
    own = entry.package.split("-")[0]
    return sorted(found, key=lambda rule: own not in rule)


def examine(entry: Entry, dtype: str | None, level: str) -> Row:
    """The row of one function at one dtype."""
    start = time.perf_counter()
    args = entry.cast(entry.args, dtype)
    row: Row = {
        "package": entry.package,
        "version": importlib.metadata.version(entry.package),
        "function": entry.name,
        "dtype": dtype or "",
        "commit": git_commit(),
        "rules": [],
        "findings": [],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # What cannot be traced: the check says why.
            row["rules"] = rules(entry, args)
        try:
            inputs = tuple(entry.cast(given, dtype) for given in entry.inputs)
            report = check_vjp(entry.f, *args, inputs=inputs, domain=entry.domain, level=level)
            row["verdict"] = "right" if report.passed else "wrong"
            row["findings"] = [_told(finding) for finding in report.findings]
        except UsageError as error:
            row["verdict"] = ELSEWHERE.sub("", f"cannot be checked: {error}")
        except Exception as error:  # A fault of the checker's, for the table.
            row["verdict"] = f"the checker raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def _told(finding: Finding) -> Row:
    """A finding as a row; the same on every machine."""
    fields = ("kind", "argument", "fault", "got", "expected", "looks_like")
    return {**{field: getattr(finding, field) for field in fields}, "text": ELSEWHERE.sub("", finding.text)[:500]}


def judged(entry: Entry, row: Row) -> Row:
    """The row with what its findings turned out to be; where there is a confirmation, its numbers are the row's."""
    return {**row, "findings": [_judged(entry, finding) for finding in row["findings"]]}


def _judged(entry: Entry, finding: Row) -> Row:
    # Whether lost digits are a fault or a note is the checker's word; what they turned out to be is the same.
    kinds = ("precision", "gradient") if finding["kind"] == "precision" else (finding["kind"],)
    said = next((v for v in entry.verified if v.kind in kinds and v.argument in ("", finding["argument"])), None)
    got, true = said.confirm() if said and said.confirm else (None, None)
    judgement, why = (said.judgement, said.why) if said else ("", "")
    return {**finding, "judgement": judgement, "why": why, "confirmed_got": got, "confirmed_true": true}


def work(module: str, level: str, pipe: Connection) -> None:
    """A worker: says what entries and dtypes there are, then checks those it is sent, or judges their rows."""
    sys.argv = sys.argv[:1]  # Packages that read the command line shall not read ours.
    entries = catalog(module)
    tasks = [(entry, dtype) for entry in entries for dtype in entry.dtypes]
    pipe.send([(entry.package, entry.name, dtype or "") for entry, dtype in tasks])
    while True:
        index, row = pipe.recv()
        entry, dtype = tasks[index]
        pipe.send(examine(entry, dtype, level) if row is None else judged(entry, row))


class Worker:
    """A process that checks the entries of one module; one that takes too long is replaced."""

    def __init__(self, module: str, level: str, limit: int) -> None:
        self.module = module
        self.level = level
        self.limit = limit
        self.tasks = self._start()

    def _start(self) -> list[tuple[str, str, str]]:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(self.module, self.level, theirs), daemon=True)
        self.process.start()
        theirs.close()
        tasks = self._receive(IMPORT_LIMIT)
        if isinstance(tasks, str):
            raise SystemExit(
                f"bench.field.{self.module} cannot be imported; is this the environment of the field study?"
            )
        return tasks

    def _receive(self, seconds: float) -> Any:
        """What the process sends, or why it sends nothing."""
        try:
            return self.pipe.recv() if self.pipe.poll(seconds) else f"no answer within {seconds} s"
        except EOFError:
            return "the checker ends the process"

    def ask(self, index: int, row: Row | None) -> Row:
        """The row of a task, or that row judged; a check that does not end, or ends the process, is a row, too."""
        self.pipe.send((index, row))
        start = time.perf_counter()
        answer = self._receive(self.limit)
        seconds = round(time.perf_counter() - start, 1)
        if not isinstance(answer, str):
            return answer
        self.stop()
        self._start()
        package, name, dtype = self.tasks[index]
        return {
            "package": package,
            "version": importlib.metadata.version(package),
            "function": name,
            "dtype": dtype,
            "commit": git_commit(),
            "rules": [],
            "verdict": answer,
            "findings": [],
            "seconds": seconds,
        }

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join()


def study(modules: Sequence[str], level: str, limit: int, journal: Path) -> Iterator[Row]:
    """All rows: those of the journal, and those that it lacks."""
    known = {}
    if journal.exists():
        known = {key(row): row for row in map(json.loads, journal.read_text().splitlines())}
    for module in modules:
        worker = Worker(module, level, limit)
        for index, task in enumerate(worker.tasks):
            row = known.get(task)
            if row is None:
                row = worker.ask(index, None)
                with journal.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                progress = f"{module} {index + 1}/{len(worker.tasks)} {' '.join(task)}"
                print(f"{progress}: {row['verdict']:.60} ({row['seconds']} s)", flush=True)
            yield worker.ask(index, row)
        worker.stop()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="check_vjp over the public custom rules of other packages.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--modules", default=",".join(MODULES), help="of bench.field, separated by commas")
    parser.add_argument("--level", default="standard", choices=LEVELS)
    parser.add_argument("--limit", type=int, default=60, help="seconds a check may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    journal = options.out / "journal.jsonl"
    rows = list(study(options.modules.split(","), options.level, options.limit, journal))
    machine = {**describe_machine(), "date": now()[:10], "level": options.level, "limit": options.limit}
    write(rows, machine, options.out)


if __name__ == "__main__":
    main()
