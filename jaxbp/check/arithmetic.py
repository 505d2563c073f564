"""A jaxpr evaluated in float64 whatever its dtypes say, and again with every rounding replaced by noise of its size.

The noisy evaluations tell how far a sane evaluation in the jaxpr's own dtypes may be off, entry by entry: sums that
cancel, saturated functions and long reductions all get what their arithmetic costs, and no entry more (Monte Carlo
arithmetic, after Parker).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal

from jaxbp.accuracy.exact_control import called_jaxpr, closed_jaxpr, is_float, place
from jaxbp.errors import UsageError

CALLS = ("jit", "pjit", "closed_call", "core_call", "call", "eval_jaxpr", "checkpoint", "remat", "remat2")
CALLS += ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin")
#: Primitives whose results are not rounded.
EXACT = frozenset(
    (
        *("neg", "abs", "sign", "max", "min", "clamp", "select_n", "select_and_gather_add", "floor", "ceil", "round"),
        *("copy", "copy_p", "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "split"),
        *("dynamic_slice", "dynamic_update_slice", "gather", "scatter", "concatenate", "pad", "rev", "sort", "iota"),
        *(
            "reduce_max",
            "reduce_min",
            "cummax",
            "cummin",
            "argmax",
            "argmin",
            "reduce_and",
            "reduce_or",
            "stop_gradient",
        ),
        *("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "optimization_barrier", "pvary", "pcast", "real", "imag"),
    )
)
#: How many unit roundoffs XLA's own functions are off by, where it is more than one: twice the worst ULP over all
#: float32 on a CPU, rounded up; float64's where that is more.
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
    "erf_inv": 20,
    "sinh": 50,
    "cosh": 50,
    "asinh": 10,
    "acosh": 10,
    "atanh": 10,
    "tan": 4,
    "sin": 2,
    "cos": 2,
    "atan": 8,
    "atan2": 8,
    "asin": 10,
    "acos": 10,
    "pow": 2,
    "integer_pow": 8,
    "lgamma": 100,
    "digamma": 100,
    "igamma": 1000,
    "igammac": 1000,
    "bessel_i0e": 20,
    "bessel_i1e": 20,
}
#: Primitives that look at a float's bits or neighbours, which are others in float64.
OF_THE_DTYPE = frozenset(("bitcast_convert_type", "nextafter"))


class Rounding:
    """Noise in place of rounding: a fresh phase for each equation, the same for the same `phase`.

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
        """x off by up to `size`."""
        self.count += 1
        place_in_x = lax.iota(jnp.float64, x.size).reshape(x.shape) if x.ndim else jnp.zeros((), jnp.float64)
        # Quasi-random: the multiples of irrational numbers are spread evenly over the circle.
        angle = place_in_x * (1 + math.sqrt(2) * self.count) + self.phase * (math.sqrt(3) * self.count)
        angle = angle * self.scatter + self.phase
        # Infinities are not rounded: a logit of -inf has no noise.
        return x + jnp.where(jnp.isfinite(size), size, 0) * jnp.cos(2 * math.pi * (angle % 1.0))


def evaluate(closed: ClosedJaxpr, args: Sequence[Any], rounding: Rounding | None = None) -> list[Any]:
    """The outputs of a jaxpr, floats in float64; with `rounding`, each operation off by what its dtype would lose."""
    jaxpr = closed.jaxpr
    env: dict[Any, Any] = dict(zip(jaxpr.invars, map(wide, args), strict=True))
    for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
        env[variable] = _rounded_constant(value, rounding)

    def read(atom: Any) -> Any:
        return _rounded_constant(atom.val, rounding) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _apply(eqn, [read(v) for v in eqn.invars], rounding), strict=True))
    return [read(v) for v in jaxpr.outvars]


def wide(x: Any) -> Any:
    """Floats as float64; everything else as it is."""
    if not isinstance(x, jax.Array | np.ndarray):
        x = jnp.asarray(x, getattr(x, "dtype", None))
    return x.astype(jnp.float64) if is_float(x.dtype) else x


def _rounded_constant(x: Any, rounding: Rounding | None) -> Any:
    """A constant of the code, which was rounded to its dtype when it was written down; whole numbers were not."""
    value = wide(x)
    dtype = getattr(x, "dtype", None)
    if rounding is None or dtype is None or not is_float(dtype) or isinstance(value, Tracer):
        return value
    known = np.asarray(value)
    if np.all(np.isfinite(known)) and np.any(known * 1024 % 1 != 0):
        return rounding(value, jnp.abs(value) * unit(dtype))
    return value


def unit(dtype: Any) -> float:
    """The unit roundoff."""
    return float(jnp.finfo(dtype).eps) / 2


def _apply(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    name = eqn.primitive.name
    if name in CALLS:
        return evaluate(called_jaxpr(eqn), values, rounding)
    if name in CONTROL:
        return CONTROL[name](eqn, values, rounding)
    if name in OF_THE_DTYPE and any(is_float(v.aval.dtype) for v in eqn.invars):
        where = place(eqn)
        raise UsageError(
            f"The function looks at the bits of its floats ({name}{', ' + where if where else ''}), so it cannot be "
            "evaluated in float64; check the parts of it that do not."
        )
    if name == "reduce_precision":
        outs = [values[0]]
    else:
        bound = _bind(eqn, values)
        outs = list(bound) if eqn.primitive.multiple_results else [bound]
        outs = [wide(out) for out in outs]
    if rounding is None:
        return outs
    return [_noisy(eqn, values, out, v.aval.dtype, rounding) for out, v in zip(outs, eqn.outvars, strict=True)]


def _noisy(eqn: Any, values: list[Any], out: Any, dtype: Any, rounding: Rounding) -> Any:
    name = eqn.primitive.name
    if not is_float(dtype) or name in EXACT:
        return out
    if name == "convert_element_type":
        source = eqn.invars[0].aval.dtype
        if is_float(source) and unit(source) >= unit(dtype):
            return out
    if name == "reduce_precision":
        return rounding(out, jnp.abs(out) * 2.0 ** -(eqn.params["mantissa_bits"] + 1))
    terms = SUMS.get(name)
    if terms is None:
        magnitude = jnp.abs(out)
        # What is below the smallest normal number may be flushed to 0.
        lost = jnp.minimum(magnitude, float(jnp.finfo(dtype).tiny))
        return rounding(out, magnitude * (unit(dtype) * WORST_UNITS.get(name, 1)) + lost)
    # XLA adds up in blocks: errors grow like the depth of a tree, times the sum of magnitudes.
    magnitudes = [jnp.abs(x) if is_float(x.dtype) else x for x in values]
    total = _bind(eqn, magnitudes)
    n = max(1, terms(eqn))
    return rounding(out, total * (unit(dtype) * (1 + math.log2(n))))


def _bind(eqn: Any, values: list[Any]) -> Any:
    """The primitive applied in float64."""
    name, params = eqn.primitive.name, {key: _widened(value) for key, value in eqn.params.items()}
    if name in SCATTERS:
        # The primitive carries a jaxpr of the combining function in the original dtype.
        kept = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        return SCATTERS[name](*values, **{key: params[key] for key in kept})
    return eqn.primitive.bind(*values, **params)


SCATTERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("scatter-add", "scatter_add"), lax.scatter_add),
    **dict.fromkeys(("scatter-mul", "scatter_mul"), lax.scatter_mul),
    **dict.fromkeys(("scatter-min", "scatter_min"), lax.scatter_min),
    **dict.fromkeys(("scatter-max", "scatter_max"), lax.scatter_max),
    "scatter": lax.scatter,
}


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
    "conv_general_dilated": lambda eqn: eqn.invars[1].aval.size,
    "scatter-add": lambda eqn: eqn.invars[2].aval.size,
    "scatter_add": lambda eqn: eqn.invars[2].aval.size,
}


def _widened(value: Any) -> Any:
    """A parameter: dtypes of floats become float64."""
    try:
        return jnp.dtype(jnp.float64) if isinstance(value, np.dtype | type) and is_float(value) else value
    except TypeError:
        return value


def _cond(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    index, *operands = values
    branches = [closed_jaxpr(branch) for branch in eqn.params["branches"]]

    inside = rounding and rounding.inside(rounding.phase + rounding.count * rounding.scatter)

    def run(branch: ClosedJaxpr) -> Callable[..., Any]:
        return lambda *xs: tuple(evaluate(branch, xs, inside))

    return list(
        lax.switch(jnp.clip(index.astype(jnp.int32), 0, len(branches) - 1), [run(b) for b in branches], *operands)
    )


def _scan(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    body = closed_jaxpr(eqn.params["jaxpr"])
    n_consts, n_carry = _scan_parts(eqn, values)
    consts, carry, rows = values[:n_consts], values[n_consts : n_consts + n_carry], values[n_consts + n_carry :]
    scatter = rounding.scatter if rounding else 0.0
    phase = rounding.phase + rounding.count * scatter if rounding else jnp.zeros((), jnp.float64)
    # A constant of the code, or a function that is biased, is off by the same in every step: in half of the evaluations
    # each equation keeps the error that it has, in the others it has a fresh one in each step.
    turn = jnp.where(phase % 1.0 < 0.5, 0.0, 0.618 * scatter)

    def step(state: Any, row: Any) -> Any:
        phase, *carry = state
        outs = evaluate(body, (*consts, *carry, *row), rounding.inside(phase) if rounding else None)
        return (phase + turn, *outs[:n_carry]), tuple(outs[n_carry:])

    (_, *carry), stacked = lax.scan(
        step, (phase, *carry), tuple(rows), length=eqn.params["length"], reverse=eqn.params["reverse"]
    )
    return [*carry, *stacked]


def _scan_parts(eqn: Any, values: Sequence[Any]) -> tuple[int, int]:
    """How many constants and how many carried values a scan has; from JAX 0.12 on a tree says it."""
    if "ft_in" in eqn.params:
        consts, carry, _ = (len(list(part)) for part in eqn.params["ft_in"].update(values).unpack())
        return consts, carry
    return eqn.params["num_consts"], eqn.params["num_carry"]


def _while(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body = closed_jaxpr(eqn.params["cond_jaxpr"]), closed_jaxpr(eqn.params["body_jaxpr"])
    for_test, for_body, carry = values[:n_test], values[n_test : n_test + n_body], values[n_test + n_body :]

    def step(state: Any) -> Any:
        return tuple(evaluate(body, (*for_body, *state), rounding and rounding.inside(rounding.phase)))

    return list(lax.while_loop(lambda state: evaluate(test, (*for_test, *state))[0], step, tuple(carry)))


CONTROL = {"cond": _cond, "scan": _scan, "while": _while}
