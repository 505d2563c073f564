"""Attention in blocks of queries, in linear memory: attention, padded_attention."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import Case, Lengths, Normal
from jaxbp.declaration import Flops, Rule, Shapes
from jaxbp.numerics import exponent_shift, numpy_exponent_shift
from jaxbp.op import Op
from jaxbp.promotion import vary_alike, widened

#: Queries of a block, those of all heads that share keys counted together: its scores against 4,096 keys fill 2 MiB.
_ROWS = 128
#: Scores that are alive at a time, where more heads than one fit beside each other.
_SCORES = 2**20
#: Lengths of keys that causal blocks look at: the program grows with them, what is computed in vain shrinks.
_GROUPS = 8


class _Plan(NamedTuple):
    """How the queries of the heads that share keys are cut: so many blocks, in groups that look at as many keys."""

    rows: int
    blocks: int
    groups: tuple[tuple[int, int, int], ...]
    """(first block, last block + 1, keys), where the blocks see no key beyond those."""


def _plan(heads, queries, keys, causal):
    """Blocks of one size: the last is not much emptier than the others."""
    blocks = max(1, -(-queries * heads // _ROWS))
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


def _rows_by_rows(a, b):
    """a b^T, without a transposed copy of b."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))


def _scores(q, k, visible):
    s = _rows_by_rows(q, k)
    return s if visible is None else jnp.where(visible, s, -jnp.inf)


def _forward(q, k, v, lengths, *, causal):
    """Value and logsumexp of the scores for the heads that share keys: q [heads, T, d], k, v [S, d]."""
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
        if lengths is not None or not keys:
            # No visible key: the value is 0, and so is exp(s - infinity) in the backward pass.
            nothing = ~jnp.any(visible, axis=-1, keepdims=True)
            total = jnp.where(nothing, 1, total)
            m = jnp.where(nothing, jnp.inf, m)
        return None, (jnp.matmul(e, v[:keys]) / total, (m + jnp.log(total))[:, 0])

    xs = (jnp.arange(plan.blocks), _split(q, plan))
    parts = [
        jax.lax.scan(functools.partial(step, keys), None, jax.tree.map(lambda x, a=first, b=last: x[a:b], xs))[1]
        for first, last, keys in plan.groups
    ]
    return jax.tree.map(lambda *ys: _join(jnp.concatenate(ys), plan, heads, queries), *parts)


def _backward(q, k, v, lengths, lse, ct, *, causal):
    """The cotangents of q, k and v, like `_forward`."""
    heads, queries, d = q.shape
    plan = _plan(heads, queries, len(k), causal)
    (q, ct), (k, v) = _cleared(lengths, (q, ct), (k, v))

    def step(keys, sums, xs):
        block, q, lse, ct = xs
        ct_k, ct_v = sums
        s = _scores(q, k[:keys], _visible(block, plan, heads, keys, lengths, causal))
        p = jnp.exp(s - lse[:, None])
        ct_p = _rows_by_rows(ct, v[:keys])
        # As products of rows, which XLA's CPU backend vectorizes; a sum of p * ct_p it does not.
        mean = jax.lax.dot_general(p, ct_p, (((1,), (1,)), ((0,), (0,))))
        ct_s = p * (ct_p - mean[:, None])
        # Transposed sums, [d, keys]: the other way round XLA's CPU backend takes three times as long for a product.
        return (ct_k + jnp.matmul(q.T, ct_s), ct_v + jnp.matmul(ct.T, p)), jnp.matmul(ct_s, k[:keys])

    xs = (jnp.arange(plan.blocks), *(_split(x, plan) for x in (q, lse, ct)))
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
    together = max(1, _SCORES // max(1, heads * _plan(heads, queries, keys, causal).rows * keys))
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


def _of_key_heads(lengths, longest, key_heads):
    """A length for each key head of each sequence, in 32 bits."""
    lengths = lengths.astype(jnp.int32) if lengths.dtype.itemsize < 4 else jnp.minimum(lengths, longest)
    return jnp.repeat(lengths.astype(jnp.int32).reshape(-1), key_heads)


def _require_fit(q, k, v, *lengths):
    if q.ndim not in (3, 4) or k.shape != v.shape or (*q.shape[:-3], q.shape[-1]) != (*k.shape[:-3], k.shape[-1]):
        raise ValueError(
            "q must be [T, heads, d] or [batch, T, heads, d], and k and v [S, key heads, d] or [batch, S, key heads, "
            f"d] alike, got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}."
        )
    if not k.shape[-2] or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"the heads of q must be a multiple of those of k and v, got {q.shape[-2]} and {k.shape[-2]}.")
    if any(x.shape != q.shape[:-3] for x in lengths):
        shapes = " and ".join(str(list(x.shape)) for x in lengths)
        raise ValueError(f"lengths must have the shape of the batch, {list(q.shape[:-3])}, got {shapes}.")


def _scale_of(q, scale):
    return 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale


def _arranged(q, k, v, lengths, scale):
    """What `_forward` takes."""
    key_heads = k.shape[-2]
    q, k, v = widened(q), widened(k), widened(v)
    if lengths is not None:
        longest = q.shape[-3], k.shape[-3]
        lengths = tuple(_of_key_heads(x, n, key_heads) for x, n in zip(lengths, longest, strict=True))
    return _of_queries(q * _scale_of(q, scale), key_heads), _of_keys(k), _of_keys(v), lengths


def _fwd(q, k, v, lengths, causal, scale):
    _require_fit(q, k, v, *(lengths or ()))
    y, lse = _over_key_heads(_forward, *_arranged(q, k, v, lengths, scale), causal=causal)
    return _like_queries(y, q, k.shape[-2]), lse


def _bwd(q, k, v, lengths, lse, ct, causal, scale):
    scaled, keys, values, lengths = _arranged(q, k, v, lengths, scale)
    cts = _of_queries(widened(ct), k.shape[-2])
    ct_q, ct_k, ct_v = _over_key_heads(_backward, scaled, keys, values, lengths, lse, cts, causal=causal)
    ct_q = _like_queries(ct_q * _scale_of(q, scale), q, k.shape[-2])
    return ct_q, _like_keys(ct_k, k), _like_keys(ct_v, v)


def attention_fwd(q, k, v, *, causal=False, scale=None):
    y, lse = _fwd(q, k, v, None, causal, scale)
    return y, (q, k, v, lse)


def attention_bwd(res, ct, *, causal=False, scale=None):
    q, k, v, lse = res
    return _bwd(q, k, v, None, lse, ct, causal, scale)


def padded_attention_fwd(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
    lengths = query_seq_lengths, key_value_seq_lengths
    y, lse = _fwd(q, k, v, lengths, causal, scale)
    return y, (q, k, v, lengths, lse)


def padded_attention_bwd(res, ct, *, causal=False, scale=None):
    q, k, v, lengths, lse = res
    return (*_bwd(q, k, v, lengths, lse, ct, causal, scale), None, None)


def attention_stock(q, k, v, *, causal=False, scale=None):
    _require_fit(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, scale=scale)


def padded_attention_stock(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
    lengths = query_seq_lengths, key_value_seq_lengths
    _require_fit(q, k, v, *lengths)
    queries, keys = (jnp.asarray(x, jnp.int32).reshape(-1) for x in lengths)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, scale=scale, query_seq_lengths=queries, key_value_seq_lengths=keys
    )


def _seen(q, k, lengths, causal):
    """Which keys each query sees, [..., heads, T, S], for the dense formulas."""
    query, key = np.arange(q.shape[-3])[:, None], np.arange(k.shape[-3])
    seen = key <= query if causal else key == key
    if lengths is None:
        return seen
    query_lengths, key_lengths = (x[..., None, None, None] for x in lengths)
    return seen & (query < query_lengths) & (key < key_lengths)


def _dense(q, k, v, lengths, causal, scale):
    """The function that is meant, whose matrix of weights is whole; jax.nn's softmax is float32 in float64 too."""
    k, v = (jnp.repeat(x, q.shape[-2] // x.shape[-2], axis=-2) for x in (k, v))
    seen = _seen(q, k, lengths, causal)
    s = jnp.where(seen, jnp.einsum("...tnd,...snd->...nts", q * _scale_of(q, scale), k), -jnp.inf)
    e = jnp.exp(s - exponent_shift(s, -1))
    total = jnp.where(jnp.any(seen, axis=-1, keepdims=True), jnp.sum(e, axis=-1, keepdims=True), 1)
    return jnp.einsum("...nts,...snd->...tnd", e / total, v)


def _numpy_dense(q, k, v, lengths, causal, scale):
    """The weights, and q, k and v with heads first: [..., heads, T or S, d]."""
    q, k, v = (np.swapaxes(np.repeat(x, q.shape[-2] // x.shape[-2], axis=-2), -2, -3) for x in (q, k, v))
    seen = _seen(*(np.swapaxes(x, -2, -3) for x in (q, k)), lengths, causal)
    s = np.where(seen, q @ np.swapaxes(k, -1, -2) * _scale_of(q, scale), -np.inf)
    e = np.exp(s - numpy_exponent_shift(s, -1))
    total = np.where(np.any(seen, axis=-1, keepdims=True), np.sum(e, axis=-1, keepdims=True), 1)
    return e / total, q, k, v


def _numpy_value(q, k, v, lengths, causal, scale):
    p, _, _, values = _numpy_dense(q, k, v, lengths, causal, scale)
    return np.swapaxes(p @ values, -2, -3)


def _numpy_vjp(ct, q, k, v, lengths, causal, scale):
    p, queries, keys, values = _numpy_dense(q, k, v, lengths, causal, scale)
    ct = np.swapaxes(ct, -2, -3)
    ct_p = ct @ np.swapaxes(values, -1, -2)
    ct_s = p * (ct_p - np.sum(p * ct_p, axis=-1, keepdims=True)) * _scale_of(q, scale)

    def like(x, argument):
        """With heads last but one, those that share a key head summed."""
        *batch, n, heads, d = argument.shape
        return np.swapaxes(x, -2, -3).reshape(*batch, n, heads, x.shape[-3] // heads, d).sum(-2)

    ct_k, ct_v = (np.swapaxes(w, -1, -2) @ x for w, x in ((ct_s, queries), (p, ct)))
    return like(ct_s @ keys, q), like(ct_k, k), like(ct_v, v)


def _without_lengths(f):
    return lambda q, k, v, *, causal=False, scale=None: f(q, k, v, None, causal, scale)


def _with_lengths(f):
    def padded(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
        return f(q, k, v, (query_seq_lengths, key_value_seq_lengths), causal, scale)

    return padded


def attention_reference_vjp(ct, q, k, v, *, causal=False, scale=None):
    return _numpy_vjp(ct, q, k, v, None, causal, scale)


def padded_attention_reference_vjp(ct, q, k, v, query_lengths, key_lengths, *, causal=False, scale=None):
    return (*_numpy_vjp(ct, q, k, v, (query_lengths, key_lengths), causal, scale), None, None)


def attention_flops(shapes: Shapes) -> Flops:
    """Two products and a softmax, then five products; hidden keys count like others."""
    q, k = shapes[:2]
    pairs = math.prod(q[:-1]) * k[-3]
    return Flops(pairs * (4 * q[-1] + 5), pairs * (10 * q[-1] + 6))


def _torch_attention(torch):
    def attend(q, k, v, *, causal=False, scale=None, mask=None):
        heads_first = (x.transpose(-2, -3) for x in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(
            *heads_first, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[-2] != k.shape[-2]
        )
        return y.transpose(-2, -3)

    return attend


def _torch_padded(torch):
    attend = _torch_attention(torch)

    def padded(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
        seen = _seen(q, k, None, causal)
        query, key = torch.arange(q.shape[-3])[:, None], torch.arange(k.shape[-3])
        query_lengths, key_lengths = (x[..., None, None, None] for x in (query_seq_lengths, key_value_seq_lengths))
        seen = torch.from_numpy(seen) & (query < query_lengths) & (key < key_lengths)
        # A query that sees nothing would be NaN; it sees all, and its value is not used.
        none = ~seen.any(-1, keepdim=True)
        return attend(q, k, v, scale=scale, mask=seen | none).masked_fill(none.transpose(-2, -3), 0)

    return padded


def _cases(lengths, **shapes):
    """(batch, T, S, heads, key heads, d) by name, with lengths of each sequence if asked for."""

    def case(name, batch, queries, keys, heads, key_heads, d):
        arrays = (batch, queries, heads, d), *[(batch, keys, key_heads, d)] * 2
        draws = (Normal(),) * 3
        if lengths:
            arrays, draws = (*arrays, (batch,), (batch,)), (*draws, Lengths(queries), Lengths(keys))
        return Case(name, arrays, draws)

    return tuple(case(name, *sizes) for name, sizes in shapes.items())


_SHAPES = (
    "q [batch, T, heads, d], k and v [batch, S, key heads, d] -> y [batch, T, heads, d], floating; or all without "
)
_FORMULA = (
    "p = softmax(scale q k^T), y = p v; with g = ct v^T and h = p (g - sum_keys(p g)): "
    "ct_q = scale h k, ct_k = scale h^T q, ct_v = p^T ct"
)
_MEANING = (
    "As in jax.nn.dot_product_attention, `scale` is 1 / sqrt(d) if None, heads are a multiple of key heads and share "
    "them in turn, and with `causal` query i sees the keys j <= i. A query that sees no key gives 0, "
    "with the gradient 0."
)
_NOTE = (
    "Blocks of queries against all keys that they see: no T x S matrix is alive in either pass. Keeps the inputs and "
    "the logsumexp of each query's scores. No bound in ULP holds: scores are sums that may cancel."
)
_SOURCE = (
    "Rabe and Staats, Self-attention Does Not Need O(n^2) Memory (2021); Dao, Fu, Ermon, Rudra and Re, "
    "FlashAttention (2022): the backward pass from the logsumexp."
)

attention = Op(
    name="attention",
    summary=f"Scaled dot-product attention. {_SHAPES}batch. {_MEANING}",
    formula=_FORMULA,
    rules=(Rule("blocks", attention_fwd, attention_bwd, _NOTE),),
    stock=attention_stock,
    exact=_without_lengths(_dense),
    reference=_without_lengths(_numpy_value),
    reference_vjp=attention_reference_vjp,
    cases=_cases(
        lengths=False,
        small=(2, 6, 8, 2, 2, 4),
        cache=(1, 256, 256, 4, 4, 32),
        memory=(1, 4096, 4096, 1, 1, 64),
        gpt2=(1, 1024, 1024, 12, 12, 64),
    ),
    flops=attention_flops,
    variants=({}, {"causal": True}),
    torch=lambda torch: (
        lambda q, k, v, *, causal=False, scale=None: _torch_attention(torch)(q, k, v, causal=causal, scale=scale)
    ),
    source=_SOURCE,
    example=""">>> q, k, v = jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.array([[[1.0]], [[3.0]]])
>>> jaxbp.attention(q, k, v).ravel().tolist(), jaxbp.attention(q, k, v, causal=True).ravel().tolist()
([2.0, 2.0], [1.0, 2.0])""",
)

padded_attention = Op(
    name="padded_attention",
    summary=f"Attention over padded sequences, of which the first entries count. {_SHAPES}batch; query_seq_lengths and "
    f"key_value_seq_lengths [batch], or [], integers. {_MEANING} What stands beyond the lengths does not matter, not "
    "even where it is NaN. jax.nn's value for a sequence without keys is the mean of v instead.",
    formula=_FORMULA,
    rules=(Rule("blocks", padded_attention_fwd, padded_attention_bwd, _NOTE),),
    integers=("query_seq_lengths", "key_value_seq_lengths"),
    stock=padded_attention_stock,
    exact=_with_lengths(_dense),
    reference=_with_lengths(_numpy_value),
    reference_vjp=padded_attention_reference_vjp,
    cases=_cases(
        lengths=True,
        small=(2, 6, 8, 2, 2, 4),
        cache=(4, 128, 128, 4, 4, 32),
        memory=(1, 4096, 4096, 1, 1, 64),
        bert=(4, 512, 512, 12, 12, 64),
    ),
    flops=attention_flops,
    variants=({}, {"causal": True}),
    torch=_torch_padded,
    source=_SOURCE,
    example=""">>> q, k, v = jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.array([[[1.0]], [[3.0]]])
>>> jaxbp.padded_attention(q, k, v, jnp.array(2), jnp.array(1)).ravel().tolist()
[1.0, 1.0]
>>> jaxbp.padded_attention(q, k, v, jnp.array(1), jnp.array(2)).ravel().tolist()
[2.0, 0.0]""",
)
