"""Wrong rules as people write them, of what works along rows: losses, softmax, norms, attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.register import backward_of, normal, wrong

LOGITS, LABELS = 3 * normal(6, 5), np.array([0, 3, 1, 4, 2, 2], np.int32)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


@wrong(LOGITS, LABELS, kinds=("6 times",))
def cross_entropy_forgets_the_mean():
    def bwd(kept, ct):
        logits, labels = kept
        return ct * (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)), None

    return _cross_entropy, lambda x, i: (_cross_entropy(x, i), (x, i)), bwd


@wrong(LOGITS, LABELS)
def cross_entropy_forgets_the_labels():
    def bwd(kept, ct):
        logits, _ = kept
        return ct * jax.nn.softmax(logits) / 6, None

    return _cross_entropy, lambda x, i: (_cross_entropy(x, i), (x, i)), bwd


@wrong(LOGITS, LABELS, kinds=("cotangent",))
def cross_entropy_computed_in_the_forward_pass_forgets_the_cotangent():
    def fwd(logits, labels):
        grad = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)) / 6
        return _cross_entropy(logits, labels), grad

    return _cross_entropy, fwd, lambda grad, ct: (grad, None)


def _ignoring(logits: Any, labels: Any) -> Any:
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(labels < 0, 0, picked))


@wrong(LOGITS, np.array([0, -1, 1, 4, -1, 2], np.int32), kinds=("mask",))
def cross_entropy_does_not_ignore_the_ignored_label():
    def bwd(kept, ct):
        logits, labels = kept
        return ct * (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 5)), None

    return _ignoring, lambda x, i: (_ignoring(x, i), (x, i)), bwd


@wrong(normal(4, 6))
def softmax_without_the_jacobian_outside_its_diagonal():
    def bwd(y, ct):
        return (ct * y * (1 - y),)

    return jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, bwd


@wrong(normal(4, 6))
def softmax_summed_over_the_wrong_axis():
    def bwd(y, ct):
        return (y * (ct - jnp.sum(ct * y, 0, keepdims=True)),)

    return jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, bwd


@wrong(normal(4, 6))
def log_softmax_subtracts_a_mean():
    def bwd(y, ct):
        return (ct - jnp.exp(y) * jnp.mean(ct, -1, keepdims=True),)

    return jax.nn.log_softmax, lambda x: (jax.nn.log_softmax(x),) * 2, bwd


def _layer_norm(x: Any, w: Any, b: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return w * centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5) + b


def _layer_norm_parts(x: Any) -> tuple[Any, Any]:
    centred = x - jnp.mean(x, -1, keepdims=True)
    r = lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    return centred * r, r


NORM_ARGS = (normal(5, 8), 1 + normal(8, seed=2), normal(8, seed=3))


@wrong(*NORM_ARGS)
def layer_norm_without_the_gradient_of_the_mean():
    def bwd(kept, ct):
        x, w, _ = kept
        h, r = _layer_norm_parts(x)
        g = ct * w
        return r * (g - h * jnp.mean(g * h, -1, keepdims=True)), jnp.sum(ct * h, 0), jnp.sum(ct, 0)

    return _layer_norm, lambda *a: (_layer_norm(*a), a), bwd


@wrong(*NORM_ARGS)
def layer_norm_with_constant_statistics():
    def bwd(kept, ct):
        x, w, _ = kept
        h, r = _layer_norm_parts(x)
        return r * ct * w, jnp.sum(ct * h, 0), jnp.sum(ct, 0)

    return _layer_norm, lambda *a: (_layer_norm(*a), a), bwd


@wrong(*NORM_ARGS, kinds=("averaged", "1/5"))
def layer_norm_averages_the_gradient_of_its_bias():
    def bwd(kept, ct):
        grads = list(jax.vjp(_layer_norm, *kept)[1](ct))
        return grads[0], grads[1], jnp.mean(ct, 0)

    return _layer_norm, lambda *a: (_layer_norm(*a), a), bwd


def _rms_norm(x: Any, w: Any) -> Any:
    return w * x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


@wrong(normal(5, 8), 1 + normal(8, seed=2))
def rms_norm_without_the_cross_term():
    def bwd(kept, ct):
        x, w = kept
        r = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        return ct * w * r, jnp.sum(ct * x * r, 0)

    return _rms_norm, lambda *a: (_rms_norm(*a), a), bwd


@wrong(normal(5, 8), 1 + normal(8, seed=2))
def rms_norm_sums_in_place_of_a_mean():
    def bwd(kept, ct):
        x, w = kept
        r = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        g = ct * w
        return r * g - r**3 * x * jnp.sum(g * x, -1, keepdims=True), jnp.sum(ct * x * r, 0)

    return _rms_norm, lambda *a: (_rms_norm(*a), a), bwd


def _group_norm(x: Any, groups: int) -> Any:
    return jax.nn.standardize(x.reshape(x.shape[0], groups, -1), epsilon=1e-5).reshape(x.shape)


@wrong(normal(3, 12))
def group_norm_with_another_group_size():
    return backward_of(lambda x: _group_norm(x, 3), lambda x: _group_norm(x, 4))


def _batch_norm(x: Any) -> Any:
    return jax.nn.standardize(x, axis=0, epsilon=1e-5)


@wrong(normal(6, 3))
def batch_norm_over_the_other_axis():
    return backward_of(_batch_norm, lambda x: jax.nn.standardize(x, axis=1, epsilon=1e-5))


def _attention(q: Any, k: Any, v: Any, masked: bool = True, scale: float = 0.5) -> Any:
    scores = q @ k.T * scale
    return jax.nn.softmax(jnp.where(jnp.tri(len(q), dtype=bool), scores, -jnp.inf) if masked else scores) @ v


QKV = (normal(6, 4), normal(6, 4, seed=2), normal(6, 4, seed=3))


@wrong(*QKV)
def attention_ignores_the_mask_going_back():
    return backward_of(_attention, lambda q, k, v: _attention(q, k, v, masked=False))


@wrong(*QKV, kinds=("2 times",))
def attention_forgets_the_scale_of_the_keys():
    def bwd(kept, ct):
        dq, dk, dv = jax.vjp(_attention, *kept)[1](ct)
        return dq, 2 * dk, dv

    return _attention, lambda *a: (_attention(*a), a), bwd


@wrong(*QKV, kinds=("swapped",))
def attention_swaps_keys_and_values():
    def bwd(kept, ct):
        dq, dk, dv = jax.vjp(_attention, *kept)[1](ct)
        return dq, dv, dk

    return _attention, lambda *a: (_attention(*a), a), bwd


@wrong(*QKV, kinds=("last block", "zero"))
def attention_leaves_out_the_last_block():
    def bwd(kept, ct):
        dq, dk, dv = jax.vjp(_attention, *kept)[1](ct)
        return dq, dk.at[4:].set(0), dv.at[4:].set(0)

    return _attention, lambda *a: (_attention(*a), a), bwd
