"""A worker process: takes tasks from its parent and writes rows as it measures them.

The parent writes one task a line to standard input and reads one row a line from standard output; everything
else that is printed goes to standard error. NumPy, torch and JAX never compute in one process: each spins its
own threads, which would slow down the next measurement of another.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import jax
import numpy as np

from jaxbp.errors import import_extra
from jaxbp.measure.limits import measure_limits
from jaxbp.measure.plan import Task
from jaxbp.measure.task import measure
from jaxbp.measure.timer import Thunk, calibrate, sample


def main() -> None:
    """Serve tasks until standard input ends."""
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    owner = sys.argv[1]
    # No hop to another thread per call. JAX takes this from no environment variable.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    write(rows, {"kind": "worker", "owner": owner, **describe(owner)})
    limited = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if owner == "jax" and "dtype" in asked and asked["dtype"] not in limited:
            limited.add(asked["dtype"])
            write(rows, measure_limits(asked["dtype"]))
        for row in measure_asked(asked):
            write(rows, row)
        write(rows, {"kind": "done"})


def measure_asked(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of what the parent asks for: a task of the sweep, or a function of the user's."""
    if "target" in asked:
        # Here, because it brings in the checker, which workers of a sweep have no use for.
        from jaxbp.measure.function_task import FunctionTask, measure_target

        return measure_target(FunctionTask(**asked))
    return measure(Task(**asked))


def write(rows: TextIO, row: dict[str, Any]) -> None:
    """Hand one row to the parent now: what is measured survives whatever comes next."""
    rows.write(json.dumps(row) + "\n")
    rows.flush()


def describe(owner: str) -> dict[str, Any]:
    """What all rows of this process share: device (`cpu`, or the accelerator's name), dispatch floor, precision."""
    first = jax.devices()[0]
    return {
        "device": "cpu" if owner != "jax" or first.platform == "cpu" else first.device_kind,
        "floor_us": dispatch_floor(owner),
        "precision": jax.config.values["jax_default_matmul_precision"] or "default",
        "async_dispatch": "on" if jax.config.values["jax_cpu_enable_async_dispatch"] else "off",
    }


def dispatch_floor(owner: str) -> float:
    """Microseconds that a call of this owner costs when there is next to nothing to compute."""
    thunk: Thunk
    if owner == "jax":
        x = jax.device_put(np.ones(1, np.float32))
        compiled = jax.jit(lambda x, ct: (x + 1, ct + 1)).lower(x, x).compile()
        thunk = lambda: jax.block_until_ready(compiled(x, x))  # noqa: E731 - three ways to one name
    elif owner == "torch":
        tensor = import_extra("torch", "torch").ones(1)
        thunk = lambda: (tensor + 1, tensor + 1)  # noqa: E731 - three ways to one name
    else:
        array = np.ones(1, np.float32)
        thunk = lambda: (array + 1, array + 1)  # noqa: E731 - three ways to one name
    inner = calibrate(thunk, 0.001)
    return float(np.median([sample(thunk, inner)[0] for _ in range(31)])) * 1e6


if __name__ == "__main__":
    main()
