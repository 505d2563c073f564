"""The physical limit: what would give an impossible number is an error, and a percentage is what it says."""

import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.measure import limits
from jaxbp.measure.limits import LimitError, Limits, best_limits, fastest, measure_limits

SMALL = 2**20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sizes that take no time, and copies that are measured anew."""
    monkeypatch.setattr(limits, "COPIES", (SMALL, 2 * SMALL))
    monkeypatch.setattr(limits, "PRODUCTS", (64, 128))
    monkeypatch.setattr(limits, "ENTRIES", (4096,))
    limits.measure_copies.cache_clear()
    yield
    limits.measure_copies.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_limits_are_those_of_a_machine(dtype):
    row = measure_limits(dtype)
    assert (row["kind"], row["dtype"], row["reason"]) == ("limits", dtype, "")
    assert [size for size, _ in row["copies"]] == [SMALL, 2 * SMALL]
    assert [n for n, _ in row["products"]] == [64, 128]
    assert [n for n, _ in row["polynomials"]] == [4096]
    # Between a machine that does nothing else and what no processor does: 10 MB/s to 100 TB/s, 1 MFLOP/s to 1 EFLOP/s.
    assert all(1e7 < rate < 1e14 for _, rate in row["copies"])
    assert all(1e6 < rate < 1e18 for _, rate in row["products"] + row["polynomials"])


def test_copies_are_measured_once_in_a_process(monkeypatch):
    first = measure_limits("float32")["copies"]
    monkeypatch.setattr(limits, "_seconds_of_copy", lambda size: pytest.fail("measured again"))
    assert measure_limits("bfloat16")["copies"] == first


def test_rates_by_hand(monkeypatch):
    monkeypatch.setattr(limits, "_seconds_of_copy", lambda size: 0.5)
    monkeypatch.setattr(limits, "_seconds_of_product", lambda n, dtype: 0.001)
    monkeypatch.setattr(limits, "_seconds_of_polynomials", lambda n, dtype: 0.002)
    row = measure_limits("float32")
    assert row["copies"] == [(SMALL, 4 * SMALL), (2 * SMALL, 8 * SMALL)]  # Read and written.
    assert row["products"] == [(64, 2e3 * 64**3), (128, 2e3 * 128**3)]
    assert row["polynomials"] == [(4096, 500 * 2 * 8 * 64 * 4096)]


def test_no_larger_product_is_tried_once_one_takes_long(monkeypatch):
    monkeypatch.setattr(limits, "_seconds_of_product", lambda n, dtype: 0.006 if n == 64 else pytest.fail("tried"))
    assert [n for n, _ in limits.measure_products("float32")] == [64]


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(lambda x: x, id="nothing"),
        pytest.param(lambda x: x.at[: x.size // 2].add(1), id="half"),
        pytest.param(jnp.ones_like, id="constant"),
    ],
)
def test_a_copy_that_does_not_happen_is_caught(monkeypatch, cheat):
    monkeypatch.setattr(limits, "_count", cheat)
    row = measure_limits("float32")
    assert row["reason"] == f"LimitError: The copy of {SMALL} bytes did not happen: its result is wrong."
    assert row["copies"] == row["products"] == []


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(lambda a, b: a, id="dead-code"),
        pytest.param(lambda a, b: jnp.zeros_like(a), id="constant"),
        pytest.param(lambda a, b: (a @ b).at[-1].set(0), id="a-row-left-out"),
        pytest.param(lambda a, b: a[:, ::2] @ b[::2], id="half-the-terms"),
    ],
)
def test_a_product_that_is_not_computed_is_caught(monkeypatch, cheat):
    monkeypatch.setattr(limits, "_multiply", cheat)
    row = measure_limits("float32")
    assert row["reason"] == "LimitError: The product of 64 x 64 matrices was not computed: its result is wrong."
    assert row["copies"] == row["products"] == []


EVALUATE = limits._evaluate


def one_step_less(x):
    with mock.patch.object(limits, "DEGREE", limits.DEGREE - 1):
        return EVALUATE(x)


@pytest.mark.parametrize(
    "cheat",
    [
        pytest.param(lambda x: x, id="dead-code"),
        pytest.param(one_step_less, id="one-step-less"),
        pytest.param(lambda x: limits.POLYNOMIALS * x, id="no-step"),
    ],
)
def test_polynomials_that_are_not_computed_are_caught(monkeypatch, cheat):
    monkeypatch.setattr(limits, "_evaluate", lambda x: EVALUATE(x) if isinstance(x, np.ndarray) else cheat(x))
    row = measure_limits("float32")
    assert row["reason"] == "LimitError: The polynomials of 4096 entries were not computed: their sum is wrong."
    assert row["copies"] == row["products"] == row["polynomials"] == []


def test_work_that_is_not_waited_for_is_caught(monkeypatch):
    monkeypatch.setattr(jax, "block_until_ready", lambda x: x)
    with pytest.raises(LimitError, match="the call was not waited for"):
        limits._seconds_of_product(2048, "float32")


class Result:
    """An array that is there from some time on."""

    def __init__(self, at: float) -> None:
        self.at = at

    def is_ready(self) -> bool:
        return time.perf_counter() >= self.at


def test_the_fastest_of_several_calls_counts_and_the_first_does_not(monkeypatch):
    now, costs = 0.0, iter([1e-9, 0.009, 0.004, 0.007, 1e-9])

    def call() -> Result:
        nonlocal now
        now += next(costs)
        return Result(now)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert fastest(call) == pytest.approx(0.004)
    assert next(costs) == 1e-9  # Three calls fill the time, so that this one was not made.

    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    with pytest.raises(LimitError, match="the call was not waited for"):
        fastest(lambda: Result(0.001))


def row(device: str = "cpu", dtype: str = "float32", **changes: Any) -> dict[str, Any]:
    found = {"copies": [[16, 1.0], [64, 2.0]], "products": [[8, 5.0]], "polynomials": [[9, 3.0]], "reason": ""}
    return {"kind": "limits", "device": device, "dtype": dtype, **found, **changes}


def test_the_best_of_a_run_counts_by_device_and_dtype():
    rows = [
        row(copies=[[16, 3.0], [64, 1.0]], products=[[8, 4.0], [16, 7.0]], polynomials=[[9, 4.0]]),
        row(),
        row(dtype="float64", products=[[8, 2.0]]),
        row("GPU", products=[[8, 99.0]], copies=[[16, 99.0]]),
        {"kind": "time", "device": "cpu", "dtype": "float32"},
    ]
    assert best_limits(rows) == [
        Limits("cpu", "float32", ((16, 3.0), (64, 2.0)), ((8, 5.0), (16, 7.0)), "", ((9, 4.0),)),
        Limits("cpu", "float64", ((16, 3.0), (64, 2.0)), ((8, 2.0),), "", ((9, 3.0),)),
        Limits("GPU", "float32", ((16, 99.0),), ((8, 99.0),), "", ((9, 3.0),)),
    ]
    assert best_limits([]) == []


def test_a_limit_that_failed_says_why_until_a_resumed_run_has_it():
    failed = row(copies=[], products=[], polynomials=[], reason="MemoryError: planted")
    (found,) = best_limits([failed])
    assert found.reason == "MemoryError: planted"
    assert found.reached(1e9, 1e9, 1e9, 1.0) is None
    (found,) = best_limits([failed, row()])
    assert found == Limits("cpu", "float32", ((16, 1.0), (64, 2.0)), ((8, 5.0),), "", ((9, 3.0),))


MIB = 2**20
CACHED = Limits(
    *("cpu", "float32", ((16 * MIB, 40e9), (64 * MIB, 12e9), (128 * MIB, 10e9)), ((512, 150e9), (1024, 200e9))),
    polynomials=((2**18, 100e9),),
)


@pytest.mark.parametrize(
    ("footprint", "rate"),
    [(1, 40e9), (16 * MIB, 40e9), (63 * MIB, 40e9), (64 * MIB, 12e9), (128 * MIB, 10e9), (2**33, 10e9)],
)
def test_the_bandwidth_is_that_of_arrays_that_are_not_larger(footprint, rate):
    assert CACHED.bandwidth(footprint) == rate


def test_small_copies_that_are_slow_for_their_dispatch_are_no_limit():
    gpu = Limits("GPU", "float32", ((16 * MIB, 1e12), (128 * MIB, 3e12)), ((512, 1e13),))
    assert gpu.bandwidth(16 * MIB) == 3e12


def test_a_percentage_is_of_the_nearer_limit():
    # 120 MB at 12 GB/s take 10 ms; 1 GFLOP at 200 GFLOP/s takes 5 ms.
    assert CACHED.reached(1e9, 120e6, 120e6, 0.02) == (pytest.approx(50), "memory")
    assert CACHED.reached(4e9, 120e6, 120e6, 0.02) == (pytest.approx(100), "compute")
    # An elementwise op has the peak of polynomials: the same takes 10 ms.
    assert CACHED.reached(1e9, 1e6, 120e6, 0.02, elementwise=True) == (pytest.approx(50), "compute")
    # Nothing is cut off: a number above 100 says that the limit was measured at a bad moment.
    assert CACHED.reached(4e9, 120e6, 120e6, 0.01) == (pytest.approx(200), "compute")


def test_data_in_a_cache_have_no_limit_of_memory():
    assert CACHED.reached(1e3, 2**16, 2**16, 1e-6) is None
    # 1 MiB at 40 GB/s takes 26 us, in a cache less; 10 MFLOP take 50 us wherever the data are.
    assert CACHED.reached(1e7, MIB, MIB, 1e-4) == (pytest.approx(50), "compute")
    # Two passes over 12 MiB each move more than 16 MiB, and still lie in the cache.
    assert CACHED.reached(1e3, 24 * MIB, 12 * MIB, 0.01) is None


def test_the_real_copies_are_in_place():
    """Were they not, the allocator would be measured: the array stays where it is."""
    x = jax.block_until_ready(jax.jit(lambda: jnp.ones(SMALL))())
    before = x.unsafe_buffer_pointer()
    y = jax.block_until_ready(jax.jit(limits._count, donate_argnums=0)(x))
    assert y.unsafe_buffer_pointer() == before
    assert x.is_deleted()
    np.testing.assert_array_equal(y[:3], np.full(3, 2))


def test_an_accelerator_is_given_more_and_waited_for_once(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(limits, "LARGE_COPIES", (4 * SMALL,))
    monkeypatch.setattr(limits, "LARGE_PRODUCTS", (256,))
    monkeypatch.setattr(limits, "LARGE_ENTRIES", (2**15,))
    waits = []
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waits.append(x) or wait(x))
    calls = []
    fastest(lambda: calls.append(0) or jnp.ones(3))
    # The first warms up.
    assert len(calls) - 1 == limits.QUEUED_CALLS * (len(waits) - 1)
    row = measure_limits("float32")
    assert row["reason"] == ""
    assert [size for size, _ in row["copies"]] == [SMALL, 2 * SMALL, 4 * SMALL]
    assert [n for n, _ in row["products"]] == [64, 128, 256]
    assert [n for n, _ in row["polynomials"]] == [4096, 2**15]
