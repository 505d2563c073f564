"""The mean loss of a linear layer, whose gradient the forward pass computes: mean_linear_cross_entropy."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import classes as rows_of_classes
from jaxbp.declaration import Rule
from jaxbp.devices import by_device
from jaxbp.op import Op
from jaxbp.products import columns_by_columns, rows_by_rows
from jaxbp.promotion import vary_alike, widened

#: So many logits are alive at a time at least, on a processor and on a GPU, where fewer take longer.
BLOCK = 2**22, 2**25
#: Products of matrices with fewer rows are slow, and those with more no faster.
TOKENS = 256, 1024


def _block_of_tokens(tokens, w, block):
    """How many tokens are taken at a time, by default about as many as w has rows, and no token left over.

    Each block goes once over the whole gradient of w, which is then about as large as its logits. What is left over
    would be a program of its own, with memory of its own. It is put up with where blocks that come out even would be
    less than half as large.
    """
    if block is None:
        (features, classes), (fewest, most) = w.shape, TOKENS
        rows = max(min(max(features, fewest), most), by_device(*BLOCK) // max(1, classes))
        number = max(1, math.ceil(tokens / rows))
        return rows_of_classes.equal_blocks(tokens, number, min(2 * number, tokens))
    if block < 1:
        raise ValueError(f"mean_linear_cross_entropy: block must be a positive number of tokens, got {block}.")
    return block


def _are_kept(tokens, w, block):
    """Whether the slopes are smaller than the gradients, so that they are kept, and nobody asked for blocks."""
    return block is None and tokens * w.shape[1] <= tokens * w.shape[0] + w.size


def _total_and_slopes(tokens, w, labels, precision):
    """The sum of the tokens' losses, and their slopes."""
    logits = jnp.matmul(tokens, w, precision=precision)
    m = rows_of_classes.exponent_shift_of_own(logits, labels)
    losses, e, others, sums = rows_of_classes.cross_entropy(logits, labels, m)
    return jnp.sum(losses), rows_of_classes.cross_entropy_slopes(e, labels, others) / sums


def mean_linear_cross_entropy_fwd(x, w, labels, *, block=None, precision=None):
    rows_of_classes.require_rows(x, labels)
    n = labels.size
    tokens, weights, labels = widened(x).reshape(n, x.shape[-1]), widened(w), labels.reshape(-1)
    if _are_kept(n, w, block):
        total, slopes = _total_and_slopes(tokens, weights, labels, precision)
        return (total / n).astype(x.dtype), (x, w, slopes)

    def step(state, first, size):
        total, ct_x, ct_w = state
        rows, of_rows = (jax.lax.dynamic_slice_in_dim(x, first, size) for x in (tokens, labels))
        added, slopes = _total_and_slopes(rows, weights, of_rows, precision)
        ct_x = jax.lax.dynamic_update_slice_in_dim(ct_x, rows_by_rows(slopes, weights, precision), first, 0)
        # Each row as it is read, behind a barrier: or XLA's CPU backend would take what is not transposed.
        columns = jax.lax.optimization_barrier(rows.T)
        return total + added, ct_x, ct_w + jnp.matmul(columns, slopes, precision=precision)

    # Under shard_map what a loop begins with varies as what it ends with does.
    zero, _ = vary_alike((jnp.zeros((), weights.dtype), weights))
    start = zero, jnp.zeros_like(tokens), jnp.zeros_like(weights)
    total, ct_x, ct_w = rows_of_classes.over_blocks(step, start, n, _block_of_tokens(n, w, block))
    # Kept wide: an nth of a gradient may vanish in float16 where ct times it does not. Of no tokens it is 0.
    return (total / n).astype(x.dtype), ((ct_x / n).reshape(x.shape), ct_w / max(n, 1))


def mean_linear_cross_entropy_bwd(res, ct, *, block=None, precision=None):
    x, w, *slopes = res
    if not slopes:
        # These are the gradients.
        return (widened(ct) * x).astype(ct.dtype), (widened(ct) * w).astype(ct.dtype), None
    (slopes,) = slopes
    scaled = slopes * (widened(ct) / slopes.shape[0])
    ct_x = rows_by_rows(scaled, widened(w), precision)
    ct_w = columns_by_columns(widened(x).reshape(slopes.shape[0], w.shape[0]), scaled, precision)
    return ct_x.reshape(x.shape).astype(x.dtype), ct_w.astype(w.dtype), None


def mean_linear_cross_entropy_stock(x, w, labels, *, block=None, precision=None):
    rows_of_classes.require_rows(x, labels)
    return jnp.mean(rows_of_classes.cross_entropy_stock(jnp.matmul(x, w, precision=precision), labels))


def mean_linear_cross_entropy_reference(x, w, labels, *, block=None, precision=None):
    losses, _ = rows_of_classes.numpy_cross_entropy(np.matmul(x, w), labels)
    return np.mean(losses)


def mean_linear_cross_entropy_reference_vjp(ct, x, w, labels, *, block=None, precision=None):
    return rows_of_classes.numpy_linear_cross_entropy_vjp(np.full(labels.shape, ct / labels.size), x, w, labels)


mean_linear_cross_entropy = Op(
    name="mean_linear_cross_entropy",
    summary="The mean over all tokens of the softmax cross entropy of the logits x w, with the logits of a block of "
    "tokens in memory at a time. x [..., d], w [d, C], floating, labels [...], integers -> y []. `block` is the number "
    "of tokens taken at a time, by default as many as w has rows, 256 to 1024, or more where that makes few logits. "
    "`precision` is jnp.matmul's. " + rows_of_classes.LABELS,
    formula="mean over n tokens of log sum_j exp(z_j) - z_label, z = x w; with s = ct (softmax(z) - 1(j = label)) / n, "
    "ct_x = s w^T, ct_w = x^T s summed over the tokens",
    rules=(
        Rule(
            "forward",
            mean_linear_cross_entropy_fwd,
            mean_linear_cross_entropy_bwd,
            "The cotangent of a mean is one number, so that the forward pass computes both gradients while it has the "
            "logits of a block, and the backward pass multiplies them. Keeps the gradients, no logits; where the "
            "slopes of all tokens are smaller than these, it keeps them in their place.",
        ),
    ),
    integers=("labels",),
    stock=mean_linear_cross_entropy_stock,
    reference=mean_linear_cross_entropy_reference,
    reference_vjp=mean_linear_cross_entropy_reference_vjp,
    cases=rows_of_classes.linear_cross_entropy_cases(),
    flops=rows_of_classes.linear_cross_entropy_flops,
    torch=lambda torch: (
        lambda x, w, labels, *, block=None, precision=None: torch.nn.functional.cross_entropy(
            (x @ w).reshape(-1, w.shape[1]), labels.long().reshape(-1)
        )
    ),
    version=6,
    source="Hsu et al., Liger kernel: efficient Triton kernels for LLM training (2024), which does so on GPUs.",
    example=""">>> x, w, labels = jnp.array([[1.0, 2.0]]), jnp.array([[10.0, 0, 0], [5.0, 0, 0]]), jnp.array([0])
>>> y, (ct_x, ct_w, _) = jaxbp.mean_linear_cross_entropy.value_and_vjp((x, w, labels), 1.0)
>>> print(f"{y:.3e}; {ct_x[0, 0]:.3e} {ct_x[0, 1]:.3e}")
4.122e-09; -4.122e-08 -2.061e-08""",
)
