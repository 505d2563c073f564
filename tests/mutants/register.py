"""How wrong rules are written down by hand: a function that returns the three parts of a custom VJP."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tests.mutants.mutant import Mutant, custom

#: What the checker need not name: a formula that is wrong in its own way.
ANY = ("gradient",)
#: All that have been registered, by name: a module may be imported under two.
MADE: dict[str, Mutant] = {}


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def wrong(*args: Any, kinds: tuple[str, ...] = ANY, **facts: Any) -> Callable[..., Any]:
    """Register a wrong rule: the function decorated returns `(primal, fwd, bwd)`."""

    def register(rule: Callable[[], tuple[Any, Any, Any]]) -> Callable[..., Any]:
        primal, fwd, bwd = rule()
        f = custom(primal, fwd, bwd)
        name = f"hand/{rule.__name__}"
        described = {"truth": primal, "entrywise": False, **facts}
        MADE[name] = Mutant(name, "hand", f, args=args, kinds=kinds, **described)
        return rule

    return register


def backward_of(primal: Callable[..., Any], other: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """The rule whose backward pass differentiates another function."""
    return primal, lambda *args: (primal(*args), args), lambda args, ct: jax.vjp(other, *args)[1](ct)
