"""The command line; it alone prints, with `terminal`."""

import dataclasses
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import jax
import typer

from jaxbp.accuracy.census import plan_census, sweep
from jaxbp.accuracy.yardstick import certify
from jaxbp.check.load import load_function, make_arguments, wants_x64
from jaxbp.check.run import check_vjp
from jaxbp.check.selftest import checkers, corpora
from jaxbp.environment import cores
from jaxbp.errors import MissingExtraError, ResultsError, UsageError
from jaxbp.measure.function import RULE, STEPS
from jaxbp.measure.function_task import FunctionTask, measure_in_worker
from jaxbp.measure.limits import best_limits
from jaxbp.measure.machine import describe_machine, measure_noise, now
from jaxbp.measure.plan import Task, find_dtype, find_op, plan
from jaxbp.measure.proof import comparisons
from jaxbp.measure.resident import require_proc
from jaxbp.measure.sweep import Journal, read_journal, remaining, run_tasks
from jaxbp.op import BoundRule
from jaxbp.ops import OPS
from jaxbp.report import tables
from jaxbp.report.census import overview as census_overview
from jaxbp.report.census import stopped_census, summarize_census, write_census
from jaxbp.report.function import function_frame, mode_table, summarize_function
from jaxbp.report.markdown import write_report
from jaxbp.report.proof import overview as proof_overview
from jaxbp.report.proof import record_proof, unmet
from jaxbp.report.run import Run, read_machine, read_run, write_frames, write_machine
from jaxbp.report.selftest import mistakes, record_selftest, summary_frame
from jaxbp.report.selftest import overview as selftest_overview
from jaxbp.terminal import err, interrupts, interval, names, options_of, out, print_table, progress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for another program.")]


def main() -> None:
    """Run the command line; errors a user can mend are one sentence and exit status 2."""
    try:
        app()
    except (UsageError, ResultsError, MissingExtraError) as error:
        err.print(f"jaxbp: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"jaxbp {version('jaxbp')}, jax {version('jax')}, numpy {version('numpy')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which versions these are.")
    ] = False,
) -> None:
    """Hand-written JAX gradients against autodiff, differences and NumPy: accuracy and speed."""


@app.command()
def ops(as_json: Json = False) -> None:
    """List the ops, their rules with the accuracy that they state, and the cases they are measured at.

    Stated is the largest error in ULP of value and gradient for every float32; --json has the other dtypes too.
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
        stated = (accuracy and "{:g}/{:g}".format(*accuracy["float32"]) for accuracy in row.pop("accuracy").values())
        row["stated ULP"] = ", ".join(text or "none" for text in stated)
    order = ("op", "arguments", "rules", "stated ULP", "cases", "formula")
    print_table([{name: row[name] for name in order} for row in rows])


@app.command()
def machine(as_json: Json = False) -> None:
    """Say what this machine is, and how noisy it is now."""
    facts = _machine_facts()
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
def bench(
    target: Annotated[
        str | None, typer.Argument(help="FILE.py:NAME or package.module:NAME; the ops of jaxbp without it.")
    ] = None,
    specs: Annotated[
        list[str] | None, typer.Argument(help="Its arguments, as 'f32[64,128]', 'i32[64]<10', 'bool[3]', 0.5.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Wider intervals; of the ops default rules, one mode.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Narrower intervals; takes several times longer.")] = False,
    ops: Annotated[str, typer.Option(help="Ops, separated by commas; all by default.")] = "",
    dtypes: Annotated[str, typer.Option(help="f32, f64, bf16, f16, separated by commas.")] = "f32",
    cases: Annotated[str, typer.Option(help="Cases, separated by commas; all by default.")] = "",
    peak_rss: Annotated[
        bool, typer.Option("--peak-rss", help="Peak memory of each engine too, in a process of its own: slow.")
    ] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
    resume: Annotated[Path | None, typer.Option(help="Folder of a run that was stopped, to be finished.")] = None,
    stock: Annotated[str, typer.Option(help="With a function: what autodiff differentiates, as FILE.py:NAME.")] = "",
    domain: Annotated[list[str] | None, typer.Option(help="With a function: as of jaxbp check.")] = None,
    seed: Annotated[int, typer.Option(help="With a function: of its arguments and cotangents.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With a function: print the frame as JSON records.")] = False,
) -> None:
    """Measure accuracy and time of every engine, and write a report into OUT/<machine>/<run>/.

    Exit status 1 says that some cells failed; the report lists them.

    With FILE.py:NAME and arguments: measure the custom VJPs in that function against autodiff; exit status 0 if they
    are right, 1 if they are wrong, 2 if it cannot be run.
    """
    if target:
        if full or resume or ops or cases or peak_rss or dtypes != "f32" or out_folder != Path("results"):
            raise UsageError(
                "--full, --ops, --dtypes, --cases, --out, --peak-rss and --resume are for the ops, not for a function."
            )
        limits = dict(interval(text) for text in domain or [])
        level = "quick" if quick else "standard"
        _bench_function(FunctionTask(target, tuple(specs or ()), stock or None, limits, level, seed), as_json=as_json)
    if stock or domain or seed or as_json:
        raise UsageError(
            "--stock, --domain, --seed and --json are for a function; give FILE.py:NAME and its arguments."
        )
    if resume and (quick or full or ops or cases or peak_rss or dtypes != "f32"):
        raise UsageError("--resume goes on with what the run was asked for; leave out the other options.")
    if quick and full:
        raise UsageError("--quick and --full exclude each other; give one of them, or none.")
    if peak_rss:
        require_proc()
    if resume:
        folder, request = resume, _request_of(resume)
        peak_rss = request.pop("peak_rss", False)
        tasks = plan(**request)
    else:
        level = "quick" if quick else "full" if full else "standard"
        if not names(dtypes):
            raise UsageError("--dtypes names no dtype; give some of f32, f64, bf16, f16.")
        request = {"ops": names(ops), "dtypes": names(dtypes), "cases": names(cases), "level": level}
        tasks = plan(**request)
        facts, started = _machine_facts(), now()
        folder = out_folder / facts["name"] / f"{started.replace(':', '')}-{level}"
        write_machine(
            folder, {**facts, "started": started, "level": level, "request": {**request, "peak_rss": peak_rss}}
        )
    journal = Journal(folder)
    todo = remaining(tasks, read_journal(folder)) if resume else tasks
    interrupted = False
    try:
        with progress(len(todo)) as advance, interrupts() as check:

            def tell(task: Task) -> None:
                check()
                advance(f"{task.op} {task.case} {task.dtype} {task.owner}")

            run_tasks(todo, journal, progress=tell, peak_rss=peak_rss)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        journal.close()
    rows = read_journal(folder)
    limits = [dataclasses.asdict(limit) for limit in best_limits(rows)]
    write_machine(folder, {**read_machine(folder), "unfinished": len(remaining(tasks, rows)), "limits": limits})
    run = write_frames(folder, rows)
    report = write_report(run)
    _print_summary(run)
    out.print(f"Report: {report}", highlight=False, soft_wrap=True, markup=False)
    if interrupted:
        err.print(
            f"Stopped early; what was measured is in the report. Go on with: jaxbp bench --resume {folder}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        sys.exit(130)
    if len(tables.failures(run.summary)):
        sys.exit(1)


def _bench_function(task: FunctionTask, *, as_json: bool) -> NoReturn:
    """Measure a function, print what was found, and leave with the exit status."""
    rows = []
    with progress(len(STEPS)) as advance:
        for row in measure_in_worker(task):
            if row["kind"] == "step":
                advance(row["name"])
            rows.append(row)
    frame = function_frame(rows)
    if as_json:
        print(frame.to_json(orient="records", indent=2))
    else:
        shapes = ", ".join(task.specs)
        of = task.stock or "its primal without custom rules"
        title = f"{task.target} of {shapes} against autodiff of {of}"
        out.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        for question, answer in summarize_function(frame):
            out.print(f"{question:<10}{answer}", markup=False, highlight=False, soft_wrap=True)
        out.print()
        print_table(mode_table(frame))
    sys.exit(0 if frame.loc[frame["engine"] == RULE, "right"].all() else 1)


@app.command()
def census(
    op: Annotated[str, typer.Argument(help="The op.")],
    dtype: Annotated[str, typer.Option(help="f32, f16, bf16 or f64.")] = "f32",
    rule: Annotated[str, typer.Option(help="Rules, separated by commas; all by default.")] = "",
    options: Annotated[str, typer.Option(help="The op's options, such as approximate=False.")] = "",
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
) -> None:
    """Score value and gradient at every float of a dtype, none left out; goes on where a stopped census ended.

    Ops of two arguments: every pair of bf16. Where there are too many, f64 and pairs of f32, millions of samples.
    """
    whole = plan_census(find_op(op), find_dtype(dtype), tuple(names(rule)), **options_of(options))
    machine = {**describe_machine(), "started": now()}
    head = {"kind": "census", **whole.about(), "machine": machine["name"], "versions": machine["versions"]}
    folder = out_folder / "census" / whole.name
    chunks = stopped_census(folder, head)
    journal = Journal(folder, anew=not chunks)
    if not chunks:
        journal.append(head)
    with progress(whole.chunks - len(chunks)) as advance:
        for chunk, rows in sweep(whole, skip=chunks):
            advance(f"{whole.op} {whole.dtype}")
            chunks[chunk] = rows
            journal.append({"kind": "chunk", "chunk": chunk, "rows": rows})
    journal.close()
    rows = [row for chunk in sorted(chunks) for row in chunks[chunk]]
    yardstick = certify(whole.declaration, whole.dtype, dict(whole.options)) if whole.dtype != "float64" else {}
    path = write_census(folder, whole, machine, rows, yardstick)
    print_table(census_overview(summarize_census(whole, rows)).to_dict("records"))
    out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="FILE.py:NAME or package.module:NAME.")],
    specs: Annotated[list[str], typer.Argument(help="Arguments, as 'f32[64,128]', 'i32[64]<10', 'bool[3]', 0.5.")],
    level: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "standard",
    domain: Annotated[
        list[str] | None, typer.Option(help="Where an argument may lie, as 0=0.1:5 for the first; may be repeated.")
    ] = None,
    kinks: Annotated[str, typer.Option(help="report, or error to insist on JAX's convention.")] = "report",
    precision: Annotated[str, typer.Option(help="report lost digits, or take them for an error.")] = "report",
    shapes: Annotated[str, typer.Option(help="vary them, where the function admits it, or keep them.")] = "vary",
    seed: Annotated[int, typer.Option(help="Of the arguments and cotangents.")] = 0,
    as_json: Json = False,
) -> None:
    """Check the custom VJPs in a function: exit status 0 if right, 1 if wrong, 2 if it cannot be checked."""
    with jax.enable_x64(wants_x64(specs)):
        limits = dict(interval(text) for text in domain or [])
        args = make_arguments(specs, seed, limits)
        ways = {"kinks": kinks, "precision": precision, "shapes": shapes, "level": level, "seed": seed}
        found = check_vjp(load_function(target), *args, domain=limits, **ways)
    if as_json:
        print(found.to_json())
    else:
        out.print(str(found), markup=False, highlight=False, soft_wrap=True)
    sys.exit(0 if found.passed else 1)


@app.command()
def selftest(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each function is checked with.")] = 1,
    rivals_every: Annotated[
        int, typer.Option(min=0, help="check_grads and gradcheck judge every so manieth function; 0: none.")
    ] = 1,
    only: Annotated[str, typer.Option(help="The functions whose name contains this; kept only with --out.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes; one per core by default.")] = 0,
    measurements: Annotated[
        bool, typer.Option("--measure", help="Prove the measurements instead: copies, and planted slowdowns.")
    ] = False,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder of all results.")] = None,
    as_json: Json = False,
) -> None:
    """Check the corpora of wrong and right rules, and write what was found into OUT/selftest/<machine>/.

    Exit status 1 says that ours missed a wrong rule, accused a right one or could not be run; with --measure, that
    verdicts are wrong too often. Goes on where it was stopped, but for --measure.
    """
    if measurements:
        _prove(out_folder or Path("results"), as_json)
    items = [item for item in corpora() if only in item.name]
    if not items:
        raise UsageError(f"--only says {only!r}, which is in the name of no function of the corpora.")
    with tempfile.TemporaryDirectory() as scratch:
        results = out_folder or Path(scratch if only else "results")
        asked = {"seeds": seeds, "workers": workers or cores(), "progress": progress}
        asked |= {"every": max(1, rivals_every)}
        try:
            report, outcomes = record_selftest(results, items, checkers(others=rivals_every > 0), **asked)
        except KeyboardInterrupt:
            err.print("Stopped early; the same command goes on." if out_folder or not only else "Stopped early.")
            sys.exit(130)
    table, mistaken = selftest_overview(summary_frame(outcomes)).to_dict("records"), mistakes(outcomes)
    if as_json:
        print(json.dumps({"summary": table, "mistakes": json.loads(mistaken.to_json(orient="records"))}, indent=2))
    else:
        print_table(table)
        for row in mistaken.to_dict("records"):
            out.print(
                f"{row['item']}: called wrong {row['flagged']} of {row['seeds']} times. {row['said']}", markup=False
            )
        if out_folder or not only:
            out.print(f"Report: {report}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(1 if len(mistaken) else 0)


def _prove(results: Path, as_json: bool) -> NoReturn:
    try:
        report, frame = record_proof(results, comparisons(), progress)
    except KeyboardInterrupt:
        err.print(f"Stopped early; what was compared is in {results}.", highlight=False, soft_wrap=True, markup=False)
        sys.exit(130)
    missed = unmet(frame)
    if as_json:
        print(json.dumps({"comparisons": json.loads(frame.to_json(orient="records")), "unmet": missed}, indent=2))
    else:
        print_table(proof_overview(frame).to_dict("records"))
        for sentence in missed:
            out.print(f"Not met: {sentence}.", markup=False, highlight=False, soft_wrap=True)
        out.print(f"Report: {report}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(1 if missed else 0)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the report there, with its pictures beside it.")] = None,
) -> None:
    """Write the report of a run again from its tables; several runs one after the other."""
    if markdown and len(runs) > 1:
        raise UsageError("--markdown names one file, so give one run with it.")
    failed = False
    for folder in runs:
        try:
            run = read_run(folder)
            _print_summary(run)
            path = write_report(run, markdown)
            out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)
        except ResultsError as error:
            failed = True
            err.print(f"jaxbp: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit(2)


def _request_of(folder: Path) -> dict[str, Any]:
    """What the stopped run in `folder` was asked to measure."""
    machine = read_machine(folder)
    if "request" not in machine:
        raise ResultsError(f"{folder} was not written by jaxbp bench, so there is nothing to resume.")
    return machine["request"]


def _stated(bound: BoundRule) -> dict[str, tuple[float, float]] | None:
    """The accuracy that a rule states, by dtype."""
    return bound.rule.accuracy and dataclasses.asdict(bound.rule.accuracy)


def _machine_facts() -> dict[str, Any]:
    noise = measure_noise()
    return {**describe_machine(), "noise": {**dataclasses.asdict(noise), "verdict": noise.verdict}}


def _print_summary(run: Run) -> None:
    """The table that a run ends with: the default rules against autodiff at the largest case."""
    for dtype in tables.unique(run.summary["dtype"]):
        frame = tables.overview(run.summary, run.accuracy, dtype)
        out.print(f"{dtype}: default rules against autodiff, at each op's largest case", style="bold", highlight=False)
        print_table(frame.to_dict("records"))
    failed = tables.failures(run.summary)
    for _, row in failed.iterrows():
        err.print(f"failed: {row['op']} {row['case']} {row['dtype']} {row['engine']}: {row['reason']}", markup=False)


if __name__ == "__main__":
    main()
