"""Whether an op gives on many devices what it gives on one, and what the devices send each other for it."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.accuracy.summary import summarize
from jaxbp.errors import UsageError, unknown_name
from jaxbp.measure.plan import find_op
from jaxbp.op import Op
from jaxbp.ops import OPS
from jaxbp.sharding import ways
from jaxbp.sharding.collectives import described, read_collectives, sent_bytes

Row = dict[str, Any]

#: An op without stated accuracy may be so many times as wrong as on one device, and by so many units of its largest
#: entry: other devices add up in another order.
FACTOR, UNITS = 2.0, 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """What is compared in one go: an op in one way."""

    op: str
    way: str
    devices: int
    processes: int = 1


def plan(
    ops: Iterable[str] = (), asked: Iterable[str] = (), devices: Iterable[int] = (8,), processes: int = 1
) -> list[Task]:
    """What there is to compare; empty `ops` and ways mean all.

    Raises:
        UsageError: devices that cannot share the work, or that the processes cannot share.
    """
    chosen = [find_op(name) for name in ops] or list(OPS)
    chosen_ways = list(asked) or list(ways.WAYS)
    for way in chosen_ways:
        if way not in ways.WAYS:
            raise unknown_name("way of sharding", way, ways.WAYS)
    counts = list(devices)
    for n in counts:
        if n not in ways.DEVICES:
            raise UsageError(f"The cases can be cut for {_listed(ways.DEVICES)} devices, not for {n}.")
        if n % processes:
            raise UsageError(f"{n} devices cannot belong to {processes} processes in equal parts.")
    return [Task(op.name, way, n, processes) for n in counts for op in chosen for way in chosen_ways]


def _listed(numbers: Iterable[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}"


def compare(task: Task, *, beside_autodiff: bool = True) -> list[Row]:
    """One row for the value and for each cotangent of the default rule; one with a reason where it does not run.

    `beside_autodiff` compiles autodiff of the stock function, too, for what its devices would send.
    """
    about = dataclasses.asdict(task)
    try:
        return [{**about, **row} for row in _compared(find_op(task.op), task, beside_autodiff)]
    except Exception as error:  # Whatever an op does not take.
        return [{**about, "status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:500]}]


def _compared(op: Op, task: Task, beside_autodiff: bool) -> Iterator[Row]:
    mesh = ways.mesh_of(task.devices)
    problem = ways.pose(op, task.way, task.devices)
    executable, given = ways.compiled(problem, op.default_rule, mesh)
    communication = communication_of(executable, task.devices)
    if beside_autodiff:
        stock, _ = ways.compiled(problem, op.stock, mesh)
        communication |= {f"autodiff_{k}": v for k, v in communication_of(stock, task.devices).items()}
    spread = ways.to_numpy(executable(*given))
    alone = ways.on_one_device(problem, op.default_rule)
    stated = op.default_rule.rule.accuracy
    names = ("value", *(f"ct_{a}" for a in op.arguments))
    for i, name in enumerate(names):
        exact, bound = problem.exact[i], problem.bounds[i]
        if exact is None:
            continue
        limit = stated.bound(np.float32, name) if stated is not None and problem.single[i] else None
        singles = [results[i] for results in alone]
        yield {"quantity": name, **communication, **judged(spread[i], singles, exact, limit, bound)}


def communication_of(executable: Any, devices: int) -> Row:
    """The columns of what the devices of a compiled program send each other."""
    collectives = read_collectives(executable.as_text(), devices)
    return {"collectives": described(collectives), "sent_bytes": sent_bytes(collectives)}


def judged(
    actual: np.ndarray,
    singles: list[np.ndarray],
    exact: np.ndarray,
    stated: float | None = None,
    bound: np.ndarray | None = None,
) -> Row:
    """The error on many devices beside the largest one that one device makes, and what it may be.

    It may be as large as the stated accuracy in ULP, or as the a-priori bound of each entry; without either an error,
    then in ULP of the largest entry, may be `FACTOR` times that of one device and `UNITS` more.

    >>> row = judged(np.float32([1, 2]), [np.float32([1, 2])], np.float64([1, 2]), 0.5)
    >>> row["status"], row["judged_by"], row["differing"]
    ('ok', 'stated', 0)
    """
    if stated is not None:
        by, measure = "stated", largest_ulp
    elif bound is not None:
        by, measure = "bound", functools.partial(fraction_of_bound, bound=bound)
    else:
        by, measure = "one device", units_of_largest
    error, of_one = measure(actual, exact), max(measure(single, exact) for single in singles)
    allowed = {"stated": stated, "bound": 1.0, "one device": FACTOR * of_one + UNITS}[by]
    assert allowed is not None
    right = error <= allowed
    return {
        "judged_by": by,
        "error": error,
        "error_of_one": of_one,
        "allowed": allowed,
        "differing": int(np.min([_differing(actual, single) for single in singles])),
        "entries": actual.size,
        "status": "ok" if right else "wrong",
        "reason": "" if right else f"the error is {error:.3g}, where {allowed:.3g} is allowed",
    }


def _differing(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.sum(~((a == b) | (np.isnan(a) & np.isnan(b)))))


def largest_ulp(actual: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in ULP where the exact result is a normal number or larger than all of them."""
    normal = ~(np.abs(exact) < float(jnp.finfo(actual.dtype).tiny))
    return summarize(actual[normal], exact[normal], nan_equal=True).max_ulp if normal.any() else 0.0


def fraction_of_bound(actual: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> float:
    """The largest error as a fraction of what rounding may make of that entry."""
    off = _off(actual, exact)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.max(np.where(off > 0, off / bound, 0), initial=0))


def units_of_largest(actual: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in ULP of the largest entry."""
    largest = np.max(np.abs(exact), initial=0, where=np.isfinite(exact)).astype(actual.dtype)
    return float(np.max(_off(actual, exact), initial=0) / np.spacing(largest))


def _off(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How far off each entry is: infinitely where one is not a number, and the other is."""
    with np.errstate(invalid="ignore"):
        off = np.where((actual == exact) | (np.isnan(actual) & np.isnan(exact)), 0, np.abs(actual - exact))
    return np.where(np.isnan(off), np.inf, off)
