"""Shapes of arguments: how a rule's cotangent gets back to one that was broadcast, or reduced, and a single number."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

#: Which axes a reduction is over: one, several, or None for all.
Axis = int | tuple[int, ...] | None


class HasShape(Protocol):
    """Anything with a shape: an array, a tracer or a `Shape`."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape kept as a residual: static data, so that it costs no memory between forward and backward.

    >>> jax.tree.leaves(shape_of(jnp.ones((2, 3))))
    []
    """

    shape: tuple[int, ...]


def shape_of(x: jax.Array | float) -> Shape:
    """The shape of `x` as a residual without bytes, for rules that need nothing else of an argument."""
    return Shape(jnp.shape(x))


def require_number(name: str, x: jax.Array | float) -> None:
    """Raise a `ValueError` where the argument of that name is not a single number."""
    if shape := jnp.shape(x):
        raise ValueError(f"{name} must be one number, of shape [], got {list(shape)}; take its sum or mean.")


def sum_to(ct: jax.Array, like: HasShape) -> jax.Array:
    """Sum the cotangent `ct` over the axes along which `like` was broadcast; the result has `like`'s shape.

    Broadcasting copies one entry of an argument into many of the output, and where copies branch, gradients
    add. bfloat16 and float16 accumulate in float32 and are rounded once.

    >>> sum_to(jnp.ones((4, 2, 3)), Shape((2, 1)))
    Array([[12.],
           [12.]], dtype=float32)
    """
    if ct.shape == like.shape:
        return ct
    new_axes = ct.ndim - len(like.shape)
    stretched = (i + new_axes for i, n in enumerate(like.shape) if n == 1 and ct.shape[i + new_axes] != 1)
    return jnp.sum(ct, axis=(*range(new_axes), *stretched)).reshape(like.shape)


def reduced_axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The axes that `axis` means, counted from the start.

    >>> reduced_axes(3, (0, -1)), reduced_axes(2, None)
    ((0, 2), (0, 1))
    """
    return tuple(range(ndim)) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, ndim)


def kept_shape(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """`shape` with length 1 along the axes of a reduction: its result reshaped so broadcasts against its argument.

    >>> kept_shape((4, 2, 3), (0, -1))
    (1, 2, 1)
    """
    axes = reduced_axes(len(shape), axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def spread(ct: jax.Array, like: HasShape, axis: Axis) -> jax.Array:
    """The cotangent `ct` of a sum over `axis` given to every entry of `like` that was added: `sum_to` the other way.

    >>> spread(jnp.array([1.0, 2.0]), Shape((2, 3)), axis=1)
    Array([[1., 1., 1.],
           [2., 2., 2.]], dtype=float32)
    """
    return jnp.broadcast_to(ct.reshape(kept_shape(like.shape, axis)), like.shape)
