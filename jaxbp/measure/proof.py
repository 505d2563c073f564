"""The measurements' proof: functions against copies of themselves, and planted slowdowns that have to be found."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.engines import make_engine
from jaxbp.measure.executables import compile_function
from jaxbp.measure.plan import LEVELS, find_op
from jaxbp.measure.pool import owner_pool
from jaxbp.measure.timer import interleave
from jaxbp.measure.verdict import Side, compare_sides

Row = dict[str, Any]

#: Entries of the arrays of an op against itself, ops, and how many times each is compared.
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
OPS = ("add", "multiply", "divide", "sqrt", "exp", "log", "tanh", "sigmoid", "silu", "softplus")
TIMES = 4
#: Of planted work: the entries that all steps of the baseline together go through, entries of the arrays, and how many
#: runs each. With fewer steps what a call costs by itself would be a share of the time, and twice the steps not twice
#: the work; with more there would be few rounds.
WORK, PLANTED_SIZES, RUNS = 3 * 10**7, (10**4, 10**5), 50
#: The share of a level's time that planted work is given, which is far from what it has to be told from.
PLANTED_SHARE = 0.25
#: What is planted, and how many times the baseline's steps that is.
PLANTED = {"a tenth more": 1.1, "twice": 2.0}
#: What is compared with a copy of itself.
SAME = "the same"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two functions to be compared.

    Attributes:
        planted: what the first has more than the second: `the same`, `a tenth more`, `twice`.
        op: which op.
        n: entries of the arrays.
        run: which repetition.
    """

    planted: str
    op: str
    n: int
    run: int


def comparisons() -> list[Comparison]:
    """All of them."""
    alike = [Comparison(SAME, op, n, run) for run in range(TIMES) for n in SIZES for op in OPS]
    planted = [Comparison(what, "sigmoid", n, run) for what in PLANTED for n in PLANTED_SIZES for run in range(RUNS)]
    return alike + planted


def prove(
    asked: Sequence[Comparison], *, level: str = "full", progress: Callable[[str], None] = lambda name: None
) -> Iterator[Row]:
    """One row per comparison, measured as the sweep measures JAX's engines, in a process of their own.

    `level` says whose budget of time each has.
    """
    with owner_pool("jax") as pool:
        for comparison in asked:
            progress(f"{comparison.planted}, {comparison.op}, {comparison.n:,} entries")
            yield pool.submit(measure, comparison, level).result()


def measure(comparison: Comparison, level: str) -> Row:
    """The ratio of the times, and what it is taken for."""
    start = time.perf_counter()
    seed = [ord(c) for c in comparison.op] + [comparison.n, comparison.run]
    rng = np.random.default_rng(seed)
    op = find_op(comparison.op)
    args = tuple(jnp.asarray(rng.uniform(0.1, 4, comparison.n), jnp.float32) for _ in op.arguments)
    ct = jnp.asarray(rng.normal(size=comparison.n), jnp.float32)
    fwd_bwd = make_engine(op, f"rule:{op.default_rule.name}").fwd_bwd
    factor = PLANTED.get(comparison.planted)

    def repeated(steps: int) -> Callable[..., Any]:
        def f(args: tuple[Any, ...], ct: Any) -> Any:
            def step(_: int, args: tuple[Any, ...]) -> tuple[Any, ...]:
                # Each from the results of the one before: what is the same in all would be computed once.
                y, cts = fwd_bwd(args, ct)
                return tuple(x + 1e-3 * (y + c) for x, c in zip(args, cts, strict=True))

            return jax.lax.fori_loop(0, steps, step, args)

        return f

    steps = WORK // comparison.n
    pair = (repeated(round(steps * factor)), repeated(steps)) if factor else (fwd_bwd, fwd_bwd)
    # Each is compiled for itself; a copy is a new function, or JAX would find the first in its cache.
    calls = {i: compile_function(lambda args, ct, f=f: f(args, ct), args, ct).call for i, f in enumerate(pair)}
    budget = LEVELS[level].budget
    if factor:
        budget = dataclasses.replace(budget, seconds=PLANTED_SHARE * budget.seconds)
    taken = interleave(calls, budget, rng, {0: 1})
    sides = [Side(taken[i].seconds, taken[i].cores) for i in (0, 1)]
    ratio, verdict = compare_sides(*sides, paired=True)
    return {
        **dataclasses.asdict(comparison),
        "time_us": 1e6 * float(np.median(taken[1].seconds)),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "verdict": verdict,
        "rounds": len(taken[0].seconds),
        "interrupted": 1 - float(np.mean(sides[0].quiet & sides[1].quiet)),
        "seconds": time.perf_counter() - start,
    }
