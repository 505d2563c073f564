"""The cells of `jaxbp bench` under pytest-benchmark, grouped by case so that engines stand side by side."""

import functools

import jax
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Recorder
from jaxbp.measure.executables import Mode
from jaxbp.measure.plan import Task
from jaxbp.measure.task import Prepared, Problem, check_after, check_before, compare, pose, prepare, time_row
from jaxbp.measure.timer import Samples
from jaxbp.report.frames import ACCURACY_COLUMNS

#: What a cell says of itself, so that `jaxbp compare` knows it in the JSON.
ABOUT = ("op", "op_version", "case", "shapes", "n", "dtype", "engine", "device", "floor_us")


@functools.lru_cache(maxsize=1)
def _problem(task: Task) -> Problem:
    return pose(task)


@functools.lru_cache(maxsize=1)
def _prepared(task: Task, engine: str) -> tuple[Prepared, list[dict]]:
    problem = _problem(task)
    prepared = prepare(problem, engine)
    accuracy = list(compare(problem, prepared))
    check_before(problem, prepared)
    return prepared, accuracy


def bench_gradient(benchmark: BenchmarkFixture, recorder: Recorder, cell: tuple[Task, str, Mode]) -> None:
    """Time one cell: an executable that is checked before and after, every output waited for."""
    task, engine, mode = cell
    with jax.enable_x64(task.dtype == "float64"):
        prepared, accuracy = _prepared(task, engine)
    if mode not in prepared.executables:
        pytest.fail(f"{task.op} {task.case} {engine} has no mode {mode}")
    errors = [recorder.add(row, task.owner) for row in accuracy]
    gradients = [row for row in accuracy if row["quantity"] != "value"]
    benchmark.group = f"{task.op} {task.case} {task.dtype} {mode}"
    benchmark.extra_info.update(
        {name: errors[0][name] for name in ABOUT},
        mode=mode,
        errors=[{name: row.get(name) for name in ACCURACY_COLUMNS} for row in errors],
        extrapolated=prepared.scale,
        residual_bytes=prepared.executables[mode].residual_bytes,
        value_max_ulp=accuracy[0]["max_ulp"],
        gradient_max_ulp=max(row["max_ulp"] for row in gradients),
        gradient_median_ulp=max(row["median_ulp"] for row in gradients),
        gradient_norm_rel=max(row["norm_rel"] for row in gradients),
    )
    benchmark(prepared.executables[mode].call)
    check_after(_problem(task), prepared)
    if benchmark.stats is None:  # --benchmark-disable runs the function once and times nothing.
        return
    # pytest-benchmark does not say whether a sample was interrupted.
    samples = Samples(list(benchmark.stats.stats.data), [], benchmark.stats.iterations)
    recorder.add(time_row(_problem(task), prepared, mode, samples, interleaved=False), task.owner)
