"""How a kernel is started: compiled by Triton on a GPU and by Mosaic on a TPU, interpreted on a processor."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

#: Kernels of a GPU compute with arrays whose sizes are powers of two, and with matrices of 16 rows or more.
FEWEST = 16


@dataclasses.dataclass(frozen=True)
class Work:
    """What a kernel does, for compilers that cannot look into it."""

    flops: int
    exponentials: int
    bytes: int


def on_each_platform(start: Callable[..., Any], *args: jax.Array) -> Any:
    """`start(platform, *args)` for the platform that the program is compiled for: cpu, gpu or tpu."""
    cpu, gpu, tpu = (functools.partial(start, platform) for platform in ("cpu", "gpu", "tpu"))
    return jax.lax.platform_dependent(*args, cpu=cpu, cuda=gpu, rocm=gpu, tpu=tpu)


def differentiated_as(plain: Callable[..., Any], run: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`run`, which starts kernels, with the derivatives of `plain`, the same function for XLA; both with the settings.

    A kernel has none of its own. So the gradient that kernels compute can be differentiated, as often as `plain` can.
    """
    function = jax.custom_jvp(functools.partial(run, **settings))

    @function.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        return function(*primals), jax.jvp(functools.partial(plain, **settings), primals, tangents)[1]

    return function


def launch(
    platform: str,
    kernel: Callable[..., None],
    name: str,
    args: Sequence[jax.Array],
    out: Sequence[tuple[tuple[int, ...], Any]],
    *,
    grid: tuple[int, ...],
    in_specs: Sequence[Any],
    out_specs: Sequence[Any],
    work: Work,
    scratch: Sequence[tuple[tuple[int, ...], Any]] = (),
    in_turn: int = 0,
    gpu: Mapping[str, int] = MappingProxyType({}),
) -> list[jax.Array]:
    """The results of a kernel, arrays of the shapes and dtypes in `out`.

    Args:
        platform: cpu, gpu or tpu.
        kernel: takes the references of arguments, results and scratch memory.
        name: what profilers call it.
        args: what it reads.
        out: the shape and dtype of each array that it writes.
        grid, in_specs, out_specs: as `pallas_call` takes them.
        work: what it does.
        scratch: memory that stays from one step of the grid to the next, on a TPU.
        in_turn: so many of the grid's last axes, a TPU walks along in order.
        gpu: settings of the compiler for GPUs.
    """
    from jax.experimental import pallas as pl  # A second that nobody pays who uses no kernel.

    settings: dict[str, Any] = {}
    if platform == "tpu":
        from jax.experimental.pallas import tpu

        order = [tpu.PARALLEL] * (len(grid) - in_turn) + [tpu.ARBITRARY] * in_turn
        settings["compiler_params"] = tpu.CompilerParams(dimension_semantics=order)
        settings["scratch_shapes"] = [tpu.VMEM(shape, dtype) for shape, dtype in scratch]
    elif platform == "gpu":
        from jax.experimental.pallas import triton

        settings["compiler_params"] = triton.CompilerParams(**gpu)
    return pl.pallas_call(
        kernel,
        [alike(shape, dtype, args) for shape, dtype in out],
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        cost_estimate=pl.CostEstimate(flops=work.flops, transcendentals=work.exponentials, bytes_accessed=work.bytes),
        interpret=platform == "cpu",
        name=name,
        **settings,
    )(*args)


def numbers(platform: str, n: int) -> Any:
    """How a kernel is handed n numbers whole, to read one by one: a TPU keeps those apart from its vectors."""
    from jax.experimental import pallas as pl

    if platform == "tpu":
        from jax.experimental.pallas import tpu

        return pl.BlockSpec(memory_space=tpu.SMEM)
    return pl.BlockSpec((n,), lambda *_: (0,))


def alike(shape: tuple[int, ...], dtype: Any, args: Sequence[jax.Array]) -> jax.ShapeDtypeStruct:
    """A result that varies over the mesh axes that the arguments vary over, under shard_map."""
    most = max((jax.typeof(x).manual_axis_type for x in args), key=lambda axes: len(axes.varying))
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=most)


def padded(x: jax.Array, axis: int, multiple: int, fill: int = 0) -> jax.Array:
    """x with zeros, or another number, at the end of that axis, up to a multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)], constant_values=fill)


def power_of_two(n: int) -> int:
    """The smallest power of two from n and `FEWEST` on."""
    return max(FEWEST, 1 << max(0, n - 1).bit_length())
