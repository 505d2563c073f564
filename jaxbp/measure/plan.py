"""What is measured: how thorough a run is, and the tasks that workers take one at a time."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.cases import ELEMENTWISE_SIZES, GROWTH, LARGE, VOCABULARY
from jaxbp.engines import Owner, engine_names
from jaxbp.environment import ALLOCATORS
from jaxbp.errors import unknown_name
from jaxbp.measure.executables import Mode
from jaxbp.measure.timer import Budget
from jaxbp.measure.verdict import LEAST_ROUNDS
from jaxbp.op import Op
from jaxbp.ops import OPS

#: The dtypes that can be measured, by their short names on the command line.
DTYPES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16"}


@dataclasses.dataclass(frozen=True)
class Level:
    """How thorough a run is.

    Attributes:
        name: `quick`, `standard`, `full`, or `growth`: how an op's cost grows with its size.
        modes: what is timed of engines that have separate passes.
        budget: for rules and autodiff, interleaved.
        slow_budget: for the numerical engines, which are interleaved among themselves, and for NumPy and torch, which
            get no verdict.
        difference_seconds: above this a full numerical gradient is sampled and extrapolated.
        without: engines that are left out; `rule` stands for all rules but the default one.
        cases: what is measured where none are asked for; all if empty.
        skipped: but for these.
        option_budget: for what options of the compiler gain, which is looked at in the case `OPTIONS_CASE`; None if it
            is not.
        timeout_seconds: after this a worker is taken to hang in its task.
    """

    name: str
    modes: tuple[Mode, ...]
    budget: Budget
    slow_budget: Budget
    difference_seconds: float
    without: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    option_budget: Budget | None = None
    timeout_seconds: float = 120.0


#: Where speed matters, and no cache helps.
OPTIONS_CASE = "memory"
DIFFERENCES = ("forward_difference", "central_difference")
#: NumPy knows no accelerator, and differences say there what they say elsewhere.
LEFT_TO_PROCESSORS = ("numpy", *DIFFERENCES)
ALL_MODES: tuple[Mode, ...] = ("fwd", "fwd_res", "bwd", "fwd_bwd", "summed")
LEVELS = {
    level.name: level
    for level in (
        # Arrays of 16 MiB take longer to draw and to check than to measure.
        Level(
            "quick",
            ("fwd_bwd",),
            Budget(0.05, 5, 100),
            Budget(0.02, 2, 3),
            0.02,
            without=("rule", "forward_difference", "central_difference", "torch"),
            cases=("cache",),
        ),
        # Small arrays cost what a call costs by itself, and get no verdict; those that fit a cache are for `quick`, and
        # what takes minutes is for those who ask. A one-sided difference costs half of a central one, whatever the op.
        Level(
            "standard",
            ALL_MODES,
            Budget(0.5, LEAST_ROUNDS, 400),
            Budget(0.1, 1, 5),
            0.1,
            without=("forward_difference",),
            skipped=("small", "cache", VOCABULARY),
            option_budget=Budget(0.3, LEAST_ROUNDS, 400),
            # Where `VOCABULARY` is asked for, the truth alone takes a minute or two.
            timeout_seconds=600,
        ),
        Level(
            "growth",
            ("fwd_bwd",),
            Budget(0.15, 5, 200),
            Budget(0.05, 3, 5),
            0.05,
            cases=GROWTH,
        ),
        Level(
            "full",
            ALL_MODES,
            Budget(20.0, 15, 4000),
            Budget(1.0, 5, 10),
            0.5,
            option_budget=Budget(3.0, 15, 4000),
            timeout_seconds=600,
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One case of one op and dtype, for one owner's engines: what a worker measures in one go.

    `repetition` is which of several processes that is, counted from 0; the others only time what the first compares.
    `allocator` is how these allocate, a key of `ALLOCATORS`.
    """

    op: str
    case: str
    dtype: str
    owner: Owner
    engines: tuple[str, ...]
    level: str
    repetition: int = 0
    allocator: str = "kept"

    def to_json(self) -> dict[str, Any]:
        """As a worker receives it."""
        return dataclasses.asdict(self)


def find_op(name: str, ops: Iterable[Op] = OPS) -> Op:
    """The op of that name, or an error that offers the closest ones."""
    by_name = {op.name: op for op in ops}
    if name not in by_name:
        raise unknown_name("op", name, by_name)
    return by_name[name]


def find_dtype(name: str) -> str:
    """The full name of a dtype given by its short or full name, or an error that offers the closest ones."""
    full = DTYPES.get(name, name)
    if full not in DTYPES.values():
        raise unknown_name("dtype", name, [*DTYPES, *DTYPES.values()])
    return full


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of that full name, bfloat16 included."""
    return np.dtype(jnp.dtype(name))


def plan(
    ops: Iterable[str] = (),
    dtypes: Iterable[str] = ("float32",),
    cases: Iterable[str] = (),
    level: str = "standard",
    accelerated: bool = False,
    processes: int = 1,
    allocator: str = "kept",
) -> list[Task]:
    """The tasks of a run, in the order in which they are measured; empty `ops` means all, `cases` those of the level.

    The engines of one case follow each other, so that what drifts slowly touches all of them alike. After all tasks
    rules and autodiff are timed again, once for each further process.

    With an accelerator case `large` takes the place of those that are too small for it, and the engines of
    `LEFT_TO_PROCESSORS` are left out; without one, the rules that are kernels.
    """
    chosen = [find_op(name) for name in ops] or list(OPS)
    usual = {case.name for op in chosen for case in op.cases}
    for name in cases:
        if name not in (*usual, LARGE, *GROWTH):
            raise unknown_name("case", name, [*sorted(usual), LARGE, *GROWTH])
    if allocator not in ALLOCATORS:
        raise unknown_name("allocator", allocator, ALLOCATORS)
    wanted = set(cases) or (set(LEVELS[level].cases) or usual) - set(LEVELS[level].skipped)
    if accelerated and not cases and wanted & set(ELEMENTWISE_SIZES):
        wanted = {LARGE, *(wanted - set(ELEMENTWISE_SIZES))}
    once = [
        Task(op.name, case.name, dtype, owner, engines, level, allocator=allocator)
        for op in chosen
        for dtype in map(find_dtype, dtypes)
        for case in (*op.cases, *op.growth, *op.large)
        if case.name in wanted
        for owner, engines in _by_owner(
            op, (*LEVELS[level].without, *(LEFT_TO_PROCESSORS if accelerated else _kernels(op)))
        )
    ]
    timed = [
        dataclasses.replace(task, engines=tuple(name for name in task.engines if name not in DIFFERENCES))
        for task in once
        if task.owner == "jax"
    ]
    return once + [dataclasses.replace(task, repetition=i) for i in range(1, processes) for task in timed]


def _kernels(op: Op) -> tuple[str, ...]:
    return tuple(f"rule:{name}" for name, bound in op.rules.items() if bound.rule.kernel)


def _by_owner(op: Op, without: tuple[str, ...]) -> Iterator[tuple[Owner, tuple[str, ...]]]:
    default = f"rule:{op.default_rule.name}"
    owners: dict[Owner, list[str]] = {}
    for name in engine_names(op):
        if name != default and (name in without or name.partition(":")[0] in without):
            continue
        owner: Owner = name if name in ("numpy", "torch") else "jax"
        owners.setdefault(owner, []).append(name)
    for owner, engines in owners.items():
        yield owner, tuple(engines)
