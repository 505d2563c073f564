"""Products with a matrix transposed, without a transposed copy but of a narrow one, where that pays."""

import jax
import jax.numpy as jnp

from jaxbp.devices import on_processor

#: Columns of a narrow matrix, at most, and how many times as many the other one has, at least.
NARROW, WIDER = 256, 4


def rows_by_rows(a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    """a b^T: a [..., k], b [n, k] -> [..., n].

    >>> rows_by_rows(jnp.ones((2, 3)), jnp.ones((4, 3))).shape
    (2, 4)
    """
    return jax.lax.dot_general(a, b, (((a.ndim - 1,), (1,)), ((), ())), precision=precision)


def columns_by_columns(a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    """a^T b: a [m, k], b [m, n] -> [k, n].

    >>> columns_by_columns(jnp.ones((2, 3)), jnp.ones((2, 4))).shape
    (3, 4)
    """
    if b.shape[1] < a.shape[1]:
        # Up to 1.3 times faster in bfloat16 on a CPU.
        return _narrow_by_wide(b, a, precision, written_transposed=True).T
    return _narrow_by_wide(a, b, precision, written_transposed=False)


def _narrow_by_wide(
    a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike, *, written_transposed: bool
) -> jax.Array:
    (_, k), (_, n) = a.shape, b.shape
    is_narrow = k <= NARROW and n >= WIDER * k and (written_transposed or n >= NARROW)
    if not (is_narrow and a.dtype == b.dtype == jnp.float32 and on_processor()):
        return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=precision)
    # XLA's CPU backend has a library for products of float32 that lie as they are read, which is faster here. Behind
    # barriers, or XLA would have the transposed product as it was.
    y = jnp.matmul(jax.lax.optimization_barrier(a.T), b, precision=precision)
    return jax.lax.optimization_barrier(y) if written_transposed else y
