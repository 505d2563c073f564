"""What a block's size costs mean_linear_cross_entropy, beside autodiff, and beside its own products and passes.

    python -m bench.blocks --out results/blocks

No rule can do with less than three products: of the tokens with the weights, and of the slopes with either. The program
`products` is the rule's own with the logits in place of the slopes, so that of a block nothing is left but these. How
far it is from autodiff's time is what products in blocks of that size leave to be gained. The program `passes` is the
rule with a change of sign in place of each exponential: it goes over the logits as often, for their maximum, their
exponentials, the sum of these, and the slopes. How far the rule is from it is what its exponentials cost.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxbp import classes
from jaxbp.cases import VOCABULARY, Case
from jaxbp.cli.runs import machine_facts
from jaxbp.environment import inherited
from jaxbp.errors import ResultsError
from jaxbp.measure.executables import Executable, compile_function
from jaxbp.measure.machine import now
from jaxbp.measure.sweep import environment_of
from jaxbp.measure.timer import Budget, interleave
from jaxbp.measure.verdict import Interval, over_processes, ratio_interval
from jaxbp.ops import mean_losses
from jaxbp.report.run import write_machine

TABLE = "blocks.csv"
BLOCKS = (128, 256, 512, 1024)
#: A call takes a second.
BUDGET = Budget(seconds=130.0, min_rounds=5, max_rounds=100)
OP = mean_losses.mean_linear_cross_entropy
#: The name of a program, and the tokens of its blocks; autodiff has none.
Name = tuple[str, int]
AUTODIFF: Name = ("autodiff", 0)
#: By column, the two programs whose times are compared, for a block.
RATIOS: dict[str, Callable[[int], tuple[Name, Name]]] = {
    "rule_of_autodiff": lambda block: (("rule", block), AUTODIFF),
    "products_of_autodiff": lambda block: (("products", block), AUTODIFF),
    "passes_of_autodiff": lambda block: (("passes", block), AUTODIFF),
    "rule_of_products": lambda block: (("rule", block), ("products", block)),
    "rule_of_passes": lambda block: (("rule", block), ("passes", block)),
}


def products_alone(tokens: jax.Array, w: jax.Array, _: jax.Array, precision: jax.lax.PrecisionLike) -> tuple[Any, Any]:
    """A loss of 0, and the logits in place of their slopes."""
    return jnp.zeros((), w.dtype), jnp.matmul(tokens, w, precision=precision)


#: By program, what is left out of the rule: where it is looked up, its name there, and what takes its place.
LEFT_OUT: dict[str, tuple[ModuleType, str, Callable[..., Any]]] = {
    "products": (mean_losses, "_total_and_slopes", products_alone),
    "passes": (classes, "decay_or_infinity", jnp.negative),
}


def programs(args: tuple[Any, ...], blocks: Sequence[int]) -> dict[Name, Executable]:
    """Value and gradients in one executable each: autodiff's, and for each block the rule's and what is left of it."""

    def gradient(f: Callable[..., Any]) -> Callable[..., Any]:
        return jax.value_and_grad(f, (0, 1))

    compiled = {AUTODIFF: compile_function(gradient(OP.stock), *args)}
    for block in blocks:
        compiled["rule", block] = compile_function(gradient(functools.partial(OP, block=block)), *args)
        for name, left_out in LEFT_OUT.items():
            with mock.patch.object(*left_out):
                alone = functools.partial(mean_losses.mean_linear_cross_entropy_fwd, block=block)
                compiled[name, block] = compile_function(alone, *args)
    return compiled


def measure(case: Case, blocks: Sequence[int], budget: Budget, seed: int) -> dict[Name, tuple[int | None, list[float]]]:
    """Of each program its temporary bytes and the seconds of each round; in a process that does nothing else."""
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    args = tuple(map(jnp.asarray, case.arguments(np.dtype(np.float32))))
    compiled = programs(args, blocks)
    calls = {name: executable.call for name, executable in compiled.items()}
    taken = interleave(calls, budget, np.random.default_rng(seed))
    return {name: (compiled[name].temp_bytes, samples.seconds) for name, samples in taken.items()}


def frame(found: Sequence[Mapping[Name, tuple[int | None, list[float]]]]) -> pd.DataFrame:
    """One row per block, from what each process found: temporary memory, times, and ratios with their intervals."""

    def ratio(a: Name, b: Name) -> Interval:
        return over_processes([ratio_interval(process[a][1], process[b][1], paired=True) for process in found])

    rows = []
    for block in (block for name, block in found[0] if name == "rule"):
        row: dict[str, Any] = {"block": block}
        for name in (("rule", block), AUTODIFF):
            row[f"{name[0]}_temp_bytes"] = found[0][name][0]
            row[f"{name[0]}_ms"] = 1e3 * float(np.median(np.concatenate([process[name][1] for process in found])))
        for column, pair in RATIOS.items():
            interval = ratio(*pair(block))
            row |= {column: interval.value, f"{column}_low": interval.low, f"{column}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What a block's size costs mean_linear_cross_entropy.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=5, help="one after the other, about two minutes each")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error(f"--processes must be at least 1, got {options.processes}.")
    case = next(case for case in OP.cases if case.name == VOCABULARY)
    machine = {**machine_facts(), "started": now(), "case": case.name}
    folder = options.out / machine["name"]
    try:
        # What cannot be written is told before anything is measured.
        write_machine(folder, {**machine, "processes": 0})
    except ResultsError as error:
        parser.error(str(error))
    found = []
    for seed in range(options.processes):
        print(f"process {seed + 1} of {options.processes} measures", flush=True)
        with (
            inherited(environment_of("jax")),
            concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        ):
            found.append(pool.submit(measure, case, BLOCKS, BUDGET, seed).result())
        # After each, so that nothing is lost that was measured.
        write_machine(folder, {**machine, "processes": len(found)})
        frame(found).to_csv(folder / TABLE, index=False, float_format="%.6g")
        print(folder / TABLE, flush=True)


if __name__ == "__main__":
    main()
