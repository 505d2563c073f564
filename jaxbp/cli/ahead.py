"""`jaxbp compile`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from jaxbp.cli.root import app
from jaxbp.cli.runs import new_record, uninterrupted
from jaxbp.errors import UsageError, import_extra
from jaxbp.measure.ahead import TARGETS, compile_all, plan_ahead
from jaxbp.report.ahead import FOLDER, overview, write_ahead
from jaxbp.terminal import err, names, out, print_table


@app.command("compile")
def compile_(
    target: Annotated[str, typer.Option(help=f"A chip: {', '.join(TARGETS)}.")] = "v5e",
    ops: Annotated[str, typer.Option(help="Ops, separated by commas; all by default.")] = "",
    dtypes: Annotated[str, typer.Option(help="f32, bf16, f16, separated by commas.")] = "f32",
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
) -> None:
    """Compile rules and autodiff for a TPU or GPU that is not here: memory, counts and estimates of its compiler.

    Needs the chip's compiler alone: pip install 'jaxbp[tpu-aot]', or 'jaxbp[gpu-aot]' for h100.
    """
    if not names(dtypes):
        raise UsageError("--dtypes names no dtype; give some of f32, bf16, f16.")
    asked = plan_ahead(names(ops), names(dtypes), target)
    import_extra(TARGETS[target].compiler, TARGETS[target].extra)
    folder, rows = out_folder / FOLDER / target, []
    machine = new_record(folder)

    def work(tell: Callable[[str], None]) -> None:
        for found in compile_all(asked, tell):
            rows.extend(found)

    finished = uninterrupted(len(asked), work)
    if not rows:
        raise UsageError("Stopped before anything was compiled; nothing was written.")
    path, frame = write_ahead(folder, target, machine, rows)
    print_table(overview(frame).to_dict("records"))
    out.print(f"Report: {path}", highlight=False, soft_wrap=True, markup=False)
    if not finished:
        err.print("Stopped early; the report has what was compiled.", markup=False)
        raise typer.Exit(130)
    if (frame["status"] == "failed").any():
        raise typer.Exit(1)
