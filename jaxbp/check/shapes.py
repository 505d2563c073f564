"""Other shapes that a function admits: prime and no longer square, single, and empty dimensions."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from jaxbp.check.subject import Leaves, Subject
from jaxbp.jaxprs import is_float

PRIMES = (5, 7, 11, 13, 17, 19, 23)
#: Entries up to which kernels are given longer arrays, too.
LONGEST = 2**16
#: An axis of one of the leaves.
Axis = tuple[int, int]
Change = Mapping[Axis, int]


def other_shapes(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """The function with arguments of other shapes; dimensions of the same size change together, where they can.

    Which of them belong together only the function knows: it admits a change if it can be traced with it.
    """
    axes = [(i, axis) for i, x in enumerate(subject.leaves) for axis in range(x.ndim)]
    sizes = sorted({subject.leaves[i].shape[axis] for i, axis in axes} - {0, 1})
    groups = {size: [a for a in axes if subject.leaves[a[0]].shape[a[1]] == size] for size in sizes}
    free = [size for size in sizes if _admitted(subject, dict.fromkeys(groups[size], _prime(size, sizes)))]

    def all_at_once(new: Callable[[int], int]) -> Iterator[Change]:
        yield {axis: new(size) for size in free for axis in groups[size]}
        for size in free:
            yield dict.fromkeys(groups[size], new(size))

    wanted: dict[str, Iterable[Change]] = {
        "prime": all_at_once(lambda size: _prime(size, sizes)),
        "not square": _unsquared(subject, groups),
        "of one row": (dict.fromkeys(groups[size], 1) for size in _leading(subject, free)),
        "of size 1": all_at_once(lambda size: 1),
        "empty": (dict.fromkeys(groups[size], 0) for size in free),
    }
    if subject.stock is not None and sum(x.size for x in subject.leaves) <= LONGEST:
        # Kernels work in blocks, and what they are given may be but one of them.
        wanted["longer"] = itertools.chain(*(all_at_once(lambda size, k=k: 2 * size + k) for k in (1, 0)))
    for kind, changes in wanted.items():
        admitted = (_admitted(subject, change) for change in changes if change)
        other = next(filter(None, admitted), None)
        if other is not None:
            shown = ", ".join(
                f"{name} {x.dtype}{list(x.shape)}" for name, x in zip(other.names, other.leaves, strict=True)
            )
            yield f"with shapes {kind}, {shown}", other


def _leading(subject: Subject, free: list[int]) -> list[int]:
    """The size of the first axis of the first array that has more than one, if it may change."""
    first = next((x.shape[0] for x in subject.leaves if x.ndim > 1), None)
    return [size for size in free if size == first]


def _prime(size: int, taken: list[int]) -> int:
    """Another one for each size."""
    free = [p for p in PRIMES if p not in taken] or [29]
    return free[taken.index(size) % len(free)]


def _unsquared(subject: Subject, groups: Mapping[int, list[Axis]]) -> Iterator[Change]:
    """One axis of a square leaf longer, alone or with some of others; or an axis of all leaves but the first."""
    for size, axes in groups.items():
        leaves = [i for i, _ in axes]
        for axis in (a for a in axes if leaves.count(a[0]) > 1):
            yield {axis: size + 1}
            others = [other for other in axes if other[0] != axis[0]]
            for other in others:
                yield {axis: size + 1, other: size + 1}
            for pair in itertools.combinations(others, 2):
                yield {axis: size + 1, **dict.fromkeys(pair, size + 1)}
        # As many keys as queries, say, need not be.
        rest = [a for a in axes if a[0] != axes[0][0]]
        if rest and len(set(leaves)) == len(leaves):
            yield dict.fromkeys(rest, size + 1)


def _admitted(subject: Subject, change: Change) -> Subject | None:
    """The subject with that change, if the function can be traced with it."""
    leaves = _resized(subject.leaves, change)
    try:
        return subject.with_leaves(leaves) if leaves else None
    except (TypeError, ValueError):
        return None


def _resized(leaves: Leaves, change: Change) -> Leaves | None:
    """Arrays with axes cut or continued periodically; None if whole numbers that are indices would point outside."""
    resized = list(leaves)
    for (i, axis), n in change.items():
        x = resized[i]
        if n and not x.shape[axis]:
            return None
        resized[i] = np.take(x, np.arange(n) % max(1, x.shape[axis]), axis)
    shrunk = {leaves[i].shape[axis]: n for (i, axis), n in change.items() if n < leaves[i].shape[axis]}
    for i, x in enumerate(resized):
        if is_float(x.dtype) or x.dtype == bool or not x.size:
            continue
        for old, n in shrunk.items():
            if n <= x.max() < old:
                if n == 0:
                    return None
                # A label below the number of classes stays one.
                resized[i] = x = np.where(x >= 0, x % n, x).astype(x.dtype)
    return tuple(resized)
