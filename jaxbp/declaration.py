"""What an op is declared with: rules and their accuracy, domains, kinks, counts of operations."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shapes = tuple[tuple[int, ...], ...]
#: A number, or a row of them.
Entries = float | tuple[float, ...]

#: Where most formulas and the pictures of circuits come from.
NOTES = "CS231n, Backpropagation, Intuitions"
#: The shapes of the ops of two arguments.
BROADCAST = "x [...], y [...] -> y [...], floating, broadcast as NumPy does."


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The stated accuracy of a rule: the largest error in ULP, of the value and of each gradient, by dtype.

    It holds on a CPU for every argument, or those in `where`, and the cotangent 1, wherever the exact result is a
    normal number or larger than all of them; and no result is a wrong zero, infinity or NaN. Results below the smallest
    normal number may be flushed to 0. Tests sample it, the census under `results/census/` proves it.

    Attributes:
        float32: (value, gradient).
        float64: likewise, over samples: float64 cannot be swept whole.
        narrow: likewise for float16 and bfloat16, which are computed in float32 and rounded once.
        where: from the arguments, NumPy's, and the options, the entries for which it is stated; None if for all.
        note: in words, after "where".
    """

    float32: tuple[float, float]
    float64: tuple[float, float]
    narrow: tuple[float, float] = (0.51, 0.51)
    where: Callable[..., Any] | None = None
    note: str = ""

    @property
    def by_dtype(self) -> dict[str, tuple[float, float]]:
        """(value, gradient) by the name of each attribute."""
        return {"float32": self.float32, "float64": self.float64, "narrow": self.narrow}

    def holds(self, *args: np.ndarray, **options: Any) -> np.ndarray:
        """The entries of these arguments for which it is stated."""
        if self.where is None:
            return np.ones(np.broadcast_shapes(*(x.shape for x in args)), bool)
        with np.errstate(all="ignore"):
            return self.where(*args, **options)

    def bound(self, dtype: jax.typing.DTypeLike, quantity: str) -> float:
        """The bound for a dtype and a quantity, `value` or `ct_<argument>`."""
        return self.by_dtype.get(jnp.dtype(dtype).name, self.narrow)[quantity != "value"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is known to be wrong, in float32, with a rule that is kept for teaching; tests find exactly that.

    Attributes:
        kind: as `check_vjp` calls it: `value` or `gradient` is wrong, or `precision` is lost.
        where: from the arguments, which entries of the output it is about.
        note: in words, after "wrong" or "digits lost".
    """

    kind: str
    where: Callable[..., Any]
    note: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """One hand-written VJP of an op.

    Attributes:
        name: what `op.rules[name]`, engines (`rule:<name>`) and reports call it.
        fwd: `fwd(*args, **options) -> (y, res)`; the op's options are its keyword-only parameters.
        bwd: `bwd(res, ct, **options) -> cotangents`, a tuple with one of the argument's shape per argument.
        note: what the rule is for, in one sentence.
        accuracy: its stated accuracy; None where no bound in ULP holds for all arguments.
        faults: what is known to be wrong with it.
        kernel: whether it is a kernel, compiled for GPUs and TPUs. On a processor it is interpreted: it is right there,
            and nobody would want to wait for it, so that it is not timed.
        value: `value(*args, **options) -> y`, where the value alone is faster otherwise than in `fwd`; not for
            elementwise ops.
    """

    name: str
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., tuple[Any, ...]]
    note: str = ""
    accuracy: Accuracy | None = None
    faults: tuple[Fault, ...] = ()
    kernel: bool = False
    value: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Domain:
    """Where an argument may lie: an open interval, without the points in `excluded`."""

    low: float = -math.inf
    high: float = math.inf
    excluded: tuple[float, ...] = ()

    @property
    def edges(self) -> tuple[float, ...]:
        """The finite points that numerical differences must not step over."""
        return tuple(e for e in (self.low, self.high, *self.excluded) if math.isfinite(e))

    def __str__(self) -> str:
        text = f"({self.low:g}, {self.high:g})"
        return text + (f" without {', '.join(f'{e:g}' for e in self.excluded)}" if self.excluded else "")


@dataclasses.dataclass(frozen=True)
class Kink:
    """A point where the derivative does not exist, and the value that a rule returns there by convention.

    Attributes:
        at: one number an argument, or a row of numbers for one that is a vector.
        gradient: by rule name, likewise, for the cotangent 1; None for an argument of integers.
        why: the convention and where it comes from.
    """

    at: tuple[Entries, ...]
    gradient: Mapping[str, tuple[Entries | None, ...]]
    why: str


def shown(values: Iterable[Entries | None]) -> str:
    """The arguments or the gradient of a kink in a line.

    >>> shown((0.5, (1.0, -1.0), None))
    '0.5, [1, -1], none'
    """
    return ", ".join(f"[{shown(v)}]" if isinstance(v, tuple) else "none" if v is None else f"{v:g}" for v in values)


@dataclasses.dataclass(frozen=True)
class Flops:
    """Analytic floating-point operations: of the forward pass, and of the backward pass for all cotangents."""

    fwd: int
    bwd: int


def flops_per_entry(fwd: int, bwd: int) -> Callable[[Shapes], Flops]:
    """So many operations for each entry of the first argument, whatever the shapes of the others and of the output."""

    def count(shapes: Shapes) -> Flops:
        n = math.prod(shapes[0])
        return Flops(fwd * n, bwd * n)

    return count
