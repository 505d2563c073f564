"""Wrong rules as people write them, of attention: masks, windows, grouped heads, dropout, caps, saved statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.register import backward_of, normal, wrong

QKV = (normal(6, 4), normal(6, 4, seed=2), normal(6, 4, seed=3))
INF = jnp.inf


def _attend(scores: Any, v: Any) -> Any:
    return jax.nn.softmax(scores) @ v


def _window(q: Any, k: Any, v: Any, before: int = 2) -> Any:
    i, j = jnp.arange(q.shape[0])[:, None], jnp.arange(k.shape[0])
    return _attend(jnp.where((j <= i) & (i - j < before), q @ k.T / 2, -INF), v)


@wrong(*QKV)
def sliding_window_is_one_wider_going_back():
    return backward_of(_window, lambda q, k, v: _window(q, k, v, 3))


def _causal(q: Any, k: Any, v: Any, shift: int = 0) -> Any:
    seen = jnp.tri(q.shape[0], k.shape[0], k.shape[0] - q.shape[0] + shift, dtype=bool)
    return _attend(jnp.where(seen, q @ k.T / 2, -INF), v)


@wrong(normal(4, 4), normal(6, 4, seed=2), normal(6, 4, seed=3))
def causal_mask_is_aligned_at_the_other_corner_going_back():
    """With more keys than queries the diagonal ends at the last key; the backward pass lets it begin at the first."""
    return backward_of(_causal, lambda q, k, v: _causal(q, k, v, q.shape[0] - k.shape[0]))


@wrong(*QKV, shown_at=(normal(4, 4), normal(6, 4, seed=2), normal(6, 4, seed=3)), level="standard")
def causal_mask_is_right_for_as_many_keys_as_queries_alone():
    return backward_of(_causal, lambda q, k, v: _causal(q, k, v, q.shape[0] - k.shape[0]))


def _with_lse(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.T / 2
    return _attend(scores, v), jax.nn.logsumexp(scores, -1)


@wrong(*QKV, kinds=("output", "cotangent"), level="standard")
def attention_drops_the_cotangent_of_its_logsumexp():
    def bwd(kept, cts):
        return jax.vjp(_with_lse, *kept)[1]((cts[0], jnp.zeros_like(cts[1])))

    return _with_lse, lambda *a: (_with_lse(*a), a), bwd


@wrong(*QKV)
def attention_takes_the_cotangent_of_its_logsumexp_with_the_wrong_sign():
    def bwd(kept, cts):
        return jax.vjp(_with_lse, *kept)[1]((cts[0], -cts[1]))

    return _with_lse, lambda *a: (_with_lse(*a), a), bwd


def _repeated(k: Any, q: Any) -> Any:
    return jnp.repeat(k, q.shape[0] // k.shape[0], 0)


def _grouped(q: Any, k: Any) -> Any:
    return jnp.einsum("hid,hjd->hij", q, _repeated(k, q))


def _of_all_heads(q: Any, k: Any, ct: Any) -> tuple[Any, Any]:
    return jnp.einsum("hij,hjd->hid", ct, _repeated(k, q)), jnp.einsum("hij,hid->hjd", ct, q)


HEADS = (normal(4, 3, 5), normal(2, 3, 5, seed=2))


@wrong(*HEADS)
def grouped_heads_are_not_summed():
    """The gradient of a key is that of the first head of its group."""

    def bwd(kept, ct):
        q, k = kept
        dq, dk = _of_all_heads(q, k, ct)
        return dq, dk[:: q.shape[0] // k.shape[0]]

    return _grouped, lambda *a: (_grouped(*a), a), bwd


@wrong(*HEADS)
def grouped_heads_are_summed_across_groups():
    def bwd(kept, ct):
        q, k = kept
        dq, dk = _of_all_heads(q, k, ct)
        return dq, jnp.sum(dk.reshape(-1, *k.shape), 0)

    return _grouped, lambda *a: (_grouped(*a), a), bwd


@wrong(*HEADS, kinds=("0.5 times", "averaged"))
def grouped_heads_are_averaged():
    def bwd(kept, ct):
        q, k = kept
        dq, dk = _of_all_heads(q, k, ct)
        return dq, jnp.mean(dk.reshape(k.shape[0], -1, *k.shape[1:]), 1)

    return _grouped, lambda *a: (_grouped(*a), a), bwd


def _dropped(x: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)


@wrong(normal(8, 5), np.array([3, 4], np.uint32), kinds=("mask",))
def dropout_draws_its_mask_by_another_key():
    return backward_of(_dropped, lambda x, key: _dropped(x, key + jnp.uint32(1)))


@wrong(normal(8, 5), np.array([3, 4], np.uint32), kinds=("mask",))
def dropout_draws_its_mask_transposed():
    """The backward kernel walks over columns first, so that the same stream falls on other entries."""

    def bwd(key, ct):
        return _dropped(ct.T, key).T, None

    return _dropped, lambda x, key: (_dropped(x, key), key), bwd


def _capped(q: Any, k: Any, v: Any, cap: float = 2.0) -> Any:
    return _attend(cap * jnp.tanh(q @ k.T / cap), v)


@wrong(*QKV)
def soft_cap_has_no_derivative_going_back():
    def bwd(kept, ct):
        q, k, v = kept
        p = jax.nn.softmax(2 * jnp.tanh(q @ k.T / 2))
        ds = p * (ct @ v.T - jnp.sum((ct @ v.T) * p, -1, keepdims=True))
        return ds @ k, ds.T @ q, p.T @ ct

    return _capped, lambda *a: (_capped(*a), a), bwd


def _plain(q: Any, k: Any, v: Any) -> Any:
    return _attend(q @ k.T / 2, v)


def _going_back(q: Any, k: Any, v: Any, ct: Any, delta: Any) -> Any:
    p = jax.nn.softmax(q @ k.T / 2)
    ds = p * (ct @ v.T - delta) / 2
    return ds @ k, ds.T @ q, p.T @ ct


@wrong(*QKV)
def attention_sums_its_delta_over_keys():
    def bwd(kept, ct):
        q, k, v = kept
        p = jax.nn.softmax(q @ k.T / 2)
        return _going_back(q, k, v, ct, jnp.sum((ct @ v.T) * p, 0, keepdims=True))

    return _plain, lambda *a: (_plain(*a), a), bwd


@wrong(*QKV)
def attention_forgets_its_delta():
    def bwd(kept, ct):
        q, k, v = kept
        return _going_back(q, k, v, ct, 0)

    return _plain, lambda *a: (_plain(*a), a), bwd


@wrong(*QKV, kinds=("precision",))
def attention_keeps_its_logsumexp_in_bfloat16():
    def fwd(q, k, v):
        lse = jax.nn.logsumexp(q @ k.T / 2, -1)
        return _plain(q, k, v), (q, k, v, lse.astype(jnp.bfloat16))

    def bwd(kept, ct):
        q, k, v, lse = kept
        p = jnp.exp(q @ k.T / 2 - lse.astype(q.dtype)[:, None])
        ds = p * (ct @ v.T - jnp.sum((ct @ v.T) * p, -1, keepdims=True)) / 2
        return ds @ k, ds.T @ q, p.T @ ct

    return _plain, fwd, bwd


def _biased(q: Any, k: Any, bias: Any) -> Any:
    return jax.nn.softmax(jnp.einsum("bid,bjd->bij", q, k) + bias)


@wrong(normal(3, 4, 5), normal(3, 4, 5, seed=2), normal(4, 4, seed=3), kinds=("missing sum", "broadcast"))
def attention_bias_is_not_summed_over_the_batch():
    def bwd(kept, ct):
        dq, dk, _ = jax.vjp(_biased, *kept)[1](ct)
        of_one = jax.vjp(_biased, kept[0][:1], kept[1][:1], kept[2])[1](ct[:1])
        return dq, dk, of_one[2]

    return _biased, lambda *a: (_biased(*a), a), bwd


def _masked(x: Any, keep: Any) -> Any:
    """Softmax over what is kept, and 0 for a row of which nothing is."""
    some = jnp.any(keep, -1, keepdims=True)
    safe = jnp.where(some, jnp.where(keep, x, -INF), 0)
    return jnp.where(some, jax.nn.softmax(safe), 0)


KEEP = normal(5, 6, seed=4) > -0.5
KEEP[2] = False


@wrong(normal(5, 6), KEEP, kinds=("NaN",))
def softmax_is_nan_for_a_row_without_any_kept():
    def bwd(kept, ct):
        x, keep = kept
        p = jax.nn.softmax(jnp.where(keep, x, -INF))
        return p * (ct - jnp.sum(ct * p, -1, keepdims=True)), None

    return _masked, lambda *a: (_masked(*a), a), bwd


@wrong(normal(5, 6), KEEP, kinds=("mask", "at index 2"))
def softmax_is_uniform_for_a_row_without_any_kept():
    """With a large negative number for -inf such a row comes out uniform, and gets a gradient."""

    def bwd(kept, ct):
        x, keep = kept
        p = jax.nn.softmax(jnp.where(keep, x, -1e9))
        return p * (ct - jnp.sum(ct * p, -1, keepdims=True)), None

    return _masked, lambda *a: (_masked(*a), a), bwd


@wrong(np.where(KEEP | (np.arange(6) == 0), normal(5, 6), -np.inf).astype(np.float32), kinds=("NaN",))
def log_softmax_times_0_is_nan_at_minus_infinity():
    """0 times -inf: the entropy's gradient multiplies a probability of 0 by its logarithm."""

    def entropy(x):
        p, logs = jax.nn.softmax(x), jax.nn.log_softmax(x)
        return -jnp.sum(p * jnp.where(jnp.isfinite(x), logs, 0), -1)

    def bwd(x, ct):
        p, logs = jax.nn.softmax(x), jax.nn.log_softmax(x)
        return (-ct[:, None] * p * (logs + entropy(x)[:, None]),)

    return entropy, lambda x: (entropy(x), x), bwd


def _rotated(x: Any, offset: int = 0, pairs: bool = False) -> Any:
    half = x.shape[-1] // 2
    angles = (jnp.arange(x.shape[0], dtype=x.dtype)[:, None] + offset) * 10.0 ** -jnp.arange(half, dtype=x.dtype)
    a, b = (x[:, ::2], x[:, 1::2]) if pairs else jnp.split(x, 2, -1)
    c, s = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * c - b * s, a * s + b * c], -1)


@wrong(normal(6, 4))
def rotary_counts_positions_from_1_going_back():
    return backward_of(_rotated, lambda x: _rotated(x, 1))


@wrong(normal(6, 4))
def rotary_pairs_neighbours_going_back():
    """Halves rotated against each other going forth, even against odd entries going back."""
    return backward_of(_rotated, lambda x: _rotated(x, 0, True))


@wrong(normal(6, 4), normal(6, 4, seed=2), kinds=("0.5 times",))
def attention_scales_queries_twice():
    """The scale is folded into the queries that are kept, and applied again going back."""

    def f(q, k):
        return jax.nn.softmax(q @ k.T * 0.5)

    def bwd(kept, ct):
        dq, dk = jax.vjp(f, *kept)[1](ct)
        return 0.5 * dq, dk

    return f, lambda *a: (f(*a), a), bwd
