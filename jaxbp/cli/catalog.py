"""`jaxbp ops`, `jaxbp machine` and `jaxbp census`."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxbp.accuracy.census import Census, plan_census, sweep
from jaxbp.accuracy.score import Row
from jaxbp.accuracy.yardstick import certify
from jaxbp.cli.root import Json, Scheduler, app
from jaxbp.cli.runs import machine_facts
from jaxbp.measure.machine import describe_machine, now
from jaxbp.measure.plan import find_dtype, find_op
from jaxbp.measure.sweep import Journal
from jaxbp.op import BoundRule
from jaxbp.ops import OPS
from jaxbp.report import tables
from jaxbp.report.census import overview as census_overview
from jaxbp.report.census import stopped_census, summarize_census, write_census
from jaxbp.terminal import names, options_of, out, print_table, progress


@app.command()
def ops(as_json: Json = False) -> None:
    """List the ops, their rules with the accuracy that they state, and the cases they are measured at.

    Stated is the largest error in ULP of value and gradient for every float32, with a star for some alone; --json says
    for which, and has the other dtypes too.
    """
    rows = [
        {
            "op": op.name,
            "arguments": ", ".join(op.arguments),
            "rules": ", ".join(op.rules),
            "accuracy": {rule.name: _stated(rule) for rule in op.rules.values()},
            "cases": ", ".join(case.name for case in op.cases),
            "formula": op.formula,
        }
        for op in OPS
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        row["stated ULP"] = ", ".join(_shown(accuracy) for accuracy in row.pop("accuracy").values())
    order = ("op", "arguments", "rules", "stated ULP", "cases", "formula")
    print_table([{name: row[name] for name in order} for row in rows])


@app.command()
def machine(as_json: Json = False) -> None:
    """Say what this machine is, and how noisy it is now."""
    facts = machine_facts()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    noise = facts.pop("noise")
    facts["memory_bytes"] = tables.size(facts["memory_bytes"])
    for name, fact in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in fact.items()) if isinstance(fact, dict) else fact
        out.print(f"{name.removesuffix('_bytes'):<14}{text}", markup=False, highlight=False, soft_wrap=True)
    out.print(
        f"{'noise':<14}{noise['verdict']}: load {noise['load']:.2f} per core, "
        f"a fixed computation varies by {100 * noise['spread']:.0f} %",
        highlight=False,
    )


@app.command()
def census(
    op: Annotated[str, typer.Argument(help="The op.")],
    dtype: Annotated[str, typer.Option(help="f32, f16, bf16 or f64.")] = "f32",
    rule: Annotated[str, typer.Option(help="Rules, separated by commas; all by default.")] = "",
    options: Annotated[str, typer.Option(help="The op's options, such as approximate=False.")] = "",
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
    scheduler: Scheduler = "",
) -> None:
    """Score value and gradient at every float of a dtype, none left out; goes on where a stopped census ended.

    Ops of two arguments: every pair of bf16. Where there are too many, f64 and pairs of f32, millions of samples.
    """
    whole = plan_census(find_op(op), find_dtype(dtype), tuple(names(rule)), **options_of(options))
    machine = {**describe_machine(), "started": now()}
    head = {"kind": "census", **whole.about(), "machine": machine["name"], "versions": machine["versions"]}
    folder = out_folder / "census" / whole.name
    with _sweeper(scheduler) as sweep:
        chunks = stopped_census(folder, head)
        journal = Journal(folder, anew=not chunks)
        if not chunks:
            journal.append(head)
        with contextlib.closing(journal), progress(whole.chunks - len(chunks)) as advance:
            for chunk, rows in sweep(whole, list(chunks)):
                advance(f"{whole.op} {whole.dtype}")
                chunks[chunk] = rows
                journal.append({"kind": "chunk", "chunk": chunk, "rows": rows})
    rows = [row for chunk in sorted(chunks) for row in chunks[chunk]]
    yardstick = certify(whole.declaration, whole.dtype, dict(whole.options)) if whole.dtype != "float64" else {}
    path = write_census(folder, whole, machine, rows, yardstick)
    print_table(census_overview(summarize_census(whole, rows)).to_dict("records"))
    out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def _sweeper(scheduler: str) -> Iterator[Callable[[Census, list[int]], Iterator[tuple[int, list[Row]]]]]:
    """What sweeps a census: the cores of this machine, or the workers of a Dask scheduler."""
    if not scheduler:
        yield sweep
        return
    from jaxbp.cluster import cluster, sweep_on  # Brings in Dask.

    with cluster(scheduler) as executor:
        yield functools.partial(sweep_on, executor)


def _stated(bound: BoundRule) -> dict[str, Any] | None:
    """The accuracy that a rule states, by dtype, and the words for where."""
    accuracy = bound.rule.accuracy
    return accuracy and {**accuracy.by_dtype, **({"where": accuracy.note} if accuracy.where else {})}


def _shown(stated: dict[str, Any] | None) -> str:
    """The accuracy in float32 as text, marked where it is stated for some arguments alone."""
    if stated is None:
        return "none"
    return "{:g}/{:g}".format(*stated["float32"]) + ("*" if "where" in stated else "")
