"""Wrong rules as people write them, that show only at some points: ties, zeros, large numbers, edges of a range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.register import backward_of, normal, wrong

TIED = (np.array([1, 2, 3, -1], np.float32), np.array([1, 0, 3, 2], np.float32))
LARGE = np.array([-200, -30, -2, 2, 30, 200], np.float32)


@wrong(normal(8), normal(8, seed=2), kinds=("ties", "tie"), shown_at=TIED, level="standard")
def maximum_gives_both_all_at_ties():
    def bwd(kept, ct):
        a, b = kept
        return jnp.where(a >= b, ct, 0), jnp.where(b >= a, ct, 0)

    return jnp.maximum, lambda *a: (jnp.maximum(*a), a), bwd


@wrong(normal(8), normal(8, seed=2), kinds=("ties", "tie"), shown_at=TIED, level="standard")
def minimum_gives_neither_any_at_ties():
    def bwd(kept, ct):
        a, b = kept
        return jnp.where(a < b, ct, 0), jnp.where(b < a, ct, 0)

    return jnp.minimum, lambda *a: (jnp.minimum(*a), a), bwd


@wrong(
    normal(3, 8), kinds=("ties", "tie"), shown_at=(np.array([[2, 2, 0, 1, 3, 3, 3, 0]], np.float32),), level="standard"
)
def max_pool_gives_all_of_the_gradient_to_each_of_the_ties():
    def pool(x):
        return jnp.max(x.reshape(x.shape[0], -1, 4), -1)

    def bwd(x, ct):
        windows = x.reshape(x.shape[0], -1, 4)
        return (jnp.where(windows == pool(x)[..., None], ct[..., None], 0).reshape(x.shape),)

    return pool, lambda x: (pool(x), x), bwd


@wrong(normal(3, 5), kinds=("ties", "tie"), shown_at=(np.array([[1, 1, 0], [2, 3, 1]], np.float32),), level="standard")
def max_divides_by_the_ties_of_all_rows():
    def top(x):
        return jnp.max(x, -1)

    def bwd(x, ct):
        tied = (x == top(x)[:, None]).astype(x.dtype)
        most = jnp.max(jnp.sum(tied, -1))
        return (tied * ct[:, None] / most,)

    return top, lambda x: (top(x), x), bwd


@wrong(normal(9), kinds=("ties", "tie"), shown_at=(np.array([3, 1, 1, 2, 2, 2], np.float32),), level="standard")
def sort_looks_its_places_up_by_value():
    """Equal entries are all taken for the first of them."""

    def bwd(x, ct):
        return (ct[jnp.searchsorted(jnp.sort(x), x)],)

    return jnp.sort, lambda x: (jnp.sort(x), x), bwd


@wrong(np.array([-1, 0, 0.5, 1, 2, 3], np.float32), kinds=("x is 0", "NaN"))
def power_is_nan_at_0():
    """y x^(y-1) computed as y x^y / x."""
    return (lambda x: x**3), lambda x: (x**3, x), lambda x, ct: (ct * 3 * x**3 / x,)


@wrong(normal(9), kinds=("x is 0", "NaN", "infinite"), shown_at=(np.array([0, 1, -2], np.float32),), level="standard")
def product_divides_by_its_factors():
    """The gradient of a product is the product over the factor: no number where that is 0."""

    def bwd(kept, ct):
        x, y = kept
        return (ct * y / x,)

    return jnp.prod, lambda x: (jnp.prod(x), (x, jnp.prod(x))), bwd


@wrong(
    np.array([0.5, 1, 2], np.float32),
    kinds=("x is 0", "NaN"),
    shown_at=(np.array([0, 1, 2], np.float32),),
    level="standard",
)
def sinc_is_nan_at_0():
    def bwd(x, ct):
        z = np.float32(np.pi) * x
        return (ct * (jnp.cos(z) - jnp.sin(z) / z) / x,)

    return jnp.sinc, lambda x: (jnp.sinc(x), x), bwd


@wrong(normal(4, 3), kinds=("NaN",), shown_at=(np.zeros((2, 3), np.float32),), level="standard")
def normalized_row_of_zeros_is_nan():
    def unit(x):
        return x / (1e-3 + jnp.sum(x * x, -1, keepdims=True))

    def bwd(x, ct):
        size = jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
        direction, s = x / size, 1e-3 + size**2
        return (ct / s - 2 * direction * size**2 * jnp.sum(ct * direction, -1, keepdims=True) / s**2,)

    return unit, lambda x: (unit(x), x), bwd


@wrong(normal(9), kinds=("NaN", "beyond"), shown_at=(LARGE,), level="standard")
def sigmoid_by_a_quotient_of_exponentials():
    def bwd(x, ct):
        e = jnp.exp(x)
        return (ct * e / (1 + e) ** 2,)

    return jax.nn.sigmoid, lambda x: (jax.nn.sigmoid(x), x), bwd


@wrong(normal(9), kinds=("NaN", "beyond"), shown_at=(LARGE,), level="standard")
def silu_by_x_times_a_quotient_of_exponentials():
    def bwd(x, ct):
        e = jnp.exp(x)
        return (ct * (e / (1 + e) + x * e / (1 + e) ** 2),)

    return jax.nn.silu, lambda x: (jax.nn.silu(x), x), bwd


@wrong(normal(9), kinds=("NaN", "beyond"), shown_at=(LARGE,), level="standard")
def tanh_by_exponentials():
    def bwd(x, ct):
        a, b = jnp.exp(x), jnp.exp(-x)
        return (ct * 4 / (a + b) ** 2 + 0 * (a - b),)

    return jnp.tanh, lambda x: (jnp.tanh(x), x), bwd


@wrong(normal(9), kinds=("NaN", "beyond", "zero"), shown_at=(LARGE,), level="standard")
def softplus_goes_back_through_the_logarithm():
    return backward_of(jax.nn.softplus, lambda x: jnp.log(1 + jnp.exp(x)))


@wrong(normal(3, 5), kinds=("NaN",), shown_at=(90 * normal(3, 5),), level="standard")
def softmax_going_back_does_not_subtract_the_maximum():
    def bwd(x, ct):
        y = jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True)
        return (y * (ct - jnp.sum(ct * y, -1, keepdims=True)),)

    return jax.nn.softmax, lambda x: (jax.nn.softmax(x), x), bwd


@wrong(
    normal(7),
    normal(7, seed=2),
    kinds=("NaN", "infinite"),
    shown_at=(1e25 * normal(7), 1e25 * normal(7, seed=2)),
    level="thorough",
)
def hypot_squares_large_numbers():
    def bwd(kept, ct):
        a, b = kept
        size = jnp.sqrt(a * a + b * b)
        return ct * a / size, ct * b / size

    return jnp.hypot, lambda *a: (jnp.hypot(*a), a), bwd


@wrong(normal(9), kinds=("beyond", "times"), shown_at=(np.array([-4, -3.5, 3.5, 4], np.float32),), level="standard")
def gelu_saturates_too_early():
    """Beyond 3 it is taken for x or 0."""

    def bwd(x, ct):
        slope = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x.reshape(-1)).reshape(x.shape)
        return (ct * jnp.where(jnp.abs(x) > 3, x > 0, slope),)

    return (lambda x: jax.nn.gelu(x, approximate=False)), lambda x: (jax.nn.gelu(x, approximate=False), x), bwd


@wrong(normal(9), kinds=("beyond", "within"), level="standard", shown_at=(np.array([-0.02, -0.01, 0.01], np.float32),))
def series_is_used_where_it_does_not_hold_yet():
    """x - x^3/6 in place of the sine up to 0.3, differentiated to one term."""

    def bwd(x, ct):
        return (ct * jnp.where(jnp.abs(x) < 0.3, 1, jnp.cos(x)),)

    return jnp.sin, lambda x: (jnp.sin(x), x), bwd


@wrong(2 * normal(12), kinds=("mask", "zero", "beyond", "within"))
def relu6_forgets_its_upper_end():
    return (lambda x: jnp.clip(4 * x, 0, 6)), lambda x: (jnp.clip(4 * x, 0, 6), x), lambda x, ct: (4 * ct * (x > 0),)


@wrong(normal(12), kinds=("times", "x <", "beyond"))
def leaky_relu_is_leaky_on_the_other_side():
    def f(x):
        return jnp.where(x > 0, x, 0.1 * x)

    return f, lambda x: (f(x), x), lambda x, ct: (ct * jnp.where(x > 0, 0.1, 1),)


@wrong(2 * normal(12))
def elu_takes_its_output_for_its_argument():
    """The output is kept, and the formula for the argument applied to it."""
    return jax.nn.elu, lambda x: (jax.nn.elu(x),) * 2, lambda y, ct: (ct * jnp.where(y > 0, 1, jnp.exp(y)),)


@wrong(4 * normal(12))
def quantizer_passes_the_gradient_with_the_scale():
    """round(x / s) s, straight through in the primal: the rule divides by the scale once more."""

    def f(x):
        return x + lax.stop_gradient(jnp.round(x / 0.25) * 0.25 - x)

    return f, lambda x: (f(x), None), lambda _, ct: (ct / 0.25,)


@wrong(2 * normal(12), np.float32(0.5), kinds=("zero",))
def quantizer_does_not_learn_its_step():
    def f(x, step):
        return step * jnp.tanh(x / step)

    def bwd(kept, ct):
        return ct * (1 - jnp.tanh(kept[0] / kept[1]) ** 2), jnp.zeros_like(kept[1])

    return f, lambda *a: (f(*a), a), bwd


@wrong(np.abs(normal(9)) + 0.1, kinds=("0.5 times",), domain={"args[0]": (0.0, np.inf)})
def sqrt_forgets_its_half():
    return jnp.sqrt, lambda x: (jnp.sqrt(x),) * 2, lambda y, ct: (ct * 0.25 / y,)


@wrong(np.abs(normal(9)) + 0.1, domain={"args[0]": (0.0, np.inf)})
def logarithm_of_another_base():
    return jnp.log2, lambda x: (jnp.log2(x), x), lambda x, ct: (ct / x,)


@wrong(normal(4, 6))
def variance_divides_by_one_less_going_back():
    def bwd(x, ct):
        return (2 * ct[:, None] * (x - jnp.mean(x, -1, keepdims=True)) / (x.shape[-1] - 1),)

    return (lambda x: jnp.var(x, -1)), lambda x: (jnp.var(x, -1), x), bwd


def _normalized(x: Any, inside: bool = True) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    square = jnp.mean(centred**2, -1, keepdims=True)
    return centred / (jnp.sqrt(square + 1e-2) if inside else jnp.sqrt(square) + 1e-2)


@wrong(normal(4, 6))
def layer_norm_adds_its_epsilon_outside_of_the_root():
    return backward_of(_normalized, lambda x: _normalized(x, False))


def _rms(x: Any, w: Any) -> Any:
    return (1 + w) * x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def _rms_back(x: Any, w: Any, ct: Any, again: Any = 1.0) -> tuple[Any, Any]:
    r = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    g = ct * w
    return r * g - r**3 * x * again * jnp.mean(g * x, -1, keepdims=True), jnp.sum(ct * x * r, 0)


@wrong(normal(5, 8), normal(8, seed=2) / 2)
def rms_norm_of_a_gain_about_0_forgets_the_1():
    """The gain is 1 + w going forth, w going back."""
    return _rms, lambda *a: (_rms(*a), a), lambda kept, ct: _rms_back(kept[0], kept[1], ct)


@wrong(normal(5, 8), normal(8, seed=2) / 2)
def rms_norm_weighs_the_cross_term_twice():
    return _rms, lambda *a: (_rms(*a), a), lambda kept, ct: _rms_back(kept[0], 1 + kept[1], ct, 1 + kept[1])


@wrong(normal(6, 6), normal(6, seed=2) / 2)
def rms_norm_sums_its_gain_over_the_wrong_axis():
    def bwd(kept, ct):
        x, w = kept
        r = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        return _rms_back(x, 1 + w, ct)[0], jnp.sum(ct * x * r, 1)

    return _rms, lambda *a: (_rms(*a), a), bwd


@wrong(normal(8, 3), np.float32(0.9))
def moving_average_goes_back_forwards():
    def average(x, a):
        return lax.scan(lambda h, row: (a * h + (1 - a) * row,) * 2, jnp.zeros_like(x[0]), x)[1]

    def bwd(kept, ct):
        x, a = kept
        return average(ct, a), jax.vjp(lambda a: average(x, a), a)[1](ct)[0]

    return average, lambda *a: (average(*a), a), bwd


@wrong(normal(6, 4), np.array([0, 0, 1, 2, 2, 2], np.int32))
def segment_mean_goes_back_as_a_sum():
    def mean(x, i):
        count = jnp.maximum(jnp.zeros(3, x.dtype).at[i].add(1), 1)
        return jnp.zeros((3, x.shape[-1]), x.dtype).at[i].add(x) / count[:, None]

    return mean, lambda x, i: (mean(x, i), i), lambda i, ct: (ct[i], None)


@wrong(normal(6, 4), np.array([1, 1, 3], np.int32))
def update_of_rows_lets_the_old_ones_through():
    """`x.at[i].set(v)`: x gets nothing back where it was overwritten."""

    def f(x, i):
        return x.at[i].set(2.0)

    return f, lambda x, i: (f(x, i), None), lambda _, ct: (ct, None)


@wrong(normal(4, 4) + 3 * np.eye(4, dtype=np.float32), normal(4, seed=2), kinds=("sign",))
def solve_forgets_the_sign_of_its_matrix():
    def bwd(kept, ct):
        a, y = kept
        g = jnp.linalg.solve(a.T, ct)
        return jnp.outer(g, y), g

    def fwd(a, b):
        y = jnp.linalg.solve(a, b)
        return y, (a, y)

    return jnp.linalg.solve, fwd, bwd


@wrong(normal(4, 4) + 3 * np.eye(4, dtype=np.float32), normal(4, seed=2))
def solve_does_not_transpose_its_matrix():
    def bwd(kept, ct):
        a, y = kept
        g = jnp.linalg.solve(a, ct)
        return -jnp.outer(g, y), g

    def fwd(a, b):
        y = jnp.linalg.solve(a, b)
        return y, (a, y)

    return jnp.linalg.solve, fwd, bwd


@wrong(normal(9), kinds=("precision", "digits", "times"))
def fixed_point_is_differentiated_for_one_step():
    """Through the last step alone, as if the point before were a constant."""

    def f(x):
        return lax.fori_loop(0, 60, lambda _, y: jnp.tanh(y / 2 + x), jnp.zeros_like(x))

    return f, lambda x: (f(x),) * 2, lambda y, ct: (ct * (1 - y * y),)


@wrong(np.array([[1e-9], [1.0], [1e-9]], np.float32) * normal(3, 5), kinds=("zero", "x|", "row"), entrywise=True)
def direction_of_a_long_row_is_taken_for_constant():
    """Beside a row shorter than a thousandth of it: that has gradients beside which those of the long one vanish."""

    def direction(x):
        return x / jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-30)

    def bwd(x, ct):
        (grad,) = jax.vjp(direction, x)[1](ct)
        square = jnp.sum(x * x, -1, keepdims=True)
        return (jnp.where(square > 1e6 * jnp.min(square), 0, grad),)

    return direction, lambda x: (direction(x), x), bwd
