"""The report of a training run: its tables as frames of text, and `train.md`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.measure.machine import computer
from jaxbp.report import tables, training_plots
from jaxbp.report.markdown import table
from jaxbp.report.plots import save
from jaxbp.report.run import naming, newest_record
from jaxbp.report.training import COMPARED_STEPS, GOAL_TEXT, Frames, read_training_frames
from jaxbp.training.experiment import BASELINE
from jaxbp.training.gradients import EXACT, NUMERICAL

Row = dict[str, Any]

FOLDER = "training"
REPORT = "train.md"
KIND = ["model", "loss", "batch", "schedule"]

ENGINE_TEXT = f"""\
All engines take the same steps from the same start, so that they differ in the gradient alone; the update is optax's
in all of them. **step** is the median time of a step, gradient and update, compiled; the ratio to autodiff is of the
same interleaved rounds where there is a verdict, else that of the medians: NumPy has a process of its own. **to
{GOAL_TEXT}** is the first step after which {GOAL_TEXT} of the test are right, and so many steps' time. **distance** is
the largest distance of a step's objective from autodiff's in the first {COMPARED_STEPS} steps, relative to it. The
numerical engine stops where its budget of evaluations is spent."""
DISTANCE_TEXT = f"""\
How far the curves of the other engines are from autodiff's, in the first {COMPARED_STEPS} steps and in all, relative to
the objective. Exact gradients differ by rounding, about 1e-7. More than that is a kink: where a margin or a unit comes
so close to 0 that rounding decides on which side it is, the gradients differ by that image's share."""
GROWTH_TEXT = """\
Value and gradient of the two-layer network on a batch of 128 images, with more and more hidden units. A central
difference evaluates the objective twice for every weight."""
SEARCH_TEXT = """\
The smallest objective that each way finds with the same number of evaluations, and the share of the test that these
weights get right. The first rows look for multiples of so many class templates (singular vectors of the classes' mean
images), the last for all weights at once. A step of descent counts as three evaluations."""
RATE_TEXT = """\
The notes' experiment: all pixels times 1000, and no penalty. A rate works if the objective falls and never rises above
where it began. The gradient grows by 1000, and so does what a step in the weights does to the scores, so that the rate
has to fall by the square of that."""


def chosen_kind(summary: pd.DataFrame) -> tuple[str, str]:
    """The batch and schedule of the tables that show one descent of each model: the last that were asked for."""
    last = summary.iloc[-1]
    return last["batch"], last["schedule"]


def engine_table(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per model, loss and engine, at one batch and schedule."""
    batch, schedule = chosen_kind(summary)
    rows = []
    for _, cell in summary[(summary["batch"] == batch) & (summary["schedule"] == schedule)].iterrows():
        rows.append(
            {
                "model": cell["model"],
                "loss": cell["loss"],
                "engine": cell["engine"],
                "step": _seconds(cell["step_us"] / 1e6),
                "step / autodiff": "" if cell["engine"] == BASELINE else _ratio(cell),
                "steps": _count(cell["steps"]),
                f"steps to {GOAL_TEXT}": _count(cell["steps_to_90"]),
                f"time to {GOAL_TEXT}": _seconds(cell["seconds_to_90"]),
                "test accuracy": _share(cell["test_accuracy"]) + _status(cell),
                "scikit-learn's": _share(cell["yardstick_accuracy"]),
                "distance": "" if cell["engine"] == BASELINE else _small(cell["distance"]),
            }
        )
    return pd.DataFrame(rows)


def descent_table(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per model, loss, batch and schedule, of the first engine."""
    own = summary[summary["engine"] == summary["engine"].iloc[0]]
    rows = []
    for _, cell in own.iterrows():
        rows.append(
            {
                **{name: cell[name] for name in KIND},
                "rate": f"{cell['rate']:g}",
                "steps": _count(cell["steps"]),
                f"steps to {GOAL_TEXT}": _count(cell["steps_to_90"]),
                f"time to {GOAL_TEXT}": _seconds(cell["seconds_to_90"]),
                "objective": tables.number(cell["train_loss"]) + _status(cell),
                "scikit-learn's": tables.number(cell["yardstick_loss"]),
                "test accuracy": _share(cell["test_accuracy"]),
                "scikit-learn's accuracy": f"{_share(cell['yardstick_accuracy'])} ({cell['yardstick']})",
            }
        )
    return pd.DataFrame(rows)


def distance_table(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per model, loss, batch and schedule: how far each engine's curve is from autodiff's."""
    own = summary[(summary["engine"] != BASELINE) & summary["distance"].notna()]
    rows: dict[tuple[Any, ...], Row] = {}
    for _, cell in own.iterrows():
        kind = {name: cell[name] for name in KIND}
        row = rows.setdefault(tuple(kind.values()), kind)
        row[cell["engine"]] = f"{_small(cell['distance'])}, all {_count(cell['steps'])}: {_small(cell['distance_all'])}"
    return pd.DataFrame(list(rows.values())).fillna("")


def growth_table(growth: pd.DataFrame) -> pd.DataFrame:
    """One row per number of weights, one column per engine."""
    rows: dict[int, Row] = {}
    for _, cell in growth.iterrows():
        row = rows.setdefault(int(cell["weights"]), {"weights": f"{cell['weights']:,}"})
        row[cell["engine"]] = tables.amount(cell["time_us"])
        if cell["engine"] == NUMERICAL:
            row |= {"evaluations": f"{cell['evaluations']:,}"}
            row["/ autodiff"] = "" if pd.isna(cell["ratio"]) else f"{cell['ratio']:,.0f}"
    return pd.DataFrame([rows[weights] for weights in sorted(rows)]).fillna("")


def search_table(search: pd.DataFrame) -> pd.DataFrame:
    """One row per loss and space, of every method the best objective and the accuracy with it."""
    rows: dict[tuple[Any, ...], Row] = {}
    last = search.drop_duplicates(["loss", "dims", "method"], keep="last")
    for _, cell in last.iterrows():
        row = rows.setdefault((cell["loss"], cell["dims"]), {"loss": cell["loss"], "coordinates": str(cell["dims"])})
        if cell["method"] == "grid":
            row["grid points an axis"] = f"{cell['per_axis']:.0f}"
        row[cell["method"]] = f"{tables.number(cell['best_loss'])}, {_share(cell['test_accuracy'])}"
    return pd.DataFrame(list(rows.values()))


def rate_table(rates: pd.DataFrame) -> pd.DataFrame:
    """One row per loss and scale: how the gradient grew, the largest rate that works, the best one."""
    rows = []
    for (loss, scale), own in rates.groupby(["loss", "scale"], sort=False):
        works = own.loc[own["works"].astype(bool), "rate"]
        best = own.sort_values("last_loss").iloc[0]
        low, high = own["growth_low"].iloc[0], own["growth_high"].iloc[0]
        rows.append(
            {
                "loss": loss,
                "pixels times": f"{scale:g}",
                "gradient times": f"{low:.6g}" if f"{low:.6g}" == f"{high:.6g}" else f"{low:.6g} to {high:.6g}",
                "largest rate that works": f"{works.max():.2g}" if len(works) else "none",
                "best rate": f"{best['rate']:.2g}",
                "objective with it": tables.number(best["last_loss"]),
            }
        )
    return pd.DataFrame(rows)


def agreement(summary: pd.DataFrame) -> str:
    """How far the curves of the exact engines are from autodiff's at most, as a sentence."""
    own = summary[summary["engine"].isin(EXACT) & (summary["engine"] != BASELINE) & summary["distance"].notna()]
    if own.empty:
        return "No two exact engines were asked for."
    worst = [cells.sort_values("distance").iloc[-1] for _, cells in own.groupby("engine", sort=False)]
    furthest = [
        f"by {cell['engine']} within {_small(cell['distance'])} ({', '.join(str(cell[name]) for name in KIND)})"
        for cell in worst
    ]
    return f"In the first {COMPARED_STEPS} steps all curves are near autodiff's: {'; '.join(furthest)}."


def write_training_report(folder: Path, machine: Row, frames: Frames) -> Path:
    """Write `train.md` and its pictures into the run's folder; returns its path."""
    pictures = []
    for name, figure in training_plots.figures(frames, chosen_kind(frames["summary"])):
        with naming(folder / name, "written"):
            save(figure, folder / name)
        pictures.append(name)
    path = folder / REPORT
    with naming(path, "written"):
        path.write_text("\n\n".join(_sections(machine, frames, pictures)) + "\n")
    return path


def recorded_training(results: Path, link: str) -> str:
    """The tables and pictures of the newest run under `results/training/`, and where they come from, as Markdown.

    `link` is the path of `results` from the page.
    """
    record = newest_record(results, f"{FOLDER}/*")
    if record is None:
        return "There is no record of a training run yet."
    folder, machine = record
    frames = read_training_frames(folder)
    link = f"{link}/{folder.relative_to(results).as_posix()}"

    def picture(name: str) -> str:
        return f"![{HEADINGS[name]}]({link}/{name}.png)"

    summary = frames["summary"]
    parts = [where(machine), ENGINE_TEXT, table(engine_table(summary)), agreement(summary), picture("engines")]
    parts += [table(descent_table(summary))]
    for name, text, make in PARTS:
        parts += [text, table(make(frames[name])), picture(name)]
    return "\n\n".join(parts)


def _sections(machine: Row, frames: Frames, pictures: list[str]) -> Iterator[str]:
    def picture(name: str) -> Iterator[str]:
        if f"{name}.png" in pictures:
            yield f"![{HEADINGS[name]}]({name}.png)"

    summary = frames["summary"]
    batch, schedule = chosen_kind(summary)
    yield "# Training on the digit images"
    yield where(machine)
    if machine.get("unfinished"):
        yield f"Stopped early: {machine['unfinished']} tasks are missing here."
    failed = summary[summary["status"] == "failed"]
    if len(failed):
        yield f"## Failed: {len(failed)}"
        yield table(failed[[*KIND, "engine", "reason"]])
    yield f"## Engines: batch {batch}, {schedule} learning rate"
    yield ENGINE_TEXT
    yield table(engine_table(summary))
    yield agreement(summary)
    yield from picture("engines")
    yield "## Full batch and mini-batches, constant and cosine-decayed learning rate"
    yield f"With the gradient by {summary['engine'].iloc[0]}:"
    yield table(descent_table(summary))
    distances = distance_table(summary)
    if len(distances):
        yield DISTANCE_TEXT
        yield table(distances)
    yield from picture("descents")
    for name, text, make in PARTS:
        if len(frames[name]):
            yield f"## {HEADINGS[name]}"
            yield text
            yield table(make(frames[name]))
            yield from picture(name)


#: The parts besides descents: frame, what its table shows, and the table.
PARTS: tuple[tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame]], ...] = (
    ("growth", GROWTH_TEXT, growth_table),
    ("search", SEARCH_TEXT, search_table),
    ("rates", RATE_TEXT, rate_table),
)
#: By picture, what it shows.
HEADINGS = {
    "engines": "Loss curves of all engines, and their distance from autodiff's where it is not 0",
    "descents": "Objective on all images for training and errors in the test, by step",
    "growth": "What a gradient costs as weights become more",
    "search": "Search against descent",
    "rates": "Inputs times 1000",
}


def where(machine: Row) -> str:
    """Where the numbers of a run come from, in a sentence."""
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("jax", "numpy") if name in machine["versions"]
    )
    noise = machine["noise"]
    return (
        f"Measured {machine['started'][:10]} on {computer(machine)}, {versions}, "
        f"commit {machine['commit']}; the machine was {noise['verdict']}, load {noise['load']:.1f} per core."
    )


def _status(cell: pd.Series) -> str:
    return "" if cell["status"] == "ok" else f" ({cell['status']})"


def _ratio(cell: pd.Series) -> str:
    if pd.isna(cell["ratio"]):
        return ""
    if cell["ratio"] >= 100:
        return f"{cell['ratio']:,.0f}"
    return tables.ratio(cell.fillna({"verdict": ""}))


def _count(value: float) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def _seconds(value: float) -> str:
    return "" if pd.isna(value) else tables.amount(1e6 * value)


def _share(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f} %"


def _small(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1e}" if value else "0"
