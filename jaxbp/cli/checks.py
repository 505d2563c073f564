"""`jaxbp check` and `jaxbp selftest`."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import jax
import typer

from jaxbp.check.load import load_function, make_arguments, wants_x64
from jaxbp.check.run import check_vjp
from jaxbp.check.selftest import checkers, corpora
from jaxbp.cli.root import Json, app
from jaxbp.environment import cores
from jaxbp.errors import UsageError
from jaxbp.measure.alone import alone
from jaxbp.measure.proof import comparisons
from jaxbp.report.proof import overview as proof_overview
from jaxbp.report.proof import record_proof, unmet
from jaxbp.report.selftest import mistakes, record_selftest, summary_frame
from jaxbp.report.selftest import overview as selftest_overview
from jaxbp.terminal import err, interval, out, print_table, progress


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="FILE.py:NAME or package.module:NAME.")],
    specs: Annotated[list[str], typer.Argument(help="Arguments, as 'f32[64,128]', 'i32[64]<10', 'bool[3]', 0.5.")],
    stock: Annotated[
        str, typer.Option(help="FILE.py:NAME of what it should compute, in plain JAX; for kernels and callbacks.")
    ] = "",
    level: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "standard",
    domain: Annotated[
        list[str] | None, typer.Option(help="Where an argument may lie, as 0=0.1:5 for the first; may be repeated.")
    ] = None,
    kinks: Annotated[str, typer.Option(help="report, or error to insist on JAX's convention.")] = "report",
    precision: Annotated[str, typer.Option(help="report lost digits, or take them for an error.")] = "report",
    shapes: Annotated[str, typer.Option(help="vary them, where the function admits it, or keep them.")] = "vary",
    seed: Annotated[int, typer.Option(min=0, help="Of the arguments and cotangents.")] = 0,
    as_json: Json = False,
) -> None:
    """Check the custom VJPs in a function: exit status 0 if right, 1 if wrong, 2 if it cannot be checked."""
    with jax.enable_x64(wants_x64(specs)):
        limits = dict(interval(text) for text in domain or [])
        f = load_function(target)
        args = make_arguments(f, specs, seed, limits)
        ways = {"kinks": kinks, "precision": precision, "shapes": shapes, "level": level, "seed": seed}
        plain = load_function(stock) if stock else None
        found = check_vjp(f, *args, stock=plain, domain=limits, **ways)
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
        with alone():
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
