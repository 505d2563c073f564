"""Right custom rules of functions that models are made of: what they keep and how they compute is their own affair."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right, slope


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _elementwise()
    yield from _arrays()
    yield from _losses()
    yield from _layers()
    yield from _attentions()


def _elementwise() -> Iterator[Right]:
    x = normal(6, 5)
    f = custom(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, lambda y, ct: (ct * (1 - y * y),))
    yield Right("rule/tanh from its output", f, (x,))
    f = custom(jnp.exp, lambda x: (jnp.exp(x),) * 2, lambda y, ct: (ct * y,))
    yield Right("rule/exp from its output", f, (x,))
    f = custom(jax.nn.relu, lambda x: (jax.nn.relu(x), x > 0), lambda keep, ct: (jnp.where(keep, ct, 0),))
    yield Right("rule/relu keeps a mask", f, (x,))
    f = custom(lambda x: 3 * x, lambda x: (3 * x, None), lambda _, ct: (3 * ct,))
    yield Right("rule/multiple keeps nothing", f, (x,))
    f = custom(lambda x: -x, lambda x: (-x, ()), lambda _, ct: (-ct,))
    yield Right("rule/negative keeps an empty tuple", f, (x,))
    yield Right("rule/cube", slope(lambda x: x**3, lambda x: 3 * x**2), (x,))
    yield Right("rule/sigmoid from its absolute value", custom(jax.nn.sigmoid, _sigmoid_fwd, _sigmoid_back), (9 * x,))
    f = custom(lambda x: jnp.clip(x, -1, 1), _clip_fwd, lambda keep, ct: (ct * keep.astype(ct.dtype),))
    yield Right("rule/clip keeps bytes", f, (x,))
    f = custom(jax.nn.silu, lambda x: (jax.nn.silu(x), x), _silu_back)
    yield Right("rule/silu", f, (3 * x,))
    yield Right("rule/silu in bfloat16", f, (x.astype(jnp.bfloat16),))
    scaled = custom(lambda x, a: x * a, lambda x, a: (x * a, (x, a)), lambda r, ct: (ct * r[1], jnp.sum(ct * r[0])))
    yield Right("rule/product with a scalar", scaled, (x, np.float32(1.5)))


def _sigmoid_fwd(x: Any) -> Any:
    return jax.nn.sigmoid(x), jnp.abs(x)


def _sigmoid_back(size: Any, ct: Any) -> Any:
    e = jnp.exp(-size)
    return (ct * e / ((1 + e) * (1 + e)),)


def _clip_fwd(x: Any) -> Any:
    return jnp.clip(x, -1, 1), (jnp.abs(x) <= 1).astype(jnp.int8)


def _silu_back(x: Any, ct: Any) -> Any:
    s = jax.nn.sigmoid(x)
    return (ct * s * (1 + x * jax.nn.sigmoid(-x)),)


def _arrays() -> Iterator[Right]:
    x = normal(6, 5)
    f = custom(jnp.cumsum, lambda x: (jnp.cumsum(x), x), lambda x, ct: (jnp.cumsum(ct[::-1])[::-1].reshape(x.shape),))
    yield Right("rule/cumsum", f, (normal(50),))
    f = custom(jnp.sum, lambda x: (jnp.sum(x), x), lambda x, ct: (jnp.broadcast_to(ct, x.shape),))
    yield Right("rule/sum", f, (x,))
    f = custom(_mean, lambda x: (_mean(x), x), lambda x, ct: (jnp.broadcast_to(ct, x.shape) / max(1, x.shape[0]),))
    yield Right("rule/mean over rows", f, (x,))
    f = custom(jnp.matmul, lambda a, b: (_chunked(a, b), (a, b)), _chunked_back)
    yield Right("rule/matmul in chunks", f, (normal(6, 40), normal(40, 3, seed=2)))
    f = custom(lambda x: jnp.roll(x, 2, 0), lambda x: (jnp.roll(x, 2, 0), None), lambda _, ct: (jnp.roll(ct, -2, 0),))
    yield Right("rule/roll", f, (x,))
    f = custom(jnp.transpose, lambda x: (x.T, None), lambda _, ct: (ct.T,))
    yield Right("rule/transpose", f, (x,))
    f = custom(lambda x: x[::2], lambda x: (x[::2], x), lambda x, ct: (jnp.zeros_like(x).at[::2].set(ct),))
    yield Right("rule/every other row, back by at", f, (x,))
    f = custom(lambda x: x.at[0].set(1), _first_is_1, lambda _, ct: (ct.at[0].set(0),))
    yield Right("rule/row overwritten, back by ct.at", f, (x,))
    f = custom(lambda a, b: jnp.concatenate([a, b]), _joined, lambda n, ct: (ct[: len(n)], ct[len(n) :]))
    yield Right("rule/concatenate", f, (x, normal(3, 5)))
    f = custom(lambda x: jnp.sort(x, -1), _sorted, _unsorted)
    yield Right("rule/sort keeps its order", f, (x,))
    f = custom(_norm, lambda x: (_norm(x), x), _norm_back)
    yield Right("rule/norm that is 0 at 0", f, (x * (np.arange(6) != 2)[:, None].astype(np.float32),))


def _mean(x: Any) -> Any:
    return jnp.sum(x, 0) / max(1, x.shape[0])


def _chunked(a: Any, b: Any) -> Any:
    """a @ b, eight of the contracted axis at a time, the last chunk as short as it comes."""
    chunks = (a[:, i : i + 8] @ b[i : i + 8] for i in range(0, a.shape[1], 8))
    return sum(chunks, jnp.zeros((a.shape[0], b.shape[1]), a.dtype))


def _chunked_back(res: Any, ct: Any) -> Any:
    a, b = res
    return _chunked(ct, b.T), _chunked(a.T, ct)


def _first_is_1(x: Any) -> Any:
    return x.at[0].set(1), None


def _joined(a: Any, b: Any) -> Any:
    return jnp.concatenate([a, b]), jnp.zeros((a.shape[0], 0), a.dtype)


def _sorted(x: Any) -> Any:
    order = jnp.argsort(x, -1)
    return jnp.take_along_axis(x, order, -1), order


def _unsorted(order: Any, ct: Any) -> Any:
    return (jnp.take_along_axis(ct, jnp.argsort(order, -1), -1),)


def _norm(x: Any) -> Any:
    square = jnp.sum(x**2, -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _norm_back(x: Any, ct: Any) -> Any:
    size = _norm(x)[..., None]
    return (jnp.where(size > 0, ct[..., None] * x / jnp.where(size > 0, size, 1), 0),)


def _losses() -> Iterator[Right]:
    x, labels = 3 * normal(6, 5), np.array([0, 3, 1, 4, 2, 2], np.int32)
    f = custom(_cross_entropy, _cross_entropy_fwd, _cross_entropy_back)
    yield Right("rule/cross entropy, None for its labels", f, (x, labels))
    f = custom(_cross_entropy, _eager_fwd, lambda grad, ct: (ct[:, None] * grad, None))
    yield Right("rule/cross entropy with its gradient computed ahead", f, (x, labels))
    yield Right("rule/cross entropy that ignores a label", f, (x, np.where(labels == 2, -1, labels)))
    f = custom(_float0_loss, lambda x, i: (_float0_loss(x, i), (x, i)), _float0_back)
    yield Right("rule/loss with zeros of float0 for its labels", f, (x, labels))
    f = custom(_smoothed, lambda x, i: (_smoothed(x, i), (x, i)), _smoothed_back)
    yield Right("rule/cross entropy with label smoothing", f, (x, labels))
    f = custom(_with_lse, _with_lse_fwd, _with_lse_back)
    yield Right("rule/cross entropy and its logsumexp", f, (x, labels))
    f = custom(_squares, lambda x, y: (_squares(x, y), x - y), lambda d, ct: (2 * ct * d, -2 * ct * d))
    yield Right("rule/squared error from the difference", f, (x, normal(6, 5, seed=2)))


def _hot(labels: Any, x: Any) -> Any:
    """One-hot rows: all 0 for a label that is none, so that nothing depends on how indices out of bounds are met."""
    return jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype)


def _cross_entropy(x: Any, labels: Any) -> Any:
    hot = _hot(labels, x)
    return jnp.sum(hot, -1) * jax.nn.logsumexp(x, -1) - jnp.sum(hot * x, -1)


def _slopes(x: Any, labels: Any) -> Any:
    hot = _hot(labels, x)
    return jnp.sum(hot, -1, keepdims=True) * jax.nn.softmax(x) - hot


def _cross_entropy_fwd(x: Any, labels: Any) -> Any:
    return _cross_entropy(x, labels), (x, labels)


def _cross_entropy_back(res: Any, ct: Any) -> Any:
    return ct[:, None] * _slopes(*res), None


def _eager_fwd(x: Any, labels: Any) -> Any:
    return _cross_entropy(x, labels), _slopes(x, labels)


def _float0_loss(x: Any, labels: Any) -> Any:
    return jnp.sum(_cross_entropy(x, labels))


def _float0_back(res: Any, ct: Any) -> Any:
    return ct * _slopes(*res), np.zeros(res[1].shape, jax.dtypes.float0)


def _smoothed(x: Any, labels: Any, by: float = 0.1) -> Any:
    logs = jax.nn.log_softmax(x)
    return -jnp.sum(((1 - by) * _hot(labels, x) + by / x.shape[-1]) * logs)


def _smoothed_back(res: Any, ct: Any, by: float = 0.1) -> Any:
    x, labels = res
    target = (1 - by) * _hot(labels, x) + by / x.shape[-1]
    return ct * (jnp.sum(target, -1, keepdims=True) * jax.nn.softmax(x) - target), None


def _with_lse(x: Any, labels: Any) -> Any:
    return _cross_entropy(x, labels), jax.nn.logsumexp(x, -1)


def _with_lse_fwd(x: Any, labels: Any) -> Any:
    return _with_lse(x, labels), (x, labels)


def _with_lse_back(res: Any, cts: Any) -> Any:
    ct, ct_lse = cts
    return ct[:, None] * _slopes(*res) + ct_lse[:, None] * jax.nn.softmax(res[0]), None


def _squares(x: Any, y: Any) -> Any:
    return (x - y) ** 2


def _layers() -> Iterator[Right]:
    x = normal(6, 5)
    f = custom(jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, _softmax_back)
    yield Right("rule/softmax from its output", f, (3 * x,))
    yield Right("rule/softmax from its output in bfloat16", f, (x.astype(jnp.bfloat16),))
    f = custom(jax.nn.log_softmax, lambda x: (jax.nn.log_softmax(x),) * 2, _log_softmax_back)
    yield Right("rule/log softmax from its output", f, (3 * x,))
    f = custom(_wide_norm, lambda x: (_wide_norm(x), x), lambda x, ct: jax.vjp(_wide_norm, x)[1](ct))
    yield Right("rule/RMS norm accumulated in float32", f, (x.astype(jnp.bfloat16),))
    f = custom(_rms_norm, lambda x, w: (_rms_norm(x, w), (x, w)), _rms_norm_back)
    yield Right("rule/RMS norm", f, (x, 1 + normal(5, seed=2)))
    f = custom(_centred_gain, lambda x, w: (_centred_gain(x, w), (x, w)), _centred_gain_back)
    yield Right("rule/RMS norm of a gain about 0", f, (x, normal(5, seed=2)))
    f = custom(_layer_norm, _layer_norm_fwd, _layer_norm_back)
    yield Right("rule/layer norm", f, (normal(5, 8), 1 + normal(8, seed=2), normal(8, seed=3)))
    f = custom(_linear, lambda *a: (_linear(*a), a[:2]), _linear_back)
    yield Right("rule/linear", f, (normal(4, 6), normal(6, 5, seed=2), normal(5, seed=3)))
    f = custom(_swiglu, lambda *a: (_swiglu(*a), a), lambda res, ct: jax.vjp(_swiglu, *res)[1](ct))
    yield Right("rule/SwiGLU that computes all again", f, (x, normal(6, 5, seed=2)))
    f = custom(_rotary, lambda x: (_rotary(x), None), lambda _, ct: (_rotary(ct, -1.0),))
    yield Right("rule/rotary turns back", f, (normal(6, 4),))
    f = custom(_pool, lambda x: (_pool(x), x), lambda x, ct: (jnp.repeat(ct, 2, -1)[:, : x.shape[-1]] / 2,))
    yield Right("rule/average pool", f, (normal(3, 8),))


def _softmax_back(y: Any, ct: Any) -> Any:
    return (y * (ct - jnp.sum(y * ct, -1, keepdims=True)),)


def _log_softmax_back(y: Any, ct: Any) -> Any:
    return (ct - jnp.exp(y) * jnp.sum(ct, -1, keepdims=True),)


def _wide_norm(x: Any) -> Any:
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def _rms_norm(x: Any, w: Any) -> Any:
    return w * x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def _rms_norm_back(res: Any, ct: Any) -> Any:
    x, w = res
    r = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    g = ct * w
    return r * (g - x * r * jnp.mean(g * x * r, -1, keepdims=True)), jnp.sum(ct * x * r, 0)


def _centred_gain(x: Any, w: Any) -> Any:
    return _rms_norm(x, 1 + w)


def _centred_gain_back(res: Any, ct: Any) -> Any:
    x, w = res
    return _rms_norm_back((x, 1 + w), ct)


def _layer_norm(x: Any, w: Any, b: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return w * centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5) + b


def _layer_norm_fwd(x: Any, w: Any, b: Any) -> Any:
    mean = jnp.mean(x, -1, keepdims=True)
    r = lax.rsqrt(jnp.mean((x - mean) ** 2, -1, keepdims=True) + 1e-5)
    return w * (x - mean) * r + b, (x, w, mean, r)


def _layer_norm_back(res: Any, ct: Any) -> Any:
    x, w, mean, r = res
    h, g = (x - mean) * r, ct * w
    ct_x = r * (g - jnp.mean(g, -1, keepdims=True) - h * jnp.mean(g * h, -1, keepdims=True))
    return ct_x, jnp.sum(ct * h, 0), jnp.sum(ct, 0)


def _linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def _linear_back(res: Any, ct: Any) -> Any:
    x, w = res
    return ct @ w.T, x.T @ ct, jnp.sum(ct, 0)


def _swiglu(x: Any, gate: Any) -> Any:
    return x * jax.nn.silu(gate)


def _rotary(x: Any, sign: float = 1.0) -> Any:
    half = x.shape[-1] // 2
    speeds = 10.0 ** -jnp.arange(half, dtype=x.dtype)
    angles = jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)[:, None] * speeds
    a, b = jnp.split(x, 2, -1)
    c, s = jnp.cos(angles), sign * jnp.sin(angles)
    return jnp.concatenate([a * c - b * s, a * s + b * c], -1)


def _pool(x: Any) -> Any:
    return jnp.mean(x.reshape(x.shape[0], -1, 2), -1)


def _attentions() -> Iterator[Right]:
    qkv = (normal(6, 4), normal(6, 4, seed=2), normal(6, 4, seed=3))
    f = custom(_attention, _attention_fwd, _attention_back)
    yield Right("rule/attention that recomputes from its logsumexp", f, qkv)
    yield Right("rule/attention in bfloat16", f, tuple(x.astype(jnp.bfloat16) for x in qkv))
    f = custom(_grouped, lambda *a: (_grouped(*a), a), _grouped_back)
    yield Right("rule/attention of grouped heads", f, (normal(4, 3, 5), normal(2, 3, 5, seed=2)))
    f = custom(_capped, lambda x: (_capped(x),) * 2, lambda y, ct: (ct * (1 - y / 5) * (1 + y / 5),))
    yield Right("rule/soft cap from its output", f, (6 * normal(6, 5),))


def _scores(q: Any, k: Any) -> Any:
    seen = jnp.tri(q.shape[0], k.shape[0], dtype=bool)
    return jnp.where(seen, q @ k.T * jnp.asarray(0.5, q.dtype), -jnp.inf)


def _attention(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(_scores(q, k)) @ v


def _attention_fwd(q: Any, k: Any, v: Any) -> Any:
    scores = _scores(q, k)
    y = jax.nn.softmax(scores) @ v
    return y, (q, k, v, y, jax.nn.logsumexp(scores, -1))


def _attention_back(res: Any, ct: Any) -> Any:
    q, k, v, y, lse = res
    p = jnp.exp(_scores(q, k) - lse[:, None])
    ct_scores = p * (ct @ v.T - jnp.sum(ct * y, -1, keepdims=True)) * jnp.asarray(0.5, q.dtype)
    return ct_scores @ k, ct_scores.T @ q, p.T @ ct


def _grouped(q: Any, k: Any) -> Any:
    return jnp.einsum("hid,hjd->hij", q, jnp.repeat(k, q.shape[0] // k.shape[0], 0))


def _grouped_back(res: Any, ct: Any) -> Any:
    q, k = res
    group = q.shape[0] // k.shape[0]
    ct_k = jnp.einsum("hij,hid->hjd", ct, q)
    ct_k = jnp.sum(ct_k.reshape(k.shape[0], group, *ct_k.shape[1:]), 1)
    return jnp.einsum("hij,hjd->hid", ct, jnp.repeat(k, group, 0)), ct_k


def _capped(x: Any) -> Any:
    return 5 * jnp.tanh(x / 5)
