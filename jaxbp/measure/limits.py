"""The physical limit: how fast a device copies, multiplies matrices and computes entries, and how near cells come."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Row = dict[str, Any]

#: Which limit is the nearer one: arithmetic or memory.
Bound = Literal["compute", "memory"]

#: Bytes of the arrays that are copied: from what a cache may hold to what few can. Compiling them is most of the cost.
COPIES = (2**24, 2**26, 2**27)
#: Rows of the square matrices that are multiplied.
PRODUCTS = (256, 512, 1024, 2048, 4096)
#: Entries of the array whose polynomials are evaluated: they lie in a cache.
ENTRIES = (2**18,)
#: So many polynomials at once, or each step of one would wait for the step before; of such a degree that reading and
#: writing the array is nothing beside it.
POLYNOMIALS, DEGREE = 8, 64
#: More is needed to keep an accelerator busy for longer than the way to it takes.
LARGE_COPIES, LARGE_PRODUCTS, LARGE_ENTRIES = (2**29, 2**31), (8192,), (2**24,)
#: No larger product is tried once one takes this long: the next takes eight times as long.
LONGEST_SECONDS = 0.005
#: Calls of one size: at least so many, for at least so long. The fastest counts, since noise only slows down.
LEAST_CALLS = 3
LEAST_SECONDS = 0.01
#: Calls that an accelerator is handed at a time, so that the way there and back is a small part of what they take.
QUEUED_CALLS = 16


class LimitError(RuntimeError):
    """A measured limit would be none; its text says what was not done."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a device can do at best, by the best calls of a run.

    Attributes:
        device: as in the rows.
        dtype: of the matrix products.
        copies: bytes of an array that is read and written in place, and the bytes a second that this moves.
        products: rows of square matrices, and the floating-point operations a second of their product.
        reason: why there is none, where there is none.
        polynomials: entries of an array, and the floating-point operations a second of polynomials of each of them.
    """

    device: str
    dtype: str
    copies: tuple[tuple[int, float], ...]
    products: tuple[tuple[int, float], ...]
    reason: str = ""
    polynomials: tuple[tuple[int, float], ...] = ()

    def peak(self, elementwise: bool = False) -> float:
        """Floating-point operations a second of the fastest product, or polynomial; of runs without one the product."""
        return max(rate for _, rate in (elementwise and self.polynomials) or self.products)

    def bandwidth(self, footprint: float) -> float:
        """Bytes a second of the fastest copy of arrays at least about as large as `footprint` bytes.

        What is larger lies farther from the processor, so a copy of an array that is not larger is no slower for that.
        """
        sizes = [size for size, _ in self.copies]
        start = max((size for size in sizes if size <= footprint), default=min(sizes))
        return max(rate for size, rate in self.copies if size >= start)

    def reached(
        self, flops: float, moved: float, footprint: float, seconds: float, elementwise: bool = False
    ) -> tuple[float, Bound] | None:
        """The percent of the limit, and which one: max(flops / peak, moved / bandwidth) / seconds; None if not known.

        Arguments:
            flops: floating-point operations that are needed.
            moved: bytes that must at least be read and written.
            footprint: bytes of the arrays that one executable touches.
            seconds: what it took.
            elementwise: whether the operations are those of an elementwise op, which no unit for matrices does.

        What is smaller than the smallest copy lies in a cache whose bandwidth was not measured. It has a limit only
        where arithmetic takes longer than its bytes would take even at the smallest copy's bandwidth.

        >>> limits = Limits("cpu", "float32", ((2**22, 40e9), (2**27, 10e9)), ((512, 100e9),))
        >>> limits.reached(flops=1e6, moved=2**28, footprint=2**28, seconds=0.1)
        (26.8435456, 'memory')
        >>> limits.reached(flops=2e9, moved=2**20, footprint=2**20, seconds=0.04)
        (50.0, 'compute')
        >>> limits.reached(flops=1e3, moved=2**20, footprint=2**20, seconds=0.001)
        """
        if self.reason:
            return None
        compute, memory = flops / self.peak(elementwise), moved / self.bandwidth(footprint)
        if compute >= memory:
            return 100 * compute / seconds, "compute"
        if footprint < min(size for size, _ in self.copies):
            return None
        return 100 * memory / seconds, "memory"


def measure_limits(dtype: str) -> Row:
    """A journal's row of the limits for a dtype; with a reason in place of numbers where they cannot be had."""
    try:
        found: Row = {
            "copies": measure_copies(),
            "products": measure_products(dtype),
            "polynomials": measure_polynomials(dtype),
            "reason": "",
        }
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        found = {"copies": [], "products": [], "polynomials": [], "reason": reason}
    return {"kind": "limits", "dtype": dtype, **found}


def best_limits(rows: Iterable[Row]) -> list[Limits]:
    """The limits of a run by device and dtype: the best of all its measurements; copies count for every dtype."""
    rows = [row for row in rows if row["kind"] == "limits"]
    best = []
    for device, dtype in dict.fromkeys((row["device"], row["dtype"]) for row in rows):
        here = [row for row in rows if row["device"] == device]
        copies = _best(pair for row in here for pair in row["copies"])
        own = [row for row in here if row["dtype"] == dtype]
        products, polynomials = (
            _best(pair for row in own for pair in row[name]) for name in ("products", "polynomials")
        )
        reasons = [row["reason"] for row in own if row["reason"]]
        reason = "" if copies and products and polynomials else reasons[-1]
        best.append(Limits(device, dtype, copies, products, reason, polynomials))
    return best


def _best(pairs: Iterable[Iterable[Any]]) -> tuple[tuple[int, float], ...]:
    rates: dict[int, float] = {}
    for size, rate in pairs:
        rates[size] = max(rate, rates.get(size, 0.0))
    return tuple(sorted(rates.items()))


@functools.cache
def measure_copies() -> list[tuple[int, float]]:
    """Bytes a second that a JAX copy reads and writes, by the array's bytes; measured once in a process.

    Each call adds 1 to a float32 array in place: its argument is donated. A copy into fresh memory would measure the
    allocator too, and read each line of the output before it is written.
    """
    sizes = COPIES + (LARGE_COPIES if jax.default_backend() != "cpu" else ())
    return [(size, 2 * size / _seconds_of_copy(size)) for size in sizes]


def _seconds_of_copy(size: int) -> float:
    x = jax.device_put(np.zeros(size // 4, np.float32))
    count = jax.jit(_count, donate_argnums=0).lower(x).compile()
    calls = 0

    def call() -> Any:
        nonlocal x, calls
        x, calls = count(x), calls + 1
        return x

    seconds = fastest(call)
    # An entry of every page has counted the calls, so that one that did nothing, or a part only, shows.
    if (np.asarray(x[::1024]) != calls).any():
        raise LimitError(f"The copy of {size} bytes did not happen: its result is wrong.")
    return seconds


def measure_products(dtype: str) -> list[tuple[int, float]]:
    """Floating-point operations a second of JAX's product of two n x n matrices, by n.

    It stops where the next n would take too long.
    """
    found = []
    for n in PRODUCTS + (LARGE_PRODUCTS if jax.default_backend() != "cpu" else ()):
        seconds = _seconds_of_product(n, dtype)
        found.append((n, 2 * n**3 / seconds))
        if seconds > LONGEST_SECONDS:
            break
    return found


def _seconds_of_product(n: int, dtype: str) -> float:
    rng = np.random.default_rng(n)
    a, b = (jax.device_put((0.5 + rng.random((n, n), np.float32)).astype(jnp.dtype(dtype))) for _ in range(2))
    product = jax.jit(_multiply).lower(a, b).compile()
    seconds = fastest(lambda: product(a, b))
    # The sums of the product's rows, which need all of its entries. All terms are positive, so nothing cancels.
    got, left, right = (np.asarray(x).astype(np.float64) for x in (product(a, b), a, b))
    if not np.allclose(got.sum(1), left @ right.sum(1), rtol=0.01):
        raise LimitError(f"The product of {n} x {n} matrices was not computed: its result is wrong.")
    return seconds


def measure_polynomials(dtype: str) -> list[tuple[int, float]]:
    """Floating-point operations a second of polynomials of each entry of an array, by its number of entries."""
    sizes = ENTRIES + (LARGE_ENTRIES if jax.default_backend() != "cpu" else ())
    return [(n, 2 * POLYNOMIALS * DEGREE * n / _seconds_of_polynomials(n, dtype)) for n in sizes]


def _seconds_of_polynomials(n: int, dtype: str) -> float:
    x = jax.device_put(np.linspace(0.5, 1, n).astype(jnp.dtype(dtype)))
    evaluate = jax.jit(_evaluate).lower(x).compile()
    seconds = fastest(lambda: evaluate(x))
    # Up to 1 each step matters to the result.
    some = np.asarray(x[:: max(n // 1024, 1)]).astype(np.float64)
    got = np.asarray(evaluate(x)[:: max(n // 1024, 1)]).astype(np.float64)
    expected = _evaluate(some)
    if not np.allclose(got, expected, rtol=0.01 if jnp.finfo(dtype).nmant > 10 else 0.2):
        raise LimitError(f"The polynomials of {n} entries were not computed: their sum is wrong.")
    return seconds


def _evaluate(x: Any) -> Any:
    """The sum of polynomials of x, each by Horner's scheme, step by step side by side."""
    values = [x + 0.125 * i for i in range(POLYNOMIALS)]
    for _ in range(DEGREE):
        values = [value * x + 0.5 for value in values]
    return sum(values)


def _count(x: jax.Array) -> jax.Array:
    return x + 1


def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b


def fastest(call: Callable[[], Any]) -> float:
    """Seconds of the fastest call, after one to warm up; an error if the result is not there when the clock stops."""
    jax.block_until_ready(call())
    together = 1 if jax.default_backend() == "cpu" else QUEUED_CALLS
    seconds: list[float] = []
    while len(seconds) < LEAST_CALLS or sum(seconds) * together < LEAST_SECONDS:
        start = time.perf_counter()
        for _ in range(together - 1):
            call()
        result = jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / together)
        if not result.is_ready():
            raise LimitError("The clock was stopped before the result was there: the call was not waited for.")
        del result  # A copy that is referred to cannot be donated.
    return min(seconds)
