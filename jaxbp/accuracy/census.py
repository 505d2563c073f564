"""The census: an op's value and gradient at every float of a dtype, none left out, against the float64 reference.

A chunk is one binade of the first argument: all floats of one sign and exponent; for an op of two arguments each of
them with every float of the second. Chunks are independent, so that they run in any order and process.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxbp.accuracy.ulp import flushed, ulp_error
from jaxbp.engines import engine_names
from jaxbp.environment import ALLOCATOR, inherited
from jaxbp.errors import UsageError, unknown_name
from jaxbp.op import Op
from jaxbp.ops import OPS

Row = dict[str, Any]

#: Upper ends of the histogram's classes in ULP; 0.5 is correctly rounded. The last class has no end.
CLASSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 256.0, 65536.0)
#: What is counted besides: plainly wrong results, and zeros where the exact value is subnormal.
COUNTS = ("wrong_zeros", "wrong_infinities", "wrong_nans", "flushed")
#: Entries that are scored at a time: few enough to stay in a core's cache.
BLOCK = 2**16
#: Parts of a binade whose largest errors are kept for the picture.
PARTS = 8
#: Bits of sign, exponent and mantissa of the dtypes that can be swept whole.
MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
ENGINES = ("autodiff", "torch")
#: What a process of the sweep is started with: one thread, and an allocator that keeps its memory.
PROCESS = {
    **ALLOCATOR,
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip(),
    "OMP_NUM_THREADS": "1",
}
#: A zero in place of a normal number, an infinity and a NaN are further off than this in every dtype.
SURELY_WRONG = 64


@dataclasses.dataclass(frozen=True)
class Census:
    """What is swept: an op at a dtype under several engines, in one pass against one yardstick."""

    op: str
    dtype: str
    engines: tuple[str, ...]

    def about(self) -> Row:
        """What is swept, as the first line of a journal and the head of a record."""
        op = next(op for op in OPS if op.name == self.op)
        return {"op": self.op, "op_version": op.version, "dtype": self.dtype, "engines": list(self.engines)}

    @property
    def chunks(self) -> int:
        """How many chunks there are: signs times exponents."""
        bits = 32 if self.dtype == "float32" else 16
        return 2 ** (bits - MANTISSA_BITS[self.dtype])


def plan_census(op: Op, dtype: str, rules: tuple[str, ...] = ()) -> Census:
    """The census of an op: the given rules or all of them, autodiff, and torch where it is installed."""
    if not op.elementwise or len(op.arguments) > 2 or (len(op.arguments) == 2 and dtype != "bfloat16"):
        raise UsageError(
            f"A census of {op.name} in {dtype} would not end: every float is swept for elementwise ops of one argument "
            "(float32, float16, bfloat16) and, as pairs, of two (bfloat16)."
        )
    if dtype not in MANTISSA_BITS:
        raise unknown_name("dtype that can be swept whole", dtype, MANTISSA_BITS)
    for rule in rules:
        if rule not in op.rules:
            raise unknown_name(f"rule of {op.name}", rule, op.rules)
    engines = tuple(f"rule:{rule}" for rule in rules or op.rules)
    return Census(op.name, dtype, engines + tuple(name for name in ENGINES if name in engine_names(op)))


def chunk_arguments(census: Census, chunk: int, arguments: int) -> tuple[np.ndarray, ...]:
    """The arguments of a chunk, in the order of their bits."""
    mantissa = MANTISSA_BITS[census.dtype]
    unsigned = np.uint32 if census.dtype == "float32" else np.uint16
    dtype = np.dtype(census.dtype)
    first = (np.arange(2**mantissa, dtype=unsigned) + unsigned(chunk << mantissa)).view(dtype)
    if arguments == 1:
        return (first,)
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    return np.repeat(first, every.size), np.tile(every, first.size)


class Score:
    """The errors of one engine and quantity over a chunk, added up block by block."""

    def __init__(self, size: int) -> None:
        self.histogram = np.zeros(len(CLASSES) + 1, np.int64)
        self.part_size = max(1, size // PARTS)
        self.part_max = np.zeros(-(-size // self.part_size))
        self.counts = dict.fromkeys(COUNTS, 0)
        self.worst = (-1.0, 0, 0.0, 0.0)

    def add(self, start: int, actual: np.ndarray, exact: np.ndarray) -> None:
        """Score a block that starts at entry `start` of the chunk."""
        error = ulp_error(actual, exact, nan_equal=True)
        if error.max() > CLASSES[0]:
            gone = flushed(actual, exact)
            flushed_here = int(np.count_nonzero(gone))
            self.counts["flushed"] += flushed_here
            self.histogram[0] -= flushed_here  # They are set to 0 for the maximum's sake, and in no class.
            error[gone] = 0
        below = 0
        for i, end in enumerate(CLASSES):
            up_to = int(np.count_nonzero(error <= end))
            self.histogram[i] += up_to - below
            below = up_to
            if below == error.size:
                break
        self.histogram[-1] += error.size - below
        worst = int(np.argmax(error))
        if error[worst] > SURELY_WRONG:
            self._count_what_is_wrong(actual, exact, error)
        if error[worst] > self.worst[0]:
            self.worst = (float(error[worst]), start + worst, float(actual[worst]), float(exact[worst]))
        # A part may be larger than a block, or smaller: either way its largest error is the largest of its entries.
        for offset in range(0, error.size, self.part_size):
            part = (start + offset) // self.part_size
            self.part_max[part] = max(self.part_max[part], error[offset : offset + self.part_size].max())

    def _count_what_is_wrong(self, actual: np.ndarray, exact: np.ndarray, error: np.ndarray) -> None:
        wrong = error > SURELY_WRONG
        actual, exact = actual[wrong], exact[wrong]
        with np.errstate(all="ignore"):
            nans = np.isnan(actual) | np.isnan(exact)
            self.counts["wrong_nans"] += int(np.count_nonzero(nans))
            infinite = (np.isinf(actual) | np.isinf(exact)) & ~nans
            self.counts["wrong_infinities"] += int(np.count_nonzero(infinite))
            self.counts["wrong_zeros"] += int(np.count_nonzero((actual == 0) & ~nans & ~infinite))

    def row(self, args: tuple[np.ndarray, ...]) -> Row:
        """The chunk's numbers, ready for JSON."""
        error, index, actual, exact = self.worst
        return {
            "max_ulp": error,
            "worst_args": [float(x[index]) for x in args],
            "worst_actual": actual,
            "worst_exact": exact,
            "histogram": self.histogram.tolist(),
            "part_max": self.part_max.tolist(),
            **self.counts,
        }


def score_chunk(census: Census, chunk: int) -> list[Row]:
    """One row per engine and quantity: the errors of a chunk."""
    op = next(op for op in OPS if op.name == census.op)
    args = chunk_arguments(census, chunk, len(op.arguments))
    ct = np.ones_like(args[0])
    quantities = ("value", *(f"ct_{name}" for name in op.arguments))
    results = {}
    for engine in census.engines:
        y, cts = op.value_and_vjp(args, ct, engine=engine)
        results[engine] = [np.asarray(x) for x in (y, *cts)]
    scores = {(engine, q): Score(ct.size) for engine in census.engines for q in quantities}
    for start in range(0, ct.size, BLOCK):
        block = slice(start, start + BLOCK)
        with np.errstate(all="ignore"):
            wide = tuple(x[block].astype(np.float64) for x in args)
            ones = np.ones_like(wide[0])
            exact = (op.reference(*wide), *op.reference_vjp(ones, *wide))
        for engine in census.engines:
            for quantity, actual, truth in zip(quantities, results[engine], exact, strict=True):
                scores[engine, quantity].add(start, actual[block], truth)
    return [
        {"chunk": chunk, "engine": engine, "quantity": quantity, **score.row(args)}
        for (engine, quantity), score in scores.items()
    ]


def sweep(census: Census, skip: Iterable[int] = ()) -> Iterator[tuple[int, list[Row]]]:
    """All chunks but those in `skip` with their rows, as they are done, computed on all cores.

    Each process computes one chunk at a time on one thread: that keeps the cores busy without waiting for each other.
    """
    skipped = set(skip)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = concurrent.futures.ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
    try:
        with inherited(PROCESS):
            chunks = [chunk for chunk in range(census.chunks) if chunk not in skipped]
            waiting = {pool.submit(score_chunk, census, chunk): chunk for chunk in chunks}
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)
