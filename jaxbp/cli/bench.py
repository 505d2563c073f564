"""`jaxbp bench` and `jaxbp report`."""

import concurrent.futures
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from jaxbp.cli.root import Scheduler, app
from jaxbp.cli.runs import into_journal, measured_noise, new_run, resumed, stopped_early
from jaxbp.environment import accelerators
from jaxbp.errors import ResultsError, UsageError
from jaxbp.measure.alone import alone
from jaxbp.measure.function import RULE, STEPS
from jaxbp.measure.function_task import FunctionTask, measure_in_worker
from jaxbp.measure.limits import best_limits
from jaxbp.measure.plan import Task, plan
from jaxbp.measure.resident import require_proc
from jaxbp.measure.sweep import Journal, begun, read_journal, remaining, run_tasks
from jaxbp.report import tables
from jaxbp.report.function import function_frame, mode_table, summarize_function
from jaxbp.report.history import HISTORY, write_history
from jaxbp.report.html.page import PAGE, write_page
from jaxbp.report.load import find_runs, read_all
from jaxbp.report.markdown import write_report
from jaxbp.report.run import Run, read_machine, read_run, write_frames, write_machine
from jaxbp.report.undecided import one_process_more
from jaxbp.terminal import err, interval, names, out, print_table, progress


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
    growth: Annotated[
        bool, typer.Option("--growth", help="Six sizes of each op, and the exponents with which times grow.")
    ] = False,
    ops: Annotated[str, typer.Option(help="Ops, separated by commas; all by default.")] = "",
    dtypes: Annotated[str, typer.Option(help="f32, f64, bf16, f16, separated by commas.")] = "f32",
    cases: Annotated[str, typer.Option(help="Cases, separated by commas; those of the level by default.")] = "",
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Time rules and autodiff in so many processes, which differ by more than one can tell."
        ),
    ] = 1,
    most_processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Time default rules that --processes leave undecided in further ones, up to so many in all."
        ),
    ] = None,
    allocator: Annotated[
        str,
        typer.Option(
            help="How memory is allocated: kept for the next call, or system, as the C library does it, where large "
            "arrays cost time."
        ),
    ] = "kept",
    peak_rss: Annotated[
        bool, typer.Option("--peak-rss", help="Peak memory of each engine too, in a process of its own: slow.")
    ] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
    resume: Annotated[Path | None, typer.Option(help="Folder of a run that was stopped, to be finished.")] = None,
    stock: Annotated[str, typer.Option(help="With a function: what autodiff differentiates, as FILE.py:NAME.")] = "",
    domain: Annotated[list[str] | None, typer.Option(help="With a function: as of jaxbp check.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With a function: of its arguments and cotangents.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With a function: print the frame as JSON records.")] = False,
    scheduler: Scheduler = "",
) -> None:
    """Measure accuracy and time of every engine, and write a report into OUT/<machine>/<run>/.

    Exit status 1 says that some cells failed; the report lists them.

    With FILE.py:NAME and arguments: measure the custom VJPs in that function against autodiff; exit status 0 if they
    are right, 1 if they are wrong, 2 if it cannot be run.
    """
    chosen = [name for name, asked in (("quick", quick), ("full", full), ("growth", growth)) if asked]
    if len(chosen) > 1:
        raise UsageError(f"{_listed(chosen)} exclude each other; give one of them, or none.")
    of_ops = any(
        (full, growth, ops, cases, peak_rss, dtypes != "f32", processes > 1, most_processes, allocator != "kept")
    )
    if target:
        if resume:
            raise UsageError(
                f"--resume takes the folder of one run, and {target!r} would be a function to be measured; finish one "
                "run after the other."
            )
        if of_ops or scheduler or out_folder != Path("results"):
            raise UsageError(
                "--full, --growth, --ops, --dtypes, --cases, --processes, --most-processes, --allocator, --peak-rss, "
                f"--out and --scheduler are for the ops, and {target!r} would be a function. "
                "Lists take commas, as --ops sigmoid,tanh."
            )
        if not specs:
            raise UsageError(f"{target} has no arguments to be measured with; give them, such as 'f32[64,128]' or 0.5.")
        limits = dict(interval(text) for text in domain or [])
        level = "quick" if quick else "standard"
        _bench_function(FunctionTask(target, tuple(specs or ()), stock or None, limits, level, seed), as_json=as_json)
    if stock or domain or seed or as_json:
        raise UsageError(
            "--stock, --domain, --seed and --json are for a function; give FILE.py:NAME and its arguments."
        )
    if resume and (quick or of_ops):
        raise UsageError("--resume goes on with what the run was asked for; leave out the other options.")
    if peak_rss:
        require_proc()
    if resume:
        request, tasks = resumed(resume, "request", "jaxbp bench", lambda held: (held, _planned(held)))
    else:
        if not names(dtypes):
            raise UsageError("--dtypes names no dtype; give some of f32, f64, bf16, f16.")
        if most_processes is not None and most_processes < processes:
            raise UsageError(
                f"--most-processes is {most_processes}, and --processes asks for {processes} of every case; give as "
                "many or more."
            )
        level = (chosen or ["standard"])[0]
        asked = {"ops": names(ops), "dtypes": names(dtypes), "cases": names(cases), "level": level}
        how = {"accelerated": bool(accelerators()), "processes": processes, "allocator": allocator}
        beside = {"most_processes": most_processes or processes, "peak_rss": peak_rss}
        request: dict[str, Any] = {**asked, **how, **beside}
        tasks = _planned(request)
    with _executor(scheduler) as executor:
        setting = "" if allocator == "kept" else f"{allocator}-allocator"
        folder = resume or new_run(out_folder, request["level"], {"request": request}, setting)
        todo = _left(tasks, read_journal(folder)) if resume else tasks
        finished = _measure(folder, todo, executor, peak_rss=request.get("peak_rss", False))
        while finished and (todo := _further(tasks, read_journal(folder), request)):
            finished = _measure(folder, todo, executor, peak_rss=False)
        noise = measured_noise()
    rows = read_journal(folder)
    limits = [dataclasses.asdict(limit) for limit in best_limits(rows)]
    left = [*remaining(tasks, rows), *(() if finished else _further(tasks, rows, request))]
    found = {"unfinished": len(left), "limits": limits, "noise_after": noise}
    write_machine(folder, {**read_machine(folder), **found})
    run = write_frames(folder, rows)
    reports = (write_report(run), write_page([run], folder / PAGE))
    _print_summary(run)
    for path in reports:
        _say_where(path)
    if not finished:
        stopped_early(folder, "jaxbp bench")
    if len(tables.failures(run.summary)):
        sys.exit(1)


def _planned(request: dict[str, Any]) -> list[Task]:
    return plan(**{name: wish for name, wish in request.items() if name not in ("most_processes", "peak_rss")})


def _left(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Task]:
    """What is left of the plan, and of the processes that were added to it, with what failed."""
    return remaining(list(dict.fromkeys([*tasks, *begun(rows)])), rows, and_failed=True)


def _further(tasks: list[Task], rows: list[dict[str, Any]], request: dict[str, Any]) -> list[Task]:
    processes = request.get("processes", 1)
    return one_process_more(tasks, rows, processes, request.get("most_processes", processes))


def _listed(options: list[str]) -> str:
    return " and ".join(f"--{name}" for name in options)


@contextlib.contextmanager
def _executor(scheduler: str) -> Iterator[concurrent.futures.Executor | None]:
    """The workers of a Dask scheduler, each of which holds its own machine; without one this machine is held."""
    if not scheduler:
        with alone():
            yield None
        return
    from jaxbp.cluster import cluster  # Brings in Dask.

    with cluster(scheduler, timing=True) as executor:
        yield executor


def _measure(folder: Path, tasks: list[Task], executor: concurrent.futures.Executor | None, *, peak_rss: bool) -> bool:
    """Measure into the journal, here or by the executor of a cluster; False where Ctrl-C ended it early."""

    def work(journal: Journal, tell: Callable[[str], None]) -> None:
        def told(task: Task) -> None:
            process = f", process {task.repetition + 1}" if task.repetition else ""
            tell(f"{task.op} {task.case} {task.dtype} {task.owner}{process}")

        if executor is None:
            run_tasks(tasks, journal, progress=told, peak_rss=peak_rss)
            return
        from jaxbp.cluster import run_tasks_on

        run_tasks_on(executor, tasks, journal, progress=told, peak_rss=peak_rss)

    return into_journal(folder, len(tasks), work)


def _bench_function(task: FunctionTask, *, as_json: bool) -> NoReturn:
    """Measure a function, print what was found, and leave with the exit status."""
    rows = []
    with alone(), progress(len(STEPS)) as advance:
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
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    html: Annotated[
        Path | None, typer.Option(help="Write the page there, one of all these runs, and nothing else.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the Markdown there, its pictures beside it, and nothing else.")
    ] = None,
) -> None:
    """Write the reports of runs again from their tables: report.md and report.html in each run's folder.

    Of a folder of runs, write the history of all that it holds. Exit status 2 says that something could not be read;
    the rest is written all the same.
    """
    if markdown and len(runs) > 1:
        raise UsageError("--markdown names one file, so give one run with it.")
    good: list[Run] = []
    wrong: list[str] = []
    for folder in runs:
        try:
            if folder.is_dir() and find_runs(folder) != [folder]:
                found, problems = read_all([folder])
                wrong += map(str, problems)
                if found and not html:
                    path = write_history(found, markdown or folder / HISTORY, progress)
                    out.print(f"History of {len(found)} runs: {path}", highlight=False, soft_wrap=True, markup=False)
            else:
                found = [read_run(folder)]
                _report_one(found[0], markdown, only=bool(markdown or html))
            good += found
        except ResultsError as error:
            wrong.append(str(error))
    for text in wrong:
        err.print(f"jaxbp: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    if html and good:
        _say_where(write_page(good, html, wrong))
    if wrong:
        sys.exit(2)


def _report_one(run: Run, markdown: Path | None, *, only: bool) -> None:
    """The summary of a run and its Markdown, unless `only` another file is asked for its page as well."""
    _print_summary(run)
    if markdown or not only:
        _say_where(write_report(run, markdown))
    if not only:
        _say_where(write_page([run], run.folder / PAGE))


def _say_where(path: Path) -> None:
    out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)


def _print_summary(run: Run) -> None:
    """The table that a run ends with: the default rules against autodiff at the largest case."""
    for dtype in tables.unique(run.summary["dtype"]):
        frame = tables.overview(run.summary, run.accuracy, dtype)
        out.print(f"{dtype}: default rules against autodiff, at each op's largest case", style="bold", highlight=False)
        print_table(frame.to_dict("records"))
    failed = tables.failures(run.summary)
    for _, row in failed.iterrows():
        err.print(f"failed: {row['op']} {row['case']} {row['dtype']} {row['engine']}: {row['reason']}", markup=False)
