"""How a rule's cotangent gets back to the shape of an argument that was broadcast."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp


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
