"""Attention as folds over blocks of keys, and of queries for the cotangents of the keys.

Scores are [keys, queries] here: what belongs to a query is a row then, and all products but two are of matrices as they
lie in memory. Arrays are [sequences * heads, d, length], those of keys with as many rows fewer as heads share them.
Lengths are a pair of integer arrays with one entry a sequence, or None.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.blocks import lengths_of_heads
from jaxbp.kernels.fold import Blocks, Counts, Fold, State
from jaxbp.kernels.launch import padded, power_of_two
from jaxbp.promotion import widened

#: Of each query the largest of its scores, and one over the sum of the exponentials of their distances from it.
Sums = tuple[jax.Array, jax.Array]
Lengths = tuple[jax.Array, jax.Array] | None


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: Lengths, *, causal: bool, scale: float
) -> tuple[jax.Array, Sums]:
    """The value of attention, of the shape of q and not narrower than float32, and the sums of the queries."""
    of_queries, of_keys = _arranged(lengths, (q,), (k, v))
    y, top, inverse = _forward(of_queries[0], causal, scale)(of_queries, of_keys, _counts(q, k, lengths))
    return _like(y, q), (top, inverse)


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: Lengths,
    y: jax.Array,
    sums: Sums,
    ct: jax.Array,
    *,
    causal: bool,
    scale: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cotangents of q, k and v, given what `forward` took and returned."""
    (of_q, of_ct, of_y), (of_k, of_v) = _arranged(lengths, (q, ct, y), (k, v))
    by_key, counts = (of_k, of_v), _counts(q, k, lengths)
    ct_q, mean = _of_queries(of_q, causal, scale)((of_q, *sums, of_y, of_ct), by_key, counts)
    of_keys = _of_keys(of_q, causal, scale)(by_key, (of_q, *sums, mean, of_ct), counts[::-1])
    ct_k, ct_v = (_shared(x, of_k) for x in of_keys)
    return _like(ct_q, q).astype(q.dtype), _like(ct_k, k).astype(k.dtype), _like(ct_v, v).astype(v.dtype)


def _arranged(lengths: Lengths, of_queries: Blocks, of_keys: Blocks) -> tuple[Blocks, Blocks]:
    """By heads, with zeros beyond the lengths: what stands there does not matter, not even where it is NaN."""
    if lengths is not None:
        of_queries, of_keys = (
            [_cleared(x, length) for x in xs] for xs, length in zip((of_queries, of_keys), lengths, strict=True)
        )
    return [_by_heads(x) for x in of_queries], [_by_heads(x) for x in of_keys]


def _cleared(x: jax.Array, lengths: jax.Array) -> jax.Array:
    ends = lengths_of_heads(lengths, x.shape[-3], 1).reshape(lengths.shape)
    position = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 3)
    return jnp.where(position < ends[..., None, None, None], x, 0)


def _counts(q: jax.Array, k: jax.Array, lengths: Lengths) -> Blocks:
    """The lengths for each head of each sequence."""
    if lengths is None:
        return ()
    pairs = zip(lengths, (q.shape[-3], k.shape[-3]), strict=True)
    return [lengths_of_heads(x, longest, q.shape[-2]) for x, longest in pairs]


def _product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """The product of two matrices over that axis of each."""
    return jax.lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())))


def _scores(
    q: jax.Array, k: jax.Array, scale: float, first_query: Any, first_key: Any, counts: Counts, *, causal: bool
) -> jax.Array:
    """[keys, queries], with -infinity where a query does not see a key.

    Nobody sees what fills the last block of keys, and what fills the last block of queries sees nothing.
    """
    # A product and nothing else: what the backward pass computes again is the same bits then, and not a product and a
    # difference that a compiler makes one rounding of.
    scores = _product(widened(k), scale * widened(q), (0, 0))
    key = first_key + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    query = first_query + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    visible = (query < counts[0]) & (key < counts[1])
    return jnp.where(visible & (key <= query) if causal else visible, scores, -jnp.inf)


def _seen(causal: bool) -> Any:
    """The keys that a block of queries sees."""
    return (lambda first, last: (0, last)) if causal else None


def _forward(q: jax.Array, causal: bool, scale: float) -> Fold:
    d, dtype = q.shape[1], widened(q).dtype

    def start(held: Blocks) -> State:
        size = held[0].shape[1]
        return jnp.full((1, size), -jnp.inf, dtype), jnp.zeros((1, size), dtype), jnp.zeros((d, size), dtype)

    def step(state: State, held: Blocks, streamed: Blocks, first_query: Any, first_key: Any, counts: Counts) -> State:
        top, total, sums = state
        (q,), (k, v) = held, streamed
        scores = _scores(q, k, scale, first_query, first_key, counts, causal=causal)
        largest = jnp.maximum(top, jnp.max(scores, axis=0, keepdims=True))
        e, shrunk = jnp.exp(scores - _finite(largest)), jnp.exp(top - _finite(largest))
        sums = sums * shrunk + _product(widened(v), e, (1, 0))
        return largest, total * shrunk + jnp.sum(e, axis=0, keepdims=True), sums

    def finish(state: State, held: Blocks) -> Blocks:
        top, total, sums = state
        # 0 where no key was seen: the value is 0 then, and so are all weights in the backward pass.
        total = jnp.where(total == 0, 1, total)
        return sums / total, top, 1 / total

    return Fold("attention", start, step, finish, ((d, dtype), (1, dtype), (1, dtype)), 4 * d + 4, _seen(causal))


def _finite(largest: jax.Array) -> jax.Array:
    """What is subtracted from the scores: nothing where no key has been seen so far."""
    return jnp.where(largest == -jnp.inf, 0, largest)


def _slopes(
    held_and_streamed: Blocks, scale: float, first: tuple[Any, Any], counts: Counts, *, causal: bool
) -> tuple[Any, Any]:
    """The weights of the keys, [keys, queries], and the cotangents of the scores."""
    q, top, inverse, mean, ct, k, v = held_and_streamed
    # The logarithm of the sum, added to the largest score as it is in flash attention, would lose the last digits of a
    # weight, and more of them the larger the scores are.
    p = jnp.exp(_scores(q, k, scale, *first, counts, causal=causal) - _finite(top)) * inverse
    return p, p * (_product(widened(v), widened(ct), (0, 0)) - mean)


def _of_queries(q: jax.Array, causal: bool, scale: float) -> Fold:
    """The cotangents of the queries, and the mean of the keys' ct^T v by their weights, which is ct^T y."""
    d, dtype = q.shape[1], widened(q).dtype

    def start(held: Blocks) -> State:
        *_, y, ct = held
        # The diagonal of a product like those with v, and so rounded like them: where one key has all the weight, it is
        # that key's to the last bit, and nothing is left of their difference.
        products = _product(widened(y), widened(ct), (0, 0))
        query, other = (jax.lax.broadcasted_iota(jnp.int32, products.shape, axis) for axis in (0, 1))
        mean = jnp.sum(jnp.where(query == other, products, 0), axis=0, keepdims=True)
        return jnp.zeros((d, y.shape[1]), dtype), mean

    def step(state: State, held: Blocks, streamed: Blocks, first_query: Any, first_key: Any, counts: Counts) -> State:
        total, mean = state
        q, top, inverse, _, ct = held
        of_pairs = (q, top, inverse, mean, ct, *streamed)
        _, slopes = _slopes(of_pairs, scale, (first_query, first_key), counts, causal=causal)
        return total + _product(widened(streamed[0]), slopes, (1, 0)), mean

    return Fold(
        "attention_of_queries",
        start,
        step,
        lambda state, held: (scale * state[0], state[1]),
        ((d, q.dtype), (1, dtype)),
        6 * d + 5,
        _seen(causal),
    )


def _of_keys(q: jax.Array, causal: bool, scale: float) -> Fold:
    d, dtype, queries = q.shape[1], widened(q).dtype, q.shape[2]

    def step(state: State, held: Blocks, streamed: Blocks, first_key: Any, first_query: Any, counts: Counts) -> State:
        ct_k, ct_v = state
        q, *_, ct = streamed
        p, slopes = _slopes((*streamed, *held), scale, (first_query, first_key), counts[::-1], causal=causal)
        return ct_k + _product(widened(q), slopes, (1, 1)), ct_v + _product(widened(ct), p, (1, 1))

    return Fold(
        "attention_of_keys",
        lambda held: (jnp.zeros((d, held[0].shape[1]), dtype),) * 2,
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
