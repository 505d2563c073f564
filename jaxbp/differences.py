"""Numerical gradients: one-sided and central differences with a step chosen from dtype and magnitude."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.broadcasting import sum_to
from jaxbp.declaration import Domain
from jaxbp.op import Op
from jaxbp.promotion import is_inexact

Kind = Literal["forward", "central"]

#: The step that balances truncation against rounding, as the exponent of the dtype's epsilon: the truncation
#: error of a one-sided difference grows as h, that of a central one as h^2; rounding as eps / h for both.
STEP_EXPONENT: dict[Kind, float] = {"forward": 1 / 2, "central": 1 / 3}


def step(x: jax.Array, kind: Kind, domain: Domain) -> jax.Array:
    """The step at each entry of `x`: eps^(1/2) (one-sided) or eps^(1/3) (central) times max(|x|, 1).

    It is at most half of the way to the nearest edge of the domain, so that log stays right of 0.

    >>> [f"{h:.4f}" for h in step(jnp.array([0.0, 100.0]), "central", Domain())]
    ['0.0049', '0.4922']
    >>> [f"{h:.4f}" for h in step(jnp.array([0.001]), "central", Domain(low=0))]
    ['0.0005']
    """
    h = jnp.finfo(x.dtype).eps ** STEP_EXPONENT[kind] * jnp.maximum(jnp.abs(x), 1)
    for edge in domain.edges:
        h = jnp.minimum(h, jnp.abs(x - edge) / 2)
    return h.astype(x.dtype)


def probe(x: jax.Array, kind: Kind, domain: Domain) -> tuple[jax.Array, jax.Array]:
    """The two points whose difference is taken, x + h and x or x - h.

    Their distance, as rounded, is what the difference is divided by; the barrier keeps the compiler from
    carrying them in a wider dtype than the function then sees.
    """
    h = step(x, kind, domain)
    return lax.optimization_barrier((x + h, x if kind == "forward" else x - h))


def evaluations(entries: int, kind: Kind) -> int:
    """How often the function is evaluated for its value and that many entries of the gradient."""
    return 1 + entries * (1 if kind == "forward" else 2)


def elementwise_vjp(
    op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], y: jax.Array, ct: Any
) -> tuple[Any, ...]:
    """All cotangents of an elementwise op at the value `y`: all entries of an argument are perturbed at once."""

    def one(i: int) -> Any:
        x = jnp.asarray(args[i])
        high, low = probe(x, kind, _domain(op, i))
        at_high, at_low = (f(*args[:i], v, *args[i + 1 :]) for v in (high, low))
        rise = at_high - (y if kind == "forward" else at_low)
        return sum_to(ct * rise / (high - low), x).astype(x.dtype)

    return tuple(one(i) if is_inexact(x) else None for i, x in enumerate(args))


def entry_vjp(
    op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], y: jax.Array, ct: Any, i: int, entries: Any
) -> jax.Array:
    """The cotangent of argument `i` at the given flat entries, which are perturbed one at a time."""
    return perturbed_slopes(f, kind, _domain(op, i), args, y, ct, i, entries)


def perturbed_slopes(
    f: Callable[..., Any],
    kind: Kind,
    domain: Domain,
    args: tuple[Any, ...],
    y: jax.Array,
    ct: Any,
    i: int,
    entries: Any,
) -> jax.Array:
    """`entry_vjp` of any function that has the value `y`; `domain` is that of argument `i`."""
    x = jnp.asarray(args[i])
    if not entries.size:
        return jnp.zeros(entries.shape, x.dtype)
    flat = x.ravel()
    highs, lows = probe(flat[entries], kind, domain)

    def one(probed: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        entry, high, low = probed

        def at(value: jax.Array) -> Any:
            return f(*args[:i], flat.at[entry].set(value).reshape(x.shape), *args[i + 1 :])

        return jnp.sum(ct * (at(high) - (y if kind == "forward" else at(low)))) / (high - low)

    return lax.map(one, (entries, highs, lows)).astype(x.dtype)


def full_vjp(
    op: Op, f: Callable[..., Any], kind: Kind, args: tuple[Any, ...], y: jax.Array, ct: Any
) -> tuple[Any, ...]:
    """All cotangents of any op at the value `y`, every entry of every floating argument perturbed on its own."""
    return tuple(
        entry_vjp(op, f, kind, args, y, ct, i, jnp.arange(jnp.size(x))).reshape(jnp.shape(x)) if is_inexact(x) else None
        for i, x in enumerate(args)
    )


def _domain(op: Op, i: int) -> Domain:
    return op.domain.get(op.arguments[i], Domain())
