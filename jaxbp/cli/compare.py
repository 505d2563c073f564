"""`jaxbp compare`."""

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from jaxbp.cli.root import Json, app
from jaxbp.errors import ResultsError, UsageError
from jaxbp.report.compare import NOT_COMPARED, compare_runs
from jaxbp.report.compare_report import MOST_ROWS, about, headline, sections, sentences, write_comparison
from jaxbp.report.compare_times import MARGIN
from jaxbp.report.load import read_all
from jaxbp.report.planted import planted as planted_slowdowns
from jaxbp.report.run import Run
from jaxbp.terminal import err, out, print_table


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, folders that hold some, or JSON of pytest-benchmark.")
    ],
    margin: Annotated[float, typer.Option(help="A relative change of a time that counts as none.")] = MARGIN,
    markdown: Annotated[Path | None, typer.Option(help="Write it there too, for a pull request.")] = None,
    planted: Annotated[
        float | None,
        typer.Option(
            help="Instead: what would be found if the rules of one op after the other took so many times as long."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs with the first one: what became slower, faster, less or more accurate, and what is new or gone.

    Exit status 1 says that a rule is significantly slower or less accurate, or fails; 2 that nothing can be compared.
    """
    if not 0 <= margin < 1:
        raise UsageError(f"--margin says {margin:g}; give a fraction from 0 to 1, such as 0.02 for 2 %.")
    first, problems = read_all(runs[:1])
    rest, more = read_all(runs[1:])
    for problem in [*problems, *more]:
        err.print(f"jaxbp: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if not first:
        raise ResultsError(f"{runs[0]} is what the others are compared with, and it cannot be read.")
    base, *others = [*first, *rest]
    if not others:
        raise ResultsError("There is one run to read, so that nothing can be compared; give two or more.")
    if planted is not None:
        _plant(base, others[-1], planted, margin, as_json=as_json)
        return
    compared = [(run, compare_runs(base, run, margin=margin)) for run in others]
    changes = pd.concat([frame for _, frame in compared], ignore_index=True)
    if as_json:
        print(changes.to_json(orient="records", indent=2))
    else:
        for run, frame in compared:
            _tell(base, run, frame, margin)
    if markdown:
        path = write_comparison(markdown, base, compared, margin)
        err.print(f"Comparison: {path}", highlight=False, soft_wrap=True, markup=False)
    if changes["verdict"].isin(NOT_COMPARED).all():
        raise ResultsError("These runs have no cell in common that could be compared.")
    sys.exit(1 if changes["regression"].any() else 0)


def _plant(base: Run, run: Run, factor: float, margin: float, *, as_json: bool) -> None:
    """What is found of a slowdown in the run, one op at a time."""
    if not factor > 0:
        raise UsageError(f"--planted says {factor:g}; give how many times as long the rules take, such as 1.1.")
    frame = planted_slowdowns(base, run, factor, margin)
    if as_json:
        print(frame.to_json(orient="records", indent=2))
        return
    print_table(frame.to_dict("records"))
    found, accused = frame["found"].sum(), (frame["accused"] != "").sum()
    out.print(
        f"{factor:g} times as long: found in {found} of {len(frame)} ops; others accused {accused} times.",
        style="bold",
        highlight=False,
        soft_wrap=True,
    )


def _tell(base: Run, run: Run, changes: pd.DataFrame, margin: float) -> None:
    out.print(f"{about(run)}, compared with {about(base)}", style="bold", highlight=False, soft_wrap=True, markup=False)
    for sentence in sentences(base, run, changes, margin):
        out.print(sentence, highlight=False, soft_wrap=True, markup=False)
    out.print()
    for title, frame in sections(changes):
        out.print(title, style="bold", highlight=False)
        print_table(frame[:MOST_ROWS].to_dict("records"))
        if len(frame) > MOST_ROWS:
            out.print(f"And {len(frame) - MOST_ROWS} more; --json lists them.\n", highlight=False)
    out.print(headline(changes), style="bold", highlight=False, soft_wrap=True, markup=False)
