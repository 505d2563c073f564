"""Attention in blocks of queries: value and cotangents, with no matrix of all scores alive.

Shapes are those of `jaxbp.attention`; lengths are a pair of integer arrays of the batch's shape, or None.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.devices import by_device
from jaxbp.numerics import exponent_shift
from jaxbp.products import rows_by_rows
from jaxbp.promotion import vary_alike, widened

#: Queries of a block, on a processor and on a GPU, those of all heads that share keys counted together: a processor's
#: scores against 4,096 keys fill 2 MiB.
_ROWS = 128, 256
#: Scores that are alive at a time, where more heads than one fit beside each other.
_SCORES = 2**18, 2**25
#: Lengths of keys that causal blocks look at: the program grows with them, what is computed in vain shrinks.
_GROUPS = 4


def forward(q, k, v, lengths, *, causal, scale):
    """The value of attention, of the shape and dtype of q, and what the softmax of each query's scores came from.

    That is what was subtracted from the scores, and one over the sum of the exponentials.
    """
    y, *softmax = _over_key_heads(_forward, *_arranged(q, k, v, lengths, scale), causal=causal)
    return _like_queries(y, q, k.shape[-2]), softmax


def backward(q, k, v, lengths, softmax, ct, *, causal, scale):
    """The cotangents of q, k and v, given what `forward` took, and returned beside the value."""
    arranged = _arranged(q, k, v, lengths, scale)
    cts = _of_queries(widened(ct), k.shape[-2])
    ct_q, ct_k, ct_v = _over_key_heads(_backward, *arranged, *softmax, cts, causal=causal)
    return _like_queries(ct_q * scale, q, k.shape[-2]), _like_keys(ct_k, k), _like_keys(ct_v, v)


class _Plan(NamedTuple):
    """How the queries of the heads that share keys are cut: so many blocks, in groups that look at as many keys."""

    rows: int
    blocks: int
    groups: tuple[tuple[int, int, int], ...]
    """(first block, last block + 1, keys), where the blocks see no key beyond those."""


def _plan(heads, queries, keys, causal):
    """Blocks of one size: the last is not much emptier than the others."""
    blocks = max(1, -(-queries * heads // by_device(*_ROWS)))
    rows = -(-queries // blocks)
    # Two blocks a group at least: a loop of one pass is none, and XLA keeps the scores of all such groups apart.
    groups = min(max(1, blocks // 2), _GROUPS) if causal else 1
    bounds = itertools.pairwise(blocks * i // groups for i in range(groups + 1))
    return _Plan(rows, blocks, tuple((a, b, min(keys, b * rows) if causal else keys) for a, b in bounds))


def _split(x, plan):
    """[heads, queries, ...] as [blocks, heads * rows, ...]; rows of zeros fill the last block."""
    heads, queries, *rest = x.shape
    filled = jnp.pad(x, [(0, 0), (0, plan.blocks * plan.rows - queries), *[(0, 0)] * len(rest)])
    return (
        filled.reshape(heads, plan.blocks, plan.rows, *rest)
        .swapaxes(0, 1)
        .reshape(plan.blocks, heads * plan.rows, *rest)
    )


def _join(x, plan, heads, queries):
    """The inverse of `_split`."""
    rest = x.shape[2:]
    x = x.reshape(plan.blocks, heads, plan.rows, *rest).swapaxes(0, 1)
    return x.reshape(heads, plan.blocks * plan.rows, *rest)[:, :queries]


def _visible(block, plan, heads, keys, lengths, causal):
    """Which keys the queries of a block see, [heads * rows, keys]; None where they see all."""
    query = block * plan.rows + jnp.tile(jnp.arange(plan.rows), heads)[:, None]
    key = jnp.arange(keys)[None, :]
    visible = key <= query if causal or not keys else None
    if lengths is None:
        return visible
    query_length, key_length = lengths
    inside = (query < query_length) & (key < key_length)
    return inside if visible is None else visible & inside


def _scores(q, k, visible):
    s = rows_by_rows(q, k)
    return s if visible is None else jnp.where(visible, s, -jnp.inf)


def _forward(q, k, v, lengths, *, causal):
    """Value and softmax of the scores for the heads that share keys: q [heads, T, d], k, v [S, d]."""
    heads, queries, _ = q.shape
    plan = _plan(heads, queries, len(k), causal)
    (q,), (k, v) = _cleared(lengths, (q,), (k, v))

    def step(keys, _, xs):
        block, q = xs
        visible = _visible(block, plan, heads, keys, lengths, causal)
        s = _scores(q, k[:keys], visible)
        m = exponent_shift(s, -1)
        e = jnp.exp(s - m)
        total = jnp.sum(e, axis=-1, keepdims=True)
        if visible is not None and (lengths is not None or not keys):
            # No visible key: the value is 0, and so is exp(s - infinity) in the backward pass.
            nothing = ~jnp.any(visible, axis=-1, keepdims=True)
            total = jnp.where(nothing, 1, total)
            m = jnp.where(nothing, jnp.inf, m)
        return None, (jnp.matmul(e, v[:keys]) / total, m[:, 0], 1 / total[:, 0])

    xs = (jnp.arange(plan.blocks), _split(q, plan))
    parts = [
        jax.lax.scan(functools.partial(step, keys), None, jax.tree.map(lambda x, a=first, b=last: x[a:b], xs))[1]
        for first, last, keys in plan.groups
    ]
    return jax.tree.map(lambda *ys: _join(jnp.concatenate(ys), plan, heads, queries), *parts)


def _backward(q, k, v, lengths, m, inverse, ct, *, causal):
    """The cotangents of q, k and v, like `_forward`."""
    heads, queries, d = q.shape
    plan = _plan(heads, queries, len(k), causal)
    (q, ct), (k, v) = _cleared(lengths, (q, ct), (k, v))

    def step(keys, sums, xs):
        block, q, m, inverse, ct = xs
        ct_k, ct_v = sums
        s = _scores(q, k[:keys], _visible(block, plan, heads, keys, lengths, causal))
        # The logarithm of the sum, added to m as in flash attention, would round the weights the more the larger m is.
        p = jnp.exp(s - m[:, None]) * inverse[:, None]
        ct_p = rows_by_rows(ct, v[:keys])
        # As products of rows, which XLA's CPU backend vectorizes; a sum of p * ct_p it does not.
        mean = jax.lax.dot_general(p, ct_p, (((1,), (1,)), ((0,), (0,))))
        ct_s = p * (ct_p - mean[:, None])
        # Transposed sums, [d, keys]: the other way round XLA's CPU backend takes three times as long for a product.
        return (ct_k + jnp.matmul(q.T, ct_s), ct_v + jnp.matmul(ct.T, p)), jnp.matmul(ct_s, k[:keys])

    xs = (jnp.arange(plan.blocks), *(_split(x, plan) for x in (q, m, inverse, ct)))
    sums = (vary_alike((jnp.zeros((d, 0), q.dtype), q))[0],) * 2
    parts = []
    for first, last, keys in plan.groups:
        sums = _widen(sums, keys)
        sums, ct_q = jax.lax.scan(
            functools.partial(step, keys), sums, jax.tree.map(lambda x, a=first, b=last: x[a:b], xs)
        )
        parts.append(ct_q)
    ct_k, ct_v = _widen(sums, len(k))
    return _join(jnp.concatenate(parts), plan, heads, queries), ct_k.T, ct_v.T


def _widen(sums, keys):
    """Zeros for the keys that no block has seen so far."""
    return tuple(jnp.pad(x, ((0, 0), (0, keys - x.shape[1]))) for x in sums)


def _cleared(lengths, of_queries, of_keys):
    """Zeros beyond the lengths: what stands there does not matter, not even where it is NaN."""
    if lengths is None:
        return of_queries, of_keys

    def clear(x, length):
        return jnp.where(jnp.arange(x.shape[-2])[:, None] < length, x, 0)

    query_length, key_length = lengths
    return tuple(clear(x, query_length) for x in of_queries), tuple(clear(x, key_length) for x in of_keys)


def _over_key_heads(f, q, k, v, *more, causal):
    """f for each key head of each sequence: several at a time where they are short, in turn where they are long."""
    number, heads, queries, _ = q.shape
    keys = k.shape[1]
    f = functools.partial(f, causal=causal)
    together = max(1, by_device(*_SCORES) // max(1, heads * _plan(heads, queries, keys, causal).rows * keys))
    if together >= number:
        return jax.vmap(f)(q, k, v, *more)
    return jax.lax.map(lambda xs: f(*xs), (q, k, v, *more), batch_size=together)


def _of_queries(x, key_heads):
    """[..., T, heads, d] as [batch * key heads, heads of each, T, d]."""
    *batch, queries, heads, d = x.shape
    n, group = math.prod(batch), heads // key_heads
    by_key_head = x.reshape(n, queries, key_heads, group, d).transpose(0, 2, 3, 1, 4)
    return by_key_head.reshape(n * key_heads, group, queries, d)


def _like_queries(x, q, key_heads):
    """The inverse of `_of_queries`, of the shape and dtype of q."""
    *batch, queries, heads, d = q.shape
    by_sequence = x.reshape(math.prod(batch), key_heads, heads // key_heads, queries, d)
    return by_sequence.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


def _of_keys(x):
    """[..., S, key heads, d] as [batch * key heads, S, d]."""
    *batch, keys, heads, d = x.shape
    n = math.prod(batch)
    return x.reshape(n, keys, heads, d).swapaxes(1, 2).reshape(n * heads, keys, d)


def _like_keys(x, k):
    """The inverse of `_of_keys`, of the shape and dtype of k."""
    *batch, keys, heads, d = k.shape
    return x.reshape(math.prod(batch), heads, keys, d).swapaxes(1, 2).reshape(k.shape).astype(k.dtype)


def lengths_of_heads(lengths, longest, heads):
    """A length for each head of each sequence, from 0 to the longest, in 32 bits.

    >>> lengths_of_heads(jnp.array([3, -1, 300], "int16"), 200, 2).tolist()
    [3, 3, 0, 0, 200, 200]
    """
    if lengths.dtype.itemsize < 4:  # Too narrow for the longest, perhaps.
        lengths = lengths.astype(jnp.int32)
    return jnp.repeat(jnp.clip(lengths, 0, longest).astype(jnp.int32).reshape(-1), heads)


def _arranged(q, k, v, lengths, scale):
    """What `_forward` takes, for all key heads of all sequences."""
    key_heads = k.shape[-2]
    q, k, v = widened(q), widened(k), widened(v)
    if lengths is not None:
        longest = q.shape[-3], k.shape[-3]
        lengths = tuple(lengths_of_heads(x, n, key_heads) for x, n in zip(lengths, longest, strict=True))
    return _of_queries(q * scale, key_heads), _of_keys(k), _of_keys(v), lengths
