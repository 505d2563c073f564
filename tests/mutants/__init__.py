"""The checker's proof: wrong rules that it must find, and right ones that it must leave alone."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxbp.check.run import check_vjp
from tests.mutants import handwritten, hard, operators
from tests.mutants.hard import Right
from tests.mutants.mutant import Mutant


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
    """Check one function, at the level that it asks for if none is given."""
    start = time.perf_counter()
    report = check(item.f, *item.args, domain=dict(item.domain), level=level or item.level, seed=seed)
    seconds = time.perf_counter() - start
    said = "; ".join(f"{f.kind} of {f.argument}: {f.looks_like or f.text}" for f in report.faults)
    if isinstance(item, Right):
        return Outcome(item.name, False, not report.passed, None, said, seconds)
    # Words are looked for in what the diagnosis says, and where there is none in the sentence.
    return Outcome(item.name, True, not report.passed, any(kind in said for kind in item.kinds), said, seconds)


def run_all(
    seeds: Iterable[int] = (0,), level: str | None = None, check: Callable[..., Any] = check_vjp
) -> Iterator[Outcome]:
    """Both corpora through a checker, as it goes."""
    for seed in seeds:
        for item in (*mutants(), *rights()):
            yield judge(item, seed, level, check)
