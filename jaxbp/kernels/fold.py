"""A kernel that folds the blocks of some arrays, one after the other, into each block of others.

All arrays are [n, rows, length], cut along their lengths. Those that are *held* have a block in fast memory while the
blocks of those that are *streamed* go by, and some state is carried along. The length comes last since a TPU's vectors
lie along it, and a GPU's threads.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.kernels.launch import Work, launch, numbers, on_each_platform, padded, power_of_two

#: How long blocks are, those that are held and those that are streamed: what stays in a TPU's vector memory, and in the
#: registers of a GPU's multiprocessor.
BLOCK = {"tpu": (512, 512), "gpu": (64, 64), "cpu": (64, 64)}

State = tuple[jax.Array, ...]
Blocks = Sequence[jax.Array]
#: How many of the held entries count, and of the streamed ones: numbers, or in a kernel what it reads.
Counts = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Fold:
    """What is done with the blocks.

    Attributes:
        name: what profilers call it.
        start: `start(held) -> state`, given the held blocks, [rows, size]; a tuple of matrices [rows, size].
        step: `step(state, held, streamed, first_held, first_streamed, counts) -> state`: with the blocks of all arrays,
            where along the lengths they begin, and how many entries count.
        finish: `finish(state, held) -> results`, blocks of the arrays that come out.
        out: the rows and the dtype of each of those.
        flops: so many operations for each pair of a held and a streamed entry, all rows together.
        span: the streamed entries `(first, last + 1)` that a held block from `first` to before `last` needs; all if
            None.
    """

    name: str
    start: Callable[[Blocks], State]
    step: Callable[[State, Blocks, Blocks, Any, Any, Counts], State]
    finish: Callable[[State, Blocks], Blocks]
    out: tuple[tuple[int, Any], ...]
    flops: int
    span: Callable[[Any, Any], tuple[Any, Any]] | None = None

    def __call__(self, held: Blocks, streamed: Blocks, counts: Blocks = ()) -> list[jax.Array]:
        """The results, [n, rows, length] with the length of what is held.

        An array whose n is smaller serves as many neighbours together. `counts` are two arrays [n] of int32, where not
        all entries count: how many of the held ones do, and of the streamed ones. Blocks beyond are not looked at.
        """
        ends = len(held), len(held) + len(streamed)
        return on_each_platform(
            lambda platform, *xs: self._on(platform, xs[: ends[0]], xs[ends[0] : ends[1]], xs[ends[1] :]),
            *held,
            *streamed,
            *counts,
        )

    def _on(self, platform: str, held: Blocks, streamed: Blocks, counts: Blocks) -> list[jax.Array]:
        n = max(len(x) for x in (*held, *streamed))
        lengths = [xs[0].shape[2] for xs in (held, streamed)]
        sizes = [min(most, power_of_two(n)) for most, n in zip(BLOCK[platform], lengths, strict=True)]
        held, streamed = ([padded(x, 2, size) for x in xs] for xs, size in zip((held, streamed), sizes, strict=True))
        cuts = [xs[0].shape[2] // size for xs, size in zip((held, streamed), sizes, strict=True)]
        in_order = platform == "tpu"
        out = [((n, rows, held[0].shape[2]), dtype) for rows, dtype in self.out]
        results = launch(
            platform,
            self._kernel(len(held), len(streamed), len(counts), sizes, lengths, in_order=in_order),
            self.name,
            [*held, *streamed, *counts],
            out,
            grid=(n, *cuts) if in_order else (n, cuts[0]),
            in_specs=[
                *(_held_block(x.shape, sizes[0], n) for x in held),
                *(_streamed_block(x.shape, sizes[1], n, whole=not in_order) for x in streamed),
                *(numbers(platform, n) for _ in counts),
            ],
            out_specs=[_held_block(shape, sizes[0], n) for shape, _ in out],
            work=self._work(n, lengths, held, streamed, cuts[0]),
            scratch=self._state(held, sizes[0]) if in_order else (),
            in_turn=1,
            gpu={"num_stages": 1},  # What is loaded ahead takes the registers and shared memory of other blocks.
        )
        return [x[..., : lengths[0]] for x in results]

    def _state(self, held: Blocks, size: int) -> list[tuple[tuple[int, ...], Any]]:
        """Shapes and dtypes of the state."""
        blocks = [jax.ShapeDtypeStruct((x.shape[1], size), x.dtype) for x in held]
        return [(x.shape, x.dtype) for x in jax.eval_shape(self.start, blocks)]

    def _kernel(
        self, held: int, streamed: int, counted: int, sizes: Sequence[int], lengths: Sequence[int], *, in_order: bool
    ) -> Callable[..., None]:
        """Along the grid's last axis where its steps come in order, in a loop where they do not."""
        from jax.experimental import pallas as pl

        cuts = -(-lengths[1] // sizes[1])

        def counts(refs: Blocks) -> Counts:
            """Of the neighbours that this step of the grid is about."""
            return (refs[0][pl.program_id(0)], refs[1][pl.program_id(0)]) if refs else (lengths[0], lengths[1])

        def bounds(i: Any, counts: Counts) -> tuple[Any, Any]:
            """The streamed blocks that held block i needs."""
            if self.span is None and not counted:
                return 0, cuts
            first, last = (0, lengths[1]) if self.span is None else self.span(i * sizes[0], (i + 1) * sizes[0])
            last = jnp.minimum(last, counts[1])
            if counted:
                last = jnp.where(i * sizes[0] < counts[0], last, 0)
            return _divided(first, sizes[1]), _divided(last + sizes[1] - 1, sizes[1])

        def split(refs: Blocks) -> tuple[Blocks, Blocks, Blocks, Blocks, Blocks]:
            parts, start = [], 0
            for end in itertools.accumulate((held, streamed, counted, len(self.out))):
                parts.append(refs[start:end])
                start = end
            return *parts, refs[start:]

        def in_a_loop(*refs: Any) -> None:
            held_refs, streamed_refs, count_refs, out_refs, _ = split(refs)
            i, ends = pl.program_id(1), counts(count_refs)
            blocks = [ref[...] for ref in held_refs]

            def step(j: Any, state: State) -> State:
                first = j * sizes[1]
                passing = [ref[:, pl.ds(first, sizes[1])] for ref in streamed_refs]
                return self.step(state, blocks, passing, i * sizes[0], first, ends)

            state = jax.lax.fori_loop(*bounds(i, ends), step, self.start(blocks))
            _write(out_refs, self.finish(state, blocks))

        def in_steps(*refs: Any) -> None:
            held_refs, streamed_refs, count_refs, out_refs, state_refs = split(refs)
            i, j, ends = pl.program_id(1), pl.program_id(2), counts(count_refs)
            first, last = bounds(i, ends)

            def read(refs: Blocks) -> State:
                return tuple(ref[...] for ref in refs)

            @pl.when(j == 0)
            def _() -> None:
                _write(state_refs, self.start(read(held_refs)))

            @pl.when((first <= j) & (j < last))
            def _() -> None:
                blocks = read(held_refs), read(streamed_refs)
                _write(state_refs, self.step(read(state_refs), *blocks, i * sizes[0], j * sizes[1], ends))

            @pl.when(j == cuts - 1)
            def _() -> None:
                _write(out_refs, self.finish(read(state_refs), read(held_refs)))

        return in_steps if in_order else in_a_loop

    def _work(self, n: int, lengths: Sequence[int], held: Blocks, streamed: Blocks, cuts: int) -> Work:
        """All pairs of entries; what is held moves once, what is streamed once for each block of that."""
        pairs = n * math.prod(lengths)
        moved = sum(x.nbytes for x in held) + cuts * sum(x.nbytes * n // len(x) for x in streamed)
        written = sum(n * rows * lengths[0] * jnp.dtype(dtype).itemsize for rows, dtype in self.out)
        return Work(self.flops * pairs, pairs, moved + written)


def _write(refs: Sequence[Any], values: Blocks) -> None:
    for ref, value in zip(refs, values, strict=True):
        ref[...] = value.astype(ref.dtype)


def _divided(a: Any, b: int) -> jax.Array:
    """a / b, rounded down, of what is not negative: for all other numbers a kernel would have to look at the signs."""
    return jax.lax.div(jnp.int32(a), jnp.int32(b))


def _held_block(shape: tuple[int, ...], size: int, n: int) -> Any:
    from jax.experimental import pallas as pl

    together = n // shape[0]
    return pl.BlockSpec((None, shape[1], size), lambda k, i, *_: (_divided(k, together), 0, i))


def _streamed_block(shape: tuple[int, ...], size: int, n: int, *, whole: bool) -> Any:
    from jax.experimental import pallas as pl

    together = n // shape[0]
    if whole:
        return pl.BlockSpec((None, *shape[1:]), lambda k, i: (_divided(k, together), 0, 0))
    return pl.BlockSpec((None, shape[1], size), lambda k, i, j: (_divided(k, together), 0, j))
