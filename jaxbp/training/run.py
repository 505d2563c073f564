"""Do the tasks of a training run, each in the process of its owner, and keep the rows of each as it ends."""

import concurrent.futures
import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from jaxbp.engines import Owner
from jaxbp.measure.pool import owner_pool
from jaxbp.measure.sweep import Journal
from jaxbp.training.experiment import carry_out
from jaxbp.training.plan import Task

Row = dict[str, Any]

#: NumPy's matrices are so small here that threads would wait for each other longer than they compute.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each task: one that failed is done again when the run is resumed."""
    return list({json.dumps(row["task"]): row for row in rows}.values())


def remaining(tasks: Iterable[Task], rows: Iterable[Row]) -> list[Task]:
    """The tasks that the rows of a journal do not hold, or hold as failed."""
    done = [row["task"] for row in rows if not row["failed"]]
    return [task for task in tasks if json.loads(json.dumps(task.to_json())) not in done]


def run_tasks(tasks: Iterable[Task], journal: Journal, progress: Callable[[str], None]) -> None:
    """One task after the other; a process that dies costs its task, which is written down as failed."""
    with contextlib.ExitStack() as stack:
        pools: dict[Owner, concurrent.futures.Executor] = {}
        for task in tasks:
            progress(task.name)
            if task.owner not in pools:
                pools[task.owner] = stack.enter_context(owner_pool(task.owner, ONE_THREAD))
            row: Row = {"kind": "task", "task": task.to_json(), "rows": [], "failed": ""}
            try:
                row["rows"] = pools[task.owner].submit(carry_out, task).result()
            except concurrent.futures.BrokenExecutor as error:
                del pools[task.owner]
                row["failed"] = f"The process that did it ended: {error}"
            journal.append(row)
