"""Attention in linear memory: attention, padded_attention."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import blocks
from jaxbp.cases import Case, Lengths, Normal
from jaxbp.declaration import Flops, Rule, Shapes
from jaxbp.kernels import attention as kernels
from jaxbp.kernels.launch import differentiated_as
from jaxbp.numerics import exponent_shift, numpy_exponent_shift
from jaxbp.op import Op
from jaxbp.promotion import widened


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
    # A Python number, which takes the dtype of what it meets: one of NumPy would make that wider.
    return float(1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale)


def attention_fwd(q, k, v, *, causal=False, scale=None):
    _require_fit(q, k, v)
    y, softmax = blocks.forward(q, k, v, None, causal=causal, scale=_scale_of(q, scale))
    return y, (q, k, v, softmax)


def attention_bwd(res, ct, *, causal=False, scale=None):
    q, k, v, softmax = res
    return blocks.backward(q, k, v, None, softmax, ct, causal=causal, scale=_scale_of(q, scale))


def padded_attention_fwd(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
    lengths = query_seq_lengths, key_value_seq_lengths
    _require_fit(q, k, v, *lengths)
    y, softmax = blocks.forward(q, k, v, lengths, causal=causal, scale=_scale_of(q, scale))
    return y, (q, k, v, lengths, softmax)


def padded_attention_bwd(res, ct, *, causal=False, scale=None):
    q, k, v, lengths, softmax = res
    cts = blocks.backward(q, k, v, lengths, softmax, ct, causal=causal, scale=_scale_of(q, scale))
    return (*cts, None, None)


def _plain_forward(q, k, v, lengths, **settings):
    """What the kernels return, for its derivatives."""
    y, softmax = blocks.forward(widened(q), widened(k), widened(v), lengths, **settings)
    return y, tuple(x.reshape(-1, 1, q.shape[-3]) for x in softmax)


def _plain_backward(q, k, v, lengths, y, sums, ct, **settings):
    key_heads = k.shape[-2]
    top, inverse = (x.reshape(-1, q.shape[-2] // key_heads, q.shape[-3]) for x in sums)
    # Of a query that sees no key.
    top = jnp.where(top == -jnp.inf, jnp.inf, top)
    return blocks.backward(q, k, v, lengths, (top, inverse), ct, **settings)


def _kernel_fwd(q, k, v, lengths, causal, scale):
    if not q.size or not k.size:
        return jnp.zeros_like(q), (q, k, v, lengths, None)
    forward = differentiated_as(_plain_forward, kernels.forward, causal=causal, scale=_scale_of(q, scale))
    y, sums = forward(q, k, v, lengths)
    # The value is kept as wide as it was computed: what the backward pass takes from it is a difference.
    return y.astype(q.dtype), (q, k, v, lengths, (y, sums))


def _kernel_bwd(res, ct, causal, scale):
    q, k, v, lengths, kept = res
    if kept is None:
        return tuple(jnp.zeros_like(x) for x in (q, k, v))
    backward = differentiated_as(_plain_backward, kernels.backward, causal=causal, scale=_scale_of(q, scale))
    return backward(q, k, v, lengths, *kept, ct)


def attention_kernel_fwd(q, k, v, *, causal=False, scale=None):
    _require_fit(q, k, v)
    return _kernel_fwd(q, k, v, None, causal, scale)


def attention_kernel_bwd(res, ct, *, causal=False, scale=None):
    return _kernel_bwd(res, ct, causal, scale)


def padded_attention_kernel_fwd(q, k, v, query_seq_lengths, key_value_seq_lengths, *, causal=False, scale=None):
    lengths = query_seq_lengths, key_value_seq_lengths
    _require_fit(q, k, v, *lengths)
    return _kernel_fwd(q, k, v, lengths, causal, scale)


def padded_attention_kernel_bwd(res, ct, *, causal=False, scale=None):
    return (*_kernel_bwd(res, ct, causal, scale), None, None)


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
        query, key = (torch.arange(x.shape[-3], device=x.device) for x in (q, k))
        query_lengths, key_lengths = (x[..., None, None, None] for x in (query_seq_lengths, key_value_seq_lengths))
        seen = torch.from_numpy(seen).to(q.device) & (query[:, None] < query_lengths) & (key < key_lengths)
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
    "two numbers a query. No bound in ULP holds: scores are sums that may cancel."
)
_KERNEL_NOTE = (
    "Pallas kernels for GPUs and TPUs, one of the forward pass and two of the backward pass: scores never leave fast "
    "memory. Keeps the inputs, the value, in float32 at least, and two numbers a query."
)
_SOURCE = (
    "Rabe and Staats, Self-attention Does Not Need O(n^2) Memory (2021); Dao, Fu, Ermon, Rudra and Re, "
    "FlashAttention (2022): the backward pass computes the weights again."
)

attention = Op(
    name="attention",
    summary=f"Scaled dot-product attention. {_SHAPES}batch. {_MEANING}",
    formula=_FORMULA,
    rules=(
        Rule("blocks", attention_fwd, attention_bwd, _NOTE),
        Rule(
            "kernel",
            attention_kernel_fwd,
            attention_kernel_bwd,
            _KERNEL_NOTE,
            kernel=True,
        ),
    ),
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
    version=3,
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
    rules=(
        Rule("blocks", padded_attention_fwd, padded_attention_bwd, _NOTE),
        Rule(
            "kernel",
            padded_attention_kernel_fwd,
            padded_attention_kernel_bwd,
            f"{_KERNEL_NOTE} What lies beyond the lengths is not computed.",
            kernel=True,
        ),
    ),
    integers=("query_seq_lengths", "key_value_seq_lengths"),
    stock=padded_attention_stock,
    exact=_with_lengths(_dense),
    reference=_with_lengths(_numpy_value),
    reference_vjp=padded_attention_reference_vjp,
    cases=_cases(
        lengths=True,
        small=(2, 6, 8, 2, 2, 4),
        cache=(4, 128, 128, 4, 4, 32),
        memory=(8, 512, 512, 4, 4, 64),
        bert=(4, 512, 512, 12, 12, 64),
    ),
    flops=attention_flops,
    variants=({}, {"causal": True}),
    torch=_torch_padded,
    source=_SOURCE,
    version=3,
    example=""">>> q, k, v = jnp.zeros((2, 1, 1)), jnp.ones((2, 1, 1)), jnp.array([[[1.0]], [[3.0]]])
>>> jaxbp.padded_attention(q, k, v, jnp.array(2), jnp.array(1)).ravel().tolist()
[1.0, 1.0]
>>> jaxbp.padded_attention(q, k, v, jnp.array(1), jnp.array(2)).ravel().tolist()
[2.0, 0.0]""",
)
