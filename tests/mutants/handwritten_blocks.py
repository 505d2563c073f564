"""Wrong rules as people write them, that show only at other shapes, with x64 on, or under vmap: blocks and types."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.register import backward_of, normal, wrong

#: How long a block of the "kernels" below is.
BLOCK = 4

WIDE = normal(3, 8).astype(np.float64)


def _whole_blocks(x: Any) -> Any:
    """All but what does not fill a block, along the last axis."""
    n = x.shape[-1] // BLOCK * BLOCK
    return x.at[..., n:].set(0)


@wrong(normal(3, 8), kinds=("last block", "zero"), shown_at=(normal(3, 7),), level="standard")
def grid_is_rounded_down_to_whole_blocks():
    return jnp.tanh, lambda x: (jnp.tanh(x), x), lambda x, ct: (_whole_blocks(ct * (1 - jnp.tanh(x) ** 2)),)


@wrong(normal(8, 5), normal(5, 3, seed=2), shown_at=(normal(6, 5), normal(5, 3, seed=2)), level="standard")
def weight_gradient_leaves_out_the_rows_beyond_whole_blocks():
    def bwd(kept, ct):
        x, w = kept
        n = x.shape[0] // BLOCK * BLOCK
        return ct @ w.T, x[:n].T @ ct[:n]

    return jnp.matmul, lambda *a: (a[0] @ a[1], a), bwd


@wrong(normal(8, 5), shown_at=(normal(7, 5),), level="standard")
def last_block_of_rows_is_padded_by_the_last_row():
    """Loads beyond the end are clamped, and what they bring is added up as if it were there."""

    def bwd(x, ct):
        clamped = jnp.minimum(jnp.arange(-(-x.shape[0] // BLOCK) * BLOCK), x.shape[0] - 1)
        return (jnp.zeros_like(ct).at[clamped].add(ct[clamped]),)

    return (lambda x: 1 * x), lambda x: (1 * x, x), bwd


@wrong(normal(4, 6), kinds=("times",), shown_at=(normal(3, 6),), level="standard")
def mean_divides_by_a_batch_of_4():
    def bwd(x, ct):
        return (jnp.broadcast_to(ct / 4, x.shape),)

    return (lambda x: jnp.sum(x, 0) / max(1, x.shape[0])), lambda x: (jnp.sum(x, 0) / max(1, x.shape[0]), x), bwd


@wrong(normal(5, 5), kinds=("times",), shown_at=(normal(5, 3),), level="standard")
def mean_of_a_square_divides_by_the_other_axis():
    def mean(x):
        return jnp.mean(x, -1)

    def bwd(x, ct):
        return (jnp.broadcast_to(ct[:, None] / x.shape[0], x.shape),)

    return mean, lambda x: (mean(x), x), bwd


@wrong(
    normal(4, 4),
    normal(4, 4, seed=2),
    kinds=("raises", "shape"),
    shown_at=(normal(4, 3), normal(3, 4, seed=2)),
    level="standard",
)
def matmul_is_right_for_symmetric_shapes_alone():
    """The gradients are reshaped where they should be transposed."""

    def bwd(kept, ct):
        a, b = kept
        return ct @ b.T, (ct.T @ a).T.reshape(a.shape)

    return jnp.matmul, lambda *a: (a[0] @ a[1], a), bwd


@wrong(normal(4, 6), kinds=("raises", "shape", "contract"), shown_at=(normal(1, 6),), level="standard")
def one_row_is_squeezed_away():
    def bwd(x, ct):
        return (jnp.squeeze(ct * jnp.cos(x)),)

    return jnp.sin, lambda x: (jnp.sin(x), x), bwd


@wrong(
    normal(4, 6),
    normal(6, seed=2),
    kinds=("missing sum", "last block", "shapes"),
    shown_at=(normal(7, 6), normal(6, seed=2)),
    level="standard",
)
def gain_sums_its_first_block_of_rows_alone():
    def f(x, w):
        return x * w

    def bwd(kept, ct):
        x, w = kept
        return ct * w, jnp.sum((ct * x)[:BLOCK], 0)

    return f, lambda *a: (f(*a), a), bwd


@wrong(normal(8), shown_at=(normal(7),), level="standard")
def pairs_are_summed_and_the_odd_one_lost():
    """A reduction by halves forgets the one in the middle where the length is odd."""

    def f(x):
        return jnp.sum(x)

    def bwd(x, ct):
        n = x.shape[0] // 2
        return (jnp.broadcast_to(ct, x.shape).at[n : x.shape[0] - n].set(0),)

    return f, lambda x: (f(x), x), bwd


@wrong(normal(5, 6), shown_at=(normal(5, 1),), kinds=("NaN", "infinite"), level="standard")
def unbiased_variance_of_one_entry_is_nan_going_back():
    def variance(x):
        centred = x - jnp.mean(x, -1, keepdims=True)
        return jnp.sum(centred**2, -1) / max(1, x.shape[-1] - 1)

    def bwd(x, ct):
        count = jnp.asarray(x.shape[-1] - 1, x.dtype)
        return (2 * ct[:, None] * (x - jnp.mean(x, -1, keepdims=True)) / count,)

    return variance, lambda x: (variance(x), x), bwd


@wrong(
    normal(6, 4),
    np.array([0, 2, 1, 3, 5, 4], np.int32),
    shown_at=(normal(6, 4), np.array([0, 2, 2, 3, 5, 4], np.int32)),
    level="standard",
)
def permutation_is_inverted_though_it_may_repeat():
    """`x[i]` goes back by `ct[argsort(i)]`: right only where i is a permutation, which it need not be."""

    def bwd(kept, ct):
        return ct[jnp.argsort(kept)], None

    return (lambda x, i: x[i]), lambda x, i: (x[i], i), bwd


@wrong(normal(3, 8), kinds=("dtype", "contract", "x64"), proof="x64", shown_at=(normal(3, 8),), level="standard")
def gradient_in_zeros_of_the_default_dtype():
    """`jnp.zeros` without a dtype: float64 with x64 on, whatever the argument is."""

    def bwd(x, ct):
        return (jnp.zeros(x.shape).at[:, ::2].set(ct),)

    return (lambda x: x[:, ::2]), lambda x: (x[:, ::2], x), bwd


@wrong(normal(3, 8), kinds=("dtype", "contract", "x64"), proof="x64", shown_at=(normal(3, 8),), level="standard")
def scale_by_a_number_of_numpy():
    """`np.sqrt(8)` is a float64 that counts as one with x64 on."""

    def f(x):
        return x / 8**0.5

    return f, lambda x: (f(x), None), lambda _, ct: (ct / np.sqrt(8),)


@wrong(normal(3, 8), kinds=("raises", "x64"), proof="x64", shown_at=(normal(3, 8),), level="standard")
def loop_over_an_index_of_32_bits():
    """The carry begins as int32 and comes out as int64 with x64 on, which JAX refuses."""

    def bwd(x, ct):
        def step(state):
            return state[0] + jnp.argmax(jnp.ones(1)) + 1, state[1] + ct

        start = (jnp.zeros((), jnp.int32), jnp.zeros_like(ct))
        return (lax.while_loop(lambda s: s[0] < 3, step, start)[1],)

    return (lambda x: 3 * x), lambda x: (3 * x, x), bwd


@wrong(
    normal(3, 8).astype(np.float64),
    kinds=("precision", "times"),
    proof="x64",
    shown_at=(normal(3, 8).astype(np.float64),),
)
def wide_argument_goes_through_float32():
    """A cast to float32 "for accuracy" narrows what is wider."""

    def bwd(x, ct):
        y = jnp.tanh(x.astype(jnp.float32))
        return ((ct.astype(jnp.float32) * (1 - y * y)).astype(x.dtype),)

    return jnp.tanh, lambda x: (jnp.tanh(x), x), bwd


@wrong(
    normal(3, 8).astype(np.float64),
    kinds=("precision", "times"),
    proof="x64",
    shown_at=(normal(3, 8).astype(np.float64),),
)
def constant_has_the_digits_of_float32_alone():
    def f(x):
        return x * 0.1

    return f, lambda x: (f(x), x), lambda x, ct: (ct * float(np.float32(0.1)),)


@jax.custom_batching.custom_vmap
def _row_times(x: Any, w: Any) -> Any:
    return x * w


@_row_times.def_vmap
def _row_times_batched(size: int, batched: list[bool], x: Any, w: Any) -> tuple[Any, bool]:
    # It takes for granted that both are batched: one that is shared is read along its own first axis.
    x, w = (
        jnp.broadcast_to(a.reshape(-1)[:size, None], (size, 1)) if not b else a
        for a, b in zip((x, w), batched, strict=True)
    )
    return x * w, True


@wrong(normal(6), normal(6, seed=2), kinds=("transform", "vmap"), proof="vmap", level="standard")
def batching_rule_indexes_a_shared_argument():
    """Right alone and where all is batched, wrong where one argument is shared."""

    def bwd(kept, ct):
        x, w = kept
        return _row_times(ct, w), ct * x

    return (lambda x, w: x * w), lambda x, w: (x * w, (x, w)), bwd


def _on_the_host(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x)[::-1])


@wrong(normal(6), kinds=("transform", "vmap", "reversed"), proof="vmap", level="standard")
def callback_reverses_the_axis_of_the_batch():
    """Written for one row, and told that it can take many."""

    def bwd(_, ct):
        shape = jax.ShapeDtypeStruct(ct.shape, ct.dtype)
        return (jax.pure_callback(_on_the_host, shape, ct, vmap_method="broadcast_all"),)

    return (lambda x: x[::-1]), lambda x: (x[::-1], None), bwd


@wrong(normal(5, 3), normal(3, seed=2), kinds=("transform", "vmap", "last block"), proof="vmap", level="standard")
def batch_is_folded_into_rows_of_a_fixed_number():
    """Under vmap the rows of the batch are folded into one long array, of which a block of the old length is read."""

    @jax.custom_batching.custom_vmap
    def total(x):
        return jnp.sum(x, 0)

    @total.def_vmap
    def _(size, batched, x):
        rows = x.shape[1]
        return jnp.stack([jnp.sum(x.reshape(-1, x.shape[-1])[:rows], 0)] * size), True

    def bwd(kept, ct):
        x, w = kept
        return ct * w, total(ct * x)

    return (lambda x, w: x * w), lambda x, w: (x * w, (x, w)), bwd


def _depthwise(x: Any, w: Any, by: int = 1) -> Any:
    return lax.conv_general_dilated(x, w, (by,), [(1, 1)], feature_group_count=x.shape[1])


@wrong(normal(2, 3, 8), normal(3, 1, 3, seed=2))
def strided_conv_leaves_out_its_stride_in_the_positions():
    """The gradients of strided outputs are put side by side, not `stride` apart."""

    def bwd(kept, ct):
        x, w = kept
        side_by_side = jnp.pad(ct, ((0, 0), (0, 0), (0, x.shape[-1] - ct.shape[-1])))
        dx = jax.vjp(lambda x: _depthwise(x, w), x)[1](side_by_side)[0]
        return dx, jax.vjp(lambda w: _depthwise(x, w, 2), w)[1](ct)[0]

    return (lambda x, w: _depthwise(x, w, 2)), lambda x, w: (_depthwise(x, w, 2), (x, w)), bwd


@wrong(normal(4, 6), kinds=("cotangent", "clip", "linear"), proof="large cotangent", level="standard")
def cotangent_is_clipped_where_losses_are_scaled():
    """Against overflow, it says: but a loss that is scaled has cotangents of thousands."""
    return jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (jnp.clip(ct, -100, 100) * jnp.cos(x),)


@wrong(normal(4, 6), kinds=("infinite", "NaN", "linear"), proof="large cotangent", level="standard")
def cotangent_overflows_in_float16():
    def bwd(x, ct):
        ct = 50 * ct
        return (jnp.where(jnp.isfinite(ct.astype(jnp.float16)), ct, jnp.inf) * x,)

    return (lambda x: 25 * x**2), lambda x: (25 * x**2, x), bwd


@wrong(normal(4, 6), kinds=("not 0", "linear", "cotangent"), proof="zero cotangent", level="standard")
def weight_decay_is_added_to_the_gradient():
    return jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x) + 1e-2 * x,)


@wrong(normal(4, 6), kinds=("NaN",), proof="zero cotangent", level="standard")
def cotangent_is_normalized_by_its_size():
    """Scaled to 1, worked with, scaled back: 0 / 0 where it is 0."""

    def bwd(x, ct):
        size = jnp.max(jnp.abs(ct))
        return (ct / size * jnp.cos(x) * size,)

    return jnp.sin, lambda x: (jnp.sin(x), x), bwd


@wrong(normal(3, 4), kinds=("cotangent", "output", "zero"), proof="first output", level="standard")
def second_output_takes_the_first_for_granted():
    """The gradient goes by the second output's cotangent alone where that is 0: an early return."""

    def both(x):
        return jnp.sin(x), jnp.cos(x)

    def bwd(x, cts):
        ct = cts[0] * jnp.cos(x) - cts[1] * jnp.sin(x)
        return (jnp.where(cts[1] == 0, 0, ct),)

    return both, lambda x: (both(x), x), bwd


@wrong(normal(3, 4), kinds=("output", "swapped", "cotangent"))
def cotangents_of_two_outputs_are_swapped():
    def both(x):
        return jnp.sin(x), x**2

    return both, lambda x: (both(x), x), lambda x, cts: (cts[1] * jnp.cos(x) + cts[0] * 2 * x,)


@wrong(normal(3, 4), normal(3, 4, seed=2))
def product_going_back_uses_the_updated_argument():
    """An in-place kernel: the second gradient reads the first argument after it has been overwritten."""

    def bwd(kept, ct):
        a, b = kept
        a = a * b
        return ct * b, ct * a

    return jnp.multiply, lambda *a: (a[0] * a[1], a), bwd


@wrong(normal(5, 4), kinds=("second order", "first order"), proof="second order", level="standard")
def gradient_is_computed_ahead_and_frozen():
    """Right at first order; differentiated again it is a constant."""

    def fwd(x):
        return jnp.tanh(x), lax.stop_gradient(1 - jnp.tanh(x) ** 2)

    return jnp.tanh, fwd, lambda slope, ct: (ct * slope,)


@wrong(normal(6, 3), normal(6, 3, seed=2))
def running_state_goes_back_from_the_wrong_end():
    def forth(a, xs):
        return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, xs))[1]

    return backward_of(forth, lambda a, xs: forth(a[::-1], xs[::-1])[::-1])
