"""Does the rule say the same under jit, vmap, remat, scan, and in the second derivative?"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.accuracy.exact_control import is_float
from jaxbp.check.arithmetic import evaluate
from jaxbp.check.subject import Subject

Leaves = tuple[np.ndarray, ...]
#: Name of the transform, value and cotangents under it, and those of the truth's arguments that it stands for.
Transformed = tuple[str, Callable[[], tuple[list[Any], list[Any]]]]


def transformed(subject: Subject, cts: list[np.ndarray], level: str) -> Iterator[Transformed]:
    """Ways to the same value and cotangents of the subject's own leaves."""
    xs = (*subject.leaves, *cts)
    yield "without jit", lambda: subject.value_and_vjp(*xs)
    if level == "quick":
        return
    yield "grad of jit", lambda: _of(subject, jax.jit(subject.f)).value_and_vjp(*xs)
    yield "remat", lambda: _of(subject, jax.checkpoint(subject.f)).jitted(*xs)
    yield "scan", lambda: _in_scan(subject, xs)
    for batched in _subsets(subject, level):
        names = ", ".join(subject.names[i] for i in batched)
        yield f"vmap over {names}", lambda batched=batched: _in_vmap(subject, xs, batched)


def _of(subject: Subject, f: Callable[..., Any]) -> Subject:
    return Subject(f, subject.leaves, subject.treedef, subject.names, subject.shapes, subject.out_tree)


def _in_scan(subject: Subject, xs: tuple[np.ndarray, ...]) -> tuple[list[Any], list[Any]]:
    """The second of two steps of a scan."""
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), xs)
    _, (outs, grads) = jax.lax.scan(lambda carry, row: (carry, subject.value_and_vjp(*row)), None, stacked)
    return [x[1] for x in outs], [x[1] for x in grads]


def _in_vmap(subject: Subject, xs: tuple[np.ndarray, ...], batched: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """The second of three in a batch, the first and last of which are others; arguments not batched are shared.

    Cotangents of shared arguments come out one for each of the batch, as `jax.vmap` of a gradient gives them.
    """
    n = len(subject.leaves)

    def stack(x: np.ndarray) -> jax.Array:
        other = -x if is_float(x.dtype) else x
        return jnp.stack([jnp.asarray(other), jnp.asarray(x), jnp.asarray(other)])

    axes = [0 if i in batched or i >= n else None for i in range(len(xs))]
    inputs = [stack(x) if axis == 0 else x for x, axis in zip(xs, axes, strict=True)]
    outs, grads = jax.jit(jax.vmap(subject.value_and_vjp, in_axes=axes))(*inputs)
    return [x[1] for x in outs], [x[1] for x in grads]


def _subsets(subject: Subject, level: str) -> Iterator[tuple[int, ...]]:
    everything = tuple(range(len(subject.leaves)))
    yield everything
    if len(everything) == 1:
        return
    if level == "standard" or len(everything) > 4:
        yield from ((i,) for i in everything[:6])
        return
    for size in range(1, len(everything)):
        yield from itertools.combinations(everything, size)


def second_order(subject: Subject, cts: list[np.ndarray], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The gradient of a random combination of the cotangents: by the rule, and by the truth in float64."""
    rng = np.random.default_rng(seed)
    floats = subject.floats
    weights = [rng.normal(size=subject.leaves[i].shape) for i in floats]

    def combined(gradients: Callable[..., list[Any]], wide: bool) -> Callable[..., Any]:
        def of_floats(*xs: Any) -> Any:
            leaves = list(subject.leaves)
            for i, x in zip(floats, xs, strict=True):
                leaves[i] = x
            parts = zip(gradients(leaves), weights, strict=True)
            return sum(jnp.sum(g * (w if wide else jnp.asarray(w, g.dtype))) for g, w in parts)

        return jax.grad(of_floats, argnums=tuple(range(len(floats))))

    got = jax.jit(combined(lambda leaves: subject.value_and_vjp(*leaves, *cts)[1], False))(
        *(subject.leaves[i] for i in floats)
    )
    n_outs = len(subject.shapes)
    with jax.enable_x64(True):
        wide = [np.asarray(subject.leaves[i]).astype(np.float64) for i in floats]
        expected = jax.jit(combined(lambda leaves: evaluate(subject.program, (*leaves, *cts))[n_outs:], True))(*wide)
        expected = [np.asarray(x) for x in expected]
    return [np.asarray(x).astype(np.float64) for x in got], expected
