"""The checker's proof: wrong rules that it must find, and right ones that it must leave alone."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxbp.check.findings import CheckReport
from jaxbp.check.run import check_vjp
from tests.mutants import handwritten, hard, operators
from tests.mutants.mutant import Mutant
from tests.mutants.right import Right


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a checker said of one function of the corpora.

    Attributes:
        name: the mutant or the right function.
        wrong: whether it is a mutant.
        flagged: whether the checker said that it is wrong.
        named: whether what it said holds one of the mutant's `kinds`; None for a right function.
        said: what it said.
        seconds: how long it took.
    """

    name: str
    wrong: bool
    flagged: bool
    named: bool | None
    said: str
    seconds: float


def mutants() -> tuple[Mutant, ...]:
    """All wrong rules."""
    return (*operators.mutants(), *handwritten.mutants())


def rights() -> tuple[Right, ...]:
    """All right ones."""
    return tuple(hard.rights())


def judge(
    item: Mutant | Right, seed: int = 0, level: str | None = None, check: Callable[..., Any] = check_vjp
) -> Outcome:
    """Check one function, at the level that it asks for if none is given; `jaxbp selftest` checks them all."""
    start = time.perf_counter()
    with jax.enable_x64(x64(item)):
        report = check(item.f, *item.args, domain=dict(item.domain), level=level or item.level, seed=seed)
    return outcome(item, report, time.perf_counter() - start)


def outcome(item: Mutant | Right, report: CheckReport, seconds: float) -> Outcome:
    """What a report says of a function of the corpora."""
    said = "; ".join(f"{f.kind} of {f.argument}: {f.looks_like or f.text}" for f in report.faults)
    # Words are looked for in what the diagnosis says, and where there is none in the sentence.
    named = any(kind in said for kind in item.kinds) if isinstance(item, Mutant) else None
    return Outcome(item.name, isinstance(item, Mutant), not report.passed, named, said, seconds)


def x64(item: Mutant | Right) -> bool:
    """Whether the function needs x64."""
    wide = any(np.asarray(x).dtype == np.float64 for x in item.args if isinstance(x, np.ndarray))
    return wide or (isinstance(item, Right) and item.x64)
