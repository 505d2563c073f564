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

from jaxbp.check.rounding import LINEAR_ALGEBRA, Rounding, error_size, unit
from jaxbp.errors import UsageError
from jaxbp.jaxprs import CALLS, called_jaxpr, closed_jaxpr, is_float, is_inexact, place, scan_parts

#: Primitives that look at a float's bits or neighbours, which are others in float64.
OF_THE_DTYPE = frozenset(("bitcast_convert_type", "nextafter"))
WIDE = {jnp.dtype(jnp.complex64): jnp.dtype(jnp.complex128)}


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
    """Floats as float64, complex numbers as complex128; everything else as it is."""
    if not isinstance(x, jax.Array | np.ndarray):
        x = jnp.asarray(x, getattr(x, "dtype", None))
    dtype = _wide_dtype(x.dtype)
    return x if dtype == x.dtype else x.astype(dtype)


def _wide_dtype(dtype: Any) -> Any:
    return jnp.dtype(jnp.float64) if is_float(dtype) else WIDE.get(dtype, dtype)


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


def _apply(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    name = eqn.primitive.name
    if name in CALLS:
        return evaluate(called_jaxpr(eqn), values, rounding)
    if name in CONTROL:
        return CONTROL[name](eqn, values, rounding)
    if name in OF_THE_DTYPE and any(is_float(v.aval.dtype) for v in eqn.invars):
        raise UsageError(
            f"The function looks at the bits of its floats ({name}{_at(eqn)}), so it cannot be evaluated in float64; "
            "check the parts of it that do not."
        )
    if rounding and name in LINEAR_ALGEBRA:
        values = [_perturbed(x, v.aval, rounding) for x, v in zip(values, eqn.invars, strict=True)]
    outs = [values[0]] if name == "reduce_precision" else _bound(eqn, values)
    if rounding is None:
        return outs
    sizes = [error_size(eqn, values, x, v.aval.dtype, _first_bound) for x, v in zip(outs, eqn.outvars, strict=True)]
    return [x if size is None else rounding(x, size) for x, size in zip(outs, sizes, strict=True)]


def _perturbed(x: Any, aval: Any, rounding: Rounding) -> Any:
    """A matrix off by what a backward-stable algorithm may make of it."""
    if not is_inexact(aval.dtype) or x.ndim < 2:
        return x
    axes = (-2, -1)
    size = unit(aval.dtype) * max(x.shape[-2:]) * jnp.max(jnp.abs(x), axes, keepdims=True, initial=0)
    return rounding(x, jnp.broadcast_to(size, x.shape) * (x != 0))


def _first_bound(eqn: Any, values: list[Any]) -> Any:
    return _bound(eqn, values)[0]


def _bound(eqn: Any, values: list[Any]) -> list[Any]:
    """The primitive's results, in float64."""
    name, params = eqn.primitive.name, dict(eqn.params)
    # A float that is made of given bits has them in its own dtype alone.
    if name != "bitcast_convert_type":
        params = {key: _widened(value) for key, value in params.items()}
    try:
        if name in SCATTERS:
            # The primitive carries a jaxpr of the combining function in the original dtype.
            kept = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            return [SCATTERS[name](*values, **{key: params[key] for key in kept})]
        found = eqn.primitive.bind(*values, **params)
    except (TypeError, ValueError, NotImplementedError, LookupError) as error:
        raise UsageError(
            f"The function uses {name}{_at(eqn)}, which cannot be evaluated in float64 "
            f"({' '.join(str(error).split())[:120]}); check the parts of it that do not."
        ) from error
    return [wide(x) for x in (found if eqn.primitive.multiple_results else [found])]


def _at(eqn: Any) -> str:
    where = place(eqn)
    return f", {where}" if where else ""


SCATTERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("scatter-add", "scatter_add"), lax.scatter_add),
    **dict.fromkeys(("scatter-mul", "scatter_mul"), lax.scatter_mul),
    **dict.fromkeys(("scatter-min", "scatter_min"), lax.scatter_min),
    **dict.fromkeys(("scatter-max", "scatter_max"), lax.scatter_max),
    "scatter": lax.scatter,
}


def _widened(value: Any) -> Any:
    """A parameter: dtypes of floats become float64."""
    try:
        return _wide_dtype(jnp.dtype(value)) if isinstance(value, np.dtype | type) else value
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
    n_consts, n_carry = scan_parts(eqn, values)
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


def _while(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test, body = closed_jaxpr(eqn.params["cond_jaxpr"]), closed_jaxpr(eqn.params["body_jaxpr"])
    for_test, for_body, carry = values[:n_test], values[n_test : n_test + n_body], values[n_test + n_body :]
    batched = bool(test.out_avals[0].shape)

    def going(state: Any) -> Any:
        return evaluate(test, (*for_test, *state))[0]

    def step(state: Any) -> Any:
        moved = evaluate(body, (*for_body, *state), rounding and rounding.inside(rounding.phase))
        if not batched:
            return tuple(moved)
        # A loop under vmap: those that have stopped stay where they are.
        goes = going(state)
        return tuple(
            jnp.where(goes.reshape(goes.shape + (1,) * (x.ndim - goes.ndim)), x, y)
            for x, y in zip(moved, state, strict=True)
        )

    return list(lax.while_loop(lambda state: jnp.any(going(state)) if batched else going(state), step, tuple(carry)))


def _linear_solve(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    """The solution, by the solver that was given with the equation; its constants follow those of three others."""
    before, n = 0, 0
    for name, length in zip(eqn.params["const_lengths"]._fields, eqn.params["const_lengths"], strict=True):
        if name == "solve":
            n = length
            break
        before += length
    right_sides = values[sum(eqn.params["const_lengths"]) :]
    return evaluate(eqn.params["jaxprs"].solve, (*values[before : before + n], *right_sides), rounding)


def _linear_call(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    return evaluate(eqn.params["callee"], values, rounding)


def _shard_map(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    """What one device does, where there is but one."""
    if eqn.params["mesh"].size != 1:
        raise UsageError(
            f"The function is split over several devices (shard_map{_at(eqn)}); check it on a mesh of one."
        )
    return evaluate(closed_jaxpr(eqn.params["jaxpr"]), values, rounding)


def _collective(eqn: Any, values: list[Any], rounding: Rounding | None) -> list[Any]:
    """A reduction over devices, of which there is one, and over axes that `vmap` has put in the place of names."""
    axes = tuple(axis for axis in eqn.params.get("axes", ()) if isinstance(axis, int))
    if not axes:
        return values
    reduce = {"pmax": jnp.max, "pmin": jnp.min}.get(eqn.primitive.name, jnp.sum)
    reduced = [reduce(x, axes) for x in values]
    if rounding and reduce is jnp.sum:
        terms = math.prod(eqn.invars[0].aval.shape[axis] for axis in axes)
        units = [unit(v.aval.dtype) * (1 + math.log2(terms)) if is_inexact(v.aval.dtype) else 0 for v in eqn.invars]
        reduced = [rounding(y, u * jnp.sum(jnp.abs(x), axes)) for x, y, u in zip(values, reduced, units, strict=True)]
    return reduced


CONTROL = {
    "cond": _cond,
    "scan": _scan,
    "while": _while,
    "custom_linear_solve": _linear_solve,
    "linear_call": _linear_call,
    "shard_map": _shard_map,
    **dict.fromkeys(("psum", "psum2", "psum_invariant", "pmax", "pmin", "pbroadcast", "pvary", "pcast"), _collective),
}
