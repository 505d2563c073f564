"""An entry of the field study's catalog: a public function with custom rules, and what was found out by hand."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: What a finding turned out to be, once it was worked out by hand.
JUDGEMENTS = {
    "wrong": "the rule's answer is not the function's derivative, or its value not the function's",
    "imprecise": "the formula is right, its evaluation loses far more digits than the function itself",
    "convention": "another convention where the function has no derivative, or at the edge of its domain",
    "by design": "documented to differ from the derivative: a straight-through or clipped gradient",
    "approximation": "the function itself is an approximation, of which the rule takes the exact function's derivative",
    "false alarm": "the rule is right; the checker is wrong",
}


@dataclasses.dataclass(frozen=True)
class Verified:
    """What a finding turned out to be.

    Attributes:
        kind: the finding's kind, as in `jaxbp.check.findings.Finding`.
        argument: the finding's argument; empty for all of them.
        judgement: a key of `JUDGEMENTS`.
        why: one sentence.
        confirm: computes `(got, expected)` at one point, `expected` without JAX's derivatives where that is possible.
    """

    kind: str
    argument: str
    judgement: str
    why: str
    confirm: Callable[[], tuple[float, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public function with a custom rule in it, and how to call it.

    Attributes:
        package: the distribution's name, as the registry knows it.
        name: the public name, with the setting where there are several.
        f: the function.
        args: arguments, whose floats are cast to each of `dtypes`.
        why: what it is there for.
        inputs: further tuples of arguments: the hard ones.
        domain: as in `jaxbp.check_vjp`.
        dtypes: of the floats; None leaves them as they are.
        verified: what its findings turned out to be.
    """

    package: str
    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    why: str
    inputs: tuple[tuple[Any, ...], ...] = ()
    domain: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    dtypes: tuple[str | None, ...] = ("float32",)
    verified: tuple[Verified, ...] = ()

    def __post_init__(self) -> None:
        for v in self.verified:
            if v.judgement not in JUDGEMENTS:
                raise ValueError(f"{self.name}: no judgement is called {v.judgement!r}; there are {list(JUDGEMENTS)}.")

    def cast(self, args: tuple[Any, ...], dtype: str | None) -> tuple[Any, ...]:
        """Arguments whose floats have this dtype."""

        def leaf(x: Any) -> Any:
            x = jnp.asarray(x)
            return x.astype(dtype) if dtype and jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(leaf, args)


BOTH = ("float32", "bfloat16")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Numbers around 0."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def between(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    """Numbers of an interval."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    """A symmetric, well-conditioned matrix."""
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a @ a.T / n + np.eye(n)).astype(np.float32)


def values(*numbers: float) -> np.ndarray:
    """A vector of just these."""
    return np.asarray(numbers, np.float32)


def rows(*vectors: Sequence[float]) -> np.ndarray:
    """A matrix of just these."""
    return np.asarray(vectors, np.float32)
