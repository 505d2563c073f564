"""Right functions whose kinks are hit exactly: each convention is as right as another."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.right import Right, slope

TIES = np.array([[1, 2, 2, 0], [3, 3, 3, 3], [0, 0, -1, -2]], np.float32)


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _of_one()
    yield from _of_rows()
    yield from _of_two()
    yield from _of_losses()


def _of_one() -> Iterator[Right]:
    x = np.array([-2, -1, 0, 0, 1, 3], np.float32)
    for value in (0.0, 0.5, 1.0):
        f = slope(jnp.abs, lambda x, v=2 * value - 1: jnp.where(x == 0, v, jnp.sign(x)))
        yield Right(f"kink/abs gives {2 * value - 1:g} at 0", f, (x,))
        f = slope(lambda x: jnp.maximum(x, 0), lambda x, v=value: jnp.where(x == 0, v, x > 0))
        yield Right(f"kink/relu gives {value:g} at 0", f, (x,))
        f = slope(lambda x: jnp.clip(x, -1, 1), lambda x, v=value: jnp.where(abs(x) == 1, v, abs(x) < 1))
        yield Right(f"kink/clip gives {value:g} at its ends", f, (x,))
        f = slope(jax.nn.leaky_relu, lambda x, v=value: jnp.where(x == 0, 0.01 + 0.99 * v, jnp.where(x > 0, 1, 0.01)))
        yield Right(f"kink/leaky relu gives {0.01 + 0.99 * value:g} at 0", f, (x,))
    yield Right("kink/relu at 0 in bfloat16", jax.nn.relu, (x.astype(jnp.bfloat16),))
    yield Right("kink/leaky relu at 0", jax.nn.leaky_relu, (x,))
    yield Right("kink/relu of 6 at both ends", jax.nn.relu6, (np.array([-1, 0, 0, 3, 6, 6, 7], np.float32),))
    yield Right("kink/soft threshold", lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 1, 0), (x,))
    # Steps have no slope on either side.
    for f in (jnp.round, jnp.floor, jnp.sign):
        yield Right(f"kink/{f.__name__} is flat", f, (x,))
    yield Right("kink/heaviside is flat", slope(lambda x: jnp.heaviside(x, 0.5), jnp.zeros_like), (x,))
    yield Right("kink/fraction at whole numbers", lambda x: x - jnp.floor(x), (x,))


def _of_rows() -> Iterator[Right]:
    def top(x: Any) -> Any:
        return jnp.max(x, -1)

    def hot(i: Any, x: Any) -> Any:
        return jax.nn.one_hot(i, x.shape[-1], dtype=x.dtype)

    def first(x: Any, ct: Any) -> Any:
        return (ct[..., None] * hot(jnp.argmax(x, -1), x),)

    def last(x: Any, ct: Any) -> Any:
        return (ct[..., None] * hot(x.shape[-1] - 1 - jnp.argmax(x[..., ::-1], -1), x),)

    def lowest(x: Any, ct: Any) -> Any:
        return (ct[..., None] * hot(jnp.argmin(x, -1), x),)

    yield Right("kink/max splits ties", top, (TIES,))
    yield Right("kink/max gives ties to the first", custom(top, lambda x: (top(x), x), first), (TIES,))
    yield Right("kink/max gives ties to the last", custom(top, lambda x: (top(x), x), last), (TIES,))
    low = custom(lambda x: jnp.min(x, -1), lambda x: (jnp.min(x, -1), x), lowest)
    yield Right("kink/min gives ties to the first", low, (TIES,))
    yield Right("kink/median of ties", lambda x: jnp.median(x, -1), (TIES,))
    yield Right("kink/sort of ties", lambda x: jnp.sort(x, -1), (TIES,))
    yield Right("kink/max pool of ties", _pooled, (TIES,))
    yield Right("kink/top 1 of ties", lambda x: lax.top_k(x, 1)[0], (TIES,))
    yield Right("kink/cummax of ties", lambda x: lax.cummax(x, 1), (TIES,))
    yield Right("kink/range of ties", lambda x: jnp.max(x, -1) - jnp.min(x, -1), (TIES,))


def _pooled(x: Any) -> Any:
    return lax.reduce_window(x, -np.inf, lax.max, (1, 2), (1, 1), "VALID")


def _of_two() -> Iterator[Right]:
    one, other = np.ones(4, np.float32), np.array([1, 0, 2, 1], np.float32)
    for name, f, sign in (("maximum", jnp.maximum, 1), ("minimum", jnp.minimum, -1)):
        for weight in (0.0, 0.5, 1.0):

            def both(kept: Any, ct: Any, weight: float = weight, sign: int = sign) -> Any:
                a, b = kept
                share = jnp.where(a == b, weight, sign * a > sign * b).astype(a.dtype)
                return ct * share, ct * (1 - share)

            g = custom(f, lambda a, b, f=f: (f(a, b), (a, b)), both)
            yield Right(f"kink/{name} gives {weight:g} at ties", g, (one, other))
    # Whose share depends on the place, as in a rule that draws by lot.
    g = custom(jnp.maximum, lambda a, b: (jnp.maximum(a, b), (a, b)), _by_lot)
    yield Right("kink/maximum gives ties in turn", g, (one, other))


def _by_lot(kept: Any, ct: Any) -> Any:
    a, b = kept
    turn = jnp.arange(a.size).reshape(a.shape) % 2 == 0
    share = jnp.where(a == b, turn, a > b).astype(a.dtype)
    return ct * share, ct * (1 - share)


def _of_losses() -> Iterator[Right]:
    x, y = np.array([0, 1, 2, -1, 3], np.float32), np.array([0, 0, 2, -2, 1], np.float32)

    def distance(a: Any, b: Any) -> Any:
        return jnp.sum(jnp.abs(a - b))

    def towards(d: Any, ct: Any) -> Any:
        g = ct * jnp.where(d > 0, 1, -1).astype(d.dtype)
        return g, -g

    one_sided = custom(distance, lambda a, b: (distance(a, b), a - b), towards)
    yield Right("kink/distance at ties", distance, (x, y))
    yield Right("kink/distance from below at ties", one_sided, (x, y))
    yield Right("kink/hinge at the margin", lambda s, y: jnp.maximum(0, 1 - s * y), (x, np.sign(y + 0.5)))
    yield Right("kink/pinball at ties", lambda a, b: jnp.maximum(0.3 * (a - b), -0.7 * (a - b)), (x, y))
    yield Right(
        "kink/Huber at its edge", lambda a, b: jnp.where(abs(a - b) <= 1, (a - b) ** 2, 2 * abs(a - b) - 1), (x, y)
    )
