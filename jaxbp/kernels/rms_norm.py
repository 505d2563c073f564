"""RMS norm row by row: each pass reads its arrays once, and nothing is kept but the arguments."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.kernels.launch import Work, launch, on_each_platform, padded, power_of_two
from jaxbp.promotion import widened

#: Entries of a block of rows: of a TPU's vector memory it takes a few MiB, of a GPU's registers half.
ENTRIES = {"tpu": 2**17, "gpu": 2**13, "cpu": 2**12}


def forward(x: jax.Array, scale: jax.Array, *, epsilon: float) -> jax.Array:
    """x of any shape, normalized along its last axis."""

    def kernel(n: int, x_ref: Any, scale_ref: Any, y_ref: Any) -> None:
        x = widened(x_ref[...])
        y_ref[...] = (x * _inverse(x, n, epsilon) * widened(scale_ref[...])).astype(y_ref.dtype)

    return _over_rows(kernel, "rms_norm", (x,), scale)[0]


def backward(x: jax.Array, scale: jax.Array, ct: jax.Array, *, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """The cotangents of x and scale."""

    def kernel(n: int, x_ref: Any, ct_ref: Any, scale_ref: Any, ct_x_ref: Any, ct_scale_ref: Any) -> None:
        x, ct = widened(x_ref[...]), widened(ct_ref[...])
        inverse = _inverse(x, n, epsilon)
        normal = x * inverse
        along, slopes = ct * normal, ct * widened(scale_ref[...])
        mean = jnp.sum(slopes * normal, axis=1, keepdims=True) / n
        ct_x_ref[...] = (inverse * (slopes - normal * mean)).astype(ct_x_ref.dtype)
        ct_scale_ref[...] = jnp.sum(along, axis=0, keepdims=True)

    ct_x, ct_scale = _over_rows(kernel, "rms_norm_cotangents", (x, ct), scale, sums=True)
    return ct_x, ct_scale.astype(scale.dtype)


def _inverse(x: jax.Array, n: int, epsilon: float) -> jax.Array:
    """One over the root mean square of each row of n entries, which zeros may follow."""
    return jax.lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) / n + epsilon)


def _over_rows(kernel: Any, name: str, arrays: tuple[jax.Array, ...], scale: jax.Array, *, sums: bool = False) -> Any:
    """A block of rows of each array gives one of the result and, if asked for, a row that is summed over the blocks."""
    shape, n = arrays[0].shape, arrays[0].shape[-1]
    rows = arrays[0].size // n

    def start(platform: str, *args: jax.Array) -> Any:
        from jax.experimental import pallas as pl

        width = power_of_two(n) if platform == "gpu" else n
        block = min(_rows_at_a_time(width, platform), power_of_two(rows))
        *of_rows, scale = (padded(x, 1, width) for x in args)
        # Rows of ones, since those of zeros have no inverse where epsilon is 0; their cotangents are 0.
        of_rows = [padded(x, 0, block, fill) for x, fill in zip(of_rows, (1, 0), strict=False)]
        blocks = len(of_rows[0]) // block
        of_a_block = pl.BlockSpec((block, width), lambda i: (i, 0))
        out = [(of_rows[0].shape, of_rows[0].dtype), ((blocks, 1, width), widened(scale).dtype)]
        results = launch(
            platform,
            lambda *refs: kernel(n, *refs),
            name,
            (*of_rows, scale),
            out[: 1 + sums],
            grid=(blocks,),
            in_specs=[*[of_a_block] * len(of_rows), pl.BlockSpec((1, width), lambda i: (0, 0))],
            out_specs=[of_a_block, pl.BlockSpec((None, 1, width), lambda i: (i, 0, 0))][: 1 + sums],
            gpu={"num_warps": 8},
            work=Work((5 + 7 * sums) * rows * n, rows, (len(of_rows) + 1) * of_rows[0].nbytes),
        )
        return results[0][:rows, :n], *(jnp.sum(x, axis=(0, 1))[:n] for x in results[1:])

    y, *more = on_each_platform(start, *(x.reshape(rows, n) for x in arrays), scale[None])
    return y.reshape(shape), *more


def _rows_at_a_time(width: int, platform: str) -> int:
    """A power of two, 8 at least on a TPU, whose vectors have as many rows."""
    fewest = 1 if platform == "gpu" else 8
    return max(fewest, 1 << max(0, (ENTRIES[platform] // width).bit_length() - 1))
