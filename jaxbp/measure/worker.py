"""A worker process: takes tasks from its parent and writes rows as it measures them.

The parent writes one task a line to standard input and reads one row a line from standard output; everything
else that is printed goes to standard error. NumPy, torch and JAX never compute in one process: each spins its
own threads, which would slow down the next measurement of another.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

import jax
import numpy as np

from jaxbp.engines import Owner, torch_device
from jaxbp.errors import import_extra
from jaxbp.measure.executables import compile_function
from jaxbp.measure.limits import measure_limits
from jaxbp.measure.plan import Task
from jaxbp.measure.products import multiply_as_jax, product_bits
from jaxbp.measure.task import measure
from jaxbp.measure.timer import Queued, Thunk, calibrate, sample


def main() -> None:
    """Serve tasks until standard input ends."""
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    owner = cast(Owner, sys.argv[1])
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


def describe(owner: Owner) -> dict[str, Any]:
    """What all rows of this process share: device (`cpu`, or the accelerator's name), dispatch floor, precision."""
    if owner == "torch":
        multiply_as_jax()
    return {
        "device": device_of(owner),
        "floor_us": dispatch_floor(owner),
        "product_bits": product_bits(owner),
        "precision": jax.config.values["jax_default_matmul_precision"] or "default",
        "async_dispatch": "on" if jax.config.values["jax_cpu_enable_async_dispatch"] else "off",
    }


def device_of(owner: Owner) -> str:
    """What computes for this owner: `cpu`, or the accelerator's name."""
    if owner == "torch" and torch_device() != "cpu":
        return import_extra("torch", "torch").cuda.get_device_name()
    first = jax.devices()[0]
    return "cpu" if owner != "jax" or first.platform == "cpu" else first.device_kind


def dispatch_floor(owner: Owner) -> float:
    """Microseconds that a call of this owner costs when there is next to nothing to compute."""
    thunk: Thunk
    if owner == "jax":
        x = jax.device_put(np.ones(1, np.float32))
        thunk = compile_function(lambda x, ct: (x + 1, ct + 1), x, x).call
    elif owner == "torch":
        torch = import_extra("torch", "torch")
        tensor = torch.ones(1, device=torch_device())
        thunk = lambda: (tensor + 1, tensor + 1)  # noqa: E731 - three ways to one name
        if torch_device() != "cpu":
            thunk = Queued(thunk, lambda _: torch.cuda.synchronize())
    else:
        array = np.ones(1, np.float32)
        thunk = lambda: (array + 1, array + 1)  # noqa: E731 - three ways to one name
    inner = calibrate(thunk, 0.001)
    return float(np.median([sample(thunk, inner)[0] for _ in range(31)])) * 1e6


if __name__ == "__main__":
    main()
