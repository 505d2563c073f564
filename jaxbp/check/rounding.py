"""Noise in place of rounding: how far off each primitive's result may be, and a random error of that size."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.jaxprs import is_inexact

#: Primitives whose results are not rounded.
EXACT = frozenset(
    (
        *("neg", "abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "real", "imag", "complex", "conj"),
        *(
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "is_finite",
            "select_n",
            "select_and_gather_add",
            "stop_gradient",
            "copy",
        ),
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "split", "concatenate", "pad"),
        *("rev", "sort", "top_k", "iota", "gather", "scatter", "dynamic_slice", "dynamic_update_slice", "copy_p"),
        *("reduce_max", "reduce_min", "cummax", "cummin", "argmax", "argmin", "reduce_and", "reduce_or"),
        *("reduce_window_max", "reduce_window_min", "optimization_barrier", "pvary", "pcast", "sharding_constraint"),
        *("random_bits", "random_wrap", "random_unwrap"),
    )
)
#: How many unit roundoffs XLA's own functions are off by on a CPU, relative to their value, where it is more than two.
#: From exp to pow: found over all float32, float64's sample where that is more; from asinh on over 2^22 float32.
WORST_UNITS = {
    "exp": 4,
    "logistic": 6,
    "tanh": 14,
    "expm1": 12,
    "log": 3,
    "log1p": 8,
    "exp2": 140,
    "rsqrt": 4,
    "cbrt": 6,
    "erf": 12,
    "erfc": 130,
    "sinh": 50,
    "cosh": 50,
    "tan": 4,
    "sin": 2,
    "cos": 2,
    "atan": 8,
    "pow": 2,
    "asinh": 5,
    "acosh": 6,
    "atanh": 5,
    "asin": 4,
    "acos": 5,
    "atan2": 8,
    "erf_inv": 100,
    "igamma": 250,
    "igammac": 250,
    "bessel_i0e": 7,
    "bessel_i1e": 20,
    "integer_pow": 8,
}
#: Likewise in float64, where it is far more: the truth itself is off by that.
WORST_UNITS_64 = {"log1p": 260, "erfc": 820}
#: Where their result is 0 it has vanished, even in float64, and another formula may still have a number.
NEVER_ZERO = frozenset(("exp", "exp2", "logistic"))
#: Those that are off by so many units of what is near 1 even where their own value is near 0.
WORST_ABSOLUTE = {"lgamma": 120, "digamma": 40}
#: Algorithms that are backward stable at best: right for a matrix that is a little off.
LINEAR_ALGEBRA = frozenset(
    ("cholesky", "lu", "qr", "eigh", "eig", "svd", "triangular_solve", "householder_product", "tridiagonal_solve")
)


class Rounding:
    """Random errors: a fresh draw for each equation, the same for the same `phase`.

    With `scatter` 0 instead of 1 all of it has one sign: errors of a function that is biased add up along a chain.
    """

    def __init__(self, phase: jax.Array, scatter: jax.Array | float = 1.0) -> None:
        self.phase = phase
        self.scatter = scatter
        self.count = 0

    def inside(self, phase: jax.Array) -> "Rounding":
        """For a part of the program that has equations of its own."""
        return Rounding(phase, self.scatter)

    def __call__(self, x: jax.Array, size: jax.Array | float) -> jax.Array:
        """x off by `size`, upwards or downwards."""
        self.count += 1
        place_in_x = lax.iota(jnp.float64, x.size).reshape(x.shape) if x.ndim else jnp.zeros((), jnp.float64)
        # Quasi-random: the multiples of irrational numbers are spread evenly over the circle.
        angle = place_in_x * (1 + math.sqrt(2) * self.count) + self.phase * (math.sqrt(3) * self.count)
        angle = angle * self.scatter + self.phase
        # Infinities are not rounded: a logit of -inf has no noise.
        size = jnp.where(jnp.isfinite(size), size, 0)
        if jnp.iscomplexobj(x):
            size = size * (1 + 1j)
        return x + jnp.where(angle - jnp.floor(angle) < 0.5, size, -size)


def unit(dtype: Any) -> float:
    """The unit roundoff."""
    return float(jnp.finfo(dtype).eps) / 2


def narrows(eqn: Any) -> bool:
    """Whether an equation gives floats fewer digits than they had."""
    if eqn.primitive.name == "reduce_precision":
        return True
    if eqn.primitive.name != "convert_element_type":
        return False
    before, after = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    return is_inexact(before) and (not is_inexact(after) or unit(after) > unit(before))


def error_size(eqn: Any, values: list[Any], out: Any, dtype: Any, apply: Callable[[Any, list[Any]], Any]) -> Any:
    """How far off an equation's result may be in the equation's own dtypes; None where it is not rounded.

    `values` are its arguments in float64, `out` its result; `apply(eqn, values)` evaluates it for other arguments.
    """
    name = eqn.primitive.name
    if not is_inexact(dtype) or name in EXACT:
        return None
    if name == "convert_element_type":
        source = eqn.invars[0].aval.dtype
        if is_inexact(source) and unit(source) >= unit(dtype):
            return None
    if name == "reduce_precision":
        return jnp.abs(out) * 2.0 ** -(eqn.params["mantissa_bits"] + 1)
    if name == "fft":
        return _spectrum_size(eqn, values[0]) * unit(dtype)
    terms = SUMS.get(name)
    if terms is None:
        magnitude = jnp.abs(out)
        # What is below the smallest normal number may be flushed to 0.
        tiny = float(jnp.finfo(dtype).tiny)
        lost = jnp.where((out == 0) & (name in NEVER_ZERO), tiny, jnp.minimum(magnitude, tiny))
        absolute = unit(dtype) * WORST_ABSOLUTE.get(name, 0)
        units = WORST_UNITS.get(name, 1)
        if dtype == jnp.float64:
            units = WORST_UNITS_64.get(name, units)
        return magnitude * (unit(dtype) * units) + lost + absolute
    # XLA adds up in blocks: errors grow like the depth of a tree, times the sum of magnitudes.
    magnitudes = [jnp.abs(x) if is_inexact(x.dtype) else x for x in values]
    total, n = jnp.abs(apply(eqn, magnitudes)), max(1, terms(eqn))
    # Each product may be flushed to 0.
    lost = jnp.minimum(total, n * float(jnp.finfo(dtype).tiny))
    return total * (unit(dtype) * (1 + math.log2(n))) + lost


def _spectrum_size(eqn: Any, x: Any) -> Any:
    """What the entries of a Fourier transform are rounded relative to: the sum of magnitudes, and its depth."""
    lengths = eqn.params["fft_lengths"]
    axes = tuple(range(x.ndim - len(lengths), x.ndim))
    n = math.prod(lengths)
    total = jnp.sum(jnp.abs(x), axes, keepdims=True) * (1 + math.log2(max(1, n)))
    # A real transform keeps half of the spectrum, so that the inverse adds up each entry of it twice.
    return 2 * total / n if "I" in str(eqn.params["fft_type"]).rpartition(".")[2] else total


def _dot_terms(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return math.prod(eqn.invars[0].aval.shape[i] for i in contracted)


def _shrunk(eqn: Any) -> int:
    return eqn.invars[0].aval.size // max(1, eqn.outvars[0].aval.size)


#: Sums, and how many terms an entry of theirs adds up.
SUMS: dict[str, Callable[[Any], int]] = {
    "reduce_sum": _shrunk,
    "dot_general": _dot_terms,
    "cumsum": lambda eqn: eqn.invars[0].aval.shape[eqn.params["axis"]],
    "reduce_window_sum": lambda eqn: math.prod(eqn.params["window_dimensions"]),
    "select_and_scatter_add": lambda eqn: math.prod(eqn.params["window_dimensions"]),
    "conv_general_dilated": lambda eqn: eqn.invars[1].aval.size,
    "scatter-add": lambda eqn: eqn.invars[2].aval.size,
    "scatter_add": lambda eqn: eqn.invars[2].aval.size,
}
