"""What is checked: a function of pytrees as one of flat real arrays, with its value and VJP as JAX gives them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.errors import UsageError
from jaxbp.jaxprs import is_float

Leaves = tuple[np.ndarray, ...]


class RuleRaisedError(Exception):
    """The function or its rule raised; nothing that the checker itself does."""


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """Within it whatever is raised becomes a `RuleRaisedError`."""
    try:
        yield
    except RuleRaisedError:
        raise
    except Exception as error:
        raise RuleRaisedError(summary(error)) from error


@dataclasses.dataclass(frozen=True)
class Codec:
    """How one leaf of the arguments is made of real arrays: a complex number of two, a random key of whole numbers.

    Attributes:
        suffixes: of the names of its arrays.
        join: from arrays to the leaf.
    """

    suffixes: tuple[str, ...]
    join: Callable[..., Any]


PLAIN = Codec(("",), lambda x: x)
COMPLEX = Codec((".real", ".imag"), lambda re, im: lax.complex(jnp.asarray(re), jnp.asarray(im)))


def take_apart(x: Any, name: str) -> tuple[Codec, list[np.ndarray]]:
    """A leaf as real arrays."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        kind = jax.random.key_impl(x)
        key = Codec(("",), lambda data: jax.random.wrap_key_data(data, impl=kind))
        return key, [np.asarray(jax.random.key_data(x))]
    if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
        raise UsageError(
            f"{name} must be an array or a number, got {type(x).__name__}: {x!r:.60}. What is none, bind it with "
            "functools.partial."
        )
    if np.asarray(x).dtype.kind in "OUSMm":
        raise UsageError(f"{name} must be an array of numbers, got dtype {np.asarray(x).dtype}.")
    array = np.asarray(x, jnp.result_type(x))
    if np.iscomplexobj(array):
        return COMPLEX, [np.real(array).copy(), np.imag(array).copy()]
    return PLAIN, [array]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A function with the arguments of one call.

    Attributes:
        f: the function as it was given.
        leaves: its arguments, flat: real NumPy arrays.
        codecs: how each leaf of the arguments is made of them.
        treedef: how those leaves make up the arguments.
        names: what each array is called in findings, as `args[0]['w']`.
        shapes: the output's arrays, as `jax.ShapeDtypeStruct`; complex ones as real and imaginary part.
        out_names: what each of them is called.
        stock: what the function should compute, as a function of plain JAX; what it computes itself if None.
    """

    f: Callable[..., Any]
    leaves: Leaves
    codecs: tuple[Codec, ...]
    treedef: Any
    names: tuple[str, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    out_names: tuple[str, ...]
    stock: Callable[..., Any] | None = None

    @functools.cached_property
    def floats(self) -> tuple[int, ...]:
        """Which arrays have a gradient."""
        return tuple(i for i, x in enumerate(self.leaves) if is_float(x.dtype))

    @functools.cached_property
    def float_outs(self) -> tuple[int, ...]:
        """Which outputs have a cotangent."""
        return tuple(i for i, s in enumerate(self.shapes) if is_float(s.dtype))

    def arguments(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments that flat arrays make up."""
        rest, joined = list(leaves), []
        for codec in self.codecs:
            n = len(codec.suffixes)
            joined.append(codec.join(*rest[:n]))
            rest = rest[n:]
        return jax.tree.unflatten(self.treedef, joined)

    def with_leaves(self, leaves: Sequence[np.ndarray]) -> "Subject":
        """The same function with other arguments."""
        return make_subject(self.f, self.arguments(leaves), self.stock)

    @property
    def meant(self) -> "Subject":
        """What it is compared with: what it should compute, or itself."""
        return self.of(self.stock or self.f)

    def of(self, f: Callable[..., Any]) -> "Subject":
        """Another function with the same arguments and output."""
        return dataclasses.replace(self, f=f)

    def flat(self, *leaves: Any) -> list[Any]:
        """The function, from flat arguments to flat outputs."""
        return [part for x in jax.tree.leaves(self.f(*self.arguments(leaves))) for part in _real_parts(x)]

    def value_and_vjp(self, *leaves_and_cts: Any) -> tuple[list[Any], list[Any]]:
        """Value and cotangents of the floats as JAX computes them with the function's own rules."""
        leaves, cts = list(leaves_and_cts[: len(self.leaves)]), leaves_and_cts[len(self.leaves) :]

        def of_floats(*xs: Any) -> tuple[list[Any], list[Any]]:
            inputs = list(leaves)
            for i, x in zip(self.floats, xs, strict=True):
                inputs[i] = x
            outs = self.flat(*inputs)
            return [outs[i] for i in self.float_outs], outs

        with told_apart():
            _, pull, outs = jax.vjp(of_floats, *(leaves[i] for i in self.floats), has_aux=True)
            return outs, list(pull(list(cts)))

    @functools.cached_property
    def plain(self) -> Callable[..., list[Any]]:
        """The function alone, compiled."""
        return jax.jit(self.flat)

    @functools.cached_property
    def jitted(self) -> Callable[..., tuple[list[Any], list[Any]]]:
        """`value_and_vjp`, compiled."""
        compiled = jax.jit(self.value_and_vjp)

        def run(*xs: Any) -> tuple[list[Any], list[Any]]:
            with told_apart():
                return jax.block_until_ready(compiled(*xs))

        return run


def _real_parts(x: Any) -> tuple[Any, ...]:
    if jnp.iscomplexobj(x):
        return jnp.real(x), jnp.imag(x)
    return (x,)


def make_subject(f: Callable[..., Any], args: Sequence[Any], stock: Callable[..., Any] | None = None) -> Subject:
    """Flatten a call; what is no array, number or None is a `UsageError` that names it, and so is another stock."""
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tuple(args))
    leaves, names, codecs = [], [], []
    for path, x in with_paths:
        name = f"args{jax.tree_util.keystr(path)}"
        codec, arrays = take_apart(x, name)
        codecs.append(codec)
        leaves += arrays
        names += [name + suffix for suffix in codec.suffixes]
    if not any(is_float(x.dtype) for x in leaves):
        raise UsageError("No argument has a floating dtype, so there is no gradient to check.")
    draft = Subject(f, tuple(leaves), tuple(codecs), treedef, tuple(names), (), ())
    try:
        out = jax.eval_shape(lambda *xs: f(*draft.arguments(xs)), *leaves)
    except Exception as error:
        given = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in zip(names, leaves, strict=True))
        raise UsageError(f"The function cannot be called with {given}: {summary(error)}") from error
    shapes, out_names = [], []
    for path, s in jax.tree_util.tree_flatten_with_path(out)[0]:
        parts = (".real", ".imag") if jnp.issubdtype(s.dtype, jnp.complexfloating) else ("",)
        dtype = jnp.finfo(s.dtype).dtype if len(parts) == 2 else s.dtype
        shapes += [jax.ShapeDtypeStruct(s.shape, dtype, weak_type=s.weak_type)] * len(parts)
        out_names += [f"y{jax.tree_util.keystr(path)}{part}" for part in parts]
    if not any(is_float(s.dtype) for s in shapes):
        raise UsageError("No output has a floating dtype, so there is no gradient to check.")
    subject = dataclasses.replace(draft, shapes=tuple(shapes), out_names=tuple(out_names), stock=stock)
    if stock is not None:
        try:
            other = kinds(make_subject(stock, args))
        except UsageError as error:
            raise UsageError(f"stock: {error}") from error
        if other != kinds(subject):
            raise UsageError(f"stock must return what the function does, {kinds(subject)}, but it returns {other}.")
    return subject


def kinds(subject: Subject) -> str:
    """The outputs of a function by name, dtype and shape."""
    outs = zip(subject.out_names, subject.shapes, strict=True)
    return ", ".join(f"{name} {s.dtype}{list(s.shape)}" for name, s in outs)


def summary(error: Exception) -> str:
    """An exception in one line: of a long one how it begins, and how it ends, which is what a callback raised."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else f"{text[:200]} ... {text[-200:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
