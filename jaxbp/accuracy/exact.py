"""Values and VJPs in arbitrary precision, certified, and rounded correctly to float64.

`exact_value` and `exact_vjp` interpret the jaxpr of a JAX function in balls (midpoint and radius) of 128 bits, then of
256, and so on until every entry's ball tells which float64 is nearest.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from numpy.typing import NDArray

from jaxbp.accuracy.exact_balls import INF, NAN, NEG_INF, UNKNOWN, Ball, Undecided, flint, show
from jaxbp.accuracy.exact_control import as_value, evaluate
from jaxbp.accuracy.exact_primal import struct, trace, vjp
from jaxbp.jaxprs import is_float

#: The precisions in bits that are tried in turn. 1 - tanh(x)^2 of 2^-1074 needs more than 1134 of them.
PRECISIONS = (128, 256, 512, 1024, 2048, 4096, 8192)

#: Bits of relative accuracy that a result is certified to before it is rounded.
ACCURACY = 60


class UncertifiedError(ArithmeticError):
    """At the highest precision a comparison, or the rounding of a result, was still undecided; its text says which."""


def exact_value(f: Callable[..., Any], args: Sequence[Any], *, radius: bool = False) -> Any:
    """The exact value of a JAX function, rounded once: the float64 nearest to it.

    `f(*args)` as in `exact_vjp`, which describes arguments, errors and what exact means here.

    Returns:
        y, of f's output structure: float64 arrays, and arrays of their own dtype for integers and booleans. With
        `radius=True` the pair `(y, y_radius)`.

    >>> import jax.numpy as jnp
    >>> float(exact_value(jnp.expm1, (1e-17,)))
    1e-17
    >>> y, error = exact_value(jnp.exp, (1.0,), radius=True)
    >>> float(y), bool(error < 2.0**-52)
    (2.718281828459045, True)
    """
    with jax.enable_x64(True):
        leaves, treedef = _arguments(args)
        primal, shapes = trace(lambda *xs: f(*jax.tree.unflatten(treedef, xs)), [struct(x) for x in leaves])
        names = [f"y{name}" for name in _paths(shapes)]
        results = _certified(primal, leaves, names, radius)
    out = jax.tree.structure(shapes)
    values, radii = (jax.tree.unflatten(out, part) for part in results)
    return (values, radii) if radius else values


def exact_vjp(
    f: Callable[..., Any], args: Sequence[Any], ct: Any, *, radius: bool = False, extended: bool = False
) -> Any:
    """The exact value and VJP of a JAX function, rounded once: each entry is the float64 nearest to the truth.

    Formula: y = f(*args) and cts = ct^T df/dargs, over the real numbers.

    **What is exact.** Arguments and cotangent are exact numbers, whatever their precision, and nothing is rounded on
    the way: a cast between floating dtypes is the identity. `f` is traced with float64 in place of all its floating
    arguments, so that its constants are what the code writes in float64 (`jnp.pi` is a float64 number, and so is the
    1 / ln(10) in `jnp.log10`); x64 need not be enabled. Casts to integers truncate, and integers are computed as JAX
    does. Zeros have no sign; where IEEE asks for it, as in 1 / 0, a zero counts as +0.

    **What is differentiated** is the primal: custom rules (`jax.custom_jvp`, `jax.custom_vjp`) inside `f` are bypassed,
    and an op of jaxbp stands for the function that it means (`Op.exact`), not for how it computes it. JAX's own rules
    hold for its primitives and for a few of its functions (relu, logaddexp, softmax, ...), and with them its
    conventions at kinks and ties. Where code has a kink but the function it computes has none, as |x| at 0 in
    exp(-|x|), the result is what these conventions make of it. Derivatives that `f` itself takes are part of `f`.

    **Certified** means: the ball around the result has a relative radius below 2^-60, and rounds to one float64, to
    nearest, ties to even. Results beyond float64's range become infinite, those below subnormal or 0. Infinities and
    NaN come from IEEE's rules at exact points (1 / 0, log(0), inf - inf); real limits are not taken. exp of more than
    2^60 counts as infinite.

    Args:
        f: a function that JAX can trace; of concrete arguments, with control flow of any kind that JAX differentiates.
        args: a tuple of f's arguments: pytrees of numbers and NumPy or JAX arrays, of any shape, float64 or narrower,
            integer or boolean.
        ct: the cotangent, of the output's structure and shapes; None for integer and boolean outputs.
        radius: whether to return, too, bounds on |result - truth|, the final rounding included. 0 means exact; inf
            that the truth is beyond float64's range; NaN beside NaN.
        extended: whether to return `numpy.longdouble`, within 2^-60 of the truth where it has the digits (x86 does),
            as the yardstick of float64 results; to measure those, float64 is half a unit too coarse.

    Returns:
        `(y, cts)`: NumPy arrays of float64, `cts` a tuple with one cotangent an argument; None for arguments of an
        integer or boolean dtype, whose outputs keep their dtype. With `radius=True`, `((y, cts), (y_radius,
        cts_radius))`.

    Raises:
        TypeError: an argument or the cotangent is no number or array, is complex or wider than float64.
        ValueError: the cotangent's structure or shapes are not the output's.
        NotImplementedError: a primitive has no rule; the text names it and the line that calls it.
        UncertifiedError: a comparison or rounding is undecided at 8192 bits, as for two equal numbers computed in
            different ways; the text says which.

    >>> import jax
    >>> y, (ct_x,) = exact_vjp(jax.nn.sigmoid, (40.0,), 1.0)
    >>> float(ct_x), jax.grad(jax.nn.sigmoid)(40.0).item()
    (4.248354255291589e-18, 0.0)
    >>> (y, (ct_x,)), (_, (error,)) = exact_vjp(lambda x: x * x, (0.1,), 1.0, radius=True)
    >>> float(ct_x), float(error)
    (0.2, 0.0)
    """
    with jax.enable_x64(True):
        leaves, treedef = _arguments(args)
        primal, shapes = trace(lambda *xs: f(*jax.tree.unflatten(treedef, xs)), [struct(x) for x in leaves])
        floats = [i for i, x in enumerate(leaves) if is_float(x.dtype)]
        arg_names = _paths(jax.tree.unflatten(treedef, leaves))
        names = [f"y{name}" for name in _paths(shapes)] + [f"cts{arg_names[i]}" for i in floats]
        inputs = [*leaves, *_cotangents(shapes, ct)]
        results = _certified(vjp(primal), inputs, names, radius, extended)
    out = jax.tree.structure(shapes)
    both = tuple(_assembled(part, out, treedef, floats) for part in results)
    return both if radius else both[0]


def exact_program(closed: ClosedJaxpr, inputs: Sequence[np.ndarray]) -> list[Any]:
    """The outputs of a jaxpr of real numbers for exact inputs, certified and rounded to float64.

    Raises:
        NotImplementedError: a primitive has no rule.
        UncertifiedError: a comparison or rounding is undecided.
    """
    return _certified(closed, list(inputs), [f"output {i}" for i in range(len(closed.out_avals))], radius=False)[0]


def _assembled(results: list[Any], out: Any, treedef: Any, floats: list[int]) -> tuple[Any, Any]:
    """(y, cts) from the flat results."""
    cts: list[Any] = [None] * treedef.num_leaves
    for i, ct in zip(floats, results[out.num_leaves :], strict=True):
        cts[i] = ct
    return jax.tree.unflatten(out, results[: out.num_leaves]), jax.tree.unflatten(treedef, cts)


def _arguments(args: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
    if not isinstance(args, tuple | list):
        raise TypeError(f"args must be a tuple of the function's arguments, got {type(args).__name__}.")
    leaves, treedef = jax.tree.flatten(tuple(args))
    names = _paths(jax.tree.unflatten(treedef, leaves))
    return [_array(f"args{name}", x) for name, x in zip(names, leaves, strict=True)], treedef


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _array(name: str, x: Any) -> np.ndarray:
    if isinstance(x, Tracer):
        raise TypeError(
            f"{name} is traced: exact_value and exact_vjp run on concrete numbers, outside of jit and grad."
        )
    if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
        raise TypeError(f"{name} must be an array or a number, got {type(x).__name__}.")
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.extended):
        raise TypeError(f"{name} is of dtype {x.dtype}; make random keys inside the function.")
    array = np.asarray(x)
    known = array.dtype.kind in "iub" or (is_float(array.dtype) and array.dtype.itemsize <= 8)
    if not known:
        raise TypeError(f"{name} must be real, of float64 or narrower, integer or boolean, but it is {array.dtype}.")
    return array


def _cotangents(shapes: Any, ct: Any) -> list[np.ndarray]:
    """The cotangent's leaves for the outputs that are floats."""
    structure = jax.tree.structure(shapes)
    try:
        given = structure.flatten_up_to(ct)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"ct must have the output's structure {structure}, got {jax.tree.structure(ct)}: {error}"
        ) from None
    cts = []
    for name, shape, leaf in zip(_paths(shapes), jax.tree.leaves(shapes), given, strict=True):
        if not is_float(shape.dtype):
            continue
        array = _array(f"ct{name}", leaf)
        if array.shape != shape.shape:
            raise ValueError(f"ct{name} must have the output's shape {list(shape.shape)}, got {list(array.shape)}.")
        cts.append(array)
    return cts


def _certified(
    program: Any, inputs: list[np.ndarray], names: list[str], radius: bool, extended: bool = False
) -> tuple[list[Any], list[Any]]:
    """Run a jaxpr at rising precision until all its outputs are certified; float64 values, and radii if asked for."""
    args = [as_value(x) for x in inputs]
    undecided = ""
    for precision in PRECISIONS:
        # IEEE's special cases are meant.
        with flint.ctx.workprec(precision), np.errstate(all="ignore"):
            try:
                outs = evaluate(program, args)
                values = [_rounded(name, out) for name, out in zip(names, outs, strict=True)]
                radii = [_radii(*pair) for pair in zip(outs, values, strict=True)] if radius else values
                if extended:
                    values = [with_lost_digits(*pair) for pair in zip(outs, values, strict=True)]
                return values, radii
            except Undecided as error:
                undecided = str(error)
    raise UncertifiedError(f"{undecided}, even at {PRECISIONS[-1]} bits.")


def _rounded(name: str, out: np.ndarray) -> NDArray[Any]:
    if out.dtype != object:
        return out
    values = np.empty(out.shape)
    flat = values.reshape(-1)
    for i, x in enumerate(out.flat):
        value = nearest(x)
        if value is None:
            index = [int(k) for k in np.unravel_index(i, out.shape)]
            entry = f"{name}{index if index else ''}"
            raise Undecided(f"which float64 is nearest to {entry}, which is {show(x)},")
        flat[i] = value
    return values


def with_lost_digits(out: np.ndarray, values: NDArray[Any]) -> NDArray[Any]:
    """The float64 `values` of an array of balls, with the digits added that rounding left out."""
    if out.dtype != object:
        return values
    finite = ((x - v if math.isfinite(v) else 0) for x, v in zip(out.flat, values.flat, strict=True))
    rest = np.array([float(r) for r in finite]).reshape(out.shape)
    return values.astype(np.longdouble) + rest


def nearest(x: Ball) -> float | None:
    """The float64 nearest to every number of a ball; None where there is none, or the ball is too wide.

    >>> from jaxbp.accuracy.exact_balls import arb, flint
    >>> with flint.ctx.workprec(128):
    ...     nearest(arb(1) / 3), nearest(arb(0, 1)), nearest(arb(10) ** 400)
    (0.3333333333333333, None, inf)
    """
    if not x.is_finite():
        return None if x is UNKNOWN else math.nan if x is NAN else math.inf if x is INF else -math.inf
    low, high = float(x.lower()), float(x.upper())
    if low != high:
        return None
    # Its own unit in the last place is the measure of an infinite or vanishing result.
    if high and math.isfinite(high) and x.rel_accuracy_bits() <= ACCURACY + 1:
        return None
    return high


def _radii(out: np.ndarray, values: NDArray[Any]) -> NDArray[Any]:
    if out.dtype != object:
        return np.zeros(out.shape)
    radii = np.empty(out.shape)
    radii.reshape(-1)[:] = [_radius(x, float(v)) for x, v in zip(out.flat, values.flat, strict=True)]
    return radii


def _radius(x: Ball, value: float) -> float:
    """An upper bound of |x - value|, as a float64."""
    if x is NAN:
        return math.nan
    if not math.isfinite(value):
        return 0.0 if x is INF or x is NEG_INF else math.inf
    bound = abs(x - value).upper()
    out = float(bound)
    return out if bound <= out else math.nextafter(out, math.inf)
