"""The frames of a training run: a row a descent, its curves, and what growth, searches and learning rates gave."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxbp.report.frames import comparison, timing
from jaxbp.report.run import naming
from jaxbp.training.data import load_examples
from jaxbp.training.descent import Setting
from jaxbp.training.experiment import BASELINE
from jaxbp.training.plan import batch_text, weights_of

Row = dict[str, Any]

#: The accuracy on the test that descents are timed to.
GOAL, GOAL_TEXT = 0.9, "90 %"
#: Curves of exact engines are held against each other over so many first steps.
COMPARED_STEPS = 200
#: Steps of a curve that `curves.csv` keeps, about evenly spaced in their logarithm.
KEPT_STEPS = 60

_DESCENT = {
    "model": "linear, or two-layer with a ReLU between",
    "loss": "softmax or hinge, of the scores, with the L2 penalty of the weights",
    "batch": "images in each step, or full for all of them",
    "schedule": "of the learning rate: constant, or cosine to 0 over all steps",
    "engine": "what computes the gradient",
}
#: What each column of `summary.csv` means, with its unit.
DESCENT_COLUMNS = {
    **_DESCENT,
    "weights": "how many weights the model has",
    "optimizer": "of optax",
    "rate": "the learning rate that the schedule begins with",
    "strength": "of the penalty",
    "seed": "of the split into training and test, of the start and of the batches",
    "steps": "updates that were made; the numerical engine makes as many as its budget of evaluations allows",
    "status": "ok; diverged where a number was not finite or the objective ended above where it began; or failed",
    "reason": "at which step, or why it failed",
    "train_loss": "the objective on all images for training, after the last step",
    "test_accuracy": "share of the test's images that are classified correctly after the last step",
    "steps_to_90": f"updates until {GOAL_TEXT} of the test were correct for the first time; empty where that never was",
    "seconds_to_90": "so many steps at step_us",
    "step_us": "median time of a step, gradient and update, microseconds, compiled",
    "step_us_low": "lower end of its 95 % interval",
    "step_us_high": "upper end of it",
    "compile_ms": "time to lower and compile the step, milliseconds",
    "ratio": "time of a step over that with the gradient by autodiff, as in `summary.csv` of `jaxbp bench`",
    "ratio_low": "lower end of its 95 % bootstrap interval",
    "ratio_high": "upper end of it",
    "verdict": "as there; only for engines of JAX that were timed in the same rounds as autodiff",
    "distance": "largest distance of a step's objective from that with the gradient by autodiff, relative to it, in "
    f"the first {COMPARED_STEPS} steps",
    "distance_all": "the same in all steps",
    "yardstick": "the classifier of scikit-learn that stands beside it",
    "yardstick_accuracy": "its share of the test",
    "yardstick_loss": "our objective at its weights, where it has the same",
    "yardstick_seconds": "to fit it, once",
}
CURVE_COLUMNS = {
    **_DESCENT,
    "step": "updates before",
    "batch_loss": "the objective on the step's examples, by the engine",
    "train_loss": "the objective on all images for training",
    "test_accuracy": "share of the test",
}
GROWTH_COLUMNS = {
    "weights": "how many weights the network has",
    "engine": "what computes the gradient",
    "evaluations": "of the objective, by the numerical gradient",
    "time_us": "median time of value and gradient, microseconds",
    "time_us_low": "lower end of its 95 % interval",
    "time_us_high": "upper end of it",
    "ratio": "time over autodiff's",
    "ratio_low": "lower end of its 95 % bootstrap interval",
    "ratio_high": "upper end of it",
    "verdict": "as in `summary.csv`",
}
SEARCH_COLUMNS = {
    "loss": "softmax or hinge",
    "dims": "coordinates: multiples of so many class templates, or all weights",
    "method": "grid, random, or descent",
    "per_axis": "points of the grid on each axis",
    "evaluations": "of the loss; a step of descent counts as three",
    "best_loss": "the smallest objective found by then",
    "test_accuracy": "share of the test with the best weights of all",
}
RATE_COLUMNS = {
    "loss": "softmax or hinge",
    "scale": "what all pixels are multiplied with",
    "growth_low": "how much the gradients of the pixels' weights at the start grow: the least",
    "growth_high": "and the most",
    "rate": "learning rate",
    "first_loss": "the objective at the start",
    "last_loss": "after the last step; infinite where it was no number",
    "works": "whether the objective fell and never rose above where it began",
}
#: By file, the columns.
FILES = {
    "summary": DESCENT_COLUMNS,
    "curves": CURVE_COLUMNS,
    "growth": GROWTH_COLUMNS,
    "search": SEARCH_COLUMNS,
    "rates": RATE_COLUMNS,
}

Frames = dict[str, pd.DataFrame]


def training_frames(rows: Sequence[Row]) -> Frames:
    """The frames of a journal's rows, by the names in `FILES`."""
    made = {"summary": _descents, "curves": _curves, "growth": _growth, "search": _searches, "rates": _rates}
    return {name: pd.DataFrame(list(make(rows)), columns=list(FILES[name])) for name, make in made.items()}


def write_training_frames(folder: Path, frames: Frames) -> None:
    """Write each frame as CSV."""
    for name, frame in frames.items():
        with naming(folder / f"{name}.csv", "written"):
            # Nine digits hold every float32, whose last ones tell curves apart.
            frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.9g")


def read_training_frames(folder: Path) -> Frames:
    """Read the frames of a run back."""
    frames = {}
    for name in FILES:
        with naming(folder / f"{name}.csv", "read"):
            frames[name] = pd.read_csv(
                folder / f"{name}.csv", dtype={"batch": str}, keep_default_na=False, na_values=[""]
            )
    return frames


def _of(rows: Sequence[Row], what: str) -> Iterator[tuple[Row, Row]]:
    """Each result of one part with its task."""
    for row in rows:
        if row["task"]["what"] == what:
            for result in row["rows"]:
                yield row["task"], result


def _kind(task: Row) -> tuple[Any, ...]:
    """What descents of all engines have in common."""
    return tuple(task["setting"][name] for name in ("model", "loss", "batch", "schedule"))


def _named(task: Row, engine: str) -> Row:
    setting = task["setting"]
    return {**{name: setting[name] for name in _DESCENT if name != "engine"}, "engine": engine} | {
        "batch": batch_text(setting["batch"])
    }


def _tests(task: Row) -> int:
    """How many images the test has."""
    return load_examples(task["setting"]["seed"])[1].labels.size


def _descents(rows: Sequence[Row]) -> Iterator[Row]:
    yardsticks = {(t["setting"]["model"], t["setting"]["loss"]): y for t, y in _of(rows, "yardstick")}
    steps = {(*_kind(task)[:3], result["engine"]): result for task, result in _of(rows, "step")}
    curves = {(*_kind(task), result["engine"]): result for task, result in _of(rows, "descent")}
    for row in rows:
        task = row["task"]
        if task["what"] != "descent":
            continue
        setting, (engine,) = task["setting"], task["engines"]
        cell = {**setting, **_named(task, engine), "weights": weights_of(Setting(**setting))}
        cell |= {"status": "failed" if row["failed"] else "ok", "reason": row["failed"], "steps": None, "verdict": ""}
        yardstick = yardsticks.get(_kind(task)[:2])
        if yardstick:
            cell |= {f"yardstick_{to}": yardstick[of] for to, of in (("loss", "objective"), ("seconds", "seconds"))}
            cell["yardstick"] = yardstick["name"]
            cell["yardstick_accuracy"] = yardstick["correct"] / yardstick["tests"]
        timed = steps.get((*_kind(task)[:3], engine))
        if timed:
            cell |= _times(timed, steps.get((*_kind(task)[:3], BASELINE)))
        for result in row["rows"]:
            cell |= _ended(result, _tests(task), cell.get("step_us", math.nan))
            baseline = curves.get((*_kind(task), BASELINE))
            if baseline:
                cell["distance_all"] = distance(result["losses"], baseline["losses"])
                cell["distance"] = distance(result["losses"][:COMPARED_STEPS], baseline["losses"])
        yield cell


def _times(row: Row, baseline: Row | None) -> Row:
    """The columns of a step's time."""
    time = timing(row)
    columns = {name.replace("time_us", "step_us"): value for name, value in time.items() if name.startswith("time_us")}
    columns["compile_ms"] = row["compile_ms"]
    return columns | (comparison([row], [baseline], paired=row["interleaved"]) if baseline else {})


def _ended(result: Row, tests: int, step_us: float) -> Row:
    """The columns of how a descent ended."""
    columns: Row = {"steps": len(result["losses"]), "train_loss": result["train_losses"][-1]}
    if result["diverged"]:
        at = result["diverged_at"]
        why = "the objective ended above where it began" if at is None else f"not finite at step {at}"
        columns |= {"status": "diverged", "reason": why}
    accuracy = np.asarray(result["correct"]) / tests
    columns["test_accuracy"] = accuracy[-1]
    reached = np.flatnonzero(accuracy >= GOAL)
    if reached.size:
        columns |= {"steps_to_90": int(reached[0]), "seconds_to_90": int(reached[0]) * step_us / 1e6}
    return columns


def distance(losses: Sequence[float], baseline: Sequence[float]) -> float:
    """The largest distance of two curves relative to the second, over the steps that both have.

    >>> distance([2.0, 1.0, 0.5], [2.0, 1.25])
    0.2
    """
    a, b = (np.asarray(x[: min(len(losses), len(baseline))]) for x in (losses, baseline))
    with np.errstate(all="ignore"):  # Diverged ones overflow, or are infinite alike.
        apart = np.where(a == b, 0, np.abs(a - b) / np.abs(b))
    return float(np.max(apart, initial=0))


def _curves(rows: Sequence[Row]) -> Iterator[Row]:
    for task, result in _of(rows, "descent"):
        named, n = _named(task, result["engine"]), len(result["losses"])
        # The same steps of every engine, however many it made.
        kept = {0, n - 1, n, *np.round(np.geomspace(1, task["setting"]["steps"], KEPT_STEPS)).astype(int)}
        for step in sorted(step for step in kept if 0 <= step <= n):
            yield {
                **named,
                "step": step,
                "batch_loss": result["losses"][step] if step < n else None,
                "train_loss": result["train_losses"][step],
                "test_accuracy": result["correct"][step] / _tests(task),
            }


def _growth(rows: Sequence[Row]) -> Iterator[Row]:
    found = [result for _, result in _of(rows, "growth")]
    baselines = {result["weights"]: result for result in found if result["engine"] == BASELINE}
    for result in found:
        baseline = baselines.get(result["weights"])
        ratio = comparison([result], [baseline], paired=result["interleaved"]) if baseline else {}
        yield {**result, **timing(result), **ratio}


def _searches(rows: Sequence[Row]) -> Iterator[Row]:
    for task, result in _of(rows, "search"):
        n = len(result["best"])
        for i in sorted({int(i) for i in np.round(np.geomspace(1, n, KEPT_STEPS))}):
            yield {
                **{name: result[name] for name in ("dims", "method", "per_axis")},
                "loss": task["setting"]["loss"],
                "evaluations": i * result["cost"],
                "best_loss": result["best"][i - 1],
                "test_accuracy": result["correct"] / _tests(task),
            }


def _rates(rows: Sequence[Row]) -> Iterator[Row]:
    for task, result in _of(rows, "rates"):
        for rate, last, works in zip(result["rates"], result["last"], result["works"], strict=True):
            yield {
                "loss": task["setting"]["loss"],
                "scale": result["scale"],
                "growth_low": result["gradient_growth"][0],
                "growth_high": result["gradient_growth"][1],
                "rate": rate,
                "first_loss": result["first"],
                "last_loss": last,
                "works": works,
            }
