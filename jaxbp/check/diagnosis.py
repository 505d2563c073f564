"""What a wrong gradient looks like, in a few words."""

from collections.abc import Mapping

import numpy as np

from jaxbp.check.compare import Comparison

#: A ratio counts as constant if it varies by less than this.
CONSTANT = 1e-2


def looks_like(name: str, found: Comparison, others: Mapping[str, Comparison], leaves: Mapping[str, np.ndarray]) -> str:
    """The likeliest reason why `name`'s cotangent is wrong; empty if none fits.

    `others` are the comparisons of all cotangents, `leaves` the arguments by name.
    """
    got, expected, wrong = found.got, found.expected, found.wrong
    if np.isnan(got[wrong]).any():
        return "NaN" + _where(name, found, leaves)
    if np.isinf(got[wrong]).any():
        return "infinite" + _where(name, found, leaves)
    matters = np.isfinite(expected) & (np.abs(expected) > found.allowed)
    everywhere = bool(wrong[matters].all()) if matters.any() else False
    if not got[matters].any() and matters.any():
        return "zero" if everywhere else ""
    part = "" if everywhere else _where(name, found, leaves)
    if (got[wrong] == 0).all():
        return "zero" + part
    if _equal(got, -expected, found, wrong):
        return "sign flipped" + part
    for other, comparison in others.items():
        if (
            other != name
            and comparison.expected.shape == expected.shape
            and _equal(got, comparison.expected, found, matters)
        ):
            return f"swapped with that of {other}"
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] and _equal(got, expected.T, found, matters):
        return "transposed"
    factor = _factor(got, expected, wrong & matters)
    if factor is not None:
        return _named_factor(factor, expected.shape) + part
    spread = np.ptp(got[np.isfinite(got)]) if np.isfinite(got).any() else 0
    if expected.size > 1 and np.abs(got).max() > 0 and spread <= CONSTANT * np.abs(got).max() < np.ptp(expected):
        return "the same for all entries: summed or averaged where each has its own"
    return part.lstrip(" ,") if part else ""


def _equal(got: np.ndarray, expected: np.ndarray, found: Comparison, where: np.ndarray) -> bool:
    """Whether they agree, to within rounding and a little, wherever it matters."""
    if not where.any() or not np.abs(expected[where]).any():
        return False
    with np.errstate(all="ignore"):
        close = np.abs(got - expected) <= np.minimum(found.allowed, 1e300) + CONSTANT * np.abs(expected)
    return bool(close[where].mean() > 0.99)


def _factor(got: np.ndarray, expected: np.ndarray, where: np.ndarray) -> float | None:
    """The number that the expected entries were multiplied with, if it is one number."""
    if np.count_nonzero(where) < 2 and expected.size > 1:
        return None
    with np.errstate(all="ignore"):
        ratios = got[where] / expected[where]
    middle = float(np.median(ratios)) if ratios.size else np.nan
    if not np.isfinite(middle) or middle == 0:
        return None
    constant = np.abs(ratios - middle) <= CONSTANT * abs(middle)
    return middle if constant.mean() > 0.95 else None


def _named_factor(factor: float, shape: tuple[int, ...]) -> str:
    for n in {*shape, int(np.prod(shape, dtype=np.int64))} - {0, 1}:
        if abs(factor * n - 1) < CONSTANT:
            return f"1/{n} of it: averaged over {n} entries where it should be summed, or the reverse"
        if abs(factor / n - 1) < CONSTANT:
            return f"{n} times it: summed over {n} entries where it should be averaged, or the reverse"
    return f"{factor:.4g} times what it should be"


def _where(name: str, found: Comparison, leaves: Mapping[str, np.ndarray]) -> str:
    """Which entries are wrong, if a simple rule tells them from the right ones."""
    wrong = found.wrong
    if wrong.all() or not wrong.any():
        return ""
    for axis in range(wrong.ndim):
        rest = tuple(i for i in range(wrong.ndim) if i != axis)
        lines = wrong.any(axis=rest)
        first = int(np.argmax(lines))
        if lines[first:].all() and first > 0 and wrong[(slice(None),) * axis + (slice(first, None),)].mean() > 0.5:
            return f", from index {first} of {lines.size} on along axis {axis}: the last block"
        if lines.sum() == 1 and wrong.ndim > 1 and lines.size > 1:
            return f", at index {first} along axis {axis} alone"
    x = leaves.get(name)
    if x is not None and x.shape == wrong.shape and x.size > 2:
        wide = x.astype(np.float64)
        for value, text in ((np.abs(wide), "|x|"), (wide, "x"), (-wide, "-x")):
            inside, outside = value[~wrong], value[wrong]
            if outside.min() > inside.max():
                return f", wrong beyond {text} > {inside.max():.4g}"
        if np.all(wide[wrong] == 0) and not np.any(wide[~wrong] == 0):
            return ", wrong where x is 0"
        _, inverse, counts = np.unique(wide, return_inverse=True, return_counts=True)
        if np.all(counts[inverse.reshape(wide.shape)][wrong] > 1):
            return ", wrong at ties"
    return f", in {int(wrong.sum())} of {wrong.size} entries"
