"""The peak resident set: what is planted is seen, to the page, whatever else the process or its parent held before."""

import json
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxbp.errors import UsageError
from jaxbp.measure import resident
from jaxbp.measure.plan import Task
from jaxbp.measure.resident import ALLOCATOR, peak_growth, require_proc, resident_row

MIB = 2**20
pytestmark = pytest.mark.skipif(not resident.RESET.exists(), reason="What a process holds is Linux's to say.")


def fresh(mib: int) -> np.ndarray:
    """An array in pages of its own: NumPy's may lie in what an earlier test freed, which is resident already."""
    array = np.frombuffer(mmap.mmap(-1, max(1, mib * MIB)), np.uint8)
    array[:] = 1
    return array


@pytest.mark.parametrize("mib", [0, 64, 200])
def test_a_planted_array_is_seen(mib):
    assert peak_growth(lambda: fresh(mib)) == pytest.approx(mib * MIB, abs=4 * MIB)


def test_memory_that_was_given_back_counts_and_an_earlier_peak_does_not():
    fresh(300)

    def call() -> int:
        return int(fresh(100).sum())

    assert peak_growth(call) == pytest.approx(100 * MIB, abs=4 * MIB)
    assert peak_growth(call) == pytest.approx(100 * MIB, abs=4 * MIB)


# The sigmoid under a rule whose loop carries 64 MiB, which no compiler fuses away, and under one without.
PLANTED = """
import jax
import jax.numpy as jnp
import jaxbp
from jaxbp.declaration import Rule
from jaxbp.measure import resident, task

def plain(res, ct):
    return (ct * res[0],)

def large(res, ct):
    carried = jax.lax.fori_loop(0, 3, lambda i, numbers: numbers * res[0][i], jnp.ones(2**24, jnp.float32))
    return (ct * res[0] + jnp.sum(carried),)

rules = tuple(Rule(f.__name__, lambda x: (x, (x,)), f) for f in (plain, large))
print("An op may print.")
task.find_op = lambda name: jaxbp.sigmoid.replace(rules=rules)
resident.main()
"""


def planted(engine: str) -> dict[str, Any]:
    """The row of a rule of the script above, as its process writes it."""
    task = Task("sigmoid", "small", "float32", "jax", (engine,), "quick")
    done = subprocess.run(
        [sys.executable, "-c", PLANTED, json.dumps(task.to_json())],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **ALLOCATOR},
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_rule_that_holds_64_mib_more_shows_them():
    plain, large = planted("rule:plain"), planted("rule:large")
    assert {name: plain[name] for name in ("kind", "op", "case", "dtype", "engine")} == {
        "kind": "resident",
        "op": "sigmoid",
        "case": "small",
        "dtype": "float32",
        "engine": "rule:plain",
    }
    assert plain["peak_rss_bytes"] < 4 * MIB
    assert large["peak_rss_bytes"] - plain["peak_rss_bytes"] == pytest.approx(64 * MIB, abs=4 * MIB)


@pytest.mark.parametrize(("owner", "engine"), [("jax", "autodiff"), ("numpy", "numpy")])
def test_outputs_count_and_inputs_do_not(owner, engine):
    """The parent holds much more than the child ever will, which `ru_maxrss` of the child would begin with."""
    parents = np.ones(600 * MIB, np.uint8)
    row = resident_row(Task("exp", "memory", "float32", owner, (engine,), "quick"), engine, {})
    del parents
    assert row["kind"] == "resident", row
    # Value and cotangent of 16 MiB each; NumPy holds one or two arrays on the way.
    assert 30 * MIB < row["peak_rss_bytes"] < (36 if engine == "autodiff" else 70) * MIB


def test_an_engine_that_fails_is_a_row_with_its_reason():
    row = resident_row(Task("exp", "small", "float32", "jax", ("rule:none",), "quick"), "rule:none", {})
    assert (row["kind"], row["op"], row["engine"]) == ("failure", "exp", "rule:none")
    assert re.match(
        r"No peak resident set: its process ended with exit status 1; it printed last: .*no engine", row["reason"]
    )


def test_a_process_that_hangs_is_a_row_with_its_reason(monkeypatch):
    def hang(*args: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(resident.subprocess, "run", hang)
    row = resident_row(Task("exp", "small", "float32", "jax", ("autodiff",), "quick"), "autodiff", {})
    assert row["reason"] == "No peak resident set: it took too long and was stopped."


def test_a_system_without_proc_is_told(monkeypatch):
    require_proc()
    monkeypatch.setattr(resident, "RESET", Path("/nowhere/clear_refs"))
    with pytest.raises(UsageError, match="--peak-rss needs Linux"):
        require_proc()
