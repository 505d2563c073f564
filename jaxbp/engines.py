"""Every way to one gradient behind one signature: rules, autodiff, differences, NumPy and, if installed, torch.

An `Engine` runs on the arrays of its own library: `prepare` brings NumPy arrays there, `finish` brings results
back, and what lies between is what gets timed.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import differences
from jaxbp.errors import import_extra, unknown_name
from jaxbp.op import Op
from jaxbp.promotion import is_inexact

#: Whose thread pool an engine computes with; engines of different owners are timed in different processes.
Owner = Literal["jax", "numpy", "torch"]


@dataclasses.dataclass(frozen=True)
class Engine:
    """One way to an op's value and gradient.

    Attributes:
        name: as in `value_and_vjp(engine=...)` and in the reports.
        owner: the library that computes.
        fwd: `fwd(*args) -> y`.
        fwd_bwd: `fwd_bwd(args, ct) -> (y, cts)`; not yet jitted for engines of JAX.
        prepare: NumPy arrays to the owner's arrays.
        finish: a tree of the owner's arrays to NumPy.
        primal: what `jax.vjp` differentiates, for the engines that have separate forward and backward passes.
        difference: the kind of difference, for the numerical engines.
        wait: waits for a result, for an engine outside of JAX that computes on a device beside the processor.
    """

    name: str
    owner: Owner
    fwd: Callable[..., Any]
    fwd_bwd: Callable[[tuple[Any, ...], Any], tuple[Any, Any]]
    prepare: Callable[[Any], Any]
    finish: Callable[[Any], Any]
    primal: Callable[..., Any] | None = None
    difference: differences.Kind | None = None
    wait: Callable[[Any], object] | None = None


def engine_names(op: Op) -> tuple[str, ...]:
    """The names of all engines of an op, the default rule first; `torch` only where torch is installed.

    >>> import jaxbp
    >>> engine_names(jaxbp.tanh)[:3]
    ('rule:stable', 'rule:textbook', 'autodiff')
    """
    rules = tuple(f"rule:{name}" for name in op.rules)
    torch = ("torch",) if op.torch and importlib.util.find_spec("torch") else ()
    return (*rules, "autodiff", "forward_difference", "central_difference", "numpy", *torch)


def make_engine(op: Op, name: str, **options: Any) -> Engine:
    """The engine of that name for an op with fixed options, or an error that offers the closest names."""
    kind, _, rule = name.partition(":")
    if kind == "rule" and rule in op.rules:
        return _differentiated(name, functools.partial(op.rules[rule], **options))
    if name == "autodiff":
        return _differentiated(name, functools.partial(op.stock, **options))
    if name in ("forward_difference", "central_difference"):
        return _difference(op, "central" if name.startswith("central") else "forward", options)
    if name == "numpy":
        return _numpy(op, options)
    if name == "torch" and op.torch:
        return _torch(op, options)
    raise unknown_name(f"engine of {op.name}", name, engine_names(op))


def reference(
    op: Op, args: tuple[np.ndarray, ...], ct: np.ndarray, **options: Any
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The yardstick: value and cotangents from the NumPy reference, in a wider precision than the arguments.

    As in `value_and_vjp`, an argument of an integer or boolean dtype has None for its cotangent.

    Arguments of float32 and below are exact in float64. float64 arguments are taken to `np.longdouble`, which
    has 11 more bits on x86; where a platform's long double is no wider, float64 is compared with itself.
    """
    wide = np.longdouble if np.result_type(ct) == np.float64 else np.float64
    widened = tuple(x.astype(wide) if is_inexact(x) else x for x in args)
    with np.errstate(all="ignore"):
        y = np.asarray(op.reference(*widened, **options))
        cts = op.reference_vjp(ct.astype(wide), *widened, **options)
    return y, tuple(np.asarray(c) if is_inexact(x) else None for c, x in zip(cts, args, strict=True))


def _differentiated(name: str, primal: Callable[..., Any]) -> Engine:
    """An engine that runs `jax.vjp`: the same code for rules and autodiff, so that only the gradient differs."""

    return Engine(name, "jax", primal, value_and_cotangents(primal), _to_jax, _to_numpy, primal=primal)


def value_and_cotangents(primal: Callable[..., Any]) -> Callable[[tuple[Any, ...], Any], tuple[Any, tuple[Any, ...]]]:
    """`f(args, ct) -> (y, cts)` by `jax.vjp`, with None for the cotangent of an integer."""

    def fwd_bwd(args: tuple[Any, ...], ct: Any) -> tuple[Any, tuple[Any, ...]]:
        y, pull = jax.vjp(primal, *args)
        return y, tuple(c if is_inexact(x) else None for c, x in zip(pull(ct), args, strict=True))

    return fwd_bwd


def _difference(op: Op, kind: differences.Kind, options: dict[str, Any]) -> Engine:
    f = functools.partial(op.stock, **options)
    vjp = differences.elementwise_vjp if op.elementwise else differences.full_vjp

    def fwd_bwd(args: tuple[Any, ...], ct: Any) -> tuple[Any, Any]:
        y = f(*args)
        return y, vjp(op, f, kind, args, y, ct)

    return Engine(f"{kind}_difference", "jax", f, fwd_bwd, _to_jax, _to_numpy, difference=kind)


def _numpy(op: Op, options: dict[str, Any]) -> Engine:
    """NumPy in the arguments' own precision; bfloat16 and float16 compute in float32 and round at the end.

    NumPy has no arithmetic of its own for bfloat16, and its float16 is emulated entry by entry.
    """

    def fwd(*args: Any) -> Any:
        dtype = jnp.result_type(*(x for n, x in zip(op.arguments, args, strict=True) if n not in op.integers))
        wide = _numpy_dtype(dtype)
        with np.errstate(all="ignore"):
            y = np.asarray(op.reference(*op.convert(args, lambda x: np.asarray(x, wide)), **options))
        return y.astype(dtype, copy=False)

    def fwd_bwd(args: tuple[Any, ...], ct: Any) -> tuple[Any, Any]:
        dtype = jnp.result_type(ct)
        wide = _numpy_dtype(dtype)
        floats = op.convert(args, lambda x: np.asarray(x, wide))
        with np.errstate(all="ignore"):
            y = np.asarray(op.reference(*floats, **options))
            cts = op.reference_vjp(np.asarray(ct, wide), *floats, **options)
        return y.astype(dtype, copy=False), tuple(
            np.asarray(c).astype(jnp.result_type(x), copy=False) if is_inexact(x) else None
            for c, x in zip(cts, args, strict=True)
        )

    return Engine("numpy", "numpy", fwd, fwd_bwd, _to_numpy, _to_numpy)


def _numpy_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def _torch(op: Op, options: dict[str, Any]) -> Engine:
    torch = import_extra("torch", "torch")
    assert op.torch is not None
    f = functools.partial(op.torch(torch), **options)
    device = torch_device()

    def to_torch(x: Any) -> Any:
        x = np.asarray(x)
        if x.dtype == jnp.bfloat16:
            # torch shares no bfloat16 with NumPy; float32 holds every bfloat16 exactly.
            return torch.from_numpy(x.astype(np.float32)).to(device, torch.bfloat16)
        return torch.from_numpy(np.array(x)).to(device)

    def from_torch(x: Any) -> np.ndarray:
        x = x.detach().cpu()
        if x.dtype == torch.bfloat16:
            return x.to(torch.float32).numpy().astype(jnp.bfloat16)
        return x.numpy()

    def fwd(*args: Any) -> Any:
        with torch.no_grad():
            return f(*args)

    def fwd_bwd(args: tuple[Any, ...], ct: Any) -> tuple[Any, Any]:
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in args]
        y = f(*leaves)
        grads = iter(torch.autograd.grad(y, [x for x in leaves if x.requires_grad], ct))
        return y, tuple(next(grads) if x.requires_grad else None for x in leaves)

    return Engine(
        "torch",
        "torch",
        fwd,
        fwd_bwd,
        lambda tree: jax.tree.map(to_torch, tree),
        lambda tree: jax.tree.map(from_torch, tree),
        wait=None if device == "cpu" else lambda _: torch.cuda.synchronize(),
    )


@functools.cache
def torch_device() -> str:
    """Where the torch engine computes: `cuda` where torch finds a GPU, else `cpu`."""
    return "cuda" if import_extra("torch", "torch").cuda.is_available() else "cpu"


def _to_jax(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


@functools.cache
def _jitted(op: Op, name: str, options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    engine = make_engine(op, name, **dict(options))
    if engine.owner == "jax":
        return jax.jit(engine.fwd_bwd)
    return lambda args, ct: engine.finish(engine.fwd_bwd(engine.prepare(args), engine.prepare(ct)))


def _jitted_engine(op: Op, name: str, **options: Any) -> Callable[..., Any]:
    return _jitted(op, name, tuple(options.items()))


Op.jitted_engine = staticmethod(_jitted_engine)
