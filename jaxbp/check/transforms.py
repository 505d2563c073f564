"""Does the rule say the same under jit, vmap, remat, scan, and in the second derivative?"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxbp.accuracy.exact_control import is_float
from jaxbp.check.arithmetic import Rounding, evaluate
from jaxbp.check.compare import compare
from jaxbp.check.subject import Subject

Leaves = tuple[np.ndarray, ...]
#: Name of the transform, value and cotangents under it, and those of the truth's arguments that it stands for.
Transformed = tuple[str, Callable[[], tuple[list[Any], list[Any]]]]


def transformed(subject: Subject, cts: list[np.ndarray], level: str) -> Iterator[Transformed]:
    """Ways to the same value and cotangents of the subject's own leaves."""
    # JAX's own arrays, as a rule gets them: NumPy's have no `.at`.
    xs = tuple(map(jnp.asarray, (*subject.leaves, *cts)))
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


def _in_scan(subject: Subject, xs: tuple[jax.Array, ...]) -> tuple[list[Any], list[Any]]:
    """The second of two steps of a scan."""
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), xs)
    _, (outs, grads) = jax.lax.scan(lambda carry, row: (carry, subject.value_and_vjp(*row)), None, stacked)
    return [x[1] for x in outs], [x[1] for x in grads]


def _in_vmap(subject: Subject, xs: tuple[jax.Array, ...], batched: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    """The second of three in a batch, the first and last of which are others; arguments not batched are shared.

    Cotangents of shared arguments come out one for each of the batch, as `jax.vmap` of a gradient gives them.
    """
    n = len(subject.leaves)

    def stack(x: jax.Array) -> jax.Array:
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
    """The gradient of a random combination of the cotangents: by the rule, and by the truth in float64.

    Where rounding alone, or overflow, may be all that is wrong with the rule's, the truth stands in its place.
    """
    rng = np.random.default_rng(seed)
    floats = subject.floats
    weights = [rng.normal(size=subject.leaves[i].shape) for i in floats]
    program, n_outs = jaxpr_as_fun(subject.program), len(subject.shapes)

    def gradient_of(gradients: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
        def combined(*xs: Any) -> Any:
            leaves = list(subject.leaves)
            for i, x in zip(floats, xs, strict=True):
                leaves[i] = x
            parts = zip(gradients(leaves), weights, strict=True)
            return sum(jnp.sum(g * jnp.asarray(w, g.dtype)) for g, w in parts)

        return jax.grad(combined, argnums=tuple(range(len(floats))))

    own = tuple(jnp.asarray(subject.leaves[i]) for i in floats)
    got = jax.jit(gradient_of(lambda leaves: subject.value_and_vjp(*leaves, *cts)[1]))(*own)
    truth = gradient_of(lambda leaves: program(*leaves, *cts)[n_outs:])
    closed, in_its_dtype = jax.make_jaxpr(truth)(*own), jax.jit(truth)(*own)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        wide = [np.asarray(x).astype(np.float64) for x in own]
        expected = [np.asarray(x) for x in jax.jit(lambda *xs: evaluate(closed, xs))(*wide)]
        phases = jnp.asarray(np.random.default_rng(seed).random(4))
        noise = jax.jit(jax.vmap(lambda phase, *xs: evaluate(closed, xs, Rounding(phase)), (0, *[None] * len(wide))))
        noisy = [np.asarray(x) for x in noise(phases, *wide)]
        found = [compare(np.asarray(g), e, s) for g, e, s in zip(got, expected, noisy, strict=True)]
    return [
        np.where(c.wrong & np.isfinite(np.asarray(o)), c.got, c.expected)
        for c, o in zip(found, in_its_dtype, strict=True)
    ], expected
