"""The ways in which an op meets several devices: how its arguments lie on them, and who divides the work."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.engines import reference, value_and_cotangents
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.promotion import is_inexact

#: The axis of the mesh.
AXIS = "devices"
#: Among so many devices the cases can be divided; one is what the others are compared with.
DEVICES = (1, 2, 4, 8)
#: Examples of those ways that have some.
EXAMPLES = max(DEVICES)

#: The unit roundoff of float32.
UNIT = float(np.finfo(np.float32).eps) / 2

#: By name, what the reports say of it.
WAYS = {
    "first": "jit divides the work: each array is cut along its first axis of a fitting length",
    "last": "jit divides the work: each array is cut along its last axis of a fitting length",
    "vmap": "jit and vmap with spmd_axis_name: examples lie on the devices",
    "shard_map": "shard_map: each device has its own examples",
    "replicated": "shard_map: each device has its own examples of the first argument, and all have the others, whose "
    "cotangents are summed over the devices",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """An op at work in one way.

    Attributes:
        args: all of the data, as NumPy arrays.
        ct: the cotangent of the output, likewise; its entries are powers of 2, which round nothing.
        exact: value and cotangents, None for those of integers.
        bounds: of these, the largest error that rounding can make of them, if that is known; else None.
        single: of these, which depend on one entry of each argument alone.
        specs: how each argument lies on the mesh; its cotangent lies likewise.
        ct_spec: how the output and its cotangent do.
        spread: from the op, the function of all data, given the mesh; None for one device.
        own: of which arguments each example has its own; None where there are no examples.
    """

    args: tuple[np.ndarray, ...]
    ct: np.ndarray
    exact: tuple[np.ndarray | None, ...]
    bounds: tuple[np.ndarray | None, ...]
    single: tuple[bool, ...]
    specs: tuple[P, ...]
    ct_spec: P
    spread: Callable[[Callable[..., Any], Mesh | None], Callable[..., Any]]
    own: tuple[bool, ...] | None = None


def pose(op: Op, way: str, devices: int) -> Problem:
    """The problem of an op in one of `WAYS`."""
    return _cut(op, way, devices) if way in ("first", "last") else _examples(op, way, devices)


def mesh_of(devices: int) -> Mesh:
    """The first so many devices in a row."""
    types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), (AXIS,), axis_types=types, devices=jax.devices()[:devices])


def place(mesh: Mesh, spec: P, x: np.ndarray) -> jax.Array:
    """An array on the devices of a mesh, some of which may belong to other processes that place it, too."""
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])


def powers_of_two(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A cotangent that rounds nothing."""
    return np.asarray(rng.choice(np.array([-2, -1, -0.5, 0.5, 1, 2], np.float32), shape))


def _cut(op: Op, way: str, devices: int) -> Problem:
    rng = np.random.default_rng(devices)
    args = op.case("cache").drawn(rng, np.dtype("float32"))
    ct = powers_of_two(rng, op.output(args, {}).shape)
    y, cts = reference(op, args, ct)

    def spec(shape: tuple[int, ...]) -> P:
        fitting = [i for i, n in enumerate(shape) if n % devices == 0 and n >= devices]
        if not fitting:
            return P()
        axis = fitting[0 if way == "first" else -1]
        return P(*(AXIS if i == axis else None for i in range(len(shape))))

    specs = tuple(spec(x.shape) for x in args)
    if devices > 1 and not any(AXIS in s for s in specs):
        raise ValueError(f"{op.name}: no argument has an axis that {devices} devices can share.")
    single = tuple(op.elementwise and shape == ct.shape for shape in (ct.shape, *(x.shape for x in args)))
    bounds = _bounds(op, args, ct)
    return Problem(args, ct, (y, *cts), bounds, single, specs, spec(ct.shape), lambda f, mesh: f)


def _examples(op: Op, way: str, devices: int) -> Problem:
    rng = np.random.default_rng(devices)
    n = EXAMPLES
    case, dtype = op.case("small"), np.dtype("float32")
    each = [case.drawn(rng, dtype) for _ in range(n)]
    own = tuple(way != "replicated" or i == 0 for i in range(len(op.arguments)))
    if len(own) > 1 and way == "replicated":
        each = [(first, *each[0][1:]) for first, *_ in each]
    ct = powers_of_two(rng, (n, *op.output(each[0], {}).shape))
    results = [reference(op, args, c) for args, c in zip(each, ct, strict=True)]
    exact = gathered(own, [(y, *cts) for y, cts in results])
    bounds = [_bounds(op, args, c) for args, c in zip(each, ct, strict=True)]
    columns = zip(own, zip(*each, strict=True), strict=True)
    args = tuple(np.stack(column) if of_each else column[0] for of_each, column in columns)
    specs = tuple(P(AXIS) if of_each else P() for of_each in own)
    axes = tuple(0 if of_each else None for of_each in own)
    single = tuple(op.elementwise and x.shape == ct.shape for x in (ct, *args))

    def spread(f: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
        if mesh is None:
            return jax.vmap(f, in_axes=axes)
        if way == "vmap":
            return jax.vmap(f, in_axes=axes, spmd_axis_name=AXIS)
        return jax.shard_map(jax.vmap(f, in_axes=axes), mesh=mesh, in_specs=specs, out_specs=P(AXIS))

    return Problem(args, ct, exact, _bounds_of_all(own, bounds, results), single, specs, P(AXIS), spread, own)


def gathered(own: tuple[bool, ...], results: list[tuple[Any, ...]]) -> tuple[np.ndarray | None, ...]:
    """Value and cotangents of all examples: of an argument that all of them share, the sum in their precision."""

    def gather(of_each: bool, parts: tuple[Any, ...]) -> np.ndarray | None:
        if parts[0] is None:
            return None
        return np.stack(parts) if of_each else functools.reduce(np.add, parts)

    return tuple(map(gather, (True, *own), zip(*results, strict=True)))


def _bounds(op: Op, args: tuple[np.ndarray, ...], ct: np.ndarray) -> tuple[np.ndarray | None, ...]:
    """The largest error of value and cotangents: a priori, or as the rule states it of each entry; None if unknown."""
    stated = op.default_rule.rule.accuracy
    if stated is None or not op.elementwise:
        return a_priori_bounds(op, args, ct)
    y, cts = reference(op, tuple(np.broadcast_to(x, ct.shape) for x in args), ct)
    names, likes = ("value", *(f"ct_{a}" for a in op.arguments)), (ct, *args)

    def bound(name: str, entries: np.ndarray | None, like: np.ndarray) -> np.ndarray | None:
        if entries is None:
            return None
        # A result below the normal numbers may be 0.
        each = _ulp(entries) * stated.bound(np.float32, name) + float(np.finfo(np.float32).tiny)
        # Of an argument that is broadcast the cotangents are added up.
        added = entries.size // max(1, like.size)
        return numpy_sum_to(each + (added - 1) * UNIT * np.abs(entries), like)

    return tuple(map(bound, names, (y, *cts), likes))


def _ulp(x: Any) -> Any:
    """The unit in the last place of float32 at each entry."""
    with np.errstate(over="ignore"):
        return np.spacing(np.abs(x).astype(np.float32)).astype(np.float64)


def _bounds_of_all(own, bounds, results):
    """The bounds of what all examples give: of a sum over them, with what its own additions may round."""
    if bounds[0][0] is None:
        return bounds[0]
    n = len(bounds)
    magnitudes = gathered(own, [tuple(x if x is None else np.abs(x) for x in (y, *cts)) for y, cts in results])
    return tuple(
        bound if bound is None or of_each else bound + n * UNIT * np.asarray(magnitude)
        for of_each, bound, magnitude in zip((True, *own), gathered(own, bounds), magnitudes, strict=True)
    )


def on_one_device(problem: Problem, primal: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Value and cotangents as one device has them: of all data at once and, where there are examples, of each alone."""
    f = jax.jit(value_and_cotangents(problem.spread(primal, None)))
    results = [to_numpy(f(problem.args, problem.ct))]
    if problem.own is not None:
        one = jax.jit(value_and_cotangents(primal))
        each = [
            tuple(x[i] if of_each else x for of_each, x in zip(problem.own, problem.args, strict=True))
            for i in range(len(problem.ct))
        ]
        parts = [to_numpy(one(args, ct)) for args, ct in zip(each, problem.ct, strict=True)]
        results.append(gathered(problem.own, parts))
    return results


def to_numpy(result: tuple[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    """Value and cotangents as NumPy arrays; the parts that are with other processes are fetched from there."""
    y, cts = result
    if jax.process_count() > 1 and len(y.sharding.device_set) > 1:
        y, cts = multihost_utils.process_allgather((y, cts), tiled=True)
    return tuple(None if x is None else np.asarray(x) for x in (y, *cts))


def compiled(problem: Problem, primal: Callable[..., Any], mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """The executable of value and cotangents on a mesh, and the arguments on it, the cotangent last."""
    lying = functools.partial(NamedSharding, mesh)
    out = (
        lying(problem.ct_spec),
        tuple(lying(s) if is_inexact(x) else None for s, x in zip(problem.specs, problem.args, strict=True)),
    )
    args = tuple(place(mesh, s, x) for s, x in zip(problem.specs, problem.args, strict=True))
    ct = place(mesh, problem.ct_spec, problem.ct)
    f = value_and_cotangents(problem.spread(primal, mesh))
    return jax.jit(f, out_shardings=out).lower(args, ct).compile(), (args, ct)
