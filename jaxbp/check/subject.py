"""What is checked: a function of pytrees seen as one of flat arrays, its primal, and what its derivative should be."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxbp.accuracy.exact_control import is_float
from jaxbp.accuracy.exact_primal import trace, vjp
from jaxbp.check.arithmetic import Rounding, evaluate
from jaxbp.errors import UsageError

#: Noisy evaluations an entry's bound is read from.
NOISY = 10


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function with the arguments of one call.

    Attributes:
        f: the function as it was given.
        leaves: its arguments, flat: NumPy arrays.
        treedef: how `leaves` make up the arguments.
        names: what each leaf is called in findings, as `args[0]['w']`.
        shapes: the output's leaves, as `jax.ShapeDtypeStruct`.
        out_tree: how they make up the output.
    """

    f: Callable[..., Any]
    leaves: tuple[np.ndarray, ...]
    treedef: Any
    names: tuple[str, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    out_tree: Any

    @property
    def floats(self) -> tuple[int, ...]:
        """Which leaves have a gradient."""
        return tuple(i for i, x in enumerate(self.leaves) if is_float(x.dtype))

    @property
    def float_outs(self) -> tuple[int, ...]:
        """Which outputs have a cotangent."""
        return tuple(i for i, s in enumerate(self.shapes) if is_float(s.dtype))

    @property
    def out_names(self) -> tuple[str, ...]:
        """What each output is called in findings."""
        paths = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(self.out_tree, self.shapes))[0]
        return tuple(f"y{jax.tree_util.keystr(path)}" for path, _ in paths)

    def with_leaves(self, leaves: Sequence[np.ndarray]) -> "Subject":
        """The same function with other arguments."""
        return make_subject(self.f, jax.tree.unflatten(self.treedef, leaves))

    def flat(self, *leaves: Any) -> list[Any]:
        """The function, from flat arguments to flat outputs."""
        return jax.tree.leaves(self.f(*jax.tree.unflatten(self.treedef, leaves)))

    def value_and_vjp(self, *leaves_and_cts: Any) -> tuple[list[Any], list[Any]]:
        """Value and cotangents of the floats as JAX computes them with the function's own rules."""
        leaves, cts = list(leaves_and_cts[: len(self.leaves)]), leaves_and_cts[len(self.leaves) :]

        def of_floats(*xs: Any) -> tuple[list[Any], list[Any]]:
            inputs = list(leaves)
            for i, x in zip(self.floats, xs, strict=True):
                inputs[i] = x
            outs = self.flat(*inputs)
            return [outs[i] for i in self.float_outs], outs

        _, pull, outs = jax.vjp(of_floats, *(leaves[i] for i in self.floats), has_aux=True)
        return outs, list(pull(list(cts)))

    @functools.cached_property
    def jitted(self) -> Callable[..., tuple[list[Any], list[Any]]]:
        """`value_and_vjp`, compiled."""
        return jax.jit(self.value_and_vjp)

    @functools.cached_property
    def program(self) -> ClosedJaxpr:
        """The jaxpr of value and VJP of the primal, all custom rules stripped, in the function's own dtypes."""
        primal, _ = trace(self.flat, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.leaves])
        return vjp(primal)

    @functools.cached_property
    def truth(self) -> Callable[..., list[Any]]:
        """`truth(*leaves, *cts)`: value and cotangents of the program in float64, compiled."""
        return self._in_float64(lambda *xs: evaluate(self.program, xs))

    @functools.cached_property
    def noisy(self) -> Callable[..., list[Any]]:
        """The same with rounding errors of the program's dtypes, `NOISY` times along a new first axis, compiled."""

        def one(phase: jax.Array, scatter: jax.Array, xs: Any) -> list[Any]:
            return evaluate(self.program, xs, Rounding(phase, scatter))

        def all_phases(*xs: Any) -> list[Any]:
            # The last two are biased, upwards and downwards.
            phases = jnp.asarray([*np.random.default_rng(5).random(NOISY - 2), 0.0, 0.5])
            scatter = jnp.asarray([1.0] * (NOISY - 2) + [0.0, 0.0])
            return jax.vmap(one, in_axes=(0, 0, None))(phases, scatter, xs)

        return self._in_float64(all_phases)

    def _in_float64(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # Traced here, where its dtypes are the function's own: with x64 on `jnp.zeros(3)` is another function.
        assert self.program
        compiled = jax.jit(function)

        def run(*xs: Any) -> list[np.ndarray]:
            with jax.enable_x64(True), np.errstate(all="ignore"):
                widened = [x.astype(np.float64) if is_float(x.dtype) else x for x in map(np.asarray, xs)]
                return [np.asarray(x) for x in compiled(*widened)]

        return run


def make_subject(f: Callable[..., Any], args: Sequence[Any]) -> Subject:
    """Flatten a call; what is no array, number or None is a `UsageError` that names it."""
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tuple(args))
    leaves, names = [], []
    for path, x in with_paths:
        name = f"args{jax.tree_util.keystr(path)}"
        if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float):
            raise UsageError(f"{name} must be an array or a number, got {type(x).__name__}: {x!r:.60}.")
        leaves.append(np.asarray(x, jnp.result_type(x)))
        names.append(name)
    if not any(is_float(x.dtype) for x in leaves):
        raise UsageError("No argument has a floating dtype, so there is no gradient to check.")
    try:
        out = jax.eval_shape(f, *jax.tree.unflatten(treedef, leaves))
    except Exception as error:
        given = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in zip(names, leaves, strict=True))
        raise UsageError(
            f"The function cannot be called with {given}: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    shapes, out_tree = jax.tree.flatten(out)
    if not any(is_float(s.dtype) for s in shapes):
        raise UsageError("No output has a floating dtype, so there is no gradient to check.")
    return Subject(f, tuple(leaves), treedef, tuple(names), tuple(shapes), out_tree)
