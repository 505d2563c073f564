"""The a-priori bound of sums of products: what rounding alone may do to them, in any order of adding up."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.engines import reference
from jaxbp.op import Op
from jaxbp.promotion import is_inexact


def a_priori_bounds(
    op: Op,
    args: tuple[np.ndarray, ...],
    ct: np.ndarray,
    options: Mapping[str, Any] = MappingProxyType({}),
    unit: float | None = None,
) -> tuple[np.ndarray | None, ...]:
    """The largest error that value and each cotangent may have; None each for an op that is no sum of products.

    Formula: gamma_n sum |a_i| |b_i|, with gamma_n = n u / (1 - n u), n terms as in `Op.terms`, and the unit roundoff u,
    that of the cotangent's dtype if `unit` is not given (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1). Cancellation makes the error in ULP of a sum as large as it likes; as a fraction of this bound it is
    at most 1 if nothing but rounding went wrong. Infinite from n u = 1 on.

    >>> import jaxbp
    >>> a, b, ct = np.float32([[1e8, 1, -1e8]]), np.ones((3, 1), np.float32), np.ones((1, 1), np.float32)
    >>> bounds = a_priori_bounds(jaxbp.matmul, (a, b), ct)
    >>> bool(abs(jaxbp.matmul(a, b) - 1) <= bounds[0])
    True
    """
    if op.terms is None:
        return (None,) * (1 + len(args))
    u = float(jnp.finfo(ct.dtype).eps) / 2 if unit is None else unit
    magnitudes = tuple(np.abs(x) if is_inexact(x) else x for x in args)
    y, cts = reference(op, magnitudes, np.abs(ct), **options)
    terms = op.terms(tuple(x.shape for x in args))
    gammas = (n * u / (1 - n * u) if n * u < 1 else np.inf for n in terms)
    return tuple(None if x is None else gamma * x for gamma, x in zip(gammas, (y, *cts), strict=True))
