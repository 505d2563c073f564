"""What the results of a user's function are measured against: certified values where they can be had, else float64."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.exact_elementwise import ELEMENTWISE
from jaxbp.check.reference import Reference
from jaxbp.check.witness import CERTIFIED_ENTRIES
from jaxbp.jaxprs import CALLS, equations
from jaxbp.measure.task import sampled_entries

CERTIFIED, FLOAT64 = "certified", "float64"
#: Entries of an elementwise function that are certified; all arguments and cotangents together, of any other.
SAMPLED, WHOLE = 512, CERTIFIED_ENTRIES
#: Entries that a program may compute, and steps that its scans may take, to be certified: an entry is a ball in Python.
MOST_ENTRIES, MOST_STEPS = 2**16, 64
#: Primitives beside those of `ELEMENTWISE` that give each entry from the same entry of their arguments.
ENTRY_BY_ENTRY = frozenset((*ELEMENTWISE, *CALLS, "select_n", "and", "or", "xor", "not", "population_count", "clz"))
#: A function of flat arrays, with a list of arrays.
Flat = Callable[..., list[Any]]


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """The truth about one call.

    Attributes:
        name: `CERTIFIED` or `FLOAT64`.
        truths: of each value and cotangent that is a float, NaN where it is not known.
        entries: the flat entries of each that are compared; None for all.
    """

    name: str
    truths: tuple[np.ndarray, ...]
    entries: tuple[np.ndarray | None, ...]


def make_yardstick(
    reference: Reference, flat: Flat, args: Sequence[Any], cts: Sequence[np.ndarray], rng: np.random.Generator
) -> Yardstick:
    """The best yardstick for a call.

    Args:
        reference: the truth in float64.
        flat: the function, of the flat arguments `args`.
        cts: cotangents of its floats, as the reference takes them.
        rng: draws the entries that are compared.
    """
    subject = reference.subject
    outs = reference.truth(*subject.leaves, *cts)
    plain = tuple([outs[i] for i in subject.float_outs] + outs[len(subject.shapes) :])
    shape = entry_by_entry(reference)
    total = sum(x.size for x in (*subject.leaves, *cts))
    if total <= WHOLE and _affordable(reference):
        exact = _certified(flat, args, _with_none(reference, cts), plain)
        if exact:
            return Yardstick(CERTIFIED, exact, (None,) * len(exact))
    elif total > WHOLE and shape is not None:
        entries = np.sort(rng.choice(int(np.prod(shape)), SAMPLED, replace=False))
        some = [np.asarray(x).reshape(-1)[entries] if np.shape(x) == shape else x for x in args]
        some_cts = [np.asarray(ct).reshape(-1)[entries] for ct in cts]
        exact = _certified(flat, some, _with_none(reference, some_cts), tuple(x.reshape(-1)[entries] for x in plain))
        if exact:
            return Yardstick(CERTIFIED, tuple(_at(shape, entries, x) for x in exact), (entries,) * len(exact))
    return Yardstick(FLOAT64, plain, tuple(sampled_entries(x.size, rng) for x in plain))


def entry_by_entry(reference: Reference) -> tuple[int, ...] | None:
    """The shape of all arrays of a function that gives each entry from the same entry of its arguments, else None."""
    subject, primal = reference.subject, reference.primal
    shapes = {x.shape for x in subject.leaves if x.ndim} | {s.shape for s in subject.shapes}
    floats = {subject.leaves[i].shape for i in subject.floats}
    if len(shapes) != 1 or floats != shapes or any(np.size(c) != 1 for c in primal.consts):
        return None
    (shape,) = shapes
    for eqn in equations(primal):
        spreads = eqn.primitive.name == "broadcast_in_dim" and eqn.invars[0].aval.size == 1
        if not spreads and eqn.primitive.name not in ENTRY_BY_ENTRY:
            return None
        if any(getattr(v.aval, "shape", None) not in (shape, ()) for v in eqn.outvars):
            return None
    return shape


def _affordable(reference: Reference) -> bool:
    entries = sum(np.size(c) for c in reference.program.consts)
    for eqn in equations(reference.program):
        if eqn.primitive.name == "while" or eqn.params.get("length", 0) > MOST_STEPS:
            return False
        entries += sum(getattr(v.aval, "size", 0) for v in eqn.outvars)
    return entries <= MOST_ENTRIES


def _certified(
    flat: Flat, args: Sequence[Any], cts: Sequence[Any], plain: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...] | None:
    """Certified values and cotangents, if there are some, of what the function is in its own dtypes."""
    try:
        ys, grads = exact_vjp(flat, tuple(args), list(cts), extended=True)
    except Exception:  # Whatever it cannot do, the float64 evaluation has done.
        return None
    exact = [y for y, ct in zip(ys, cts, strict=True) if ct is not None] + [g for g in grads if g is not None]
    # With other dtypes or shapes it may have been traced to another function.
    digits = max(float(jnp.finfo(x.dtype).eps) for x in (*args, *cts) if _is_float(x))
    return tuple(exact) if all(near(a, b, digits**0.5) for a, b in zip(exact, plain, strict=True)) else None


def near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether two arrays have the same shape and, where both are finite, differ by less than that of the largest."""
    if a.shape != b.shape:
        return False
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(all="ignore"):
        off = np.max(np.abs(a - b), initial=0, where=finite)
        return bool(off <= tolerance * np.max(np.abs(b), initial=0, where=finite))


def _is_float(x: Any) -> bool:
    return x is not None and jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _with_none(reference: Reference, cts: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """The cotangents of all outputs, None for those of integers."""
    given = iter(cts)
    floats = reference.subject.float_outs
    return [next(given) if i in floats else None for i in range(len(reference.subject.shapes))]


def _at(shape: tuple[int, ...], entries: np.ndarray, values: np.ndarray) -> np.ndarray:
    whole = np.full(shape, np.nan, values.dtype)
    whole.reshape(-1)[entries] = values
    return whole
