"""The primitives that move, reduce, sort and contract numbers, in balls.

Those that gather numbers from computed places need no arithmetic of their own: JAX evaluates the primitive on the
entries' indices, which are integers, and the balls are taken from there.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxbp.accuracy import exact_balls as xb
from jaxbp.accuracy.exact_balls import INF, NAN, NEG_INF, ONE, UNKNOWN, ZERO, Ball, Balls, balls
from jaxbp.accuracy.exact_elementwise import Rule


def on_integers(eqn: Any, *values: Any, **changed: Any) -> Any:
    """Evaluate a primitive on integers and booleans by JAX itself."""
    out = eqn.primitive.bind(*(jax.numpy.asarray(v) for v in values), **(eqn.params | changed))
    return [_on_host(o) for o in out] if eqn.primitive.multiple_results else _on_host(out)


def _on_host(x: jax.Array) -> Any:
    # Random keys have no form in NumPy.
    return x if jax.numpy.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)


def moved(eqn: Any, *values: np.ndarray, fill: Ball = NAN, **changed: Any) -> Any:
    """Evaluate a primitive that only moves numbers. An index of -1 stands for `fill`."""
    sizes = [v.size if v.dtype == object else 0 for v in values]
    starts = itertools.accumulate(sizes, initial=0)
    indices = [
        np.arange(start, start + v.size).reshape(v.shape) if v.dtype == object else v
        for start, v in zip(starts, values, strict=False)
    ]
    pool = np.concatenate([*(v.ravel() for v in values if v.dtype == object), [fill]])
    out = on_integers(eqn, *indices, **changed)
    return [pool[o] for o in out] if isinstance(out, list) else pool[out]


def reshape(eqn: Any, x: np.ndarray) -> np.ndarray:
    return x.reshape(eqn.params["new_sizes"]) if eqn.params["dimensions"] is None else moved(eqn, x)


def broadcast_in_dim(eqn: Any, x: np.ndarray) -> np.ndarray:
    shape, dimensions = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    aligned = [1] * len(shape)
    for axis, size in zip(dimensions, x.shape, strict=True):
        aligned[axis] = size
    return np.broadcast_to(x.reshape(aligned), shape)


def iota(eqn: Any) -> np.ndarray:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    return balls(broadcast_along(np.arange(shape[axis]), axis, shape))


def broadcast_along(x: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(x.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def select_n(eqn: Any, which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if len(cases) == 2:
        return np.where(which.astype(bool), cases[1], cases[0])
    return np.choose(which, cases)


def pad(eqn: Any, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    return padded(x, value[()], eqn.params["padding_config"])


def padded(x: np.ndarray, value: Any, config: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """`lax.pad` of any array: low, high (negative ones cut off) and the gap between entries, for each axis."""
    shape, targets, sources = [], [], []
    for size, (low, high, gap) in zip(x.shape, config, strict=True):
        shape.append(low + high + max(size + gap * (size - 1), 0))
        place = low + np.arange(size) * (gap + 1)
        kept = (place >= 0) & (place < shape[-1])
        targets.append(place[kept])
        sources.append(np.flatnonzero(kept))
    out = np.full(shape, value, x.dtype)
    out[np.ix_(*targets)] = x[np.ix_(*sources)]
    return out


def slice_(eqn: Any, x: np.ndarray) -> np.ndarray:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, starts, limits, strides))]


def split(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


def gather(eqn: Any, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    given = eqn.params["fill_value"]
    return moved(eqn, x, indices, fill=NAN if given is None else xb.ball(float(given)), fill_value=-1)


def scatter(combine: Callable[[Ball, Ball], Ball]) -> Rule:
    """Combine every update with the entry that it goes to, in order; an update that goes nowhere is dropped."""

    def rule(eqn: Any, operand: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        out = np.array(operand)
        flat = out.reshape(-1)
        for target, update in zip(_targets(eqn, operand, indices, updates).flat, updates.flat, strict=True):
            if target >= 0:
                flat[target] = combine(flat[target], update)
        return out

    return rule


def _targets(eqn: Any, operand: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """For each update the index of its entry: what a gather at the same places would take; -1 if nowhere."""
    numbers = eqn.params["dimension_numbers"]
    dropped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = iter(numbers.update_window_dims)
    sizes = [1 if axis in dropped else updates.shape[next(window)] for axis in range(operand.ndim)]
    taken = jax.lax.gather(
        np.arange(operand.size).reshape(operand.shape),
        indices,
        jax.lax.GatherDimensionNumbers(
            offset_dims=numbers.update_window_dims,
            collapsed_slice_dims=numbers.inserted_window_dims,
            start_index_map=numbers.scatter_dims_to_operand_dims,
            operand_batching_dims=numbers.operand_batching_dims,
            start_indices_batching_dims=numbers.scatter_indices_batching_dims,
        ),
        sizes,
        mode=eqn.params["mode"],
        fill_value=-1,
    )
    return np.asarray(taken)


def reduction(combine: Callable[[Ball, Ball], Ball], initial: Ball) -> Rule:
    """Combine all entries along `axes`, one after the other."""
    ufunc = np.frompyfunc(combine, 2, 1)

    def rule(eqn: Any, x: np.ndarray) -> np.ndarray:
        out = ufunc.reduce(_rows(x, eqn.params["axes"]), axis=-1, initial=initial)
        return out if isinstance(out, np.ndarray) else xb.boxed(out)

    return rule


def _rows(x: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """The axes `axes` last, as one."""
    axes = tuple(axes)
    moved_last = np.moveaxis(x, axes, range(-len(axes), 0))
    return moved_last.reshape(*moved_last.shape[: x.ndim - len(axes)], math.prod(x.shape[a] for a in axes))


def cumulative(combine: Callable[[Ball, Ball], Ball]) -> Rule:
    ufunc = np.frompyfunc(combine, 2, 1)

    def rule(eqn: Any, x: np.ndarray) -> np.ndarray:
        axis = eqn.params["axis"]
        if not x.shape[axis]:
            return x
        if eqn.params["reverse"]:
            return np.flip(ufunc.accumulate(np.flip(x, axis), axis), axis)
        return ufunc.accumulate(x, axis)

    return rule


def log_add_exp(a: Ball, b: Ball) -> Ball:
    """log(exp(a) + exp(b)), from the larger one on."""
    if a is NAN or b is NAN:
        return NAN
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    if a is NEG_INF or b is NEG_INF:
        return b if a is NEG_INF else a
    if a is INF or b is INF:
        return INF
    top = xb.maximum(a, b)
    return xb.add(top, ((a - top).exp() + (b - top).exp()).log())


def arg_extreme(before: Callable[[Ball, Ball], bool]) -> Rule:
    """The index of the first entry that no other comes before; the first NaN, if there is one."""

    def first(row: np.ndarray) -> int:
        best = 0
        for i, x in enumerate(row):
            if x is NAN:
                return i
            if before(x, row[best]):
                best = i
        return best

    def rule(eqn: Any, x: np.ndarray) -> np.ndarray:
        rows = _rows(x, eqn.params["axes"])
        out = [first(row) for row in rows.reshape(-1, rows.shape[-1])]
        return np.array(out, eqn.params["index_dtype"]).reshape(rows.shape[:-1])

    return rule


def _order(a: Any, b: Any) -> int:
    """Like `cmp`, with NaN last; for balls and for Python integers."""
    if isinstance(a, int | bool):
        return (a > b) - (a < b)
    if a is NAN or b is NAN:
        return (a is NAN) - (b is NAN)
    return -1 if xb.less(a, b) else int(xb.less(b, a))


def _sorted_indices(rows: list[np.ndarray], reverse: bool = False) -> np.ndarray:
    """For each row of keys [n, length] the stable order of its entries; the first key counts most."""
    keys = [k.tolist() for k in rows]

    def compare(i: int, j: int) -> int:
        orders = (_order(key[i], key[j]) for key in keys)
        out = next((o for o in orders if o), 0)
        return -out if reverse else out

    return np.array(sorted(range(len(keys[0])), key=functools.cmp_to_key(compare)), int)


def sort(eqn: Any, *operands: np.ndarray) -> list[np.ndarray]:
    axis, num_keys = eqn.params["dimension"], eqn.params["num_keys"]
    rows = [_rows(x, [axis]) for x in operands]
    flat = [r.reshape(-1, r.shape[-1]) for r in rows]
    order = [_sorted_indices([f[i] for f in flat[:num_keys]]) for i in range(flat[0].shape[0])]
    out = []
    for f, r in zip(flat, rows, strict=True):
        ordered = np.array([f[i][o] for i, o in enumerate(order)], f.dtype).reshape(r.shape)
        out.append(np.moveaxis(ordered, -1, axis))
    return out


def top_k(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
    axis = eqn.params.get("axis", x.ndim - 1)
    rows = _rows(x, [axis])
    flat = rows.reshape(-1, rows.shape[-1])
    k = eqn.params["k"]
    order = np.array([_sorted_indices([row], reverse=True)[:k] for row in flat], np.int32).reshape(-1, k)
    values = np.array([row[o] for row, o in zip(flat, order, strict=True)], object)
    shape = (*rows.shape[:-1], k)
    return [np.moveaxis(v.reshape(shape), -1, axis) for v in (values, order)]


def dot(row: Iterable[Ball], column: Iterable[Ball]) -> Ball:
    pairs = list(zip(row, column, strict=True))
    total: Ball = sum((a * b for a, b in pairs), ZERO)
    if total.is_finite():
        return total
    return functools.reduce(xb.add, (xb.mul(a, b) for a, b in pairs), ZERO)


def dot_general(eqn: Any, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    a, free_a = _as_batches(balls(lhs), lhs_batch, lhs_sum)
    b, free_b = _as_batches(balls(rhs), rhs_batch, rhs_sum)
    out = np.empty((a.shape[0], a.shape[1], b.shape[1]), object)
    for i, j, k in np.ndindex(out.shape):
        out[i, j, k] = dot(a[i, j], b[i, k])
    return out.reshape([lhs.shape[axis] for axis in lhs_batch] + free_a + free_b)


def _as_batches(x: Balls, batch: Iterable[int], summed: Iterable[int]) -> tuple[Balls, list[int]]:
    """x as [batch, free, summed], and the sizes of the free axes."""
    free = [axis for axis in range(x.ndim) if axis not in (*batch, *summed)]
    sizes = [math.prod(x.shape[axis] for axis in axes) for axes in (batch, free, summed)]
    return x.transpose(*batch, *free, *summed).reshape(sizes), [x.shape[axis] for axis in free]


def stack(eqn: Any, *values: np.ndarray) -> np.ndarray:
    return np.stack(values, eqn.params["axis"])


def unstack(eqn: Any, x: np.ndarray) -> list[np.ndarray]:
    first = np.moveaxis(x, eqn.params["axis"], 0)
    return [first[i, ...] for i in range(len(first))]


STRUCTURE: dict[str, Rule] = {
    "reshape": reshape,
    "broadcast_in_dim": broadcast_in_dim,
    "transpose": lambda eqn, x: x.transpose(eqn.params["permutation"]),
    "squeeze": lambda eqn, x: x.reshape(eqn.outvars[0].aval.shape),
    "expand_dims": lambda eqn, x: x.reshape(eqn.outvars[0].aval.shape),
    "concatenate": lambda eqn, *xs: np.concatenate(xs, eqn.params["dimension"]),
    "stack": stack,
    "unstack": unstack,
    "rev": lambda eqn, x: np.flip(x, eqn.params["dimensions"]),
    "iota": iota,
    "empty": lambda eqn: np.full(eqn.outvars[0].aval.shape, ZERO, object),
    "empty2": lambda eqn, *_: np.full(eqn.outvars[0].aval.shape, ZERO, object),
    "select_n": select_n,
    "pad": pad,
    "gather": gather,
    "slice": slice_,
    "split": split,
    **dict.fromkeys(("dynamic_slice", "dynamic_update_slice", "tile"), moved),
    "scatter": scatter(lambda old, new: new),
    "scatter-add": scatter(xb.add),
    "scatter-sub": scatter(xb.sub),
    "scatter-mul": scatter(xb.mul),
    "scatter_mul": scatter(xb.mul),
    "scatter-min": scatter(xb.minimum),
    "scatter-max": scatter(xb.maximum),
    "scatter_min": scatter(xb.minimum),
    "scatter_max": scatter(xb.maximum),
    "reduce_sum": reduction(xb.add, ZERO),
    "reduce_prod": reduction(xb.mul, ONE),
    "reduce_max": reduction(xb.maximum, NEG_INF),
    "reduce_min": reduction(xb.minimum, INF),
    "argmax": arg_extreme(lambda a, b: xb.less(b, a)),
    "argmin": arg_extreme(xb.less),
    "cumsum": cumulative(xb.add),
    "cumprod": cumulative(xb.mul),
    "cummax": cumulative(xb.maximum),
    "cummin": cumulative(xb.minimum),
    "cumlogsumexp": cumulative(log_add_exp),
    "sort": sort,
    "top_k": top_k,
    "dot_general": dot_general,
}
