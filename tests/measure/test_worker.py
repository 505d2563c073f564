"""The worker: rows on standard output and nothing else, a dispatch floor that is one."""

import io
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from jaxbp.measure import sweep, worker
from jaxbp.measure.plan import Task
from jaxbp.measure.worker import describe, dispatch_floor, write

# A worker in which an op prints, by every way there is, in the middle of a task.
NOISY = """
import os, sys
from jaxbp.measure import sweep, worker

def measure(task):
    yield {"kind": "time", "op": task.op, "number": float("nan")}
    print("noise of Python", flush=True)
    os.write(1, b"noise of C\\n")
    yield {"kind": "time", "op": task.op, "engines": list(task.engines)}

worker.measure = measure
worker.main()
"""


def test_what_an_op_prints_does_not_reach_the_rows():
    tasks = [Task(op, "small", "float32", "numpy", ("numpy",), "quick") for op in ("a", "b")]
    done = subprocess.run(
        [sys.executable, "-c", NOISY, "numpy"],
        input="".join(json.dumps(task.to_json()) + "\n" for task in tasks),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    about, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert about["kind"] == "worker"
    assert about["owner"] == "numpy"
    assert about["device"] == "cpu"
    assert about["floor_us"] > 0
    assert [(row["kind"], row.get("op")) for row in rows] == [
        ("time", "a"),
        ("time", "a"),
        ("done", None),
        ("time", "b"),
        ("time", "b"),
        ("done", None),
    ]
    assert rows[1]["engines"] == ["numpy"]
    assert done.stderr.count("noise of Python") == done.stderr.count("noise of C") == 2


# A worker that says what it was told to measure.
TELLING = """
from jaxbp.measure import worker

worker.measure_limits = lambda dtype: {"kind": "limits", "dtype": dtype}
worker.measure = lambda task: [{"kind": "time", "dtype": task.dtype}]
worker.main()
"""


@pytest.mark.parametrize(("owner", "limits"), [("jax", ["float32", "float16"]), ("numpy", [])])
def test_the_limits_of_each_dtype_come_before_its_first_row(owner, limits):
    dtypes = ["float32", "float32", "float16", "float32", "float16"]
    tasks = [Task("exp", "small", dtype, owner, ("numpy",), "quick") for dtype in dtypes]
    done = subprocess.run(
        [sys.executable, "-c", TELLING, owner],
        input="".join(json.dumps(task.to_json()) + "\n" for task in tasks),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = [row for row in map(json.loads, done.stdout.splitlines()) if row["kind"] in ("limits", "time")]
    assert [row["dtype"] for row in rows if row["kind"] == "limits"] == limits
    assert [row["dtype"] for row in rows if row["kind"] == "time"] == dtypes
    for dtype in limits:
        assert [row["kind"] for row in rows if row["dtype"] == dtype][:2] == ["limits", "time"]


def test_a_row_is_handed_over_at_once():
    raw = io.BytesIO()
    rows = io.TextIOWrapper(io.BufferedWriter(raw))  # type: ignore[type-var] - BytesIO is raw enough
    write(rows, {"kind": "time", "max_ulp": float("inf")})
    assert json.loads(raw.getvalue()) == {"kind": "time", "max_ulp": float("inf")}


@pytest.mark.parametrize("owner", ["jax", "numpy"])
def test_the_floor_is_the_cost_of_a_call_that_computes_nothing(owner):
    floor = dispatch_floor(owner)
    assert 0.05 < floor < 2000
    # Far below a call that computes.
    x = np.ones(2**20)
    start = time.perf_counter()
    np.exp(x)
    assert floor < 0.5 * 1e6 * (time.perf_counter() - start)


def test_a_planted_cost_is_in_the_floor(monkeypatch):
    """The floor reads microseconds per call: a call that fakes 300 us reads 300."""
    now = 0.0

    def ones(*args):
        class Costly:
            def __add__(self, other: float) -> None:
                nonlocal now
                now += 150e-6  # Two additions a call.

        return Costly()

    monkeypatch.setattr(worker.np, "ones", ones)
    monkeypatch.setattr("jaxbp.measure.timer.time", SimpleNamespace(perf_counter=lambda: now, process_time=lambda: now))
    assert dispatch_floor("numpy") == pytest.approx(300)


def test_a_worker_describes_what_its_rows_share(monkeypatch):
    monkeypatch.setattr(worker, "dispatch_floor", lambda owner: {"jax": 7.0, "numpy": 1.0}[owner])
    assert {**describe("numpy"), "async_dispatch": None} == {
        "device": "cpu",
        "floor_us": 1.0,
        "product_bits": 24,
        "precision": "default",
        "async_dispatch": None,
    }
    assert describe("jax")["floor_us"] == 7.0


def test_an_accelerator_is_named_for_jax_alone(monkeypatch):
    gpu = type("Device", (), {"platform": "gpu", "device_kind": "NVIDIA H100"})
    monkeypatch.setattr(worker.jax, "devices", lambda: [gpu])
    monkeypatch.setattr(worker, "dispatch_floor", lambda owner: 1.0)
    assert describe("jax")["device"] == "NVIDIA H100"
    assert describe("numpy")["device"] == "cpu"


def test_a_worker_computes_in_the_calling_thread():
    """The setting has no environment variable; what a worker says of itself is read back from JAX."""
    process = sweep.Worker("jax", x64=False)
    try:
        assert process.about["async_dispatch"] == "off"
    finally:
        process.close()
