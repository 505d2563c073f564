"""What a wrong rule of the corpus is, and the proof that it is wrong, which knows nothing of the checker."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: An error counts as proven from this many units of the dtype's roundoff on, relative to the entry; rules that were
#: right would be off by a handful.
PROVEN = 64.0


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A wrong rule.

    Attributes:
        name: its own, as `sigmoid/sign_flipped`.
        op: what it is a rule of.
        f: the function with the wrong rule.
        truth: the same function, differentiated as it should be.
        args: an admissible input.
        kinds: words of which the checker's diagnosis should contain one.
        proof: what shows it: `gradient` and value; its `second order`; a `second call` with another cotangent after the
            first; a `zero cotangent`, a `large cotangent` or a `first output` that alone has one; `vmap` over the first
            argument, the others shared; `x64` turned on, with `shown_at` as they are; or `contract`: JAX raises, or a
            dtype is another.
        shown_at: the arguments at which it is shown, where it is right at `args`: of other shapes, with ties, large;
            the checker gets `args` alone.
        domain: by argument, as `args[0]`, the open interval that it has to lie in.
        level: the level of check that is enough to find it.
        entrywise: whether truth is right to a few units in each entry, as the ops are; else in the largest.
    """

    name: str
    op: str
    f: Callable[..., Any]
    truth: Callable[..., Any]
    args: tuple[Any, ...]
    kinds: tuple[str, ...]
    proof: str = "gradient"
    shown_at: tuple[Any, ...] = ()
    domain: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    level: str = "quick"
    entrywise: bool = True


def custom(primal: Callable[..., Any], fwd: Callable[..., Any], bwd: Callable[..., Any]) -> Callable[..., Any]:
    """A `jax.custom_vjp` function."""
    # Without the primal's defaults, which JAX would pass on to `fwd`.
    f = jax.custom_vjp(lambda *args: primal(*args))
    f.defvjp(fwd, bwd)
    return f


def value_and_vjp(
    f: Callable[..., Any], args: tuple[Any, ...], scale: float = 1.0, outputs: int | None = None
) -> list[np.ndarray]:
    """Value and gradients, flat, for a cotangent of +-[0.5, 1.5) times `scale`, 0 beyond so many outputs."""
    rng = np.random.default_rng(11)
    leaves, treedef = jax.tree.flatten(args)
    leaves = [jnp.asarray(x) for x in leaves]
    floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def of_floats(*xs: Any) -> Any:
        inputs = list(leaves)
        for i, x in zip(floats, xs, strict=True):
            inputs[i] = x
        return f(*jax.tree.unflatten(treedef, inputs))

    y, pull = jax.vjp(of_floats, *(leaves[i] for i in floats))
    cts = [
        jnp.asarray(scale * rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1, 1], x.shape), x.dtype)
        for x in jax.tree.leaves(y)
    ]
    cts = [ct if outputs is None or i < outputs else 0 * ct for i, ct in enumerate(cts)]
    grads = pull(jax.tree.unflatten(jax.tree.structure(y), cts))
    return [np.asarray(x) for x in (*jax.tree.leaves(y), *grads)]


def _off(got: list[np.ndarray], exact: list[np.ndarray], entrywise: bool) -> bool:
    """Whether an entry is off by more than `PROVEN` units of the truth, or is no number where that is one."""
    for a, b in zip(got, exact, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return True
        if not jnp.issubdtype(a.dtype, jnp.floating):
            continue
        finfo = jnp.finfo(a.dtype)
        x, y = a.astype(np.float64), b.astype(np.float64)
        normal = np.isfinite(y) & ((np.abs(y) > float(finfo.tiny)) | (y == 0))
        size = np.abs(y) if entrywise else np.max(np.abs(y), initial=0.0, where=np.isfinite(y))
        with np.errstate(invalid="ignore"):
            near = np.abs(x - y) <= PROVEN * float(finfo.eps) * size + float(finfo.tiny)
        if (normal & ~near).any():
            return True
    return False


def differs(mutant: Mutant) -> bool:
    """Whether the mutant is wrong at the arguments where it is shown, as its `proof` says."""
    args = mutant.shown_at or mutant.args
    try:
        if mutant.proof == "second call":
            value_and_vjp(mutant.f, args, 2.0)
        with jax.enable_x64(mutant.proof == "x64"):
            got, exact = (_shown(f, args, mutant.proof) for f in (mutant.f, mutant.truth))
    except (TypeError, ValueError):
        return mutant.proof in ("contract", "x64") or _shape_of(args) != _shape_of(mutant.args)
    return _off(got, exact, mutant.entrywise)


def _shape_of(args: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [np.shape(x) for x in jax.tree.leaves(args)]


def _shown(f: Callable[..., Any], args: tuple[Any, ...], proof: str) -> list[np.ndarray]:
    """The numbers by which a mutant is told from the truth."""
    if proof == "second order":
        return _second_order(f, args)
    if proof == "vmap":
        return value_and_vjp(_in_vmap(f, args), args)
    scale = {"zero cotangent": 0.0, "large cotangent": 3000.0}.get(proof, 1.0)
    return value_and_vjp(f, args, scale, 1 if proof == "first output" else None)


def _in_vmap(f: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """f of three first arguments and one of each other."""

    def mapped(first: Any, *shared: Any) -> Any:
        batch = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), first)
        return jax.vmap(f, (0, *[None] * len(shared)))(batch, *shared)

    return mapped


def _second_order(f: Callable[..., Any], args: tuple[Any, ...]) -> list[np.ndarray]:
    """The gradients of a weighted sum of all first gradients; an even one is constant where a shift changes nothing."""
    order = tuple(i for i, x in enumerate(args) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))

    def weighted(tree: Any) -> Any:
        weights = [1.5 + jnp.cos(i + jnp.arange(x.size)) for i, x in enumerate(jax.tree.leaves(tree))]
        return sum(jnp.sum(x.reshape(-1) * w) for x, w in zip(jax.tree.leaves(tree), weights, strict=True))

    def total(*xs: Any) -> Any:
        return weighted(f(*xs))

    def slopes(*xs: Any) -> Any:
        return weighted(jax.grad(total, order)(*xs))

    return [np.asarray(g) for g in jax.grad(slopes, order)(*(jnp.asarray(x) for x in args))]
