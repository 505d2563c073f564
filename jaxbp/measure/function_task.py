"""A user's function as the command line asks for it, measured in a worker."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxbp.check.load import load_function, make_arguments, wants_x64
from jaxbp.errors import MissingExtraError, UsageError
from jaxbp.measure.function import measure_function
from jaxbp.measure.sweep import Row, Worker, WorkerError

#: A function is the user's own: a worker is not taken to hang before it has had this long.
TIMEOUT_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class FunctionTask:
    """What the command line asks for: a function by name, arguments by dtype and shape, as `jaxbp check` takes them."""

    target: str
    specs: tuple[str, ...]
    stock: str | None
    domain: Mapping[str, tuple[float, float]]
    level: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As a worker receives it."""
        return dataclasses.asdict(self)


def measure_in_worker(task: FunctionTask) -> Iterator[Row]:
    """The rows of a task, measured in a fresh process with the environment of the sweep.

    Raises:
        UsageError: what is asked for cannot be measured; the text says why.
    """
    try:
        worker = Worker("jax", x64=wants_x64(task.specs))
        try:
            for row in worker.rows(task, TIMEOUT_SECONDS):
                if row["kind"] == "refusal":
                    raise UsageError(row["reason"])
                yield {**row, **worker.facts, "process": "worker"}
        finally:
            worker.close()
    except WorkerError as error:
        raise UsageError(f"{task.target} could not be measured. {error}") from error


def measure_target(task: FunctionTask) -> Iterator[Row]:
    """What a worker does with a task; what makes no sense becomes a row of kind `refusal`."""
    try:
        f = load_function(task.target)
        args = make_arguments(f, task.specs, task.seed, task.domain)
        stock = load_function(task.stock) if task.stock else None
        options = {"stock": stock, "domain": task.domain, "level": task.level, "seed": task.seed}
        yield from measure_function(f, args, **options)
    except (UsageError, MissingExtraError) as error:
        yield {"kind": "refusal", "reason": str(error)}
