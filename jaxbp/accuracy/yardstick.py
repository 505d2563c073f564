"""What a census measures against: the float64 reference, itself certified on a sample, or certified values."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxbp.accuracy.exact import UncertifiedError, exact_vjp
from jaxbp.accuracy.points import argument_points
from jaxbp.accuracy.ulp import spacing
from jaxbp.op import Op

#: Random points, besides the hard ones, at which the reference is held against certified values.
CERTIFIED = 20_000
#: Points that are certified together; fewer are when one of them cannot be.
TOGETHER = 512

Quantities = tuple[np.ndarray, ...]


def quantities(op: Op) -> tuple[str, ...]:
    """What is measured of an op: its value and each cotangent."""
    return ("value", *(f"ct_{name}" for name in op.arguments))


def reference_values(op: Op, args: Quantities, options: Mapping[str, Any]) -> Quantities:
    """Value and cotangents for the cotangent 1 from the NumPy reference in float64."""
    with np.errstate(all="ignore"):
        wide = tuple(x.astype(np.float64) for x in args)
        ones = np.ones_like(wide[0])
        if op.reference_both:
            return op.reference_both(ones, *wide, **options)
        return (op.reference(*wide, **options), *op.reference_vjp(ones, *wide, **options))


def certified_values(op: Op, args: Quantities, options: Mapping[str, Any]) -> tuple[Quantities, np.ndarray]:
    """Value and cotangents for the cotangent 1 from `exact_vjp` as longdouble, and where they could be certified.

    Points that cannot be certified, such as a tie that no precision decides, are left out alone.
    """
    size = args[0].size
    exact = tuple(np.full(size, np.nan, np.longdouble) for _ in quantities(op))
    known = np.zeros(size, bool)
    waiting = [slice(i, min(i + TOGETHER, size)) for i in range(0, size, TOGETHER)]
    f = functools.partial(op.exact, **options)
    while waiting:
        part = waiting.pop()
        points = tuple(x[part] for x in args)
        try:
            y, cts = exact_vjp(f, points, np.ones_like(points[0]), extended=True)
        except UncertifiedError:
            middle = (part.start + part.stop) // 2
            if middle > part.start:
                waiting += [slice(part.start, middle), slice(middle, part.stop)]
            continue
        for out, values in zip(exact, (y, *cts), strict=True):
            out[part] = values
        known[part] = True
    return exact, known


def certify(op: Op, dtype: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """How far the float64 reference is from certified values, in ULP of the dtype, at sampled points of the dtype."""
    args = tuple(np.asarray(x) for x in argument_points(op, dtype, CERTIFIED))
    with np.errstate(invalid="ignore"):
        finite = np.all([np.isfinite(x.astype(np.float64)) for x in args], axis=0)
    args = tuple(x[finite] for x in args)
    exact, known = certified_values(op, args, options)
    worst = {}
    for name, reference, truth in zip(quantities(op), reference_values(op, args, options), exact, strict=True):
        reference, truth = reference[known], truth[known]
        with np.errstate(all="ignore"):
            error = np.abs(reference.astype(np.longdouble) - truth) / spacing(truth, jax.numpy.dtype(dtype))
        # Beyond the dtype's range the reference need only be beyond it, too.
        judged = np.isfinite(truth) & (np.abs(truth) <= float(jax.numpy.finfo(dtype).max))
        worst[name] = float(np.max(np.nan_to_num(error[judged], nan=np.inf), initial=0.0))
    return {"points": int(np.count_nonzero(known)), "max_ulp": worst}
