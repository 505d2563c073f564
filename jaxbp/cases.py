"""Cases: an op's arguments at named shapes, drawn from seeded distributions."""

import dataclasses
import zlib
from typing import Protocol

import numpy as np

from jaxbp.errors import import_extra

SEED = 20241123


class Draw(Protocol):
    """A distribution of one argument; its `str` is what reports print."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high)."""

    low: float
    high: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(self.low, self.high, shape)

    def __str__(self) -> str:
        return f"uniform({self.low:g}, {self.high:g})"


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal with mean 0; `scale` is the standard deviation."""

    scale: float = 1.0

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(0.0, self.scale, shape)

    def __str__(self) -> str:
        return f"normal(0, {self.scale:g})"


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """Magnitudes uniform in the exponent, 2^low to 2^high: every binade is met equally often.

    With `signed` half of the entries are negative.
    """

    low: float
    high: float
    signed: bool = True

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        magnitude = np.exp2(rng.uniform(self.low, self.high, shape))
        return np.where(rng.random(shape) < 0.5, -magnitude, magnitude) if self.signed else magnitude

    def __str__(self) -> str:
        return f"{'+-' if self.signed else ''}2^uniform({self.low:g}, {self.high:g})"


@dataclasses.dataclass(frozen=True)
class Labels:
    """Class labels: integers uniform on [0, classes)."""

    classes: int

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(0, self.classes, shape, dtype=np.int32)

    def __str__(self) -> str:
        return f"integers in [0, {self.classes})"


@dataclasses.dataclass(frozen=True)
class Mask:
    """Booleans, this share of them true."""

    share: float = 0.5

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.random(shape) < self.share

    def __str__(self) -> str:
        return f"true with probability {self.share:g}"


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths of padded sequences: integers uniform on [1, longest]."""

    longest: int

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(1, self.longest, shape, dtype=np.int32, endpoint=True)

    def __str__(self) -> str:
        return f"integers in [1, {self.longest}]"


@dataclasses.dataclass(frozen=True)
class Digits:
    """The 1797 images of handwritten digits that scikit-learn carries, [1797, 64], pixels scaled to [0, 1]."""

    SHAPE = (1797, 64)

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if shape != self.SHAPE:
            raise ValueError(f"The digit images have shape {self.SHAPE}, but the case asks for {shape}.")
        return import_extra("sklearn.datasets", "bench").load_digits().data / 16.0

    def __str__(self) -> str:
        return "scikit-learn digits / 16"


@dataclasses.dataclass(frozen=True)
class Short:
    """Rounded to so many binary digits after the point: sums of their products are exact, in whatever order.

    So every engine is on the same side of a kink behind a matrix product. Where a sum is closer to it than rounding
    errors are, which side an engine is on is luck, and its gradient another one.
    """

    draw: Draw
    digits: int

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.round(np.ldexp(self.draw(rng, shape), self.digits)) / 2.0**self.digits

    def __str__(self) -> str:
        return f"{self.draw}, {self.digits} binary digits after the point"


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The same rows so many times: arrays for an accelerator take a processor longer to draw than all that follows."""

    draw: Draw
    times: int

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if not shape or shape[0] % self.times:
            return self.draw(rng, shape)
        rows = self.draw(rng, (shape[0] // self.times, *shape[1:]))
        return np.concatenate([rows] * self.times)

    def __str__(self) -> str:
        return f"{self.draw}, {self.times} times the same rows"


@dataclasses.dataclass(frozen=True)
class Case:
    """An op's arguments at named shapes.

    Attributes:
        name: what the command line and the reports call it (`small`, `cache`, `memory`, `digits`, ...).
        shapes: one shape an argument.
        draws: one distribution an argument.
        repeats: so many times the cotangent has the same rows.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    draws: tuple[Draw, ...]
    repeats: int = 1

    def arguments(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """The arguments as NumPy arrays of `dtype`; the same for every engine, machine and session."""
        return self.drawn(np.random.default_rng([SEED, zlib.crc32(self.name.encode())]), dtype)

    def drawn(
        self, rng: np.random.Generator, dtype: np.dtype, shapes: tuple[tuple[int, ...], ...] | None = None
    ) -> tuple[np.ndarray, ...]:
        """Arguments of other seeds or shapes; floats are of `dtype`, integers of their own."""
        drawn = (np.asarray(draw(rng, s)) for draw, s in zip(self.draws, shapes or self.shapes, strict=True))
        with np.errstate(over="ignore"):  # A draw too large for float16 is infinite there.
            return tuple(x.astype(dtype) if x.dtype.kind == "f" else x for x in drawn)

    def cotangent(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A cotangent for an output of `shape`: +-[0.5, 2), seeded apart from the arguments.

        It stays away from 0, so that it pushes no gradient below the smallest normal number.
        """
        rng = np.random.default_rng([SEED, zlib.crc32(self.name.encode()), 1])
        return np.asarray(Repeated(LogUniform(-1, 1), self.repeats)(rng, shape)).astype(dtype)


#: Entries of an elementwise op's arrays: 4 KiB, 256 KiB and 16 MiB of float32 each.
ELEMENTWISE_SIZES = {"small": 2**10, "cache": 2**16, "memory": 2**22}


def elementwise_cases(*draws: Draw, scalars: tuple[int, ...] = ()) -> tuple[Case, ...]:
    """The standard cases of an elementwise op: vectors of `ELEMENTWISE_SIZES`; arguments in `scalars` are 0-d.

    >>> [case.shapes for case in elementwise_cases(Normal(), Normal(), scalars=(1,))][0]
    ((1024,), ())
    """
    return tuple(
        Case(name, tuple(() if i in scalars else (n,) for i in range(len(draws))), draws)
        for name, n in ELEMENTWISE_SIZES.items()
    )


#: The case that keeps an accelerator busy: its cache holds arrays of `memory`, whose results come sooner than the next
#: call.
LARGE, LARGE_FACTOR = "large", 8


def large_case(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Case `memory` with the longest first axis, wherever it is one, `LARGE_FACTOR` times as long; none without it.

    >>> [case.shapes for case in large_case(elementwise_cases(Normal(), Normal(), scalars=(1,)))]
    [((33554432,), ())]
    """
    return tuple(_longer(case) for case in cases if case.name == "memory")


def _longer(case: Case) -> Case:
    longest = max(shape[:1] for shape in case.shapes)
    shapes, draws = [], []
    for shape, draw in zip(case.shapes, case.draws, strict=True):
        long = shape and shape[:1] == longest
        shapes.append((LARGE_FACTOR * shape[0], *shape[1:]) if long else shape)
        draws.append(Repeated(draw, LARGE_FACTOR) if long else draw)
    return Case(LARGE, tuple(shapes), tuple(draws), LARGE_FACTOR)


#: Logits of half a gibibyte, of a vocabulary of LLaMA's size: a call takes a second, and all engines minutes.
VOCABULARY = "vocabulary"

#: How many sizes the growth of an op's cost is measured at.
GROWTH = tuple(f"growth-{i}" for i in range(6))


def growth_cases(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Sizes from `small` on towards `memory`, each axis growing by the same factor from each to the next.

    `memory` itself would be the next after the last. None where there are no cases of these names.

    >>> [case.shapes for case in growth_cases(elementwise_cases(Normal()))]
    [((1024,),), ((4096,),), ((16384,),), ((65536,),), ((262144,),), ((1048576,),)]
    """
    named = {case.name: case for case in cases}
    if not {"small", "memory"} <= set(named):
        return ()
    small, large = named["small"], named["memory"]
    return tuple(
        Case(
            name,
            tuple(
                tuple(round(a * (b / a) ** (i / len(GROWTH))) for a, b in zip(low, high, strict=True))
                for low, high in zip(small.shapes, large.shapes, strict=True)
            ),
            small.draws,
        )
        for i, name in enumerate(GROWTH)
    )
