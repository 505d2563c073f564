"""Layers divided among 1, 2, 4 and 8 devices: whether they are right, what is sent and kept, and how long they take."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxbp.errors import unknown_name
from jaxbp.measure.executables import planned_memory, separate_passes
from jaxbp.measure.timer import Budget, Thunk, interleave
from jaxbp.sharding import ways
from jaxbp.sharding.agreement import communication_of, judged
from jaxbp.sharding.layouts import LAYOUTS, Layout, pose_layout

Row = dict[str, Any]

#: What is measured: the same problem on more devices, and on each device as much as before.
STRONG, WEAK = "strong", "weak"
CASES = {STRONG: "memory", WEAK: "cache"}
BUDGET = Budget(2.0, 15, 200)
RULE, AUTODIFF = "rule", "autodiff"


def find_layout(name: str) -> Layout:
    """The layout of that name, or an error that offers the closest ones."""
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    return LAYOUTS[name]


def agreement_of(name: str, devices: int, processes: int = 1) -> list[Row]:
    """One row for the value and for each cotangent of a layout at case `cache`, as `agreement.compare` has them."""
    about = {"op": name, "way": "layout", "devices": devices, "processes": processes}
    try:
        return [{**about, **row} for row in _agreement_of(find_layout(name), devices)]
    except Exception as error:  # Whatever an op does not take.
        return [{**about, "status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:500]}]


def _agreement_of(layout: Layout, devices: int) -> Iterator[Row]:
    problem, mesh = pose_layout(layout, "cache"), ways.mesh_of(devices)
    executable, given = ways.compiled(problem, layout.op.default_rule, mesh)
    stock, _ = ways.compiled(problem, layout.op.stock, mesh)
    communication = communication_of(executable, devices)
    communication |= {f"autodiff_{k}": v for k, v in communication_of(stock, devices).items()}
    spread = ways.to_numpy(executable(*given))
    (alone,) = ways.on_one_device(problem, layout.op.default_rule)
    names = ("value", *(f"ct_{a}" for a in layout.op.arguments))
    for quantity, actual, single, exact, bound in zip(names, spread, alone, problem.exact, problem.bounds, strict=True):
        if exact is not None:
            yield {"quantity": quantity, **communication, **judged(actual, [single], exact, bound=bound)}


def measure_layout(name: str, scaling: str) -> list[Row]:
    """Rule and autodiff on 1, 2, 4 and 8 devices of this process, timed in shared rounds: a row each."""
    layout = find_layout(name)
    rows: dict[tuple[str, int], Row] = {}
    thunks: dict[tuple[str, Any], Thunk] = {}
    for n in ways.DEVICES:
        problem = pose_layout(layout, CASES[scaling], n if scaling == WEAK else 1, exact=False)
        for engine, primal in ((RULE, layout.op.default_rule), (AUTODIFF, layout.op.stock)):
            thunk, row = _ready(problem, primal, n)
            flops = layout.op.count_flops(tuple(x.shape for x in problem.args))
            thunks[engine, n] = thunk
            rows[engine, n] = {
                "layout": name,
                "scaling": scaling,
                "case": CASES[scaling],
                "devices": n,
                "engine": engine,
                "flops": flops.fwd + flops.bwd,
                **row,
            }
    baselines = {key: (AUTODIFF, key[1]) for key in thunks if key[0] == RULE}
    taken = interleave(thunks, BUDGET, np.random.default_rng(0), baselines)
    return [
        {**row, "samples_us": [1e6 * s for s in taken[key].seconds], "cores": taken[key].cores}
        for key, row in rows.items()
    ]


def _ready(problem: ways.Problem, primal: Any, devices: int) -> tuple[Thunk, Row]:
    mesh = ways.mesh_of(devices)
    executable, given = ways.compiled(problem, primal, mesh)
    passes = separate_passes(functools.partial(jax.vjp, problem.spread(primal, mesh)), problem.args)
    return lambda: jax.block_until_ready(executable(*given)), {
        **communication_of(executable, devices),
        "kept_bytes": sum(residual.bytes for residual in passes.residuals) / devices,
        "temp_bytes": planned_memory(executable)[0],
    }


def plan_scaling() -> list[tuple[str, str]]:
    """What there is to measure, as (layout, scaling)."""
    return [(name, scaling) for name in LAYOUTS for scaling in CASES]
