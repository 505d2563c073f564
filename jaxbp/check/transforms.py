"""The same value and VJP under jit, vmap, remat, scan, x64 and on several devices, and the second derivative."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxbp.check.arithmetic import evaluate
from jaxbp.check.compare import SAFETY, Comparison, compare
from jaxbp.check.reference import UNOPTIMIZED, Reference, in_float64
from jaxbp.check.rounding import Rounding
from jaxbp.check.subject import Leaves, Subject
from jaxbp.check.trials import stream
from jaxbp.jaxprs import is_float

#: From `(*leaves, *cts)` to value and cotangents.
Run = Callable[..., tuple[list[Any], list[Any]]]
#: Draws of noise that tell rounding from a second derivative that is wrong.
NOISY = 4
#: How far a second derivative may be off, as a share of the largest.
COARSE = 0.05


def quickly(f: Callable[..., Any]) -> Callable[..., Any]:
    """f compiled to be run a few times."""
    return jax.jit(f, compiler_options=UNOPTIMIZED if jax.default_backend() == "cpu" else None)


def transforms(subject: Subject, level: str, within: Collection[str] = ()) -> Iterator[tuple[str, Run]]:
    """Ways to the same value and cotangents; the arguments named in `within` stay within their domain."""
    if level == "quick":
        return
    yield "no jit", subject.value_and_vjp
    yield "grad of jit", subject.of(jax.jit(subject.f)).value_and_vjp
    yield "remat", quickly(subject.of(jax.checkpoint(subject.f)).value_and_vjp)
    yield "scan", quickly(lambda *xs: _in_scan(subject, xs))
    for batched in _subsets(subject, level):
        names = ", ".join(subject.names[i] for i in batched)
        yield f"vmap over {names}", quickly(lambda *xs, batched=batched: _in_vmap(subject, xs, batched, within))
    if not jax.config.read("jax_enable_x64") and _runs_in_x64(subject):
        yield "x64", _in_x64(subject)
    if len(jax.local_devices()) > 1:
        yield f"sharding over {len(jax.local_devices())} devices", _sharded(subject)


def _in_scan(subject: Subject, xs: tuple[jax.Array, ...]) -> tuple[list[Any], list[Any]]:
    """The second of two steps of a scan."""
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), xs)
    _, (outs, grads) = jax.lax.scan(lambda carry, row: (carry, subject.value_and_vjp(*row)), None, stacked)
    return [x[1] for x in outs], [x[1] for x in grads]


def _in_vmap(
    subject: Subject, xs: tuple[jax.Array, ...], batched: tuple[int, ...], within: Collection[str]
) -> tuple[list[Any], list[Any]]:
    """The second of three in a batch, the first and last of which are others; arguments not batched are shared.

    Cotangents of shared arguments come out one for each of the batch, as `jax.vmap` of a gradient gives them.
    """
    n = len(subject.leaves)

    def stack(i: int, x: jax.Array) -> jax.Array:
        other = -x if is_float(x.dtype) else x
        if i < n and subject.names[i] in within:
            other = jnp.flip(x)
        return jnp.stack([other, x, other])

    axes = [0 if i in batched or i >= n else None for i in range(len(xs))]
    inputs = [stack(i, x) if axis == 0 else x for i, (x, axis) in enumerate(zip(xs, axes, strict=True))]
    outs, grads = jax.vmap(subject.value_and_vjp, in_axes=axes)(*inputs)
    return [x[1] for x in outs], [x[1] for x in grads]


def _subsets(subject: Subject, level: str) -> Iterator[tuple[int, ...]]:
    everything = tuple(range(len(subject.leaves)))
    yield everything
    if len(everything) == 1:
        return
    if level == "standard" or len(everything) > 4:
        yield from ((i,) for i in everything[:4])
        return
    for size in range(1, len(everything)):
        yield from itertools.combinations(everything, size)


def _runs_in_x64(subject: Subject) -> bool:
    """Whether the function itself can be called with x64 on."""
    with jax.enable_x64(True):
        try:
            jax.eval_shape(subject.flat, *subject.leaves)
        except (TypeError, ValueError):
            return False
    return True


def _in_x64(subject: Subject) -> Run:
    compiled = quickly(subject.value_and_vjp)

    def run(*xs: Any) -> tuple[list[Any], list[Any]]:
        n = len(subject.leaves)
        with jax.enable_x64(True):
            # Outputs may be float64 there; they are judged as what they are without.
            wide = jax.eval_shape(subject.flat, *xs[:n])
            dtypes = [wide[i].dtype for i in subject.float_outs]
            cts = [ct.astype(dtype) for ct, dtype in zip(xs[n:], dtypes, strict=True)]
            outs, grads = compiled(*xs[:n], *cts)
        outs = [np.asarray(x).astype(s.dtype) for x, s in zip(outs, subject.shapes, strict=True)]
        return outs, grads

    return run


def _sharded(subject: Subject) -> Run:
    """Arguments and cotangents split over all devices along their first axes, where these can be divided."""
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("devices",), devices=devices)

    def split(x: Any) -> Any:
        divided = x.ndim and x.shape[0] and x.shape[0] % len(devices) == 0
        spec = jax.sharding.PartitionSpec("devices" if divided else None)
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    return lambda *xs: subject.jitted(*map(split, xs))


class SecondOrder:
    """The gradient of a random combination of the cotangents: by the rule, and by the truth in float64."""

    def __init__(self, reference: Reference) -> None:
        subject, self.floats = reference.subject, reference.subject.floats
        self.leaves = subject.leaves
        program, n_outs = jaxpr_as_fun(reference.program), len(subject.shapes)
        self.own = tuple(jnp.asarray(self.leaves[i]) for i in self.floats)
        self.by_rule = quickly(self._gradient_of(lambda leaves, cts: subject.value_and_vjp(*leaves, *cts)[1]))
        truth = self._gradient_of(lambda leaves, cts: program(*leaves, *cts)[n_outs:])
        weights = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.own]
        cts = [jax.ShapeDtypeStruct(subject.shapes[i].shape, subject.shapes[i].dtype) for i in subject.float_outs]
        closed, tree = jax.make_jaxpr(truth), (self.own, weights, cts)
        self.closed = closed(*tree)
        self.in_its_dtype = quickly(truth)
        self.truth = in_float64(lambda *xs: evaluate(self.closed, xs))
        self.noisy = in_float64(
            lambda phases, *xs: jax.vmap(lambda phase: evaluate(self.closed, xs, Rounding(phase)))(phases)
        )

    def _gradient_of(self, gradients: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
        def combined(xs: Any, weights: Any, cts: Any) -> Any:
            leaves: list[Any] = list(self.leaves)
            for i, x in zip(self.floats, xs, strict=True):
                leaves[i] = x
            return sum(jnp.sum(g * w) for g, w in zip(gradients(leaves, cts), weights, strict=True))

        return jax.grad(combined)

    def __call__(self, cts: Sequence[np.ndarray], seed: int) -> list[Comparison]:
        """The comparisons of both; an entry is wrong if rounding cannot explain it, nor overflow.

        The second derivative is compared coarsely: of a rule that is right at first order only it is off by all of it.
        """
        rng = stream(seed, "second order")
        weights = [np.asarray(rng.normal(size=x.shape)).astype(x.dtype) for x in self.own]
        arguments = (self.own, weights, list(cts))
        got = [np.asarray(g) for g in self.by_rule(*arguments)]
        flat: Leaves = tuple(map(np.asarray, jax.tree.leaves(arguments)))
        expected = self.truth(*flat)
        found = [_coarsely(g, e, np.zeros((1, *e.shape))) for g, e in zip(got, expected, strict=True)]
        if any(c.wrong.any() for c in found):
            noisy, own = self.noisy(rng.random(NOISY), *flat), self.in_its_dtype(*arguments)
            found = [
                _coarsely(g, e, s - e).where(np.isfinite(np.asarray(o)))
                for g, e, s, o in zip(got, expected, noisy, own, strict=True)
            ]
        return found


def _coarsely(got: np.ndarray, expected: np.ndarray, noise: np.ndarray) -> Comparison:
    """Compare, allowing for a share of the largest entry besides the noise."""
    largest = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    coarse = COARSE * largest / SAFETY + np.finfo(np.float32).tiny
    return compare(got, expected, expected + np.abs(noise) + coarse)
