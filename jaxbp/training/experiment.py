"""Carry out one task of a training run: descents, times, searches, learning rates; rows that JSON can hold."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxbp.differences import evaluations
from jaxbp.measure.executables import compile_function
from jaxbp.measure.timer import Samples, Thunk, interleave
from jaxbp.measure.worker import dispatch_floor
from jaxbp.training.descent import Trainer, batches, descend
from jaxbp.training.gradients import NUMERICAL
from jaxbp.training.plan import LEVELS, Task, affordable_steps, weights_of
from jaxbp.training.rates import RATES, SCALES, try_rates
from jaxbp.training.search import STEP_COST, search, space_of
from jaxbp.training.yardstick import fit_yardstick

Row = dict[str, Any]

#: What is timed of growing networks: value and gradient in one executable.
MODE = "fwd_bwd"
BASELINE = "autodiff"


def carry_out(task: Task) -> list[Row]:
    """The rows of a task."""
    return list(PARTS[task.what](task))


def _yardstick(task: Task) -> Iterator[Row]:
    yield dataclasses.asdict(fit_yardstick(task.setting))


def _descent(task: Task) -> Iterator[Row]:
    (engine,) = task.engines
    curve = descend(task.setting, engine, affordable_steps(task.setting, engine, LEVELS[task.level]))
    columns = ("losses", "train_losses", "correct", "diverged", "diverged_at")
    yield {"engine": engine, **{name: getattr(curve, name) for name in columns}}


def _step(task: Task) -> Iterator[Row]:
    def thunk(engine: str) -> tuple[Thunk, float | None]:
        trainer = Trainer(task.setting, engine)
        return _ready(trainer, trainer.step, trainer.arguments(next(batches(trainer.labels.size, task.setting))))

    yield from _timed(task, thunk)


def _growth(task: Task) -> Iterator[Row]:
    def thunk(engine: str) -> tuple[Thunk, float | None]:
        trainer = Trainer(task.setting, engine)
        rows = next(batches(trainer.labels.size, task.setting))
        return _ready(trainer, trainer.gradient, (trainer.weights, trainer.x[rows], trainer.labels[rows]))

    yield from _timed(task, thunk)


def _ready(trainer: Trainer, f: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Thunk, float | None]:
    """A call that waits for its results, and the milliseconds to compile it."""
    if trainer.owner == "numpy":
        return functools.partial(f, *arguments), None
    executable = compile_function(f, *arguments)
    return executable.call, (executable.lower_ms or 0) + (executable.compile_ms or 0)


def _timed(task: Task, thunk: Callable[[str], tuple[Thunk, float | None]]) -> Iterator[Row]:
    """The engines' samples, interleaved; the numerical one apart, since one call of it takes as long as many rounds."""
    level, rng = LEVELS[task.level], np.random.default_rng(task.setting.seed)
    ready = {engine: thunk(engine) for engine in task.engines}
    together = {engine: call for engine, (call, _) in ready.items() if engine != NUMERICAL}
    baselines = {name: BASELINE for name in together if BASELINE in together and name != BASELINE}
    taken: dict[str, Samples] = interleave(together, level.budget, rng, baselines) if together else {}
    if NUMERICAL in ready:
        taken |= interleave({NUMERICAL: ready[NUMERICAL][0]}, level.slow_budget, rng)
    floor = dispatch_floor(task.owner)
    for engine, samples in taken.items():
        yield {
            "engine": engine,
            "mode": MODE,
            "samples_us": [1e6 * seconds for seconds in samples.seconds],
            "cores": samples.cores,
            "floor_us": floor,
            "compile_ms": ready[engine][1],
            "interleaved": engine in baselines or engine == BASELINE,
            "weights": weights_of(task.setting),
            "evaluations": evaluations(weights_of(task.setting), "central") if engine == NUMERICAL else 1,
        }


def _search(task: Task) -> Iterator[Row]:
    space = space_of(task.dims, task.setting.seed)
    found = search(task.method, space, task.setting, LEVELS[task.level].evaluations)
    yield {
        "dims": space.dims,
        "method": task.method,
        "cost": STEP_COST if task.method == "descent" else 1,
        "best": found.best.tolist(),
        "correct": found.correct,
        "per_axis": found.per_axis,
    }


def _rates(task: Task) -> Iterator[Row]:
    (engine,) = task.engines
    tried = [try_rates(task.setting, engine, scale, LEVELS[task.level].rate_steps) for scale in SCALES]
    start = np.abs(tried[0].gradient)
    for rates in tried:
        growth = np.abs(rates.gradient)[start > 0] / start[start > 0]
        yield {
            "engine": engine,
            "scale": rates.scale,
            "gradient_growth": [float(growth.min()), float(growth.max())],
            "rates": list(RATES),
            "first": rates.first,
            "last": rates.last.tolist(),
            "works": rates.works.tolist(),
        }


PARTS: dict[str, Callable[[Task], Iterator[Row]]] = {
    "yardstick": _yardstick,
    "descent": _descent,
    "step": _step,
    "growth": _growth,
    "search": _search,
    "rates": _rates,
}
