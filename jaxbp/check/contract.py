"""What has to hold before numbers: types, purity, linearity in the cotangent; and what a rule keeps."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxbp.check.findings import Finding
from jaxbp.check.subject import Subject, told_apart
from jaxbp.jaxprs import is_float

#: How far a cotangent may be from that of twice the incoming one, in unit roundoffs of the largest entry: doubling is
#: exact but where it meets the ends of the dtype's range.
HOMOGENEOUS = 8.0


def types(subject: Subject, cts: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Shapes, dtypes and weak types of the values and cotangents."""
    differentiated, grads = jax.eval_shape(subject.value_and_vjp, *subject.leaves, *cts)
    yield from gradient_types(subject, grads, "")
    for name, a, b in zip(subject.out_names, subject.shapes, differentiated, strict=True):
        text = f"The forward pass of the rule gives {name} as {_type_of(b)}, the function itself as {_type_of(a)}."
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            yield Finding("contract", name, text)
        elif a.weak_type != b.weak_type:
            yield Finding("contract", name, text, fault=False)


def gradient_types(subject: Subject, grads: Sequence[Any], where: str) -> Iterator[Finding]:
    """The cotangents' shapes and dtypes are the arguments'."""
    for i, g in zip(subject.floats, grads, strict=True):
        name, x = subject.names[i], subject.leaves[i]
        if (g.shape, g.dtype) != (x.shape, x.dtype):
            text = f"The cotangent of {name} is {g.dtype}{list(g.shape)}, its dtype and shape should be "
            text += f"{x.dtype}{list(x.shape)}" + (f" ({where})." if where else ".")
            yield Finding("contract", name, text, inputs=where)


def purity(subject: Subject, xs: Sequence[Any], ways: Sequence[str]) -> Iterator[Finding]:
    """The same answer twice, with jit and without, and arguments left as they were."""
    before = [np.array(x) for x in xs]
    for how in ways:
        run = subject.jitted if how == "with jit" else subject.value_and_vjp
        first, second = (jax.tree.leaves(jax.tree.map(np.array, run(*xs))) for _ in range(2))
        if not all(map(_same, first, second)):
            yield Finding("determinism", "y", f"Two calls with the same arguments give different results, {how}.")
    if not all(map(_same, before, map(np.asarray, xs))):
        yield Finding("contract", "args", "The call changed its arguments.")


def linearity(subject: Subject, xs: Sequence[Any]) -> Iterator[Finding]:
    """Twice the cotangent, and its negative, have to give twice the gradient and its negative."""
    n = len(subject.leaves)
    _, once = subject.jitted(*xs)
    for factor in (2.0, -1.0):
        _, scaled = subject.jitted(*xs[:n], *(factor * ct for ct in xs[n:]))
        for i, g, h in zip(subject.floats, once, scaled, strict=True):
            g, h = factor * np.asarray(g, np.float64), np.asarray(h, np.float64)
            finfo = jnp.finfo(subject.leaves[i].dtype)
            finite = np.isfinite(g) & np.isfinite(h) & (np.abs(g) < float(finfo.max))
            largest = np.max(np.abs(g), initial=0.0, where=finite)
            with np.errstate(invalid="ignore"):
                off = finite & (np.abs(g - h) > HOMOGENEOUS * (float(finfo.eps) * largest + float(finfo.tiny)))
            if off.any():
                index = tuple(int(k) for k in np.argwhere(off)[0])
                name = subject.names[i]
                text = (
                    f"The cotangent of {name} is not linear in the incoming one: for {factor:g} times as much entry "
                    f"{list(index)} is {h[index]:.6g} and should be {g[index]:.6g}."
                )
                entries = (int(off.sum()), off.size)
                likeness = "not linear in the cotangent"
                yield Finding("linearity", name, text, index, float(g[index]), float(h[index]), None, entries, likeness)


def residuals(subject: Subject) -> Iterator[tuple[str, int]]:
    """What is kept between forward and backward pass, beyond the arguments, with its bytes."""

    def kept(*leaves: Any) -> Any:
        def of_floats(*xs: Any) -> list[Any]:
            inputs = list(leaves)
            for i, x in zip(subject.floats, xs, strict=True):
                inputs[i] = x
            return [x for i, x in enumerate(subject.flat(*inputs)) if i in subject.float_outs]

        return jax.tree.leaves(jax.vjp(of_floats, *(leaves[i] for i in subject.floats))[1])

    with told_apart():
        jaxpr = jax.make_jaxpr(kept)(*subject.leaves).jaxpr
    variables = (v for v in jaxpr.outvars if not isinstance(v, Literal))
    for v in dict.fromkeys(v for v in variables if v not in jaxpr.invars):
        yield f"{v.aval.dtype}{list(v.aval.shape)}", v.aval.size * v.aval.dtype.itemsize


def _type_of(struct: jax.ShapeDtypeStruct) -> str:
    return f"{struct.dtype}{list(struct.shape)}" + (", weakly typed" if struct.weak_type else "")


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    return np.array_equal(x, y, equal_nan=is_float(x.dtype))
