"""What XLA's CPU backend computes in one loop, and what in a loop of its own, where its own choice costs time.

It has a library for sums, into which goes the arithmetic before one, back to what the library does not know: choices
and bits. Each array there is written to memory, and in the midst of a formula there are several: `whole` keeps it in
one piece. And what two loops need it computes in both, unless there is something in it that it counts as expensive:
`once` is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Var

from jaxbp.devices import on_processor
from jaxbp.jaxprs import CALLS, called_jaxpr, equations
from jaxbp.promotion import is_inexact

#: Every formula of an elementwise rule that the library does not know whole has one of these.
_UNKNOWN = {"select_n", "bitcast_convert_type", "reduce_precision"}


def whole(y: jax.Array, x: jax.Array) -> jax.Array:
    """y, as something that the library does not know, and that costs nothing; x is what y is computed from, or a part.

    >>> whole(jnp.float32([2.0, jnp.nan]), jnp.float32(-jnp.inf)).tolist()
    [2.0, nan]
    """
    if not on_processor():
        return y
    # That nothing is less than -infinity knows LLVM, which compiles loops, and not XLA, which chooses what is fused.
    # A choice between arrays it computes once, though there are several sums, or a gradient that needs it too.
    return jax.lax.select(jnp.broadcast_to(x < -jnp.inf, y.shape), jnp.zeros_like(y), y)


def once(y: jax.Array) -> jax.Array:
    """y, as something that XLA's CPU backend computes once for all loops that need it, and that costs nothing.

    >>> once(jnp.float32([2.0, jnp.nan])).tolist()
    [2.0, nan]
    """
    if not on_processor():
        return y
    # Divisions count as expensive. That this one is by 1 knows LLVM alone, as in `whole`.
    return y / jax.lax.select(y < -jnp.inf, jnp.zeros_like(y), jnp.ones_like(y))


def in_one_piece(fwd: Callable[..., Any], bwd: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An elementwise rule whose value and cotangents are computed whole, and then added by a sum that follows.

    Formulas that the library knows stay as they are: nothing of them is written.
    """
    # What is seen once holds for all shapes.
    cut_up: dict[tuple[Callable[..., Any], np.dtype], list[bool]] = {}

    def is_cut_up(f: Callable[..., Any], dtype: np.dtype, *args: Any) -> list[bool]:
        """Of each result of a pass, for arguments of that dtype."""
        if (f, dtype) not in cut_up:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), args)
            cut_up[f, dtype] = _cut_up(jax.make_jaxpr(f)(*shapes))
        return cut_up[f, dtype]

    def fwd_whole(*args: Any) -> tuple[Any, Any]:
        y, res = fwd(*args)
        if not is_inexact(y) or not is_cut_up(fwd, y.dtype, *args)[0]:
            return y, res
        in_parts, y = y, whole(y, next(filter(is_inexact, args)))
        return y, jax.tree.map(lambda x: y if x is in_parts else x, res)

    def bwd_whole(res: Any, ct: jax.Array) -> tuple[Any, ...]:
        cts, tree = jax.tree.flatten(bwd(res, ct))
        found = zip(cts, is_cut_up(bwd, ct.dtype, res, ct), strict=True)
        return tree.unflatten(whole(x, ct) if cut and x.shape == ct.shape else x for x, cut in found)

    return fwd_whole, bwd_whole


def _cut_up(jaxpr: ClosedJaxpr) -> list[bool]:
    """Of each result: whether the library knows how it ends, but not all that leads to it."""
    unknown = any(eqn.primitive.name in _UNKNOWN for eqn in equations(jaxpr))
    return [unknown and _ends_known(jaxpr, i) for i in range(len(jaxpr.jaxpr.outvars))]


def _ends_known(jaxpr: ClosedJaxpr, i: int) -> bool:
    result = jaxpr.jaxpr.outvars[i]
    for eqn in jaxpr.jaxpr.eqns:
        if isinstance(result, Var) and result in eqn.outvars:
            if eqn.primitive.name in CALLS:
                return _ends_known(called_jaxpr(eqn), eqn.outvars.index(result))
            return eqn.primitive.name not in _UNKNOWN
    return False  # An argument, or a constant.
