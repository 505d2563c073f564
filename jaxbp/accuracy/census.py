"""The census: an op's value and gradient at every float of a dtype, none left out, or at millions where there are more.

A chunk is one binade of the first argument: all floats of one sign and exponent; for an op of two arguments each of
them with every float of the second. Where that would not end, in float64 and for pairs of float32, a chunk is a sample
of some binades. Chunks are independent, so that they run in any order and process.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np

from jaxbp.accuracy.points import argument_points, random_points, slice_of_all, slice_of_usual
from jaxbp.accuracy.score import Row, Score
from jaxbp.accuracy.yardstick import certified_values, quantities, reference_values
from jaxbp.declaration import Accuracy
from jaxbp.engines import engine_names
from jaxbp.environment import ALLOCATOR, cores, inherited
from jaxbp.errors import UsageError, unknown_name
from jaxbp.op import Op
from jaxbp.ops import OPS

#: Entries that an engine computes at a time: its arrays stay far below the size that is mapped anew at each call.
EVALUATED = 2**20
#: Entries that are scored at a time: few enough to stay in a core's cache.
BLOCK = 2**16
#: Bits of the mantissa of the dtypes that can be swept whole.
MANTISSA_BITS = {"float32": 23, "float16": 10, "bfloat16": 7}
DTYPES = (*MANTISSA_BITS, "float64")
ENGINES = ("autodiff", "torch")
#: A sample's chunks over all magnitudes and over the usual ones, and the arguments or pairs in each; one chunk of hard
#: points comes after them.
SAMPLE = {"float64": (64, 32, 2**14), "float32": (128, 128, 2**18), "float16": (128, 128, 2**18)}
#: What a process of the sweep is started with: one thread, and an allocator that keeps its memory.
PROCESS = {
    **ALLOCATOR,
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip(),
    "OMP_NUM_THREADS": "1",
    # Of an accelerator's memory, which they share, none takes more than it needs.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


@dataclasses.dataclass(frozen=True)
class Census:
    """What is swept: an op with fixed options at a dtype under several engines, in one pass against one yardstick."""

    op: str
    dtype: str
    engines: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def declaration(self) -> Op:
        """The op itself."""
        return next(op for op in OPS if op.name == self.op)

    @property
    def inputs(self) -> Literal["every float", "every pair", "a sample"]:
        """Which arguments are swept."""
        arguments = len(self.declaration.arguments)
        if arguments == 1 and self.dtype in MANTISSA_BITS:
            return "every float"
        return "every pair" if self.dtype == "bfloat16" else "a sample"

    @property
    def stated(self) -> Accuracy | None:
        """The accuracy of the first rule that states one for some arguments alone: there all engines are held, too."""
        rules = (self.declaration.rules.get(engine.removeprefix("rule:")) for engine in self.engines)
        stated = (rule.rule.accuracy for rule in rules if rule)
        return next((accuracy for accuracy in stated if accuracy and accuracy.where), None)

    @property
    def name(self) -> str:
        """What the folder of its record is called."""
        return "-".join((self.op, *(f"{k}={v}" for k, v in self.options), self.dtype))

    def about(self) -> Row:
        """What is swept, as the first line of a journal and the head of a record."""
        return {
            "op": self.op,
            "options": dict(self.options),
            "op_version": self.declaration.version,
            "dtype": self.dtype,
            "inputs": self.inputs,
            "engines": list(self.engines),
            **({"within": self.stated.note} if self.stated else {}),
        }

    @property
    def chunks(self) -> int:
        """How many chunks there are: signs times exponents, or those of a sample and one of hard points."""
        if self.inputs == "a sample":
            return sum(SAMPLE[self.dtype][:2]) + 1
        bits = 32 if self.dtype == "float32" else 16
        return 2 ** (bits - MANTISSA_BITS[self.dtype])


def plan_census(op: Op, dtype: str, rules: tuple[str, ...] = (), **options: Any) -> Census:
    """The census of an op: the given rules or all of them, autodiff, and torch where it is installed."""
    if not op.elementwise or len(op.arguments) > 2:
        raise UsageError(
            f"There is no census of {op.name}: arguments are swept for elementwise ops of one or two of them."
        )
    if dtype not in DTYPES:
        raise unknown_name("dtype of a census", dtype, DTYPES)
    for rule in rules:
        if rule not in op.rules:
            raise unknown_name(f"rule of {op.name}", rule, op.rules)
    for option in options:
        if option not in op.options:
            raise unknown_name(f"option of {op.name}", option, op.options)
    engines = tuple(f"rule:{rule}" for rule in rules or op.rules)
    others = tuple(name for name in ENGINES if name in engine_names(op))
    return Census(op.name, dtype, engines + others, tuple(options.items()))


def chunk_arguments(census: Census, chunk: int) -> tuple[np.ndarray, ...]:
    """The arguments of a chunk, those of a whole binade in the order of their bits."""
    if census.inputs == "a sample":
        return _sample(census, chunk)
    mantissa = MANTISSA_BITS[census.dtype]
    unsigned = np.uint32 if census.dtype == "float32" else np.uint16
    dtype = np.dtype(census.dtype)
    first = (np.arange(2**mantissa, dtype=unsigned) + unsigned(chunk << mantissa)).view(dtype)
    if census.inputs == "every float":
        return (first,)
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    return np.repeat(first, every.size), np.tile(every, first.size)


def _sample(census: Census, chunk: int) -> tuple[np.ndarray, ...]:
    """Finite random arguments of every magnitude, sorted by the first; the last chunk holds the hard points."""
    op = census.declaration
    everywhere, usual, size = SAMPLE[census.dtype]
    if chunk == everywhere + usual:
        args = argument_points(op, census.dtype, 0)
    else:
        if chunk < everywhere:
            first = slice_of_all(census.dtype, chunk, everywhere, size, chunk)
        else:
            first = slice_of_usual(census.dtype, chunk - everywhere, usual, size, chunk)
        others = (random_points(census.dtype, size, [chunk, i]) for i in range(1, len(op.arguments)))
        args = (first, *others)
    finite = np.all([np.isfinite(x) for x in args], axis=0)
    order = np.argsort(args[0][finite], kind="stable")
    return tuple(x[finite][order] for x in args)


def score_chunk(census: Census, chunk: int) -> list[Row]:
    """One row per engine and quantity: the errors of a chunk; and one of those `within` what is stated in part."""
    op, options = census.declaration, dict(census.options)
    args = chunk_arguments(census, chunk)
    planned = args[0].size
    certified = None
    if census.dtype == "float64":
        certified, known = certified_values(op, args, options)
        args, certified = (tuple(x[known] for x in arrays) for arrays in (args, certified))
    names, stated = quantities(op), census.stated
    within = None if stated is None else stated.holds(*args, **options)
    regions = ({}, *([{"within": stated.note}] if stated else []))
    scores = {
        (engine, name): tuple(Score(args[0].size) for _ in regions) for engine in census.engines for name in names
    }
    for start in range(0, args[0].size, EVALUATED):
        results = _evaluate(census, op, options, tuple(x[start : start + EVALUATED] for x in args))
        for offset in range(0, results[census.engines[0]][0].size, BLOCK):
            block = slice(start + offset, min(start + offset + BLOCK, start + EVALUATED))
            inside = slice(offset, offset + BLOCK)
            if certified:
                exact = tuple(x[block] for x in certified)
            else:
                exact = reference_values(op, tuple(x[block] for x in args), options)
            # Where a function has no value, no gradient is asked of anybody.
            undefined = np.isnan(exact[0])
            for engine in census.engines:
                for name, actual, truth in zip(names, results[engine], exact, strict=True):
                    actual = actual[inside]
                    if name != "value" and undefined.any():
                        actual, truth = (np.where(undefined, x.dtype.type(0), x) for x in (actual, truth))
                    everywhere, *part = scores[engine, name]
                    everywhere.add(block.start, actual, truth)
                    for score in part:
                        score.add(block.start, actual, truth, None if within is None else within[block])
    about = {"chunk": chunk, "left_out": planned - args[0].size}
    return [
        {**about, "engine": engine, "quantity": name, **region, **score.row(args)}
        for (engine, name), of_regions in scores.items()
        for region, score in zip(regions, of_regions, strict=True)
    ]


def _evaluate(
    census: Census, op: Op, options: dict[str, Any], args: tuple[np.ndarray, ...]
) -> dict[str, list[np.ndarray]]:
    """By engine, the value and the cotangents for the cotangent 1: the executable that a user calls."""
    ct = np.ones_like(args[0])
    results = {}
    with jax.enable_x64(census.dtype == "float64"):
        for engine in census.engines:
            y, cts = op.value_and_vjp(args, ct, engine=engine, **options)
            results[engine] = [np.asarray(x) for x in (y, *cts)]
    return results


def sweep(
    census: Census,
    skip: Iterable[int] = (),
    executor: concurrent.futures.Executor | None = None,
    score: Callable[[Census, int], list[Row]] = score_chunk,
) -> Iterator[tuple[int, list[Row]]]:
    """All chunks but those in `skip` with their rows, as they are done, computed by the executor or on all cores.

    `score` is how the executor's processes come to `score_chunk`.

    Each process computes one chunk at a time on one thread: that keeps the cores busy without waiting for each other.
    The 2^16 floats of a narrow dtype are swept here and now, in less time than processes take to start.
    """
    skipped = set(skip)
    chunks = [chunk for chunk in range(census.chunks) if chunk not in skipped]
    if executor is not None:
        yield from _swept_by(executor, score, census, chunks)
    elif census.inputs == "every float" and census.dtype != "float32":
        yield from ((chunk, score_chunk(census, chunk)) for chunk in chunks)
    else:
        context = multiprocessing.get_context("spawn")
        with inherited(PROCESS), concurrent.futures.ProcessPoolExecutor(cores(), context) as pool:
            yield from _swept_by(pool, score_chunk, census, chunks)


def _swept_by(
    executor: concurrent.futures.Executor,
    score: Callable[[Census, int], list[Row]],
    census: Census,
    chunks: list[int],
) -> Iterator[tuple[int, list[Row]]]:
    waiting = {executor.submit(score, census, chunk): chunk for chunk in chunks}
    try:
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        for future in waiting:
            future.cancel()
