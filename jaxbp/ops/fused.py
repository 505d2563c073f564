"""Linear layers fused with what follows them: linear_cross_entropy, linear_relu."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import classes as rows_of_classes
from jaxbp.broadcasting import shape_of, sum_to
from jaxbp.cases import Case, Normal, Short
from jaxbp.declaration import Flops, Rule, Shapes
from jaxbp.devices import by_device
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.products import columns_by_columns, rows_by_rows
from jaxbp.promotion import widened

#: So many logits are alive at a time by default: on a processor 8 MiB of float32, which its last cache holds, and on a
#: GPU 128 MiB, below which each halving costs an H100 a tenth more time.
BLOCK = 2**21, 2**25
#: No more logits than these, 32 MiB of float32, are kept: to compute them again would cost more than they take.
KEPT = 2**23
#: Fewer classes than these make narrow matrices, whose products are slow.
FEWEST_CLASSES = 256


def _tokens(x):
    """All tokens as rows of one matrix."""
    return widened(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _are_kept(w, labels, chunk):
    """Whether all logits are so few that they are kept, and nobody asked for blocks."""
    return chunk is None and w.shape[1] * labels.size <= KEPT


def _over_blocks(step, state, classes, tokens, chunk):
    """`state = step(state, first, size)` for blocks of classes, one after the other, until all had their turn."""
    if chunk is None:
        number = max(1, math.ceil(classes / max(FEWEST_CLASSES, by_device(*BLOCK) // max(1, tokens))))
        chunk = rows_of_classes.equal_blocks(classes, number, number + number // 4)
    elif chunk < 1:
        raise ValueError(f"linear_cross_entropy: chunk must be a positive number of classes, got {chunk}.")
    return rows_of_classes.over_blocks(step, state, classes, chunk)


def _weights(w, first, size):
    return widened(jax.lax.dynamic_slice_in_dim(w, first, size, axis=1))


def _other_exponentials(logits, is_label, shift):
    """exp(logits - shift), and 0 for the label."""
    return jnp.where(is_label, 0, jnp.exp(logits - shift[None]))


def _is_label(logits, places):
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0) == places[None]


def _kept_fwd(x, w, labels, precision, axis_name):
    labels_of_rows = rows_of_classes.labels_here(labels.reshape(-1), w.shape[1], axis_name)
    logits = jnp.matmul(_tokens(x), widened(w), precision=precision)
    m = rows_of_classes.exponent_shift_of_own(logits, labels_of_rows, axis_name)
    losses, *exponentials = rows_of_classes.cross_entropy(logits, labels_of_rows, m, axis_name)
    return losses.reshape(labels.shape).astype(x.dtype), (x, w, labels, *exponentials)


def _kept_bwd(res, ct, precision, axis_name):
    x, w, labels, e, others, total = res
    labels_of_rows = rows_of_classes.labels_here(labels.reshape(-1), w.shape[1], axis_name)
    slopes = rows_of_classes.cross_entropy_slopes(e, labels_of_rows, others)
    scaled = slopes * (widened(ct).reshape(-1, 1) / total)
    ct_x = rows_by_rows(scaled, widened(w), precision)
    ct_w = columns_by_columns(_tokens(x), scaled, precision)
    return ct_x.reshape(x.shape).astype(x.dtype), ct_w.astype(w.dtype), None


def linear_cross_entropy_fwd(x, w, labels, *, chunk=None, precision=None, axis_name=None):
    rows_of_classes.require_rows(x, labels)
    if _are_kept(w, labels, chunk):
        return _kept_fwd(x, w, labels, precision, axis_name)
    here = rows_of_classes.labels_here(labels, w.shape[1], axis_name)
    # Classes by tokens: of the four products of both passes each then reads its matrices as they lie in memory. The
    # transposed tokens are computed outside of the loop, or XLA would transpose each block of logits instead. Behind a
    # barrier, since it does so as well where there is no loop.
    columns, places = jax.lax.optimization_barrier(_tokens(x).T), rows_of_classes.places(here, w.shape[1]).reshape(-1)

    def step(state, first, size):
        top, others, own = state
        logits = jnp.matmul(_weights(w, first, size).T, columns, precision=precision)
        largest = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(logits, axis=0)))
        shift = _shift(largest)
        within = places - first
        is_label = _is_label(logits, within)
        added = jnp.sum(_other_exponentials(logits, is_label, shift), axis=0)
        score = jnp.take_along_axis(logits, jnp.clip(within, 0, size - 1)[None], axis=0)[0]
        own = jnp.where((within >= 0) & (within < size), score, own)
        return largest, others * jnp.exp(top - shift) + added, own

    # The loss of a label that is none stays NaN.
    state = tuple(jnp.full_like(places, fill, dtype=columns.dtype) for fill in (-jnp.inf, 0, jnp.nan))
    largest, others, own = _over_blocks(step, state, w.shape[1], places.size, chunk)
    shift = _shift(largest)
    if axis_name is not None:
        shift = _shift(jax.lax.pmax(largest, axis_name))
        others = jax.lax.psum(others * jnp.exp(largest - shift), axis_name)
        own = rows_of_classes.from_its_device(own, here.reshape(-1), w.shape[1], axis_name)
    exponential = jnp.exp(own - shift)
    y = (shift - own) + jnp.log1p(others + (exponential - 1))
    return y.reshape(labels.shape).astype(x.dtype), (x, w, labels, shift, others, others + exponential)


def _shift(largest):
    """What to subtract from the logits before their exponentials: the largest, or 0 where that is infinite."""
    return jnp.where(jnp.isfinite(largest), largest, 0)


def linear_cross_entropy_bwd(res, ct, *, chunk=None, precision=None, axis_name=None):
    x, w, labels, shift, others, total = res
    if _are_kept(w, labels, chunk):
        return _kept_bwd(res, ct, precision, axis_name)
    here = rows_of_classes.labels_here(labels, w.shape[1], axis_name)
    tokens, places = _tokens(x), rows_of_classes.places(here, w.shape[1]).reshape(-1)
    columns = tokens.T
    scale = widened(ct).reshape(-1) / total

    def step(state, first, size):
        ct_columns, ct_w = state
        block = _weights(w, first, size)
        logits = jnp.matmul(block.T, columns, precision=precision)
        is_label = _is_label(logits, places - first)
        # What is computed again may be rounded otherwise: huge logits by more than 1, and no exponential is above 1.
        logits = jnp.where(logits > shift[None], shift[None], logits)
        slopes = jnp.where(is_label, -others[None], _other_exponentials(logits, is_label, shift)) * scale[None]
        ct_block = jnp.matmul(slopes, tokens, precision=precision)
        if size < w.shape[1]:
            # Behind a barrier: a product that is written transposed takes twice as long on a CPU. Not of one block
            # alone, around which is no loop: XLA cannot lower that product under vmap.
            ct_block = jax.lax.optimization_barrier(ct_block)
        return (
            ct_columns + jnp.matmul(block, slopes, precision=precision),
            jax.lax.dynamic_update_slice_in_dim(ct_w, ct_block.T.astype(w.dtype), first, axis=1),
        )

    state = jnp.zeros_like(columns), jnp.zeros_like(w)
    ct_columns, ct_w = _over_blocks(step, state, w.shape[1], places.size, chunk)
    return ct_columns.T.reshape(x.shape).astype(x.dtype), ct_w, None


def linear_cross_entropy_stock(x, w, labels, *, chunk=None, precision=None, axis_name=None):
    rows_of_classes.require_rows(x, labels)
    return rows_of_classes.cross_entropy_stock(jnp.matmul(x, w, precision=precision), labels, axis_name)


def linear_cross_entropy_reference(x, w, labels, *, chunk=None, precision=None, axis_name=None):
    losses, _ = rows_of_classes.numpy_cross_entropy(np.matmul(x, w), labels)
    return losses


def linear_cross_entropy_reference_vjp(ct, x, w, labels, *, chunk=None, precision=None, axis_name=None):
    return rows_of_classes.numpy_linear_cross_entropy_vjp(ct, x, w, labels)


linear_cross_entropy = Op(
    name="linear_cross_entropy",
    summary="The softmax cross entropy of the logits x w, one loss a token, with no more than a block of the logits "
    "in memory where there are over 8 million. "
    "x [..., d], w [d, C], floating, labels [...], integers -> y [...]. `chunk` is the number of classes that are "
    "taken at a time, by default as many as make about 2 million logits, or 34 million on a GPU; `precision` is "
    "jnp.matmul's. Negative labels count from the end; for one outside [-C, C) the loss and the gradient are NaN. "
    f"{rows_of_classes.SPREAD}",
    formula="z = x w, log sum_j exp(z_j) - z_label; with s = ct (softmax(z) - 1(j = label)): ct_x = s w^T, "
    "ct_w = x^T s summed over all tokens",
    rules=(
        Rule(
            "chunked",
            linear_cross_entropy_fwd,
            linear_cross_entropy_bwd,
            "Keeps the inputs and three numbers a token; the backward pass computes the logits again, block by block. "
            "Where there are few logits it keeps their exponentials. Sums the exponentials of the other classes "
            "alone, as softmax_cross_entropy.",
        ),
    ),
    integers=("labels",),
    stock=linear_cross_entropy_stock,
    reference=linear_cross_entropy_reference,
    reference_vjp=linear_cross_entropy_reference_vjp,
    cases=rows_of_classes.linear_cross_entropy_cases(),
    flops=rows_of_classes.linear_cross_entropy_flops,
    torch=lambda torch: (
        lambda x, w, labels, *, chunk=None, precision=None, axis_name=None: torch.nn.functional.cross_entropy(
            (x @ w).reshape(-1, w.shape[1]), labels.long().reshape(-1), reduction="none"
        ).reshape(labels.shape)
    ),
    source="Milakov and Gimelshein, Online normalizer calculation for softmax (2018); Wijmans et al., Cut Your Losses "
    "in Large-Vocabulary Language Models (2024).",
    example=""">>> x, w, labels = jnp.array([[1.0, 2.0]]), jnp.array([[10.0, 0, 0], [5.0, 0, 0]]), jnp.array([0])
>>> y, (ct_x, ct_w, _) = jaxbp.linear_cross_entropy.value_and_vjp((x, w, labels), jnp.ones(1), chunk=2)
>>> print(f"{y[0]:.3e}; {ct_x[0, 0]:.3e} {ct_x[0, 1]:.3e}")
4.122e-09; -4.122e-08 -2.061e-08""",
    version=5,
)


def linear_relu_fwd(x, w, b, *, precision=None):
    z = jnp.matmul(x, w, precision=precision) + b
    return jnp.maximum(z, 0), (x, w, shape_of(b), jnp.packbits(z > 0, axis=-1))


def linear_relu_bwd(res, ct, *, precision=None):
    x, w, b, bits = res
    # jnp.unpackbits divides by the number of rows.
    slopes = jnp.where(jnp.unpackbits(bits, axis=-1, count=w.shape[1]) == 1, ct, 0) if ct.size else ct
    rows = slopes.reshape(math.prod(slopes.shape[:-1]), w.shape[1])
    ct_w = columns_by_columns(x.reshape(rows.shape[0], x.shape[-1]), rows, precision)
    return rows_by_rows(slopes, w, precision), ct_w, sum_to(slopes, b)


def linear_relu_stock(x, w, b, *, precision=None):
    return jax.nn.relu(jnp.matmul(x, w, precision=precision) + b)


def linear_relu_reference(x, w, b, *, precision=None):
    return np.maximum(np.matmul(x, w) + b, 0)


def linear_relu_reference_vjp(ct, x, w, b, *, precision=None):
    slopes = np.where(np.matmul(x, w) + b > 0, ct, 0)
    ct_w = np.matmul(x.reshape(-1, x.shape[-1]).T, slopes.reshape(-1, w.shape[1]))
    return np.matmul(slopes, w.T), ct_w, numpy_sum_to(slopes, b)


def linear_relu_flops(shapes: Shapes) -> Flops:
    x, w, _ = shapes
    outputs = math.prod(x[:-1]) * w[1]
    return Flops(outputs * (2 * w[0] + 2), outputs * (4 * w[0] + 2))


def _relu_cases():
    """Tokens, their size and units at three sizes, and the first layer of a transformer's feed-forward block."""
    sizes = {"small": (16, 16, 16), "cache": (256, 256, 256), "memory": (4096, 256, 1024), "t5": (512, 512, 2048)}
    return tuple(
        Case(
            name,
            ((n, d), (d, units), (units,)),
            (Short(Normal(), 5), Short(Normal(1 / math.sqrt(d)), 8), Short(Normal(), 5)),
        )
        for name, (n, d, units) in sizes.items()
    )


linear_relu = Op(
    name="linear_relu",
    summary="A linear layer and the positive part of its output: x [..., k], w [k, n], b [n] or [] -> y [..., n], "
    "floating. `precision` is jnp.matmul's. Where x w + b is 0 the gradient is 0, as jax.nn.relu's.",
    formula="max(0, x w + b); with s = ct 1(x w + b > 0): ct_x = s w^T, ct_w = x^T s, ct_b = sum of s over all rows",
    rules=(
        Rule(
            "bits",
            linear_relu_fwd,
            linear_relu_bwd,
            "Keeps the inputs, and one bit an output: whether it is positive.",
        ),
    ),
    stock=linear_relu_stock,
    reference=linear_relu_reference,
    reference_vjp=linear_relu_reference_vjp,
    cases=_relu_cases(),
    flops=linear_relu_flops,
    version=3,
    torch=lambda torch: (
        lambda x, w, b, *, precision=None: torch.relu(torch.nn.functional.linear(x, w.T, b.expand(w.shape[1])))
    ),
    source="CS231n, Backpropagation, Intuitions: the Jacobian of the ReLU is a mask, never formed.",
    example=""">>> x, w, b = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, -1.0], [1.0, -1.0]]), jnp.zeros(2)
>>> y, (ct_x, ct_w, ct_b) = jaxbp.linear_relu.value_and_vjp((x, w, b), jnp.ones((1, 2)))
>>> y.tolist(), ct_x.tolist(), ct_b.tolist()
([[3.0, 0.0]], [[1.0, 1.0]], [1.0, 0.0])""",
)
