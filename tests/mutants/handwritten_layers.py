"""Wrong rules as people write them, of layers and array functions: each a bug of a class met in public projects."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.register import backward_of, normal, wrong


def _dropout(x: Any, keep: Any) -> Any:
    return jnp.where(keep, x / 0.75, 0)


KEEP = np.random.default_rng(4).random((5, 7)) < 0.75


@wrong(normal(5, 7), KEEP, kinds=("mask",))
def dropout_ignores_its_mask():
    return _dropout, lambda x, keep: (_dropout(x, keep), None), lambda _, ct: (ct / 0.75, None)


@wrong(normal(5, 7), KEEP, kinds=("0.75 times",))
def dropout_forgets_its_scale():
    return _dropout, lambda x, keep: (_dropout(x, keep), keep), lambda keep, ct: (jnp.where(keep, ct, 0), None)


def _logsumexp(x: Any) -> Any:
    top = jnp.max(x, -1, keepdims=True)
    top = lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    total = jnp.sum(jnp.exp(x - top), -1)
    # A row that is masked as a whole counts for nothing, and has no gradient.
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), 0) + top[..., 0]


@wrong(np.where(np.arange(4)[:, None] == 2, -np.inf, normal(4, 5)).astype(np.float32), kinds=("NaN",))
def logsumexp_is_nan_for_a_row_that_is_masked():
    def bwd(x, ct):
        return (ct[..., None] * jax.nn.softmax(x),)

    return _logsumexp, lambda x: (_logsumexp(x), x), bwd


@wrong(2 * normal(40), kinds=("mask", "beyond"))
def clip_passes_the_gradient_outside():
    return (lambda x: jnp.clip(x, -1, 1)), lambda x: (jnp.clip(x, -1, 1), None), lambda _, ct: (ct,)


@wrong(2 * normal(40))
def round_straight_through_claims_a_derivative():
    return jnp.round, lambda x: (jnp.round(x), None), lambda _, ct: (ct,)


TABLE, IDS = normal(6, 3), np.array([1, 4, 1, 0, 4, 1], np.int32)


def _embed(table: Any, ids: Any) -> Any:
    return table[ids]


@wrong(TABLE, IDS)
def gather_overwrites_repeated_indices():
    def bwd(kept, ct):
        return jnp.zeros((6, 3)).at[kept].set(ct), None

    return _embed, lambda t, i: (t[i], i), bwd


@wrong(TABLE, IDS, kinds=("zero",))
def embedding_drops_the_gradient_of_the_padding_index():
    def bwd(kept, ct):
        return jnp.zeros((6, 3)).at[kept].add(ct).at[0].set(0), None

    return _embed, lambda t, i: (t[i], i), bwd


@wrong(TABLE, IDS)
def embedding_divides_by_how_often_an_index_is_met():
    def bwd(kept, ct):
        count = jnp.zeros(6).at[kept].add(1)
        return jnp.zeros((6, 3)).at[kept].add(ct) / jnp.maximum(count, 1)[:, None], None

    return _embed, lambda t, i: (t[i], i), bwd


@wrong(normal(17))
def cumsum_going_back_is_not_reversed():
    return jnp.cumsum, lambda x: (jnp.cumsum(x), None), lambda _, ct: (jnp.cumsum(ct),)


@wrong(normal(5, 5), kinds=("transposed",))
def transpose_is_not_transposed_back():
    return jnp.transpose, lambda x: (x.T, None), lambda _, ct: (ct,)


@wrong(normal(9), kinds=("shifted", "reversed"))
def roll_goes_the_same_way_back():
    return (lambda x: jnp.roll(x, 2)), lambda x: (jnp.roll(x, 2), None), lambda _, ct: (jnp.roll(ct, -1),)


def _conv(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1,), [(0, 2)])


@wrong(normal(2, 3, 11), normal(4, 3, 3, seed=2))
def conv_pads_on_the_wrong_side_going_back():
    return backward_of(_conv, lambda x, w: lax.conv_general_dilated(x, w, (1,), [(2, 0)]))


@wrong(normal(2, 3, 11), normal(4, 3, 3, seed=2), kinds=("reversed",))
def conv_does_not_flip_its_kernel():
    def bwd(kept, ct):
        dx, dw = jax.vjp(_conv, *kept)[1](ct)
        return dx, dw[..., ::-1]

    return _conv, lambda *a: (_conv(*a), a), bwd


def _recurrence(h: Any, xs: Any, a: Any, cut: bool = False) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(a * (lax.stop_gradient(h) if cut else h) + x)
        return h, h

    return lax.scan(step, h, xs)[1]


@wrong(normal(4), normal(7, 4, seed=2), np.float32(0.7))
def scan_drops_the_gradient_of_its_carry():
    return backward_of(_recurrence, lambda h, xs, a: _recurrence(h, xs, a, cut=True))


@wrong(normal(5, 3), kinds=("1.667 times",))
def mean_divides_by_the_wrong_axis():
    def bwd(_, ct):
        return (jnp.broadcast_to(ct / 3, (5, 3)),)

    return (lambda x: jnp.mean(x, 0)), lambda x: (jnp.mean(x, 0), None), bwd


@wrong(3 * normal(33))
def silu_misses_a_term():
    def bwd(x, ct):
        return (ct * jax.nn.sigmoid(x),)

    return jax.nn.silu, lambda x: (jax.nn.silu(x), x), bwd


@wrong(3 * normal(33))
def gelu_by_tanh_going_back():
    return backward_of(lambda x: jax.nn.gelu(x, approximate=False), lambda x: jax.nn.gelu(x, approximate=True))


def _linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


@wrong(normal(4, 6), normal(6, 5, seed=2), normal(5, seed=3), kinds=("missing sum", "broadcast"))
def linear_takes_the_first_row_for_its_bias():
    def bwd(kept, ct):
        x, w, _ = kept
        return ct @ w.T, x.T @ ct, ct[0]

    return _linear, lambda *a: (_linear(*a), a), bwd


@wrong(normal(4, 6), normal(6, 5, seed=2), normal(5, seed=3), kinds=("shape", "raises"), proof="contract")
def linear_forgets_to_sum_its_bias():
    def bwd(kept, ct):
        x, w, _ = kept
        return ct @ w.T, x.T @ ct, ct

    return _linear, lambda *a: (_linear(*a), a), bwd


@wrong(normal(4, 5), normal(5, 5, seed=2), normal(5, seed=3), kinds=("transposed",))
def linear_transposes_the_gradient_of_its_weight():
    def bwd(kept, ct):
        x, w, _ = kept
        return ct @ w.T, ct.T @ x, jnp.sum(ct, 0)

    return _linear, lambda *a: (_linear(*a), a), bwd


@wrong(normal(4, 5), normal(5, 5, seed=2), normal(5, seed=3))
def linear_does_not_transpose_its_weight():
    def bwd(kept, ct):
        x, w, _ = kept
        return ct @ w, x.T @ ct, jnp.sum(ct, 0)

    return _linear, lambda *a: (_linear(*a), a), bwd


def _norm(x: Any) -> Any:
    square = jnp.sum(x**2, -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


@wrong(normal(4, 3) * np.array([[1], [0], [1], [1]], np.float32), kinds=("NaN",))
def norm_is_nan_at_0():
    def bwd(x, ct):
        return (ct[:, None] * x / jnp.linalg.norm(x, axis=-1, keepdims=True),)

    return _norm, lambda x: (_norm(x), x), bwd


@wrong(np.array([0, 1e-6, 1e-3, 0.25, 1, 4], np.float32), domain={"args[0]": (0.0, np.inf)})
def sqrt_forgets_its_epsilon():
    def bwd(x, ct):
        return (ct / (2 * jnp.sqrt(jnp.maximum(x, 1e-30))),)

    return (lambda x: jnp.sqrt(x + 1e-4)), lambda x: (jnp.sqrt(x + 1e-4), x), bwd


def _swiglu(x: Any, gate: Any) -> Any:
    return x * jax.nn.silu(gate)


@wrong(normal(3, 5), normal(3, 5, seed=2), kinds=("swapped",))
def swiglu_swaps_its_gate():
    def bwd(kept, ct):
        dx, dgate = jax.vjp(_swiglu, *kept)[1](ct)
        return dgate, dx

    return _swiglu, lambda *a: (_swiglu(*a), a), bwd


@wrong(normal(3, 5), normal(3, 5, seed=2))
def swiglu_puts_the_activation_on_the_other_half():
    return backward_of(_swiglu, lambda x, gate: gate * jax.nn.silu(x))


def _rotary(x: Any, sign: float = 1.0) -> Any:
    angles = jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)[:, None] * jnp.array([1.0, 0.1], x.dtype)
    a, b = jnp.split(x, 2, -1)
    c, s = jnp.cos(angles), sign * jnp.sin(angles)
    return jnp.concatenate([a * c - b * s, a * s + b * c], -1)


@wrong(normal(6, 4))
def rotary_turns_the_same_way_back():
    return _rotary, lambda x: (_rotary(x), None), lambda _, ct: (_rotary(ct),)


@wrong(normal(40, 30), normal(30, seed=2), kinds=("precision",))
def sum_accumulates_in_bfloat16():
    def bwd(kept, ct):
        x, w = kept
        dw = jnp.sum((x * ct[:, None]).astype(jnp.bfloat16), 0, dtype=jnp.bfloat16)
        return ct[:, None] * w, dw.astype(jnp.float32)

    return jnp.matmul, lambda *a: (a[0] @ a[1], a), bwd


@wrong(normal(4, 7))
def max_gives_its_gradient_to_the_smallest():
    return backward_of(lambda x: jnp.max(x, -1), lambda x: jnp.min(x, -1))


@wrong(normal(8), normal(8, seed=2), kinds=("zero",))
def huber_drops_the_gradient_of_the_target():
    def loss(x, y):
        d = jnp.abs(x - y)
        return jnp.sum(jnp.where(d < 1, 0.5 * d * d, d - 0.5))

    def bwd(kept, ct):
        return ct * jnp.clip(kept, -1, 1), jnp.zeros(8)

    return loss, lambda x, y: (loss(x, y), x - y), bwd


@wrong(normal(3, 4), kinds=("cotangent", "zero"))
def second_output_is_forgotten():
    def both(x):
        return jnp.sin(x), jnp.cos(x)

    return both, lambda x: (both(x), x), lambda x, cts: (cts[0] * jnp.cos(x),)


@wrong({"w": normal(3, 4), "b": normal(4, seed=2)}, normal(2, 3, seed=3), kinds=("zero",))
def a_parameter_in_a_dict_is_forgotten():
    def f(params, x):
        return jnp.tanh(x @ params["w"] + params["b"])

    def bwd(kept, ct):
        grads, dx = jax.vjp(f, *kept)[1](ct)
        return {"w": grads["w"], "b": jnp.zeros(4)}, dx

    return f, lambda *a: (f(*a), a), bwd
