"""The executables of a JAX engine, one a mode, compiled ahead with all data as arguments."""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jaxbp.differences import entry_vjp, evaluations
from jaxbp.engines import Engine
from jaxbp.jaxprs import place
from jaxbp.measure.timer import Queued
from jaxbp.op import Op
from jaxbp.programs import fingerprint
from jaxbp.promotion import is_inexact

#: What is timed: the value; value and residuals; the backward pass with residuals as arguments; value and
#: gradient in one executable; likewise with the value summed, times the cotangent, to a number; and `split`, the sum of
#: fwd_res and bwd.
Mode = Literal["fwd", "fwd_res", "bwd", "fwd_bwd", "summed", "split"]


@dataclasses.dataclass(frozen=True)
class Residual:
    """An array that the forward pass keeps for the backward pass.

    Attributes:
        shape: its shape.
        dtype: its dtype.
        bytes: its size.
        where: the source line that computes it, as `file.py:12 (function)`; the name of the primitive where only JAX's
            own lines are known; `output` for the value itself.
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    where: str


@dataclasses.dataclass(frozen=True)
class Executable:
    """A compiled mode of one engine, with its arguments; None stands for what is not known, never for 0.

    Attributes:
        call: runs it with the arguments that it is timed with, and waits for every output.
        apply: runs it with whatever arguments of those shapes.
        lower_ms: time to trace and lower; None where nothing is compiled.
        compile_ms: time to compile, likewise.
        residuals: for fwd_res, what is kept for the backward pass beyond the inputs.
        temp_bytes: what the executable allocates beside its arguments and outputs.
        peak_bytes: arguments, outputs and temporary memory together, as the compiler plans them.
        xla_flops: the compiler's count of floating-point operations, after its optimizations.
        xla_bytes: the compiler's count of bytes read and written, likewise.
        program: the `fingerprint` of the compiled program, by which others are told from it.
        handed_over: for bwd, the residuals that it takes, from what fwd_res returns.
    """

    call: Callable[[], Any]
    apply: Callable[..., Any]
    lower_ms: float | None = None
    compile_ms: float | None = None
    residuals: tuple[Residual, ...] | None = None
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    xla_flops: float | None = None
    xla_bytes: float | None = None
    program: str | None = None
    handed_over: Callable[[Any], Any] | None = None

    @property
    def residual_bytes(self) -> int | None:
        """The size of all residuals together."""
        return None if self.residuals is None else sum(residual.bytes for residual in self.residuals)


def compile_function(
    f: Callable[..., Any],
    *args: Any,
    residuals: tuple[Residual, ...] | None = None,
    options: dict[str, Any] | None = None,
) -> Executable:
    """Lower and compile `f` for these arguments; they stay arguments, so nothing folds into constants.

    `options` are those of the compiler.
    """
    start = time.perf_counter()
    lowered = jax.jit(f).lower(*args)
    middle = time.perf_counter()
    compiled = lowered.compile(options)
    end = time.perf_counter()
    call = Queued(functools.partial(compiled, *args), jax.block_until_ready)
    # JAX's CPU backend computes within the call or, where it does not, several calls at once.
    return Executable(
        (lambda: call()) if jax.default_backend() == "cpu" else call,
        compiled,
        1e3 * (middle - start),
        1e3 * (end - middle),
        residuals,
        *planned_memory(compiled),
        *counted_work(compiled),
        fingerprint(compiled.as_text() or ""),
    )


def planned_memory(compiled: Any) -> tuple[int | None, int | None]:
    """Temporary and peak bytes of a compiled function; None for what its backend does not say.

    The peak is arguments + outputs + temporary - aliased bytes. XLA's own `peak_memory_in_bytes` is no peak on the CPU:
    it leaves the temporary memory out.
    """
    stats = compiled.memory_analysis()
    argument, output, temp, alias = (
        getattr(stats, f"{part}_size_in_bytes", None) for part in ("argument", "output", "temp", "alias")
    )
    if argument is None or output is None or temp is None or alias is None:
        return temp, None
    return temp, argument + output + temp - alias


def compilers_counts(compiled: Any) -> dict[str, float]:
    """What XLA counted in a compiled function, by its own names, without what it does not know.

    It takes a loop for one pass of it, however often it runs: of a program with loops it knows nothing.
    """
    if " while(" in (compiled.as_text() or ""):
        return {}
    # Some backends write -1 for a kernel that they cannot look into.
    return {name: float(count) for name, count in (compiled.cost_analysis() or {}).items() if count >= 0}


def counted_work(compiled: Any) -> tuple[float | None, float | None]:
    """XLA's counts of floating-point operations and of bytes accessed; None for what it does not know."""
    counts = compilers_counts(compiled)
    return counts.get("flops"), counts.get("bytes accessed")


def compile_modes(engine: Engine, args: tuple[Any, ...], ct: Any, modes: Iterable[Mode]) -> dict[Mode, Executable]:
    """The executables of the modes that the engine has; an engine without a primal has only fwd_bwd."""
    executables: dict[Mode, Executable] = {}
    if "fwd_bwd" in modes:
        executables["fwd_bwd"] = compile_function(engine.fwd_bwd, args, ct)
    if engine.primal is None:
        return executables
    if "summed" in modes:
        executables["summed"] = compile_function(functools.partial(_summed, engine), args, ct)
    if "fwd" in modes:
        executables["fwd"] = compile_function(engine.fwd, *args)
    if "fwd_res" in modes or "bwd" in modes:
        executables |= compile_passes(functools.partial(jax.vjp, engine.primal), args, ct)
    return executables


def _summed(engine: Engine, args: tuple[Any, ...], ct: Any) -> tuple[Any, Any]:
    """What a loss does with the value, which need not be written down then, and the cotangents."""
    y, cts = engine.fwd_bwd(args, ct)
    return jnp.sum(y * ct), cts


@dataclasses.dataclass(frozen=True)
class Passes:
    """Forward and backward pass apart, as functions.

    Attributes:
        fwd_res: `fwd_res(*args) -> (y, residuals)`.
        bwd: `bwd(args, handed_over(fwd_res(*args)), ct)`, a tuple of cotangents, None in place of those of integers.
        handed_over: what `bwd` takes of the output of `fwd_res`.
        residuals: what is kept between them.
    """

    fwd_res: Callable[..., tuple[Any, dict[int, Any]]]
    bwd: Callable[[tuple[Any, ...], dict[int, Any], Any], Any]
    handed_over: Callable[[Any], dict[int, Any]]
    residuals: tuple[Residual, ...]


def compile_passes(forward_pass: Callable[..., Any], args: tuple[Any, ...], ct: Any) -> dict[Mode, Executable]:
    """The executables `fwd_res` and `bwd` of `separate_passes`."""
    passes = separate_passes(forward_pass, args)
    forward = compile_function(passes.fwd_res, *args, residuals=passes.residuals)
    backward = compile_function(passes.bwd, args, passes.handed_over(forward.call()), ct)
    return {"fwd_res": forward, "bwd": dataclasses.replace(backward, handed_over=passes.handed_over)}


def separate_passes(forward_pass: Callable[..., Any], args: tuple[Any, ...]) -> Passes:
    """Forward and backward pass apart, with residuals crossing memory between them.

    `forward_pass(*args)` gives `(y, pull)`, as `jax.vjp` does, and `pull(ct)` the cotangents. Of the arguments only
    shapes and dtypes count.

    `jax.vjp`'s pullback is a tree of residuals. Those that are inputs already exist and are handed to the
    backward pass as they are: an executable that returned them would copy them, which a training step does not.
    A residual that is an output, or occurs twice, is returned once. One that `forward_pass` has closed over is a
    constant of both passes.
    """
    traced, shapes = jax.make_jaxpr(forward_pass, return_shape=True)(*args)
    tree, y = jax.tree.structure(shapes), jax.tree.structure(shapes[0])
    n = y.num_leaves
    run = jax.extend.core.jaxpr_as_fun(traced)
    leaves = traced.jaxpr.outvars[n:]
    literal = jax.extend.core.Literal
    outputs = {var: i for i, var in enumerate(traced.jaxpr.outvars[:n]) if not isinstance(var, literal)}
    inputs = {var: i for i, var in enumerate(traced.jaxpr.invars)}
    closed_over = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    constants = {
        i: leaf.val if isinstance(leaf, literal) else closed_over[leaf]
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, literal) or leaf in closed_over
    }
    crossing = {i: leaf for i, leaf in enumerate(leaves) if i not in constants and leaf not in inputs}
    # Each variable once, at its first position among the leaves.
    kept = {var: i for i, var in reversed(crossing.items())}

    def fwd_res(*xs: Any) -> tuple[Any, dict[int, Any]]:
        results = run(*xs)
        return jax.tree.unflatten(y, results[:n]), {i: results[n + i] for var, i in kept.items() if var not in outputs}

    makers = {var: eqn for eqn in traced.jaxpr.eqns for var in eqn.outvars}
    described = tuple(
        Residual(
            var.aval.shape,
            str(var.aval.dtype),
            var.aval.size * var.aval.dtype.itemsize,
            "output" if var in outputs else _origin(makers[var]),
        )
        for var in sorted(kept, key=lambda var: kept[var])
    )

    def handed_over(output: tuple[Any, dict[int, Any]]) -> dict[int, Any]:
        value, residuals = output
        values = jax.tree.leaves(value)
        return {**residuals, **{i: values[outputs[var]] for var, i in kept.items() if var in outputs}}

    def bwd(xs: tuple[Any, ...], residuals: dict[int, Any], ct: Any) -> Any:
        def restore(i: int) -> Any:
            if i in constants:
                return constants[i]
            return xs[inputs[leaves[i]]] if leaves[i] in inputs else residuals[kept[leaves[i]]]

        _, pull = jax.tree.unflatten(tree, [*[None] * n, *(restore(i) for i in range(len(leaves)))])
        return tuple(None if c.dtype == jax.dtypes.float0 else c for c in pull(ct))

    return Passes(fwd_res, bwd, handed_over, described)


#: What lies between a function that is measured and its user's lines: this package's own wrapper of a rule.
WRAPPERS = (Path(inspect.getfile(Op)),)


def _origin(eqn: Any) -> str:
    """Where an equation was written, without the folder, which is the business of whoever measures."""
    line = Path(place(eqn, WRAPPERS, tracer=Path(__file__))).name
    return line or str(eqn.params.get("name", eqn.primitive.name))


@dataclasses.dataclass(frozen=True)
class SampledDifference:
    """A numerical gradient at a seeded sample of entries, where all of them would take too long.

    Attributes:
        executable: returns the cotangents at the sampled entries, one array an argument.
        entries: the sampled flat entries of each floating argument, None for others.
        scale: what the measured time is multiplied with: evaluations for all entries over those that ran.
    """

    executable: Executable
    entries: tuple[np.ndarray | None, ...]
    scale: float


#: Entries of each argument that are sampled at least, so that their errors mean something.
MIN_ENTRIES = 4


def sample_difference(
    op: Op, engine: Engine, args: tuple[Any, ...], ct: Any, seconds: float, rng: np.random.Generator
) -> SampledDifference | None:
    """A numerical gradient at as many entries as fit into `seconds`; None if the full one does."""
    kind = engine.difference
    if op.elementwise or kind is None:
        return None
    sizes = [jnp.size(x) if is_inexact(x) else 0 for x in args]
    forward = compile_function(engine.fwd, *args)
    forward.call()
    start = time.perf_counter()
    forward.call()
    each = time.perf_counter() - start
    if evaluations(sum(sizes), kind) * each <= seconds:
        return None
    affordable = seconds / each / evaluations(1, kind)
    entries = tuple(
        rng.choice(size, min(size, max(MIN_ENTRIES, int(affordable * size / sum(sizes)))), replace=False)
        if size
        else None
        for size in sizes
    )

    def fwd_bwd(args: tuple[Any, ...], ct: Any, entries: tuple[Any, ...]) -> Any:
        y = engine.fwd(*args)
        return y, tuple(
            None if chosen is None else entry_vjp(op, engine.fwd, kind, args, y, ct, i, chosen)
            for i, chosen in enumerate(entries)
        )

    taken = sum(chosen.size for chosen in entries if chosen is not None)
    scale = evaluations(sum(sizes), kind) / evaluations(taken, kind)
    return SampledDifference(compile_function(fwd_bwd, args, ct, entries), entries, scale)
