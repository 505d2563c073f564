"""What a wrong gradient looks like, in a few words."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxbp.check.compare import Comparison

#: Two numbers count as the same if they differ by less than this, relatively.
CONSTANT = 1e-2
#: Errors below this, relatively, in at least half of the entries are lost digits: bfloat16 rounds by up to 2^-9.
LOST = 2.0**-7


@dataclasses.dataclass(frozen=True)
class Case:
    """A wrong gradient with all that may tell what is wrong with it.

    Attributes:
        name: the argument whose gradient it is.
        found: what came and what should have come.
        others: the comparisons of all gradients, this one included.
        leaves: the arguments by name.
        cts: the cotangents of the outputs.
    """

    name: str
    found: Comparison
    others: Mapping[str, Comparison]
    leaves: Mapping[str, np.ndarray]
    cts: Sequence[np.ndarray]

    @property
    def got(self) -> np.ndarray:
        return self.found.got

    @property
    def expected(self) -> np.ndarray:
        return self.found.expected

    @property
    def wrong(self) -> np.ndarray:
        return self.found.wrong

    @functools.cached_property
    def matters(self) -> np.ndarray:
        """The entries that are large enough to show a fault."""
        return np.isfinite(self.expected) & (np.abs(self.expected) > 2 * self.found.allowed)

    @property
    def everywhere(self) -> bool:
        """Whether all entries that could show it are wrong."""
        return bool(self.matters.any() and self.wrong[self.matters].all())

    @functools.cached_property
    def where(self) -> str:
        """Which entries are wrong, if a simple rule tells them from the right ones."""
        return "" if self.everywhere else _where(self)

    @functools.cached_property
    def ratios(self) -> np.ndarray:
        """What came as a multiple of what should have come, NaN where that tells nothing."""
        with np.errstate(all="ignore"):
            return np.where(self.matters, self.got / self.expected, np.nan)

    @functools.cached_property
    def ct(self) -> np.ndarray | None:
        """The cotangent, where there is one and it has the gradient's shape."""
        ct = self.cts[0].astype(np.float64) if len(self.cts) == 1 else None
        return ct if ct is not None and ct.shape == self.expected.shape and ct.size > 3 else None


def looks_like(
    name: str,
    found: Comparison,
    others: Mapping[str, Comparison],
    leaves: Mapping[str, np.ndarray],
    cts: Sequence[np.ndarray] = (),
) -> str:
    """The likeliest reason why `name`'s cotangent is wrong; empty if none fits.

    `others` are the comparisons of all cotangents, `leaves` the arguments by name, `cts` the outputs' cotangents.
    """
    case = Case(name, found, others, leaves, cts)
    explanations = (explain(case) for explain in EXPLANATIONS)
    return next(filter(None, explanations), case.where).lstrip(" ,")


def place_of(name: str, found: Comparison, others: Mapping[str, Comparison], leaves: Mapping[str, np.ndarray]) -> str:
    """Which entries are wrong, in words."""
    return Case(name, found, others, leaves, ()).where.lstrip(" ,")


def _no_number(case: Case) -> str:
    wrong = case.got[case.wrong]
    if np.isnan(wrong).any():
        return "NaN" + _where(case)
    return "infinite" + _where(case) if np.isinf(wrong).any() else ""


def _cotangent_ignored(case: Case) -> str:
    nothing = all(not c.expected.any() for c in case.others.values())
    if case.cts:
        nothing = nothing and not any(ct.any() for ct in case.cts)
    return "not 0 where the cotangent is 0: the cotangent is ignored, or something is added to it" if nothing else ""


def _mask_ignored(case: Case) -> str:
    alive = case.matters & ~case.wrong
    if alive.any() and not case.expected[case.wrong].any():
        return "a mask is ignored: not 0 where it should be" + case.where
    got, expected = case.got[case.wrong] != 0, case.expected[case.wrong] != 0
    if alive.any() and got.any() and expected.any() and not (got & expected).any():
        return "another mask is applied: 0 where it should not be, and not 0 where it should"
    return ""


def _output_dropped(case: Case) -> str:
    """Nothing at all comes back from the one output that has a cotangent."""
    alive = [i for i, ct in enumerate(case.cts) if ct.any()]
    if len(case.cts) > 1 and len(alive) == 1 and not any(c.got.any() for c in case.others.values()):
        return f"the cotangent of output {alive[0]} is dropped"
    return ""


def _missing_sum(case: Case) -> str:
    """One of the summands in place of the sum, for an argument that is added along a broadcast axis."""
    shape = case.expected.shape
    if len(case.cts) != 1 or case.cts[0].ndim <= len(shape):
        return ""
    if case.cts[0].shape[case.cts[0].ndim - len(shape) :] != shape:
        return ""
    rows = case.cts[0].astype(np.float64).reshape(-1, *shape)
    if len(rows) > 1 and _equal(case, rows.sum(0), case.matters, case.expected):
        for i in (0, -1):
            if _equal(case, rows[i], case.matters):
                return f"a missing sum over a broadcast axis: its {'last' if i else 'first'} entry alone"
    return ""


def _zero(case: Case) -> str:
    if (case.got[case.wrong] == 0).all():
        return "zero" + case.where
    return ""


def _sign(case: Case) -> str:
    return "sign flipped" + case.where if _equal(case, -case.expected, case.wrong) else ""


def _another_argument(case: Case) -> str:
    for other, comparison in case.others.items():
        theirs = comparison.expected
        if other == case.name or theirs.shape != case.expected.shape:
            continue
        alike = _equal(case, theirs, case.matters, case.expected)
        if not alike and _equal(case, theirs, case.matters):
            return f"swapped with that of {other}"
    return ""


def _permuted(case: Case) -> str:
    """Transposed, reversed or shifted."""
    expected = case.expected
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] and _equal(case, expected.T, case.matters):
        return "transposed"
    for axis, n in enumerate(expected.shape):
        if n < 3:
            continue
        if _equal(case, np.flip(expected, axis), case.matters):
            return f"reversed along axis {axis}"
        for step in (1, -1):
            if _equal(case, np.roll(expected, step, axis), case.matters):
                return f"shifted by {step} along axis {axis}"
    return ""


def _factor(case: Case) -> str:
    """A constant factor, at the entries that are wrong."""
    ratios = case.ratios[case.wrong & case.matters]
    if ratios.size == 0 or ratios.size < 0.9 * case.wrong.sum():
        return ""
    factor = float(np.median(ratios))
    if not np.isfinite(factor) or factor == 0:
        return ""
    # A factor of 1.001 is told from digits lost at random by its being the same everywhere.
    same = np.abs(ratios - factor) <= min(CONSTANT * abs(factor), abs(factor - 1) / 8)
    if same.mean() <= 0.95:
        return ""
    lengths = {n for x in case.leaves.values() for n in (*x.shape, x.size)}
    lengths |= {*case.expected.shape, math.prod(case.expected.shape)}
    named = _named_factor(factor, lengths)
    # One entry is always some multiple of another: only what has a name is worth telling.
    return named + case.where if ratios.size > 1 or named[0] == "1" or abs(2 * factor % 1) < CONSTANT else ""


def _named_factor(factor: float, lengths: set[int]) -> str:
    for n in sorted(lengths - {0, 1, 2}):
        if abs(factor * n - 1) < CONSTANT:
            return f"1/{n} of it: averaged over {n} entries where it should be summed, or the reverse"
        if abs(factor / n - 1) < CONSTANT:
            return f"{n} times it: summed over {n} entries where it should be averaged, or the reverse"
    # A factor close to 1 needs more digits than four, or is told by how far it is off.
    shown = next((text for text in (f"{factor:.4g}", f"{factor:.6g}") if text != "1"), f"1 + {factor - 1:.2g}")
    return f"{shown} times what it should be"


def _clipped(case: Case) -> str:
    """Cut off at one magnitude, in place of larger ones."""
    got, wrong = np.abs(case.got), case.wrong
    if wrong.sum() < 3 or not np.isfinite(got).all():
        return ""
    limit = float(got[wrong].max())
    same = np.all(np.abs(got[wrong] - limit) <= CONSTANT**2 * limit) and np.all(got <= limit * (1 + CONSTANT))
    expected = case.expected[wrong]
    larger = np.all(case.got[wrong] * expected > 0) and np.all(np.abs(expected) > limit)
    larger &= np.ptp(np.abs(expected)) > CONSTANT * limit
    return f"clipped at {limit:.4g}" if same and larger and limit > 0 else ""


def _cotangent(case: Case) -> str:
    """How the cotangent got in, where each entry has its own."""
    if case.ct is None:
        return ""
    usable = case.matters & (case.ct != 0)
    if usable.sum() < 4:
        return ""
    ct, ratios = case.ct[usable], case.ratios[usable]
    instead = ratios * ct  # What would have to be the cotangent for this to be right.
    if _all(instead, float(np.median(instead))):
        if _all(instead, 1.0):
            return "the cotangent is ignored: 1 in its place"
        if _all(instead, float(case.ct.mean())):
            return "the cotangent is averaged"
        return f"the cotangent is ignored: {float(np.median(instead)):.4g} in its place"
    if _all(ratios / ct, 1.0):
        return "not linear in the cotangent: squared"
    off = np.abs(ratios - 1) > CONSTANT
    if off.any() and not off.all() and np.abs(ct[off]).min() >= np.abs(ct[~off]).max() * (1 - CONSTANT):
        return f"not linear in the cotangent: wrong where it is beyond {np.abs(ct[~off]).max():.4g}, as if clipped"
    return ""


def _one_cotangent(case: Case) -> str:
    """As `_cotangent`, where there is but one number of it."""
    if len(case.cts) != 1 or case.cts[0].size != 1 or not case.cts[0].any():
        return ""
    ct, ratios = float(case.cts[0].reshape(())), case.ratios[case.matters]
    if ratios.size and abs(ct - 1) > CONSTANT and _all(ratios * ct, 1.0):
        return "the cotangent is ignored: 1 in its place"
    return "not linear in the cotangent: squared" if ratios.size > 3 and _all(ratios / ct, 1.0) else ""


def _all(values: np.ndarray, number: float) -> bool:
    """Whether almost all of them are that number."""
    return bool((np.abs(values - number) <= CONSTANT * abs(number)).mean() > 0.95)


def _lost_digits(case: Case) -> str:
    ratios = case.ratios[case.wrong & case.matters]
    if ratios.size == 0:
        return ""
    errors = np.abs(ratios - 1)
    if np.median(errors) > LOST or (case.expected.size > 1 and ratios.size < 3) or np.abs(errors).max() > 64 * LOST:
        return ""
    bits = int(-np.log2(np.quantile(errors, 0.75)))
    # Rounding goes both ways; a formula that is a little wrong does not as a rule.
    return f"precision lost: right to {bits} bits, as if rounded to a narrower dtype on the way" + case.where


def _added(case: Case) -> str:
    """One number added to each entry."""
    with np.errstate(all="ignore"):
        difference = (case.got - case.expected)[case.wrong]
    if difference.size < 3 or not np.isfinite(difference).all():
        return ""
    shift = float(np.median(difference))
    near = np.abs(difference - shift) <= CONSTANT * abs(shift)
    return f"{shift:.4g} added to it{case.where}" if near.mean() > 0.95 else ""


def _same_for_all(case: Case) -> str:
    got = case.got[np.isfinite(case.got)]
    largest = np.abs(got).max(initial=0.0)
    if case.expected.size > 1 and largest > 0 and np.ptp(got) <= CONSTANT * largest < np.ptp(case.expected):
        return "the same for all entries: summed or averaged where each has its own"
    return ""


#: In the order in which they are believed.
EXPLANATIONS: tuple[Callable[[Case], str], ...] = (
    _no_number,
    _cotangent_ignored,
    _output_dropped,
    _zero,
    _mask_ignored,
    _missing_sum,
    _sign,
    _clipped,
    _one_cotangent,
    _factor,
    _cotangent,
    _another_argument,
    _permuted,
    _lost_digits,
    _added,
    _same_for_all,
)


def _equal(case: Case, like: np.ndarray, where: np.ndarray, got: np.ndarray | None = None) -> bool:
    """Whether what came is `like`, to within rounding and a little, wherever it matters."""
    if not where.any() or not np.abs(like[where]).any():
        return False
    got = case.got if got is None else got
    with np.errstate(all="ignore"):
        # Entries that ought to be small may be large ones elsewhere: their own bound says nothing about those.
        slack = np.minimum(case.found.allowed, np.abs(case.expected) / 2)
        close = np.abs(got - like) <= CONSTANT * np.abs(like) + slack
    return bool(close[where].mean() > 0.99)


def _where(case: Case) -> str:
    """Which entries are wrong, if a simple rule tells them from the right ones."""
    wrong = case.wrong
    if wrong.all() or not wrong.any():
        return ""
    # An entry too small to show the fault is neither right nor wrong.
    right = ~wrong & (case.matters if (case.matters & ~wrong).any() else True)
    count = f", in {int(wrong.sum())} of {wrong.size} entries"
    x = case.leaves.get(case.name)
    if x is not None and x.shape == wrong.shape:
        wide = x.astype(np.float64)
        if np.all(wide[wrong] == 0) and not np.any(wide[right] == 0):
            return ", wrong where x is 0"
        tied = _tied(case, wide)
        if tied:
            return tied
    if wrong.sum() == 1 and wrong.size > 8:
        return count
    lines = _which_lines(wrong, right)
    if not lines and x is not None and x.shape == wrong.shape:
        lines = _beyond(x.astype(np.float64), wrong, right)
    return lines or count


def _which_lines(wrong: np.ndarray, right: np.ndarray) -> str:
    for axis in range(wrong.ndim):
        rest = tuple(i for i in range(wrong.ndim) if i != axis)
        bad, good = np.asarray(wrong.any(axis=rest)), np.asarray(right.any(axis=rest))
        first, n = int(np.argmax(bad)), bad.size
        if first > 0 and good[:first].any() and not right[(slice(None),) * axis + (slice(first, None),)].any():
            return f", from index {first} of {n} on along axis {axis}: the last block"
        if bad.sum() == 1 and wrong.ndim > 1 and n > 1:
            return f", at index {first} along axis {axis} alone"
    return ""


def _tied(case: Case, wide: np.ndarray) -> str:
    """Wrong where two entries of the argument, or of it and another one, are the same."""
    for other, leaf in case.leaves.items():
        if other == case.name or leaf.shape != wide.shape:
            continue
        same = wide == leaf.astype(np.float64)
        if same[case.wrong].all() and not (same & case.matters & ~case.wrong).any():
            return f", wrong at ties with {other}"
    right = case.matters & ~case.wrong
    for again in (_again(wide.reshape(1, -1)).reshape(wide.shape), *(_along(i, wide) for i in range(wide.ndim))):
        if again[case.wrong].all() and not again.all() and not again[right].all():
            return ", wrong at ties"
    return ""


def _again(rows: np.ndarray) -> np.ndarray:
    """Which entries are met more than once in their row."""
    again = np.zeros(rows.shape, bool)
    for row, found in zip(rows, again, strict=True):
        _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        found[...] = counts[inverse.reshape(-1)] > 1
    return again


def _along(axis: int, x: np.ndarray) -> np.ndarray:
    """Which entries are met more than once along an axis."""
    moved = np.moveaxis(x, axis, -1)
    return np.moveaxis(_again(moved.reshape(-1, moved.shape[-1])).reshape(moved.shape), -1, axis)


def _beyond(wide: np.ndarray, wrong: np.ndarray, right: np.ndarray) -> str:
    if wrong.size < 3 or not right.any():
        return ""
    for value, text in ((np.abs(wide), "|x|"), (wide, "x"), (-wide, "-x")):
        if value[wrong].min() > value[right].max():
            return f", wrong beyond {text} > {value[right].max():.4g}"
    if np.abs(wide)[wrong].max() < np.abs(wide)[right].min():
        return f", wrong within |x| < {np.abs(wide)[right].min():.4g}"
    return ""
