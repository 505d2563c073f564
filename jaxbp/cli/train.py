"""`jaxbp train`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jaxbp.cli.root import Json, app
from jaxbp.cli.runs import into_journal, new_run, resumed, stopped_early
from jaxbp.errors import UsageError
from jaxbp.measure.alone import alone
from jaxbp.measure.sweep import read_journal
from jaxbp.report.run import read_machine, write_machine
from jaxbp.report.training import training_frames, write_training_frames
from jaxbp.report.training_tables import FOLDER, agreement, engine_table, write_training_report
from jaxbp.terminal import names, out, print_table
from jaxbp.training.descent import SCHEDULES
from jaxbp.training.gradients import ENGINES
from jaxbp.training.models import LOSSES, MODELS
from jaxbp.training.plan import FULL, Request, plan
from jaxbp.training.run import latest, remaining, run_tasks

#: What `machine.json` calls what was asked for.
ASKED = "training"


@app.command()
def train(
    loss: Annotated[str, typer.Option(help="softmax, hinge, separated by commas.")] = ",".join(LOSSES),
    model: Annotated[str, typer.Option(help="linear, two-layer, separated by commas.")] = ",".join(MODELS),
    engines: Annotated[str, typer.Option(help="Whose gradients, separated by commas.")] = ",".join(ENGINES),
    optimizer: Annotated[str, typer.Option(help="sgd, momentum or adam.")] = "sgd",
    schedule: Annotated[str, typer.Option(help="constant, cosine, separated by commas.")] = ",".join(SCHEDULES),
    batch: Annotated[str, typer.Option(help="Images in each step, separated by commas; full for all.")] = "full,128",
    rate: Annotated[float | None, typer.Option(help="Learning rate; by default one that suits loss and model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of each descent; by default 1000, with --quick 200.")] = None,
    strength: Annotated[float, typer.Option(help="Of the L2 penalty.")] = 1e-3,
    hidden: Annotated[int, typer.Option(help="Hidden units of the two-layer network.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the split into training and test, the start and the batches.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps, wider intervals.")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of all results.")] = Path("results"),
    resume: Annotated[Path | None, typer.Option(help="Folder of a run that was stopped, to be finished.")] = None,
    as_json: Json = False,
) -> None:
    """Train classifiers of digit images with each engine's gradient; the report goes to OUT/training/<machine>/<run>/.

    Grid search, random search, and gradient descent in full batch and mini-batches, beside scikit-learn's classifiers;
    what a numerical gradient costs as weights become more; and the inputs times 1000.

    Exit status 1 says that a task failed; the report lists it. A learning rate that diverges is reported, and no error.
    """
    request = Request(
        level="quick" if quick else "standard",
        losses=tuple(names(loss)),
        models=tuple(names(model)),
        engines=tuple(names(engines)),
        schedules=tuple(names(schedule)),
        batches=tuple(map(_batch, names(batch))),
        optimizer=optimizer,
        rate=rate,
        steps=steps,
        strength=strength,
        hidden=hidden,
        seed=seed,
    )
    if resume:
        if request != Request():
            raise UsageError("--resume goes on with what the run was asked for; leave out the other options.")
        request = resumed(resume, ASKED, "jaxbp train", Request.from_json)
    tasks = plan(request)
    with alone():
        folder = resume or new_run(out_folder / FOLDER, request.level, {ASKED: request.to_json()})
        todo = remaining(tasks, read_journal(folder)) if resume else tasks
        finished = into_journal(folder, len(todo), lambda journal, tell: run_tasks(todo, journal, tell))
    rows = latest(read_journal(folder))
    machine = {**read_machine(folder), "unfinished": len(tasks) - len(rows)}
    write_machine(folder, machine)
    frames = training_frames(rows)
    write_training_frames(folder, frames)
    summary = frames["summary"]
    if len(summary):
        report = write_training_report(folder, machine, frames)
        if as_json:
            found = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
            print(json.dumps({"folder": str(folder), **found}, indent=2))
        else:
            print_table(engine_table(summary).to_dict("records"))
            out.print(agreement(summary), highlight=False, soft_wrap=True, markup=False)
            out.print(f"Report: {report}", highlight=False, soft_wrap=True, markup=False)
    if not finished:
        stopped_early(folder, "jaxbp train")
    sys.exit(1 if any(row["failed"] for row in rows) else 0)


def _batch(text: str) -> int | None:
    if text == FULL:
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch says {text!r}; give whole numbers, or {FULL} for all images.") from None
