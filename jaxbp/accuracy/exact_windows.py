"""Convolutions and pooling in balls: primitives that slide a window over an array."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxbp.accuracy import exact_balls as xb
from jaxbp.accuracy.exact_balls import INF, NEG_INF, ZERO, Ball, Balls, balls
from jaxbp.accuracy.exact_elementwise import Rule
from jaxbp.accuracy.exact_structure import dot, padded


def windows(x: np.ndarray, sizes: Sequence[int], strides: Iterable[int], spread: Sequence[int]) -> np.ndarray:
    """Every window on x's last axes: [..., *positions, *window]. `spread` is the step inside a window."""
    n = len(sizes)
    reach = tuple((size - 1) * d + 1 for size, d in zip(sizes, spread, strict=True))
    if not n:
        return x
    view = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(x.ndim - n, x.ndim)))
    steps = [*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in spread)]
    return view[(..., *steps)]


def conv_general_dilated(eqn: Any, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    p = eqn.params
    lhs_spec, rhs_spec, out_spec = p["dimension_numbers"]
    gaps = [(low, high, d - 1) for (low, high), d in zip(p["padding"], p["lhs_dilation"], strict=True)]
    x = padded(balls(lhs).transpose(lhs_spec), ZERO, [(0, 0, 0), (0, 0, 0), *gaps])
    kernel = balls(rhs).transpose(rhs_spec)
    view = windows(x, kernel.shape[2:], p["window_strides"], p["rhs_dilation"])
    # Batch groups and feature groups are never used together; either splits the kernel's output features.
    images, features = p["batch_group_count"], p["feature_group_count"]
    parts = [part for image in np.split(view, images) for part in np.split(image, features, axis=1)]
    kernels = np.split(kernel, images * features)
    out = np.concatenate([_convolved(*pair) for pair in zip(parts, kernels, strict=True)], axis=1)
    return out.transpose(np.argsort(out_spec))


def _convolved(view: Balls, kernel: Balls) -> Balls:
    """Windows [n, c, *positions, *window] with a kernel [o, c, *window] -> [n, o, *positions]."""
    positions = view.shape[2 : view.ndim - kernel.ndim + 2]
    out = np.empty((view.shape[0], kernel.shape[0], *positions), object)
    for n, o, *place in np.ndindex(out.shape):
        out[(n, o, *place)] = dot(view[(n, slice(None), *place)].ravel(), kernel[o].ravel())
    return out


def pooling(combine: Callable[[Ball, Ball], Ball], initial: Ball) -> Rule:
    ufunc = np.frompyfunc(combine, 2, 1)

    def rule(eqn: Any, x: np.ndarray) -> np.ndarray:
        p = eqn.params
        gaps = [(low, high, d - 1) for (low, high), d in zip(p["padding"], p["base_dilation"], strict=True)]
        view = windows(padded(x, initial, gaps), p["window_dimensions"], p["window_strides"], p["window_dilation"])
        return ufunc.reduce(view.reshape(*view.shape[: x.ndim], -1), axis=-1, initial=initial)

    return rule


def select_and_scatter_add(eqn: Any, source: np.ndarray, operand: np.ndarray) -> np.ndarray:
    """Add each entry of `source` to the entry of `operand`'s shape that was chosen in its window: the first extreme."""
    p = eqn.params
    best = xb.maximum if p["select_prim"].name == "ge" else xb.minimum
    index = np.arange(operand.size).reshape(operand.shape)
    index = padded(index, -1, [(low, high, 0) for low, high in p["padding"]])
    view = windows(index, p["window_dimensions"], p["window_strides"], (1,) * operand.ndim)
    out = np.full(operand.size, ZERO, object)
    for window, ct in zip(view.reshape(source.size, -1), source.flat, strict=True):
        inside = [i for i in window if i >= 0]
        chosen = inside[0]
        for i in inside[1:]:
            a, b = operand.flat[chosen], operand.flat[i]
            if not xb.equal(best(a, b), a):
                chosen = i
        out[chosen] = xb.add(out[chosen], ct)
    return out.reshape(operand.shape)


WINDOWS: dict[str, Rule] = {
    "conv_general_dilated": conv_general_dilated,
    "reduce_window_sum": pooling(xb.add, ZERO),
    "reduce_window_max": pooling(xb.maximum, NEG_INF),
    "reduce_window_min": pooling(xb.minimum, INF),
    "select_and_scatter_add": select_and_scatter_add,
}
