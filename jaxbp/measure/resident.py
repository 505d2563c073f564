"""The peak resident set of one engine's gradient, in a process that does nothing else.

The process reads its high-water mark from Linux's /proc/self, where it can be set back. `ru_maxrss` would not do: a
process inherits it from the one that started it, and never sees a peak below that.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxbp.errors import UsageError
from jaxbp.measure.plan import LEVELS, Task
from jaxbp.measure.task import pose, prepare

Row = dict[str, Any]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: Freed arrays go back to the system at once, so that the resident set holds only what is alive.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": str(2**16),
    "MALLOC_MMAP_THRESHOLD_": str(2**17),
    "MALLOC_TRIM_THRESHOLD_": str(2**17),
    "MALLOC_TOP_PAD_": "0",
}


def main() -> None:
    """Measure the task and write its row to standard output; whatever else is printed goes to standard error."""
    row = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    row.write(json.dumps(measure_resident(Task(**json.loads(sys.argv[1])))))


def measure_resident(task: Task) -> Row:
    """The row of a task of one engine: how far its fwd_bwd, called once, raises the resident set above its inputs."""
    problem = pose(task)
    problem = dataclasses.replace(problem, level=dataclasses.replace(problem.level, modes=("fwd_bwd",)))
    (engine,) = task.engines
    # A first call sets up what a library keeps for good, such as its threads.
    call = prepare(problem, engine).executables["fwd_bwd"].call
    about = {name: problem.about[name] for name in ("op", "case", "dtype", "repetition")}
    return {**about, "engine": engine, "kind": "resident", "peak_rss_bytes": peak_growth(call)}


def peak_growth(call: Callable[[], Any]) -> int:
    """Bytes by which the peak of this process's resident set during a call lies above the resident set before it."""
    gc.collect()
    RESET.write_text("5")
    before = _peak()
    result = call()
    after = _peak()
    del result  # Until here it is alive, as it is for a caller.
    return after - before


def _peak() -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def resident_row(task: Task, engine: str, environment: dict[str, str]) -> Row:
    """Measure one engine of a task in a fresh process; a row of kind `failure` says why there is no number."""
    alone = dataclasses.replace(task, engines=(engine,))
    command = [sys.executable, "-m", "jaxbp.measure.resident", json.dumps(alone.to_json())]
    variables = {**os.environ, **environment, **ALLOCATOR}
    limit = LEVELS[task.level].timeout_seconds
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=limit, check=True)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        reason = "it took too long and was stopped"
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["nothing"]
        reason = f"its process ended with exit status {error.returncode}; it printed last: {last[0][:300]}"
    return {**task.to_json(), "engine": engine, "kind": "failure", "reason": f"No peak resident set: {reason}."}


def require_proc() -> None:
    """Raise an error where the system does not say what a process holds in memory."""
    if not RESET.exists():
        raise UsageError("--peak-rss needs Linux: it reads and resets a process's peak memory in /proc; leave it out.")


if __name__ == "__main__":
    main()
