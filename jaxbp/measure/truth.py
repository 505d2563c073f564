"""What the results of a task should be, as its checks and its accuracy are measured against: exact entries."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxbp import engines
from jaxbp.op import Op

#: Which flat entries of so many; None for all.
Pick = Callable[[int], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What one result should be.

    Attributes:
        quantity: what the rows call it: `value`, or `ct_` and an argument's name.
        shape: of the whole result.
        exact: the exact entries, flat.
        entries: which flat entries these are, ascending; None for all.
    """

    quantity: str
    shape: tuple[int, ...]
    exact: np.ndarray
    entries: np.ndarray | None = None

    def at(self, chosen: np.ndarray | None) -> "Truth":
        """At the chosen ones of the entries that are known; None for all of these."""
        if chosen is None:
            return self
        entries = chosen if self.entries is None else self.entries[chosen]
        return dataclasses.replace(self, exact=self.exact[chosen], entries=entries)

    def of(self, x: np.ndarray) -> np.ndarray:
        """The entries of an array of the result's shape that this says something about, flat."""
        return x.reshape(-1) if self.entries is None else x.reshape(-1)[self.entries]


def find_truths(op: Op, args: tuple[np.ndarray, ...], ct: np.ndarray, pick: Pick) -> tuple[Truth | None, ...]:
    """The truth of the value and of each cotangent, None for that of an integer.

    Of an elementwise op only the picked entries are computed: the reference would take longer than what it judges. Of
    any other op an entry may need all arguments, and all are known.
    """
    shape = ct.shape
    entries = pick(ct.size) if op.elementwise and all(x.shape == shape for x in args) else None
    if entries is not None:
        args, ct = tuple(x.reshape(-1)[entries] for x in args), ct.reshape(-1)[entries]
    y, cts = engines.reference(op, args, ct)
    return tuple(
        None if x is None else Truth(name, x.shape if entries is None else shape, x.reshape(-1), entries)
        for name, x in zip(("value", *(f"ct_{a}" for a in op.arguments)), (y, *cts), strict=True)
    )
