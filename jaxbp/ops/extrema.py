"""The largest and the smallest entry over axes: max, min, which here are the ops and not Python's."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import kept_shape, reduced_axes, spread
from jaxbp.cases import Case, Normal
from jaxbp.declaration import Kink, Rule, flops_per_entry
from jaxbp.op import Op
from jaxbp.promotion import widened

_SHAPES = (
    "x [...] -> y [...] without the axes that are reduced, or with length 1 there (`keepdims`), floating. `axis` is an "
    "int, a tuple of them, or None for all axes. Where an entry is NaN the value is NaN and the gradient 0; there has "
    "to be an entry. Subnormal entries tie with 0, as in XLA's comparisons."
)


def _cases():
    """Rows at three sizes, and the features of a network before they are pooled."""
    shapes = {"small": (32, 16), "cache": (256, 256), "memory": (4096, 1024), "resnet-features": (32, 7, 7, 2048)}
    return tuple(Case(name, (shape,), (Normal(),)) for name, shape in shapes.items())


def _is_extreme(x, y, axis):
    return x == y.reshape(kept_shape(x.shape, axis))


def _counter(x):
    """What counts the entries of x exactly: float32 is faster than whole numbers, but loses count at 2^24."""
    return jnp.float32 if x.size <= 2**24 else jnp.int32


def split_bwd(res, ct, *, axis=None, keepdims=False):
    x, y = res
    extreme = _is_extreme(x, y, axis)
    wide = widened(ct)
    one = _counter(x)(1)
    ties = jnp.sum(jnp.where(extreme, one, 0 * one), axis=axis, keepdims=True).astype(wide.dtype)
    share = (wide.reshape(ties.shape) / ties).astype(ct.dtype)
    return (jnp.where(extreme, share, 0),)


def _places(shape, axis, dtype):
    """The numbers of the entries along the axes that are reduced, in their order."""
    places = jnp.asarray(0, dtype)
    for i in reduced_axes(len(shape), axis):
        places = places * shape[i] + jax.lax.broadcasted_iota(dtype, shape, i)
    return jnp.broadcast_to(places, shape)


def first_bwd(res, ct, *, axis=None, keepdims=False):
    x, y = res
    dtype = _counter(x)
    places = _places(x.shape, axis, dtype)
    nowhere = dtype(x.size)
    first = jnp.min(jnp.where(_is_extreme(x, y, axis), places, nowhere), axis=axis, keepdims=True, initial=nowhere)
    return (jnp.where(places == first, spread(ct, x, axis), 0),)


def _rules(fwd):
    return (
        Rule("split", fwd, split_bwd, "Tied entries share equally. Keeps x and the output, and compares again."),
        Rule(
            "first", fwd, first_bwd, "The first of tied entries gets all. Keeps x and the output, and compares again."
        ),
    )


def _kinks(tied, other, why):
    return (
        Kink(
            ((tied, other, tied),),
            {"split": ((0.5, 0.0, 0.5),), "first": ((1.0, 0.0, 0.0),)},
            f"Equal shares are stock JAX's convention and that of torch.{why}; all to one of them is that of torch's "
            "reduction of one axis, which returns its index.",
        ),
    )


def _reference_vjp(ct, x, y, axis):
    extreme = x == y
    ties = np.sum(extreme, axis=axis, keepdims=True)
    return (np.where(extreme, ct.reshape(y.shape) / ties, 0),)


def max_fwd(x, *, axis=None, keepdims=False):
    y = jnp.max(x, axis=axis, keepdims=keepdims)
    return y, (x, y)


max = Op(
    name="max",
    summary=f"The largest entry over axes. {_SHAPES}",
    formula="max_i x_i; ct_x_i = ct 1(x_i = max(x)), shared at ties",
    rules=_rules(max_fwd),
    stock=lambda x, *, axis=None, keepdims=False: jnp.max(x, axis=axis, keepdims=keepdims),
    reference=lambda x, *, axis=None, keepdims=False: np.max(x, axis=axis, keepdims=keepdims),
    reference_vjp=lambda ct, x, *, axis=None, keepdims=False: _reference_vjp(
        ct, x, np.max(x, axis=axis, keepdims=True), axis
    ),
    kinks=_kinks(2.0, 1.0, "amax"),
    cases=_cases(),
    flops=flops_per_entry(1, 2),
    torch=lambda torch: lambda x, *, axis=None, keepdims=False: torch.amax(x, () if axis is None else axis, keepdims),
    source="The max gate of the CS231n notes, of many inputs: it routes the cotangent to the largest.",
    example=""">>> x = jnp.array([[1.0, 3.0, 3.0], [5.0, 4.0, 2.0]])
>>> y, (ct_x,) = jaxbp.max.value_and_vjp((x,), jnp.ones(2), axis=1)
>>> y.tolist(), ct_x.tolist()
([3.0, 5.0], [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
>>> jaxbp.max.rules["first"].value_and_vjp((x,), jnp.ones(2), axis=1)[1][0].tolist()
[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]""",
)


def min_fwd(x, *, axis=None, keepdims=False):
    y = jnp.min(x, axis=axis, keepdims=keepdims)
    return y, (x, y)


min = Op(
    name="min",
    summary=f"The smallest entry over axes. {_SHAPES}",
    formula="min_i x_i; ct_x_i = ct 1(x_i = min(x)), shared at ties",
    rules=_rules(min_fwd),
    stock=lambda x, *, axis=None, keepdims=False: jnp.min(x, axis=axis, keepdims=keepdims),
    reference=lambda x, *, axis=None, keepdims=False: np.min(x, axis=axis, keepdims=keepdims),
    reference_vjp=lambda ct, x, *, axis=None, keepdims=False: _reference_vjp(
        ct, x, np.min(x, axis=axis, keepdims=True), axis
    ),
    kinks=_kinks(1.0, 2.0, "amin"),
    cases=_cases(),
    flops=flops_per_entry(1, 2),
    torch=lambda torch: lambda x, *, axis=None, keepdims=False: torch.amin(x, () if axis is None else axis, keepdims),
    source="The max gate of the CS231n notes, of many inputs and mirrored.",
    example=""">>> y, (ct_x,) = jaxbp.min.value_and_vjp((jnp.array([2.0, 1.0, 1.0]),), 1.0)
>>> float(y), ct_x.tolist()
(1.0, [0.0, 0.5, 0.5])""",
)
