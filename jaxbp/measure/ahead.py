"""Rules and autodiff compiled for a chip that is not here: what its compiler says that they take."""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import topologies

from jaxbp.cases import Case
from jaxbp.devices import compiled_for
from jaxbp.engines import make_engine
from jaxbp.errors import import_extra, unknown_name
from jaxbp.measure.executables import compilers_counts, counted_work, planned_memory, separate_passes
from jaxbp.measure.plan import find_dtype, find_op, numpy_dtype
from jaxbp.measure.pool import owner_pool
from jaxbp.measure.traffic import traffic
from jaxbp.ops import OPS

Row = dict[str, Any]

#: What XLA's GPU compiler has to know of an H100, in the form of its own descriptions of chips.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """What is compiled for.

    Attributes:
        kind: the platform, as JAX calls it.
        name: what reports call one of it.
        described: what its compiler is told: the smallest arrangement of TPUs that it knows, or facts of a GPU.
        case: what is compiled, arrays that fill the chip's memory rather than its caches.
        compiler: the module that has the compiler, which the extra installs.
        extra: the extra.
    """

    kind: Literal["tpu", "gpu"]
    name: str
    described: str
    case: str
    compiler: str
    extra: str


def _tpu(arrangement: str) -> Target:
    return Target("tpu", f"chip of `{arrangement}`", arrangement, "memory", "libtpu", "tpu-aot")


TARGETS = {
    "v4": _tpu("v4:2x2x1"),
    "v5e": _tpu("v5e:2x2"),
    "v5p": _tpu("v5p:2x2x1"),
    "v6e": _tpu("v6e:2x2"),
    "h100": Target("gpu", "NVIDIA H100 80GB HBM3", _H100, "large", "jax_plugins.xla_cuda13", "gpu-aot"),
}
#: No chip is looked for, neither in this machine nor by asking a cloud for it, and the compiler is told what it would
#: complain of not knowing, whatever the target.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Ahead:
    """What is compiled in one go, for a chip: an op's default rule, those that are kernels, and autodiff."""

    op: str
    dtype: str
    target: str


def plan_ahead(ops: Iterable[str] = (), dtypes: Iterable[str] = ("float32",), target: str = "v5e") -> list[Ahead]:
    """What there is to compile; empty `ops` means all."""
    if target not in TARGETS:
        raise unknown_name("chip", target, TARGETS)
    chosen = [find_op(name) for name in ops] or list(OPS)
    return [Ahead(op.name, dtype, target) for op in chosen for dtype in map(find_dtype, dtypes)]


def compile_all(asked: Iterable[Ahead], progress: Callable[[str], None] = lambda name: None) -> Iterator[list[Row]]:
    """The rows of each, from a process of their own: a compiler that crashes costs what it was at, and nothing else."""
    waiting = list(asked)
    while waiting:
        with owner_pool("jax", ENVIRONMENT) as pool:
            while waiting:
                ahead = waiting.pop(0)
                progress(f"{ahead.op} {ahead.dtype}")
                try:
                    yield pool.submit(compile_ahead, ahead).result()
                except concurrent.futures.BrokenExecutor:
                    about = {**dataclasses.asdict(ahead), "engine": ""}  # Whichever it was.
                    yield [{**about, "status": "failed", "reason": "The compiler crashed."}]
                    break


def compile_ahead(ahead: Ahead) -> list[Row]:
    """One row an engine and mode; where an engine cannot be compiled, one with the reason."""
    op, target, there = find_op(ahead.op), TARGETS[ahead.target], chip(ahead.target)
    with jax.enable_x64(ahead.dtype == "float64"), compiled_for(target.kind):
        args = arguments(op.case(target.case), numpy_dtype(ahead.dtype), there)
        y = jax.eval_shape(op.stock, *args)
        ct = jax.ShapeDtypeStruct(y.shape, numpy_dtype(ahead.dtype), sharding=there)
        rows = []
        kernels = [name for name, bound in op.rules.items() if bound.rule.kernel and bound is not op.default_rule]
        for name in (*(f"rule:{rule}" for rule in (op.default_rule.name, *kernels)), "autodiff"):
            about = {**dataclasses.asdict(ahead), "case": target.case, "engine": name}
            try:
                rows += [{**about, **row} for row in compile_engine(op, name, args, ct, target.kind)]
            except Exception as error:  # Whatever a chip's compiler does not take.
                rows.append({**about, "status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]})
        return rows


@functools.cache
def chip(target: str) -> jax.sharding.Sharding:
    """One of the chips, as what is compiled for it is told."""
    wanted = TARGETS[target]
    import_extra(wanted.compiler, wanted.extra)
    described = (
        topologies.get_topology_desc(platform="tpu", topology_name=wanted.described)
        if wanted.kind == "tpu"
        else topologies.get_topology_desc(target, "cuda", target_config=wanted.described, topology="1x1x1")
    )
    return jax.sharding.SingleDeviceSharding(described.devices[0])


def arguments(case: Case, dtype: np.dtype, there: jax.sharding.Sharding) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The arguments of a case as a compiler needs to know them: nothing that large is drawn."""
    drawn = case.drawn(np.random.default_rng(0), dtype, tuple((1,) * len(shape) for shape in case.shapes))
    return tuple(
        jax.ShapeDtypeStruct(shape, x.dtype, sharding=there) for shape, x in zip(case.shapes, drawn, strict=True)
    )


def compile_engine(op: Any, name: str, args: tuple[Any, ...], ct: Any, kind: str) -> Iterator[Row]:
    """Value and gradient in one executable, and the two passes apart."""
    engine = make_engine(op, name)
    assert engine.primal is not None
    yield {"mode": "fwd_bwd", "residual_bytes": None, **compiled(kind, engine.fwd_bwd, args, ct)}
    passes = separate_passes(functools.partial(jax.vjp, engine.primal), args)
    kept = sum(residual.bytes for residual in passes.residuals)
    yield {"mode": "fwd_res", "residual_bytes": kept, **compiled(kind, passes.fwd_res, *args)}
    residuals = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=ct.sharding),
        passes.handed_over(jax.eval_shape(passes.fwd_res, *args)),
    )
    yield {"mode": "bwd", "residual_bytes": kept, **compiled(kind, passes.bwd, args, residuals, ct)}


def compiled(kind: str, f: Callable[..., Any], *args: Any) -> Row:
    """What a compiler says of a function: its own counts, its plan of memory, and how long it estimates a call.

    XLA's GPU compiler counts nothing ahead of time: kernels and bytes are counted here, from its program.
    """
    start = time.perf_counter()
    executable = jax.jit(f).lower(*args).compile()
    compile_ms = 1e3 * (time.perf_counter() - start)
    temp, peak = planned_memory(executable)
    flops, moved = counted_work(executable)
    launched = traffic(executable.as_text() or "") if kind == "gpu" else None
    return {
        "flops": flops,
        "bytes": launched.bytes if launched else moved,
        "kernels": launched.kernels if launched else None,
        "estimate_us": _microseconds(compilers_counts(executable)),
        "temp_bytes": temp,
        "peak_bytes": peak,
        "compile_ms": compile_ms,
        "status": "ok",
        "reason": "",
    }


def _microseconds(counts: dict[str, float]) -> float | None:
    seconds = counts.get("optimal_seconds", -1)
    return 1e6 * seconds if seconds > 0 else None
