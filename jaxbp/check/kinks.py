"""Kinks and ties: what the one-sided derivatives there are, and whether tied arguments' shares add up."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxbp.check.compare import Comparison
from jaxbp.check.reference import Reference

#: Inputs this close to a kink, relative to their size, are taken for it; and how many of them are looked at, all
#: entries moved at once: of ten that are tied each should be the largest once.
CLOSE, SIDES = 2.0**-40, 64
#: Entries that are moved by themselves, as of hundreds that are tied hardly one is the largest among those.
ALONE = 4096
#: What stands for infinity there.
MASK = 1e30
#: A jump of the derivative beside an input that is no rounding.
JUMP = 2.0**-16
#: Unit roundoffs that a value at a kink may be off from the derivative beside it.
ROUNDED = 16.0
#: The step of directional differences in float64, and how far two of them may differ where there is no kink.
STEP, STRAIGHT = 2.0**-20, 1e-3


@dataclasses.dataclass(frozen=True)
class Sides:
    """The least and the largest value of one cotangent at inputs a hair beside the given ones."""

    low: np.ndarray
    high: np.ndarray

    @property
    def jump(self) -> np.ndarray:
        """Where they differ by more than rounding."""
        with np.errstate(invalid="ignore"):
            return self.high - self.low > JUMP * self.largest

    @property
    def largest(self) -> np.ndarray:
        """The larger of their magnitudes."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def admits(self, found: Comparison) -> np.ndarray:
        """Where a value is between the one-sided derivatives of a kink."""
        with np.errstate(invalid="ignore"):
            # What is allowed is the entry's own, which may be exact; its neighbours' derivatives are rounded, too.
            room = found.allowed + ROUNDED * found.unit * self.largest
            return self.jump & (found.got >= self.low - room) & (found.got <= self.high + room)


def sides(reference: Reference, xs: Sequence[np.ndarray], seed: int) -> list[Sides]:
    """For each cotangent its values beside the arguments `(*leaves, *cts)`."""
    rng = np.random.default_rng(seed)
    n = len(reference.subject.shapes)
    found = reference.truth(*xs)[n:]
    low, high = list(found), list(found)
    wide = _with_neighbours(reference, xs)
    for _ in range(SIDES):
        moved = list(wide)
        for i in reference.subject.floats:
            step = rng.choice([-1.0, 1.0], wide[i].shape) * rng.uniform(0.5, 1, wide[i].shape)
            moved[i] = wide[i] + step * _hair(wide[i])
        for j, g in enumerate(reference.truth(*moved)[n:]):
            low[j], high[j] = np.fmin(low[j], g), np.fmax(high[j], g)
    return [Sides(np.array(a), np.array(b)) for a, b in zip(low, high, strict=True)]


def at_kinks(
    reference: Reference, xs: Sequence[np.ndarray], gradients: Sequence[Comparison], beside: Sequence[Sides]
) -> list[np.ndarray]:
    """Where what is wrong is between the one-sided derivatives of a kink.

    Entries that `beside` does not admit are moved up and down by themselves, which widens it: those furthest off first,
    and none after one that is not admitted even then, as one fault is enough. Beyond the `ALONE` first, all of them
    admitted, the others are taken to be as they are.
    """
    n, floats = len(reference.subject.shapes), reference.subject.floats
    wide = _with_neighbours(reference, xs)
    admitted = [np.array(found.wrong & side.admits(found)) for found, side in zip(gradients, beside, strict=True)]
    for j, index in _worst(gradients, [~entries for entries in admitted]):
        i, side = floats[j], beside[j]
        for sign in (-1, 1):
            moved = list(wide)
            moved[i] = np.array(wide[i])
            moved[i][index] += sign * _hair(wide[i][index])
            derivative = reference.truth(*moved)[n + j][index]
            side.low[index] = np.fmin(side.low[index], derivative)
            side.high[index] = np.fmax(side.high[index], derivative)
        if not side.admits(gradients[j])[index]:
            return admitted
        admitted[j][index] = True
    return [found.wrong for found in gradients]


def _worst(gradients: Sequence[Comparison], keep: Sequence[np.ndarray]) -> list[tuple[int, tuple[int, ...]]]:
    """Which entries of which cotangents are wrong, of those to keep: the `ALONE` that are furthest off, in order."""
    errors = [found.where(kept).error for found, kept in zip(gradients, keep, strict=True)]
    starts = np.cumsum([0, *(error.size for error in errors)])
    flat = np.concatenate([error.ravel() for error in errors])
    places = np.argsort(-flat, kind="stable")[: min(ALONE, int(np.count_nonzero(flat)))]
    owners = np.searchsorted(starts, places, side="right") - 1
    return [
        (int(j), tuple(int(k) for k in np.unravel_index(place - starts[j], errors[j].shape)))
        for j, place in zip(owners, places, strict=True)
    ]


def _with_neighbours(reference: Reference, xs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arguments in float64; a mask of -inf may as well be a huge number, and then has numbers beside it."""
    wide = list(xs)
    for i in reference.subject.floats:
        wide[i] = np.nan_to_num(xs[i].astype(np.float64), nan=np.nan, posinf=MASK, neginf=-MASK)
    return wide


def _hair(x: np.ndarray) -> np.ndarray:
    return CLOSE * np.where(x == 0, 1, np.abs(x))


def uneven_shares(
    reference: Reference, xs: Sequence[np.ndarray], gradients: Sequence[Comparison], beside: Sequence[Sides]
) -> float | None:
    """What tied arguments get together, as a multiple of what they should; None if nothing is wrong with it.

    Each may be between its one-sided derivatives and yet the sum be wrong: a maximum that gives both of two equal
    arguments all of the cotangent. Along a direction that keeps ties tied (all move by the same, or in proportion) the
    function may well have no kink, and then its slope has to be the gradients'.
    """
    subject = reference.subject
    kinks = [side.jump for side in beside]
    for direction in (np.ones_like, np.copy):
        moves = [
            np.where(jump & np.isfinite(xs[i]), direction(xs[i].astype(np.float64)), 0)
            for i, jump in zip(subject.floats, kinks, strict=True)
        ]
        forward, backward = (_slope(reference, xs, moves, sign * STEP) for sign in (1, -1))
        size = max(abs(forward), abs(backward))
        if not np.isfinite(size) or abs(forward - backward) > STRAIGHT * size:
            continue
        along = [(g, s, d) for g, s, d in zip(gradients, beside, moves, strict=True) if d.any()]
        got = sum(float(np.sum(g.got * d)) for g, _, d in along)
        # Entries without an answer, and rounding, are no evidence.
        slack = sum(
            float(np.sum((g.allowed + ROUNDED * g.unit * s.largest) * np.abs(d), where=d != 0)) for g, s, d in along
        )
        largest = sum(float(np.sum(s.largest * np.abs(d), where=d != 0)) for _, s, d in along)
        slope = (forward + backward) / 2
        if abs(got - slope) > slack + STRAIGHT * largest:
            return got / slope if slope else np.inf
    return None


def _slope(reference: Reference, xs: Sequence[np.ndarray], moves: Sequence[np.ndarray], step: float) -> float:
    """The difference quotient of the outputs, weighted by their cotangents, along a direction."""
    subject = reference.subject
    n = len(subject.leaves)
    leaves, cts = list(xs[:n]), xs[n:]
    moved = list(leaves)
    for i, move in zip(subject.floats, moves, strict=True):
        moved[i] = leaves[i].astype(np.float64) + step * move
    there, here = reference.value(*moved), reference.value(*leaves)
    with np.errstate(all="ignore"):
        # Where both are infinite nothing has moved.
        differences = (np.where(there[i] == here[i], 0, there[i] - here[i]) for i in subject.float_outs)
        return float(sum(np.sum(ct.astype(np.float64) * d) for ct, d in zip(cts, differences, strict=True))) / step
