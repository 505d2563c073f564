"""Products with a matrix transposed, without a transposed copy, of which each device would have to fetch its own."""

import jax


def rows_by_rows(a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    """a b^T: a [..., k], b [n, k] -> [..., n].

    >>> rows_by_rows(jax.numpy.ones((2, 3)), jax.numpy.ones((4, 3))).shape
    (2, 4)
    """
    return jax.lax.dot_general(a, b, (((a.ndim - 1,), (1,)), ((), ())), precision=precision)


def columns_by_columns(a: jax.Array, b: jax.Array, precision: jax.lax.PrecisionLike = None) -> jax.Array:
    """a^T b: a [m, k], b [m, n] -> [k, n].

    >>> columns_by_columns(jax.numpy.ones((2, 3)), jax.numpy.ones((2, 4))).shape
    (3, 4)
    """
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=precision)
