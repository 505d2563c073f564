"""Attention as folds over blocks of keys, and of queries for the cotangents of the keys.

Scores are [keys, queries] here: what belongs to a query is a row then, and all products but two are of matrices as they
lie in memory. Arrays are [sequences * heads, d, length], those of keys with as many rows fewer as heads share them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.kernels.fold import Blocks, Fold, State
from jaxbp.kernels.launch import padded, power_of_two
from jaxbp.promotion import widened

#: Of each query the largest of its scores, and one over the sum of the exponentials of their distances from it.
Sums = tuple[jax.Array, jax.Array]


def forward(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, scale: float) -> tuple[jax.Array, Sums]:
    """The value of attention, of the shape of q and not narrower than float32, and the sums of the queries."""
    arrays = [_by_heads(x) for x in (q, k, v)]
    y, top, inverse = _forward(arrays[0], k.shape[-3], causal, scale)(arrays[:1], arrays[1:])
    return _like(y, q), (top, inverse)


def backward(
    q: jax.Array, k: jax.Array, v: jax.Array, y: jax.Array, sums: Sums, ct: jax.Array, *, causal: bool, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of q, k and v, given what `forward` took and returned."""
    queries, keys = q.shape[-3], k.shape[-3]
    of_q, of_k, of_v, of_y, of_ct = (_by_heads(x) for x in (q, k, v, y, ct))
    mean = jnp.sum(widened(of_ct) * of_y, axis=1, keepdims=True)
    by_query, by_key = (of_q, *sums, mean, of_ct), (of_k, of_v)
    (ct_q,) = _of_queries(of_q, keys, causal, scale)(by_query, by_key)
    ct_k, ct_v = (_shared(x, of_k) for x in _of_keys(of_q, queries, keys, causal, scale)(by_key, by_query))
    return _like(ct_q, q).astype(q.dtype), _like(ct_k, k).astype(k.dtype), _like(ct_v, v).astype(v.dtype)


def _product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """The product of two matrices over that axis of each."""
    return jax.lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())))


def _scores(q: jax.Array, k: jax.Array, scale: float, first_query: Any, first_key: Any, visible: Any) -> jax.Array:
    """[keys, queries], with -infinity where a query does not see a key."""
    # A product and nothing else: what the backward pass computes again is the same bits then, and not a product and a
    # difference that a compiler makes one rounding of.
    scores = _product(widened(k), scale * widened(q), (0, 0))
    key = first_key + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    query = first_query + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(visible(query, key), scores, -jnp.inf)


def _before(causal: bool, keys: int) -> Any:
    """Which queries see which keys; what fills the last block of keys, nobody sees."""
    return lambda query, key: (key < keys) & (key <= query) if causal else key < keys


def _seen(causal: bool) -> Any:
    """The keys that a block of queries sees."""
    return (lambda first, last: (0, last)) if causal else None


def _forward(q: jax.Array, keys: int, causal: bool, scale: float) -> Fold:
    d, dtype = q.shape[1], widened(q).dtype

    def start(size: int) -> State:
        return jnp.full((1, size), -jnp.inf, dtype), jnp.zeros((1, size), dtype), jnp.zeros((d, size), dtype)

    def step(state: State, held: Blocks, streamed: Blocks, first_query: Any, first_key: Any) -> State:
        top, total, sums = state
        (q,), (k, v) = held, streamed
        scores = _scores(q, k, scale, first_query, first_key, _before(causal, keys))
        largest = jnp.maximum(top, jnp.max(scores, axis=0, keepdims=True))
        e, shrunk = jnp.exp(scores - _finite(largest)), jnp.exp(top - _finite(largest))
        sums = sums * shrunk + _product(widened(v), e, (1, 0))
        return largest, total * shrunk + jnp.sum(e, axis=0, keepdims=True), sums

    def finish(state: State, held: Blocks) -> Blocks:
        top, total, sums = state
        return sums / total, top, 1 / total

    return Fold("attention", start, step, finish, ((d, dtype), (1, dtype), (1, dtype)), 4 * d + 4, _seen(causal))


def _finite(largest: jax.Array) -> jax.Array:
    """What is subtracted from the scores: nothing where no key has been seen so far."""
    return jnp.where(largest == -jnp.inf, 0, largest)


def _slopes(held_and_streamed: Blocks, scale: float, first: tuple[Any, Any], visible: Any) -> tuple[Any, Any]:
    """The weights of the keys, [keys, queries], and the cotangents of the scores."""
    q, top, inverse, mean, ct, k, v = held_and_streamed
    # The logarithm of the sum, added to the largest score as it is in flash attention, would lose the last digits of a
    # weight, and more of them the larger the scores are.
    p = jnp.exp(_scores(q, k, scale, *first, visible) - _finite(top)) * inverse
    return p, p * (_product(widened(v), widened(ct), (0, 0)) - mean)


def _of_queries(q: jax.Array, keys: int, causal: bool, scale: float) -> Fold:
    d, dtype = q.shape[1], widened(q).dtype

    def step(state: State, held: Blocks, streamed: Blocks, first_query: Any, first_key: Any) -> State:
        _, slopes = _slopes((*held, *streamed), scale, (first_query, first_key), _before(causal, keys))
        return (state[0] + _product(widened(streamed[0]), slopes, (1, 0)),)

    return Fold(
        "attention_of_queries",
        lambda size: (jnp.zeros((d, size), dtype),),
        step,
        lambda state, held: (scale * state[0],),
        ((d, q.dtype),),
        6 * d + 5,
        _seen(causal),
    )


def _of_keys(q: jax.Array, queries: int, keys: int, causal: bool, scale: float) -> Fold:
    d, dtype = q.shape[1], widened(q).dtype

    def visible(query: Any, key: Any) -> Any:
        """What fills the last block of queries sees nothing."""
        return (query < queries) & _before(causal, keys)(query, key)

    def step(state: State, held: Blocks, streamed: Blocks, first_key: Any, first_query: Any) -> State:
        ct_k, ct_v = state
        q, *_, ct = streamed
        p, slopes = _slopes((*streamed, *held), scale, (first_query, first_key), visible)
        return ct_k + _product(widened(q), slopes, (1, 1)), ct_v + _product(widened(ct), p, (1, 1))

    return Fold(
        "attention_of_keys",
        lambda size: (jnp.zeros((d, size), dtype),) * 2,
        step,
        lambda state, held: (scale * state[0], state[1]),
        ((d, dtype),) * 2,
        8 * d + 5,
        (lambda first, last: (first, queries)) if causal else None,
    )


def _by_heads(x: jax.Array) -> jax.Array:
    """[..., length, heads, d] as [sequences * heads, d, length], with zeros up to a power of two of d."""
    x = jnp.moveaxis(x, -3, -1)
    x = x.reshape(-1, *x.shape[-2:])
    return padded(x, 1, power_of_two(x.shape[1]))


def _like(x: jax.Array, like: jax.Array) -> jax.Array:
    """The inverse of `_by_heads`, of the shape of `like`."""
    *batch, length, heads, d = like.shape
    return jnp.moveaxis(x[:, :d].reshape(*batch, heads, d, length), -1, -3)


def _shared(x: jax.Array, like: jax.Array) -> jax.Array:
    """The sum over the heads that share keys."""
    return jnp.sum(x.reshape(len(like), -1, *like.shape[1:]), axis=1)
