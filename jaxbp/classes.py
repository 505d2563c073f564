"""The losses of rows of class scores and their slopes, for ops that take the scores and ops that compute them."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import VOCABULARY, Case, Labels, Normal
from jaxbp.declaration import Flops, Shapes
from jaxbp.elementary import decay_or_infinity
from jaxbp.fusion import whole
from jaxbp.numerics import exponent_shift, numpy_exponent_shift

T = TypeVar("T")

#: What an op says of its labels.
LABELS = (
    "As in optax and NumPy negative labels count from the end; for one outside [-C, C) of C classes the loss is NaN."
)


#: What an op says of classes that are spread over devices.
SPREAD = (
    "`axis_name` is the axis of the mesh, under jax.shard_map, over which the classes are spread in order; labels "
    "count all of them."
)


def require_rows(scores: jax.Array, labels: jax.Array) -> None:
    """Raise a `ValueError` where there is not one label for each row of scores, or they are booleans."""
    if jnp.issubdtype(labels.dtype, jnp.bool_):
        raise ValueError("labels must be of an integer dtype, got bool; convert them, as with labels.astype('int32').")
    if labels.shape != scores.shape[:-1] or not scores.ndim:
        raise ValueError(
            f"labels must have one entry for each row of scores, the shape {list(scores.shape[:-1])}, "
            f"got {list(labels.shape)}."
        )


def of_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The scores of the labels, [..., 1]; NaN for a label that is none."""
    require_rows(scores, labels)
    return jnp.take_along_axis(scores, places(labels, scores.shape[-1])[..., None], axis=-1)


def places(labels: jax.Array, classes: int) -> jax.Array:
    """The labels in int32, the negative ones counted from the start as well; `classes` for a label that is none.

    A wider label that is none would be one in int32, as which JAX takes indices.

    >>> places(jnp.array([2, -1, 3, -4]), 3).tolist()
    [2, 2, 3, 3]
    """
    labels = _counted_from_the_start(labels, classes)
    return jnp.where((labels >= 0) & (labels < classes), labels, classes).astype(jnp.int32)


def is_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Which of the scores are those of the labels."""
    labels = places(labels, scores.shape[-1])
    return jax.lax.broadcasted_iota(labels.dtype, scores.shape, scores.ndim - 1) == labels[..., None]


def labels_here(labels: jax.Array, classes: int, axis_name: str | None) -> jax.Array:
    """The labels as a device counts the classes that it has, so many on each device.

    One that is on another device becomes `classes`, one that is on none `classes + 1`. Without an axis all classes are
    here, and labels stay as they are.
    """
    if axis_name is None:
        return labels
    of_all = classes * jax.lax.axis_size(axis_name)
    label = _counted_from_the_start(labels, of_all)
    place = label - classes * jax.lax.axis_index(axis_name)
    elsewhere = jnp.where((label >= 0) & (label < of_all), classes, classes + 1)
    return jnp.where((place >= 0) & (place < classes), place, elsewhere)


def from_its_device(score: jax.Array, here: jax.Array, classes: int, axis_name: str | None) -> jax.Array:
    """The label's score on all devices, from the one that has it; `here` are the labels of `labels_here`."""
    return score if axis_name is None else jax.lax.psum(jnp.where(here == classes, 0, score), axis_name)


def over_devices(total: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over the devices of what each has."""
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def exponent_shift_of_own(scores: jax.Array, labels: jax.Array, axis_name: str | None = None) -> jax.Array:
    """`exponent_shift` over the classes of scores that an op computes itself, once the labels' scores were read.

    So nobody needs the scores beside their exponentials, which XLA's CPU backend then writes in their place. With an
    axis it waits for none of them: it is the same on all devices of the axis, and they are not.
    """
    m = exponent_shift(scores, -1, axis_name)
    return whole(m, of_label(scores, labels)) if axis_name is None else m


def cross_entropy(
    x: jax.Array, labels: jax.Array, m: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`(losses, e, others, total)`: [...], the `other_exponentials`, and [..., 1] their sums, and those with the label.

    With an axis the labels are those of `labels_here`.
    """
    # What there is one of a row lies along the axis that XLA's CPU backend vectorizes, which must not be of length 1.
    chosen = from_its_device(of_label(x, labels)[..., 0], labels, x.shape[-1], axis_name)
    # Without the label's own: its probability less 1, and the loss, are small because the others are.
    e = other_exponentials(x, labels, m)
    others = over_devices(jnp.sum(e, axis=-1), axis_name)
    own = jnp.exp(chosen - m[..., 0])
    losses = (m[..., 0] - chosen) + jnp.log1p(others + (own - 1))
    return losses, e, others[..., None], (others + own)[..., None]


def other_exponentials(x: jax.Array, labels: jax.Array, m: jax.Array) -> jax.Array:
    """exp(x - m), and 0 for the label."""
    return jnp.where(is_label(x, labels), 0, decay_or_infinity(x - m))


def cross_entropy_slopes(e: jax.Array, labels: jax.Array, others: jax.Array) -> jax.Array:
    """softmax(x) - 1(label), times the sum of all exponentials, from the `other_exponentials` and their sums."""
    return jnp.where(is_label(e, labels), -others, e)


def hinge(x: jax.Array, labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """The multiclass SVM losses, without the label itself."""
    margins = jnp.maximum(x - chosen + 1, 0)
    return jnp.sum(jnp.where(is_label(x, labels), 0, margins), axis=-1)


def violated(x: jax.Array, labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Which margins are positive, the label's own aside."""
    return ~is_label(x, labels) & (x - chosen + 1 > 0)


def hinge_slopes(mask: jax.Array, labels: jax.Array, ct: jax.Array) -> jax.Array:
    """ct where a margin is violated, and at the label minus their sum."""
    slopes = jnp.where(mask, ct[..., None], 0)

    def put(row: jax.Array, label: jax.Array, slope: jax.Array) -> jax.Array:
        return row.at[label].set(slope, mode="drop", wrap_negative_indices=False)

    # Put at the label's place in what is there already: selected, all would be computed twice. Row by row, so that
    # devices that have their own rows need none of the others'.
    for _ in labels.shape:
        put = jax.vmap(put)
    return put(slopes, places(labels, slopes.shape[-1]), -jnp.sum(slopes, axis=-1))


def numpy_of_label(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`of_label` in NumPy, for references."""
    return np.take_along_axis(scores, labels[..., None], axis=-1)


def numpy_is_label(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`is_label` in NumPy, for references."""
    number = scores.shape[-1]
    return np.arange(number) == np.where(labels < 0, labels + number, labels)[..., None]


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The losses and their slopes in NumPy, for references."""
    m = numpy_exponent_shift(logits, -1)
    exponentials = np.exp(logits - m)
    where = numpy_is_label(logits, labels)
    others = np.sum(np.where(where, 0, exponentials), axis=-1, keepdims=True)
    chosen = numpy_of_label(logits, labels)
    losses = (m - chosen) + np.log1p(others + np.expm1(chosen - m))
    return losses[..., 0], np.where(where, -others, exponentials) / (others + np.exp(chosen - m))


def numpy_hinge(scores: np.ndarray, labels: np.ndarray, *, count_label: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The losses and their slopes in NumPy, for references."""
    where = numpy_is_label(scores, labels)
    margins = np.maximum(scores - numpy_of_label(scores, labels) + 1, 0)
    others = ~where & (margins > 0)
    slopes = np.where(where, -np.sum(others, axis=-1, keepdims=True), others)
    return np.sum(margins if count_label else np.where(where, 0, margins), axis=-1), slopes


def cross_entropy_stock(logits: jax.Array, labels: jax.Array, axis_name: str | None = None) -> jax.Array:
    """The losses as optax.softmax_cross_entropy_with_integer_labels has them.

    With an axis as one would write it under shard_map.
    """
    if axis_name is None:
        return jax.nn.logsumexp(logits, axis=-1) - of_label(logits, labels)[..., 0]
    here, number = labels_here(labels, logits.shape[-1], axis_name), logits.shape[-1]
    m = exponent_shift(logits, -1, axis_name)
    total = jax.lax.psum(jnp.sum(jnp.exp(logits - m), axis=-1), axis_name)
    return jnp.log(total) + m[..., 0] - from_its_device(of_label(logits, here)[..., 0], here, number, axis_name)


def numpy_linear_cross_entropy_vjp(
    ct: np.ndarray, x: np.ndarray, w: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, None]:
    """Their cotangents in NumPy, for references; ct has one entry a token."""
    _, slopes = numpy_cross_entropy(np.matmul(x, w), labels)
    slopes = slopes * ct[..., None]
    rows = (-1, x.shape[-1]), (-1, w.shape[1])
    return np.matmul(slopes, w.T), np.matmul(x.reshape(rows[0]).T, slopes.reshape(rows[1])), None


def equal_blocks(length: int, number: int, most: int) -> int:
    """The size of so many blocks, or of more, up to `most`, where these leave no rest: one takes memory of its own.

    >>> equal_blocks(1000, 9, 12), equal_blocks(1009, 9, 12)
    (100, 113)
    """
    equal = (more for more in range(number, most + 1) if length % more == 0)
    return math.ceil(length / next(equal, number))


def over_blocks(step: Callable[[T, Any, int], T], state: T, length: int, size: int) -> T:
    """`state = step(state, first, size)` for blocks of that size, one after the other; what is left over comes last.

    >>> over_blocks(lambda total, first, size: total + first, 0, 7, 3).tolist()
    9
    """
    whole, rest = divmod(length, max(1, size))
    if whole:
        starts = size * jnp.arange(whole, dtype=jnp.int32)
        state, _ = jax.lax.scan(lambda state, first: (step(state, first, size), None), state, starts)
    return step(state, whole * size, rest) if rest else state


def linear_cross_entropy_flops(shapes: Shapes) -> Flops:
    """Three products, and what the losses and slopes of the logits take."""
    x, w, _ = shapes
    logits = math.prod(x[:-1]) * w[1]
    return Flops(logits * (2 * w[0] + 5), logits * (4 * w[0] + 4))


def linear_cross_entropy_cases() -> tuple[Case, ...]:
    """Tokens, their size and classes at three sizes, those of a model, and what fills memory with logits."""
    sizes = {
        "small": (32, 16, 64),
        "cache": (256, 64, 1024),
        "memory": (1024, 256, 8192),
        "t5": (128, 512, 32128),
        VOCABULARY: (4096, 256, 32000),
    }
    return tuple(
        Case(name, ((n, d), (d, classes), (n,)), (Normal(), Normal(2 / math.sqrt(d)), Labels(classes)))
        for name, (n, d, classes) in sizes.items()
    )


def _counted_from_the_start(labels: jax.Array, classes: int) -> jax.Array:
    if labels.dtype.itemsize < 4:  # Too narrow for the number of classes, perhaps.
        labels = labels.astype(jnp.int32)
    return jnp.where(labels < 0, labels + classes, labels)
