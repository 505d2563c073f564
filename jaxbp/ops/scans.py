"""Cumulative reductions along an axis: cumsum, cumlogsumexp."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import reduced_axes, shape_of
from jaxbp.cases import Case, Normal
from jaxbp.declaration import Rule, Shapes, flops_per_entry
from jaxbp.op import Op
from jaxbp.promotion import widened

#: The logarithm of the least sum, beside the largest entry of all, to which no entry that counts has vanished in float32.
_VANISHING = -60.0


def _cases(draw, name, *shape):
    """Rows at three sizes, and those of a model."""
    shapes = {"small": (8, 16), "cache": (256, 256), "memory": (4096, 1024), name: shape}
    return tuple(Case(case, (s,), (draw,)) for case, s in shapes.items())


def _along(x, axis):
    """The axis counted from the start, as jax.lax wants it."""
    return reduced_axes(x.ndim, axis)[0]


def cumsum_fwd(x, *, axis=None):
    return jnp.cumsum(widened(x), axis).astype(x.dtype), (shape_of(x),)


def cumsum_bwd(res, ct, *, axis=None):
    (x,) = res
    wide = widened(ct)
    sums = jax.lax.cumsum(wide, 0 if axis is None else _along(ct, axis), reverse=True)
    return (sums.astype(ct.dtype).reshape(x.shape),)


def cumsum_reference_vjp(ct, x, *, axis=None):
    if axis is None:
        return (np.cumsum(ct[::-1])[::-1].reshape(x.shape),)
    return (np.flip(np.cumsum(np.flip(ct, axis), axis), axis),)


def cumsum_terms(shapes: Shapes) -> tuple[int, ...]:
    return (math.prod(shapes[0]),) * 2


cumsum = Op(
    name="cumsum",
    summary="The sums of all entries up to each. x [...] -> y [...], floating; without `axis` of x flattened, [n]. "
    "float16 and bfloat16 are computed in float32.",
    formula="y_i = sum_{j <= i} x_j; ct_x_j = sum_{i >= j} ct_i",
    rules=(Rule("reverse", cumsum_fwd, cumsum_bwd, "Keeps nothing but the shape; adds up from the end."),),
    stock=lambda x, *, axis=None: jnp.cumsum(x, axis=axis),
    reference=lambda x, *, axis=None: np.cumsum(x, axis=axis),
    reference_vjp=cumsum_reference_vjp,
    cases=_cases(Normal(), "gpt2-vocabulary", 64, 50257),
    flops=flops_per_entry(1, 1),
    terms=cumsum_terms,
    torch=lambda torch: lambda x, *, axis=None: torch.cumsum(*((x.flatten(), 0) if axis is None else (x, axis))),
    source="The Jacobian is a triangle of ones; its transpose adds up from the other end.",
    example=""">>> y, (ct_x,) = jaxbp.cumsum.value_and_vjp((jnp.array([1.0, 2.0, 3.0]),), jnp.array([1.0, 10.0, 100.0]))
>>> y.tolist(), ct_x.tolist()
([1.0, 3.0, 6.0], [111.0, 110.0, 100.0])""",
)
