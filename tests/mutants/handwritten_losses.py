"""Wrong rules as people write them, of losses: labels that are ignored, smoothing, reductions, two outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.register import backward_of, normal, wrong

LOGITS, LABELS = 3 * normal(6, 5), np.array([0, 3, 1, 4, 2, 2], np.int32)
IGNORED = np.array([0, -1, 1, 4, -1, 2], np.int32)


def _hot(labels: Any, x: Any) -> Any:
    return jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype)


def _loss(x: Any, labels: Any) -> Any:
    """One number a row, 0 for a label that is none."""
    hot = _hot(labels, x)
    return jnp.sum(hot, -1) * jax.nn.logsumexp(x, -1) - jnp.sum(hot * x, -1)


def _slopes(x: Any, labels: Any) -> Any:
    hot = _hot(labels, x)
    return jnp.sum(hot, -1, keepdims=True) * jax.nn.softmax(x) - hot


def _mean_of_kept(x: Any, labels: Any) -> Any:
    return jnp.sum(_loss(x, labels)) / jnp.maximum(jnp.sum(labels >= 0), 1).astype(x.dtype)


@wrong(LOGITS, IGNORED, kinds=("times",))
def mean_counts_the_rows_that_are_ignored():
    """The divisor is the number of rows, that of the value the number of labels that count."""

    def bwd(kept, ct):
        return ct * _slopes(*kept) / kept[0].shape[0], None

    return _mean_of_kept, lambda *a: (_mean_of_kept(*a), a), bwd


@wrong(LOGITS, LABELS, kinds=("cotangent",))
def loss_for_each_row_scaled_by_the_first_cotangent():
    """A kernel written for a mean reads one cotangent for all rows."""

    def bwd(kept, ct):
        return ct[0] * _slopes(*kept), None

    return _loss, lambda *a: (_loss(*a), a), bwd


@wrong(LOGITS, LABELS, kinds=("cotangent",))
def loss_for_each_row_as_if_it_were_summed():
    return _loss, lambda *a: (_loss(*a), a), lambda kept, ct: (_slopes(*kept), None)


def _smoothed(x: Any, labels: Any, by: float = 0.1) -> Any:
    target = (1 - by) * _hot(labels, x) + by / x.shape[-1]
    return -jnp.sum(target * jax.nn.log_softmax(x), -1)


@wrong(LOGITS, LABELS)
def label_smoothing_is_forgotten_going_back():
    return backward_of(_smoothed, lambda x, labels: _smoothed(x, labels, 0.0))


@wrong(LOGITS, LABELS)
def label_smoothing_divides_by_one_class_less():
    def bwd(kept, ct):
        x, labels = kept
        target = 0.9 * _hot(labels, x) + 0.1 / (x.shape[-1] - 1)
        return ct[:, None] * (jax.nn.softmax(x) - target), None

    return _smoothed, lambda *a: (_smoothed(*a), a), bwd


def _with_z(x: Any, labels: Any, weight: float = 0.01) -> Any:
    return _loss(x, labels) + weight * jax.nn.logsumexp(x, -1) ** 2


@wrong(LOGITS, LABELS)
def z_loss_is_forgotten_going_back():
    return backward_of(_with_z, lambda x, labels: _with_z(x, labels, 0.0))


@wrong(LOGITS, LABELS)
def z_loss_misses_its_2():
    return backward_of(_with_z, lambda x, labels: _with_z(x, labels, 0.005))


def _with_lse(x: Any, labels: Any) -> Any:
    return _loss(x, labels), jax.nn.logsumexp(x, -1)


@wrong(LOGITS, LABELS, kinds=("output", "cotangent"), level="standard")
def cross_entropy_drops_the_cotangent_of_its_logsumexp():
    def bwd(kept, cts):
        return cts[0][:, None] * _slopes(*kept), None

    return _with_lse, lambda *a: (_with_lse(*a), a), bwd


@wrong(LOGITS, LABELS, kinds=("output", "cotangent", "zero"), proof="first output", level="standard")
def cross_entropy_skips_all_where_its_logsumexp_is_not_used():
    def bwd(kept, cts):
        ct = cts[0][:, None] * _slopes(*kept) + cts[1][:, None] * jax.nn.softmax(kept[0])
        return jnp.where(jnp.any(cts[1] != 0), ct, 0), None

    return _with_lse, lambda *a: (_with_lse(*a), a), bwd


def _linear_loss(x: Any, w: Any, b: Any, labels: Any) -> Any:
    return jnp.sum(_loss(x @ w + b, labels))


LINEAR = (normal(6, 3), normal(3, 5, seed=2), normal(5, seed=3), LABELS)


@wrong(*LINEAR, kinds=("zero",))
def linear_cross_entropy_leaves_out_its_bias():
    def bwd(kept, ct):
        dx, dw, db = jax.vjp(lambda x, w, b: _linear_loss(x, w, b, kept[3]), *kept[:3])[1](ct)
        return dx, dw, jnp.zeros_like(db), None

    return _linear_loss, lambda *a: (_linear_loss(*a), a), bwd


@wrong(*LINEAR)
def linear_cross_entropy_recomputes_without_its_bias():
    return backward_of(_linear_loss, lambda x, w, b, i: _linear_loss(x, w, 0 * b, i) + jnp.sum(b))


@wrong(*LINEAR, kinds=("cotangent",))
def linear_cross_entropy_does_not_scale_its_weight_gradient():
    """The gradients are made in the forward pass; going back, only that of x is multiplied by the cotangent."""

    def fwd(x, w, b, labels):
        return _linear_loss(x, w, b, labels), jax.grad(_linear_loss, (0, 1, 2))(x, w, b, labels)

    return _linear_loss, fwd, lambda grads, ct: (ct * grads[0], grads[1], ct * grads[2], None)


@wrong(normal(10, 3), normal(3, 5, seed=2), np.arange(10, dtype=np.int32) % 5)
def chunked_cross_entropy_keeps_the_last_chunk_of_its_weight_gradient():
    def loss(x, w, labels):
        return jnp.sum(_loss(x @ w, labels))

    def bwd(kept, ct):
        x, w, labels = kept
        dw = jnp.zeros_like(w)
        for i in range(0, x.shape[0], 4):
            # It should be added.
            dw = x[i : i + 4].T @ _slopes(x[i : i + 4] @ w, labels[i : i + 4])
        return ct * _slopes(x @ w, labels) @ w.T, ct * dw, None

    return loss, lambda *a: (loss(*a), a), bwd


def _focal(x: Any) -> Any:
    return -((1 - jax.nn.sigmoid(x)) ** 2) * jax.nn.log_sigmoid(x)


@wrong(2 * normal(20))
def focal_loss_takes_its_weight_for_a_constant():
    def bwd(x, ct):
        return (-ct * (1 - jax.nn.sigmoid(x)) ** 3,)

    return _focal, lambda x: (_focal(x), x), bwd


def _divergence(x: Any, target: Any) -> Any:
    return jnp.sum(target * (jnp.log(target) - jax.nn.log_softmax(x)), -1)


@wrong(normal(4, 5), np.abs(normal(4, 5, seed=2)) + 0.1, domain={"args[1]": (0.0, np.inf)})
def divergence_supposes_that_its_target_sums_to_1():
    def bwd(kept, ct):
        x, target = kept
        return ct[:, None] * (jax.nn.softmax(x) - target), jax.vjp(lambda t: _divergence(x, t), target)[1](ct)[0]

    return _divergence, lambda *a: (_divergence(*a), a), bwd


def _contrast(a: Any, b: Any) -> Any:
    scores = 5 * a @ b.T
    diagonal = jnp.diagonal(scores)
    return jnp.sum(2 * diagonal - jax.nn.logsumexp(scores, 0) - jax.nn.logsumexp(scores, 1))


@wrong(normal(4, 3) / 2, normal(4, 3, seed=2) / 2)
def contrastive_loss_goes_back_through_rows_alone():
    def by_rows(a, b):
        scores = 5 * a @ b.T
        return 2 * jnp.sum(jnp.diagonal(scores) - jax.nn.logsumexp(scores, 1))

    return backward_of(_contrast, by_rows)


@wrong(normal(4, 5), normal(4, 5, seed=2))
def cosine_similarity_without_the_derivative_of_the_norms():
    def f(a, b):
        return jnp.sum(a * b, -1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))

    def bwd(kept, ct):
        a, b = kept
        scale = (ct / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)))[:, None]
        return scale * b, scale * a

    return f, lambda *a: (f(*a), a), bwd


@wrong(2 * normal(12), normal(12, seed=2), kinds=("beyond", "times", "half"))
def huber_forgets_to_clip():
    def loss(x, y):
        d = jnp.abs(x - y)
        return jnp.where(d < 1, 0.5 * d * d, d - 0.5)

    return loss, lambda x, y: (loss(x, y), x - y), lambda d, ct: (ct * d, -ct * d)


@wrong(normal(6, 5), np.array([0, 3, 1, 4, 2, 2], np.int32))
def hinge_counts_the_right_class_once():
    """The right class gets -1 where it should get minus the number of margins that are violated."""

    def loss(scores, labels):
        hot = _hot(labels, scores)
        right = jnp.sum(hot * scores, -1, keepdims=True)
        return jnp.sum(jnp.maximum(scores - right + 1, 0) * (1 - hot), -1)

    def bwd(kept, ct):
        scores, labels = kept
        hot = _hot(labels, scores)
        right = jnp.sum(hot * scores, -1, keepdims=True)
        violated = (scores - right + 1 > 0) * (1 - hot)
        return ct[:, None] * (violated - hot), None

    return loss, lambda *a: (loss(*a), a), bwd


@wrong(normal(6, 4), LABELS % 4)
def weights_of_classes_are_applied_to_the_value_alone():
    weights = np.array([1, 0, 2, 0.5], np.float32)

    def loss(x, labels):
        return _loss(x, labels) * jnp.asarray(weights)[labels]

    return loss, lambda *a: (loss(*a), a), lambda kept, ct: (ct[:, None] * _slopes(*kept), None)


@wrong(3 * normal(12), normal(12, seed=2) > 0, kinds=("beyond", "sign", "times"))
def binary_cross_entropy_takes_the_label_the_other_way():
    def loss(x, y):
        return jax.nn.softplus(x) - jnp.where(y, x, 0)

    def bwd(kept, ct):
        x, y = kept
        return ct * (jax.nn.sigmoid(x) - jnp.where(y, 0, 1)), None

    return loss, lambda *a: (loss(*a), a), bwd
