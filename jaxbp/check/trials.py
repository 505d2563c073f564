"""What a rule is tried with: inputs from the given ones, at several scales, with ties and zeros, and cotangents."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxbp.check.subject import Leaves, Subject
from jaxbp.errors import UsageError
from jaxbp.jaxprs import is_float
from jaxbp.op import BoundRule, Op

#: Share of the entries that are 0, or masked, where some are.
SOME = 0.5, 0.25
#: Magnitudes from where float32's exp has overflowed down to where functions begin to saturate.
TAILS = 110.0, 2.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """Leaves to call the function with; `name` says how they were made."""

    name: str
    leaves: Leaves


Domain = Mapping[str, tuple[float, float]]
KINDS = {
    "quick": ("random",),
    "standard": (
        "random",
        "large",
        "small",
        "zeros",
        "ties",
        "negative",
        "equal rows",
        "masked",
        "tails",
        "tails turned",
        "flags turned",
    ),
}
#: Far from what is given: digits that a right formula loses there are noted, whatever their number.
FAR = frozenset(("large", "equal rows", "masked", "tails", "tails turned", "huge", "mixed", "constant"))
KINDS["thorough"] = (*KINDS["standard"], "huge", "mixed", "constant")


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose: drawn for two from one seed, cotangents would be the arguments again."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def trials(subject: Subject, domain: Domain, level: str, seed: int) -> Iterator[Trial]:
    """The given input first, then what is made from it, within the domain."""
    yield Trial("as given", subject.leaves)
    rng = stream(seed, "trials")
    for kind in KINDS[level]:
        leaves = tuple(
            within(_drawn(kind, x, rng), domain.get(name))
            for name, x in zip(subject.names, subject.leaves, strict=True)
        )
        if any(
            a is not b and not np.array_equal(a, b, equal_nan=is_float(a.dtype))
            for a, b in zip(leaves, subject.leaves, strict=True)
        ):
            yield Trial(kind, leaves)


def _drawn(kind: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if kind == "flags turned":
        return ~x if x.dtype == bool else x
    if not is_float(x.dtype):
        return x  # Indices and labels have meanings that only the caller knows.
    normal = rng.normal(size=x.shape)
    made = {
        "random": lambda: normal,
        "large": lambda: 20 * normal,
        "small": lambda: 1e-3 * normal,
        "zeros": lambda: _with_zeros(normal, rng),
        "ties": lambda: np.round(normal),
        "negative": lambda: -x.astype(np.float64),
        "equal rows": lambda: np.broadcast_to(normal[:1], x.shape) if x.ndim > 1 else normal,
        "masked": lambda: _masked(x.astype(np.float64), rng),
        "huge": lambda: 1000 * normal,
        "mixed": lambda: normal * 10.0 ** rng.uniform(-4, 4, x.shape),
        "tails": lambda: rng.permutation(_tails(x.size)).reshape(x.shape),
        "tails turned": lambda: -rng.permutation(_tails(x.size)).reshape(x.shape),
        "constant": lambda: np.full(x.shape, rng.normal()),
    }[kind]()
    with np.errstate(over="ignore"):
        return np.asarray(made).astype(x.dtype)


def _with_zeros(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zeros here and there, and all over the first row, or in the first entry of a vector."""
    sparse = np.where(rng.random(x.shape) < SOME[0], 0, x)
    if x.ndim:
        sparse[:1] = 0
    return sparse


def _tails(n: int) -> np.ndarray:
    """Numbers of every magnitude, the largest positive, the next negative, and so on."""
    return np.geomspace(*TAILS, n) * np.where(np.arange(n) % 2, -1, 1)


def _masked(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logits of -inf, and a last row of nothing else."""
    masked = np.where(rng.random(x.shape) < SOME[1], -np.inf, x)
    if x.ndim > 1 and len(x) > 1:
        masked[-1] = -np.inf
    return masked


def declared_domain(f: Callable[..., Any]) -> Domain:
    """The intervals that an op, or a rule of one, declares for its arguments.

    Those with two ends: beyond one end alone ops are NaN, half of what is drawn lies there, and the other half goes
    closer to the end than what is folded into a half-line does.
    """
    while isinstance(f, functools.partial) and not f.args:
        f = f.func
    op = f.op if isinstance(f, BoundRule) else f
    if not isinstance(op, Op):
        return {}
    ends = ((i, op.domain[name]) for i, name in enumerate(op.arguments) if name in op.domain)
    return {f"args[{i}]": (d.low, d.high) for i, d in ends if math.isfinite(d.low) and math.isfinite(d.high)}


def require_intervals(domain: Domain) -> None:
    """Raise a `UsageError` where an interval of a domain holds no number."""
    for name, (low, high) in domain.items():
        if not low < high:
            raise UsageError(
                f"The domain of {name} is {low:g} to {high:g}, which holds no number; give a lower and a higher one."
            )


def within(x: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """x folded into an open interval."""
    if limits is None or not is_float(x.dtype):
        return x
    low, high = limits
    wide = x.astype(np.float64)
    if np.isfinite(low) and np.isfinite(high):
        wide = low + (high - low) * (0.5 + np.arctan(wide) / np.pi)
    elif np.isfinite(low):
        wide = low + np.maximum(np.abs(np.where(np.isfinite(wide), wide - low, 1)), 1e-3)
    elif np.isfinite(high):
        wide = high - np.maximum(np.abs(np.where(np.isfinite(wide), wide - high, 1)), 1e-3)
    return np.asarray(wide).astype(x.dtype)


def cotangents(subject: Subject, level: str, seed: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Cotangents of the outputs that are floats: random, one-hot, scaled, sparse, one output at a time."""
    rng = stream(seed, "cotangents")
    shapes = [subject.shapes[i] for i in subject.float_outs]

    def drawn(scale: float = 1.0, density: float = 1.0) -> list[np.ndarray]:
        return [
            np.asarray(np.where(rng.random(s.shape) < density, scale * rng.normal(size=s.shape), 0)).astype(s.dtype)
            for s in shapes
        ]

    yield "random", drawn()
    if level == "quick":
        return
    hot = [np.zeros(s.shape, s.dtype) for s in shapes]
    filled = [i for i, x in enumerate(hot) if x.size]
    if filled:
        last = hot[filled[-1]].reshape(-1)
        last[int(rng.integers(last.size))] = 1
        yield "one-hot", hot
    yield "scaled up", drawn(1000.0)
    yield "scaled down", drawn(1e-3)
    yield "sparse", drawn(density=0.1)
    for i in range(len(shapes) if len(shapes) > 1 else 0):
        yield f"of output {i} alone", [x if i == j else np.zeros_like(x) for j, x in enumerate(drawn())]
