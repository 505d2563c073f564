"""How arguments and rules meet: narrow dtypes computed in float32, and mesh axes that all arguments vary over."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

NARROW = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))


def in_float32(fwd: Callable[..., Any], bwd: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A rule that computes in float32 where it is given float16 or bfloat16, and rounds once.

    Rounding after every operation would cost digits, and time too where the hardware only converts. Residuals are kept
    in the narrow dtype; those that are arguments stay the arguments themselves, which cost nothing.
    """

    def narrow(x: Any, dtype: Any, originals: Mapping[int, Any]) -> Any:
        return originals.get(id(x), x.astype(dtype) if jnp.result_type(x) == jnp.float32 else x)

    def wide(x: Any) -> Any:
        return x.astype(jnp.float32) if is_inexact(x) else x

    def fwd_wide(*args: Any) -> tuple[Any, Any]:
        dtype = jnp.result_type(next(filter(is_inexact, args), args[0]))
        if dtype not in NARROW:
            return fwd(*args)
        arrays = [jnp.asarray(x) for x in args]
        widened = [wide(x) for x in arrays]
        y, res = fwd(*widened)
        originals = {id(w): x for w, x in zip(widened, arrays, strict=True)}
        return y.astype(dtype), jax.tree.map(lambda x: narrow(x, dtype, originals), res)

    def bwd_wide(res: Any, ct: jax.Array) -> tuple[Any, ...]:
        if ct.dtype not in NARROW:
            return bwd(res, ct)
        return jax.tree.map(lambda x: x.astype(ct.dtype), bwd(jax.tree.map(wide, res), wide(ct)))

    return fwd_wide, bwd_wide


def vary_alike(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Under shard_map, let all arguments vary over the mesh axes that one of them varies over.

    JAX does so for its own functions, and sums the cotangent of a replicated argument over those axes; a custom VJP
    is left to do it itself.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in args]
    union = frozenset().union(*varying)
    if not union:
        return args
    return tuple(
        jax.lax.pcast(x, tuple(union - own), to="varying") if own != union else x
        for x, own in zip(args, varying, strict=True)
    )


def widened(x: jax.Array) -> jax.Array:
    """float32 of what is narrower, for rules that reduce over an axis: they compute with it and round once."""
    return x.astype(jnp.float32) if x.dtype in NARROW else x


def is_inexact(x: Any) -> bool:
    """Whether `x` is of a floating dtype and so has a gradient."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))
