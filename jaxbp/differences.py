"""Numerical gradients: one-sided and central differences with a step chosen from dtype and magnitude."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.broadcasting import sum_to
from jaxbp.op import Domain, Op, is_inexact

Kind = Literal["forward", "central"]

#: The step that balances truncation against rounding, as the exponent of the dtype's epsilon: the truncation
#: error of a one-sided difference grows as h, that of a central one as h^2; rounding as eps / h for both.
STEP_EXPONENT: dict[Kind, float] = {"forward": 1 / 2, "central": 1 / 3}


def step(x: jax.Array, kind: Kind, domain: Domain) -> jax.Array:
    """The step at each entry of `x`: eps^(1/2) (one-sided) or eps^(1/3) (central) times max(|x|, 1).

    It is at most half of the way to the nearest edge of the domain, so that log stays right of 0.

    >>> print(step(jnp.array([0.0, 100.0]), "central", Domain()))
    [0.00492157 0.49215662]
    >>> print(step(jnp.array([0.001]), "central", Domain(low=0)))
    [0.0005]
    """
    h = jnp.finfo(x.dtype).eps ** STEP_EXPONENT[kind] * jnp.maximum(jnp.abs(x), 1)
    for edge in domain.edges:
        h = jnp.minimum(h, jnp.abs(x - edge) / 2)
    return h.astype(x.dtype)


def probe(x: jax.Array, kind: Kind, domain: Domain) -> tuple[jax.Array, jax.Array]:
    """The two points whose difference is taken.

    Their distance, as rounded, is what the difference is divided by; the barrier keeps the compiler from
    carrying them in a wider dtype than the function then sees.
    """
    h = step(x, kind, domain)
    low = x if kind == "forward" else x - h
    return lax.optimization_barrier((x + h, low))


def elementwise_vjp(op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], ct: Any) -> list[Any]:
    """All cotangents of an elementwise op: all entries of an argument are perturbed at once."""
    cts = []
    for i, x in enumerate(args):
        if not is_inexact(x):
            cts.append(None)
            continue
        x = jnp.asarray(x)
        high, low = probe(x, kind, op.domain.get(op.arguments[i], Domain()))
        rise = f(*args[:i], high, *args[i + 1 :]) - f(*args[:i], low, *args[i + 1 :])
        cts.append(sum_to(ct * rise / (high - low), x).astype(x.dtype))
    return cts


def entry_vjp(
    op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], ct: Any, i: int, entries: jax.Array
) -> jax.Array:
    """The cotangent of argument `i` at the given flat entries, perturbed one at a time."""
    x = jnp.asarray(args[i])
    flat = x.ravel()
    high, low = probe(flat[entries], kind, op.domain.get(op.arguments[i], Domain()))

    def one(entry_high_low: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        entry, up, down = entry_high_low
        at = [f(*args[:i], flat.at[entry].set(v).reshape(x.shape), *args[i + 1 :]) for v in (up, down)]
        return jnp.sum(ct * (at[0] - at[1])) / (up - down)

    return lax.map(one, (entries, high, low)).astype(x.dtype)


def full_vjp(op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], ct: Any) -> list[Any]:
    """All cotangents of any op, every entry of every floating argument perturbed one at a time."""
    return [
        entry_vjp(op, f, kind, args, ct, i, jnp.arange(jnp.size(x))).reshape(jnp.shape(x)) if is_inexact(x) else None
        for i, x in enumerate(args)
    ]
