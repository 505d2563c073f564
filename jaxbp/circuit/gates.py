"""One table of primitives: what a gate is called in a picture, and its forward and backward pass as Python.

Texts are templates: `{a}`, `{b}`, `{c}`, ... are the operands, `{y}` the output and `{d}` its gradient, `{shape}` and
`{dtype}` those of `{a}`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxbp import op as op_module
from jaxbp.jaxprs import JAX, called_jaxpr, function_source
from jaxbp.op import MEANT

#: The gradient of an operand that has none, such as the condition of a `where`.
NONE = ""
#: Calls whose derivative is a rule of their own, not that of what they call.
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
#: The operands, in order; `d` and `y` mean something else.
LETTERS = "abcefghijklmnopqrstuvwxz"


@dataclasses.dataclass(frozen=True)
class Row:
    """How a primitive is drawn and printed.

    Attributes:
        symbol: in the picture.
        forward: Python for the value; empty where there is no one name for it.
        backward: Python for each operand's gradient, `NONE` where it has none; `None` where it has no simple formula.
    """

    symbol: str
    forward: str = ""
    backward: tuple[str, ...] | None = None


def _unary(symbol: str, backward: str | None, forward: str = "") -> Row:
    return Row(symbol, forward or f"jnp.{symbol}({{a}})", None if backward is None else (backward,))


def _compare(symbol: str) -> Row:
    return Row(symbol, f"{{a}} {symbol} {{b}}", (NONE, NONE))


def _same(symbol: str) -> Row:
    return Row(symbol, "{a}", ("{d}",))


def _power(eqn: Any) -> Row:
    n = eqn.params["y"]
    slope = {2: "2 * {a} * {d}", -1: "-1 / {a} ** 2 * {d}"}.get(n, f"{n} * {{a}} ** {n - 1} * {{d}}")
    return Row(f"^{n}", f"{{a}} ** {n}", (slope,))


def _cast(eqn: Any) -> Row:
    new = np.dtype(eqn.params["new_dtype"]).name
    kind = getattr(eqn.invars[0].aval.dtype, "kind", "f")
    return Row(new, f"jnp.astype({{a}}, '{new}')", (NONE if kind in "iub" else "jnp.astype({d}, '{dtype}')",))


def _reduced(name: str, symbol: str, backward: str | None) -> Callable[[Any], Row]:
    def row(eqn: Any) -> Row:
        axes = tuple(eqn.params["axes"])
        spread = f"jnp.expand_dims({{d}}, {axes})"
        peak = f"({{a}} == jnp.expand_dims({{y}}, {axes}))"
        text = backward and backward.format(spread=spread, peak=peak, axes=axes, a="{a}", shape="{shape}")
        return Row(symbol, f"jnp.{name}({{a}}, axis={axes})", (text,) if text else None)

    return row


def _argument(name: str) -> Callable[[Any], Row]:
    return lambda eqn: Row(name, f"jnp.{name}({{a}}, axis={eqn.params['axes'][0]})", (NONE,))


def _spread(eqn: Any) -> Row:
    shape, dims = tuple(eqn.params["shape"]), tuple(map(int, eqn.params["broadcast_dimensions"]))
    old = eqn.invars[0].aval.shape
    kept = {dim for dim, size in zip(dims, old, strict=True) if size == shape[dim]}
    axes = tuple(i for i in range(len(shape)) if i not in kept)
    trailing = dims == tuple(range(len(shape) - len(old), len(shape)))
    forward = f"jnp.broadcast_to({{a}}, {shape})" if trailing else f"jax.lax.broadcast_in_dim({{a}}, {shape}, {dims})"
    back = f"jnp.sum({{d}}, axis={axes})" if axes else "{d}"
    return Row("broadcast", forward, (back + (f".reshape({tuple(old)})" if len(kept) < len(old) else ""),))


def _transposed(eqn: Any) -> Row:
    order = tuple(eqn.params["permutation"])
    back = tuple(int(i) for i in np.argsort(order))
    return Row("transpose", f"jnp.transpose({{a}}, {order})", (f"jnp.transpose({{d}}, {back})",))


def _reshaped(eqn: Any) -> Row:
    shape = tuple(eqn.outvars[0].aval.shape)
    return Row(eqn.primitive.name, f"jnp.reshape({{a}}, {shape})", ("jnp.reshape({d}, {shape})",))


def _sliced(eqn: Any) -> Row:
    p, shape = eqn.params, eqn.invars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    parts = [
        ":" if (start, limit, step) == (0, size, 1) else f"{start}:{limit}" + (f":{step}" if step > 1 else "")
        for start, limit, step, size in zip(p["start_indices"], p["limit_indices"], strides, shape, strict=True)
    ]
    at = ", ".join(parts)
    return Row(f"[{at}]", f"{{a}}[{at}]", (f"jnp.zeros_like({{a}}).at[{at}].set({{d}})",))


def _product(eqn: Any) -> Row:
    (left, right), batch = eqn.params["dimension_numbers"]
    a, b = (v.aval for v in eqn.invars)
    dims = (tuple(left), tuple(right)), tuple(map(tuple, batch))
    general = Row("dot", f"jax.lax.dot_general({{a}}, {{b}}, {dims})")
    plain = not any(map(tuple, batch)) and tuple(left) == (a.ndim - 1,) and tuple(right) == (0,)
    if not plain or a.dtype != b.dtype or a.dtype != eqn.outvars[0].aval.dtype:
        return general
    backward = {
        (2, 2): ("{d} @ {b}.T", "{a}.T @ {d}"),
        (2, 1): ("jnp.outer({d}, {b})", "{a}.T @ {d}"),
        (1, 2): ("{b} @ {d}", "jnp.outer({a}, {d})"),
        (1, 1): ("{d} * {b}", "{d} * {a}"),
    }.get((a.ndim, b.ndim))
    return Row("@", "{a} @ {b}", backward) if backward else general


def _joined(eqn: Any) -> Row:
    axis, ndim = eqn.params["dimension"], eqn.outvars[0].aval.ndim
    letters = LETTERS[: len(eqn.invars)]
    if len(letters) < len(eqn.invars):
        return Row("concatenate")
    ends = np.cumsum([v.aval.shape[axis] for v in eqn.invars])
    parts = [
        "{d}[" + ", ".join([":"] * axis + [f"{end - v.aval.shape[axis]}:{end}"] + [":"] * (ndim - axis - 1)) + "]"
        for v, end in zip(eqn.invars, ends, strict=True)
    ]
    named = ", ".join(f"{{{letter}}}" for letter in letters)
    return Row("concatenate", f"jnp.concatenate([{named}], axis={axis})", tuple(parts))


def _clamped(eqn: Any) -> Row:
    bounded = all(isinstance(eqn.invars[i], Literal) for i in (0, 2))
    back = (NONE, "(({a} < {b}) & ({b} < {c})) * {d}", NONE)
    return Row("clamp", "jax.lax.clamp({a}, {b}, {c})", back if bounded else None)


def _counted(eqn: Any) -> Row:
    shape, axis = tuple(eqn.params["shape"]), eqn.params["dimension"]
    dtype = np.dtype(eqn.params["dtype"]).name
    return Row("iota", f"jax.lax.broadcasted_iota('{dtype}', {shape}, {axis})", ())


def _cumulated(name: str) -> Callable[[Any], Row]:
    def row(eqn: Any) -> Row:
        p = eqn.params
        return Row(name, f"jax.lax.{name}({{a}}, axis={p['axis']}, reverse={p['reverse']})")

    return row


TABLE: dict[str, Row | Callable[[Any], Row]] = {
    "add": Row("+", "{a} + {b}", ("{d}", "{d}")),
    "add_any": Row("+", "{a} + {b}", ("{d}", "{d}")),
    "sub": Row("−", "{a} - {b}", ("{d}", "-{d}")),
    "mul": Row("×", "{a} * {b}", ("{b} * {d}", "{a} * {d}")),
    "div": Row("÷", "{a} / {b}", ("{d} / {b}", "-{a} / {b} ** 2 * {d}")),
    "neg": Row("× −1", "-{a}", ("-{d}",)),
    "max": Row(
        "max",
        "jnp.maximum({a}, {b})",
        tuple(f"(({x} > {y}) + 0.5 * ({x} == {y})) * {{d}}" for x, y in (("{a}", "{b}"), ("{b}", "{a}"))),
    ),
    "min": Row(
        "min",
        "jnp.minimum({a}, {b})",
        tuple(f"(({x} < {y}) + 0.5 * ({x} == {y})) * {{d}}" for x, y in (("{a}", "{b}"), ("{b}", "{a}"))),
    ),
    "pow": Row("^", "{a} ** {b}", ("{b} * {a} ** ({b} - 1) * {d}", "jnp.log({a}) * {y} * {d}")),
    "integer_pow": _power,
    "square": _unary("square", "2 * {a} * {d}"),
    "exp": _unary("exp", "{y} * {d}"),
    "exp2": _unary("exp2", "jnp.log(2.0) * {y} * {d}"),
    "expm1": _unary("expm1", "({y} + 1) * {d}"),
    "log": _unary("log", "{d} / {a}"),
    "log1p": _unary("log1p", "{d} / (1 + {a})"),
    "logistic": _unary("sigmoid", "(1 - {y}) * {y} * {d}", "jax.nn.sigmoid({a})"),
    "tanh": _unary("tanh", "(1 - {y} ** 2) * {d}"),
    "sqrt": _unary("sqrt", "0.5 / {y} * {d}"),
    "rsqrt": _unary("rsqrt", "-0.5 * {y} / {a} * {d}", "jax.lax.rsqrt({a})"),
    "cbrt": _unary("cbrt", "{d} / (3 * {y} ** 2)"),
    "sin": _unary("sin", "jnp.cos({a}) * {d}"),
    "cos": _unary("cos", "-jnp.sin({a}) * {d}"),
    "tan": _unary("tan", "(1 + {y} ** 2) * {d}"),
    "atan": _unary("arctan", "{d} / (1 + {a} ** 2)"),
    "asin": _unary("arcsin", "{d} / jnp.sqrt(1 - {a} ** 2)"),
    "acos": _unary("arccos", "-{d} / jnp.sqrt(1 - {a} ** 2)"),
    "sinh": _unary("sinh", "jnp.cosh({a}) * {d}"),
    "cosh": _unary("cosh", "jnp.sinh({a}) * {d}"),
    "erf": _unary("erf", "2 / jnp.sqrt(jnp.pi) * jnp.exp(-{a} ** 2) * {d}", "jax.lax.erf({a})"),
    "abs": _unary("abs", "jnp.sign({a}) * {d}"),
    "sign": _unary("sign", NONE),
    "floor": _unary("floor", NONE),
    "ceil": _unary("ceil", NONE),
    "is_finite": _unary("isfinite", NONE),
    "not": _unary("not", NONE, "~{a}"),
    "stop_gradient": _unary("stop", NONE, "jax.lax.stop_gradient({a})"),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "eq": _compare("=="),
    "ne": _compare("!="),
    "and": _compare("&"),
    "or": _compare("|"),
    "select_n": Row("where", "jnp.where({a}, {c}, {b})", (NONE, "jnp.where({a}, 0, {d})", "jnp.where({a}, {d}, 0)")),
    "clamp": _clamped,
    "convert_element_type": _cast,
    **{name: _same(name) for name in ("copy", "copy_p", "optimization_barrier", "name", "pvary")},
    "reduce_sum": _reduced("sum", "sum", "jnp.broadcast_to({spread}, {shape})"),
    "reduce_max": _reduced("max", "max", "{peak} / jnp.sum({peak}, axis={axes}, keepdims=True) * {spread}"),
    "reduce_min": _reduced("min", "min", "{peak} / jnp.sum({peak}, axis={axes}, keepdims=True) * {spread}"),
    "reduce_prod": _reduced("prod", "prod", None),
    "argmax": _argument("argmax"),
    "argmin": _argument("argmin"),
    "broadcast_in_dim": _spread,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": _transposed,
    "slice": _sliced,
    "concatenate": _joined,
    "dot_general": _product,
    "iota": _counted,
    **{name: _cumulated(name) for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")},
}
#: Functions of JAX with a rule of their own.
FUNCTIONS = {"relu": Row("relu", "jax.nn.relu({a})", ("({a} > 0) * {d}",))}


def row_of(eqn: Any) -> Row:
    """How an equation is drawn and printed."""
    if eqn.primitive.name in CUSTOM:
        return _custom(eqn)
    found = TABLE.get(eqn.primitive.name, Row(title_of(eqn)))
    return found if isinstance(found, Row) else found(eqn)


def _custom(eqn: Any) -> Row:
    """A function with a rule of its own: one of JAX, or an op of jaxbp such as `gelu(approximate=False)`."""
    title, file = function_source(called_jaxpr(eqn).jaxpr)
    if title in FUNCTIONS and file.startswith(str(JAX)):
        return FUNCTIONS[title]
    if title not in MEANT or not file.startswith(op_module.__file__):
        return Row(title_of(eqn))
    name, _, options = title.partition("(")
    operands = [f"{{{letter}}}" for letter in LETTERS[: len(eqn.invars)]]
    return Row(name, f"jaxbp.{name}({', '.join(operands + ([options.rstrip(')')] if options else []))})")


def fields_of(eqn: Any, operands: Sequence[str]) -> dict[str, Any]:
    """What a row's templates are filled with, but for the output."""
    first: Any = eqn.invars[0].aval if eqn.invars else None
    about = {"shape": tuple(first.shape), "dtype": first.dtype} if hasattr(first, "shape") else {}
    return {**dict(zip(LETTERS, operands, strict=False)), **about}


def title_of(eqn: Any) -> str:
    """What an equation is called: the function that it calls, or its primitive."""
    name = eqn.params.get("name")
    if isinstance(name, str) and name and eqn.primitive.name in ("jit", "pjit", "closed_call", "core_call"):
        return name
    if eqn.primitive.name in CUSTOM:
        return function_source(called_jaxpr(eqn).jaxpr)[0] or eqn.primitive.name
    return eqn.primitive.name


def symbol_of(eqn: Any, operands: list[Any]) -> str:
    """What the picture shows: the operation, with the constant that it is done with, as in `+ 1` or `1 / x`."""
    row = row_of(eqn)
    literals = [x for x in operands if isinstance(x, Literal)]
    if len(operands) != 2 or len(literals) != 1 or len(row.symbol) > 3:
        return row.symbol
    text = literal(literals[0]).removesuffix(".0").replace("-", "−").replace("jnp.inf", "∞")
    if operands[1] is literals[0]:
        return f"{row.symbol} {text}" if row.symbol != "^" else f"^{text}"
    if row.symbol == "÷":
        return f"{text}/x"
    commutes = row.symbol in ("+", "×", "max", "min")
    return f"{row.symbol} {text}" if commutes else f"{text} {row.symbol}"


def literal(x: Literal) -> str:
    """A literal as Python."""
    aval: Any = x.aval
    dtype = np.dtype(aval.dtype)
    value = np.asarray(x.val).item()
    if isinstance(value, bool | int):
        return str(value)
    if not np.isfinite(value):
        return {"inf": "jnp.inf", "-inf": "-jnp.inf"}.get(str(value), "jnp.nan")
    return str(np.float32(value)) if dtype.itemsize <= 4 else repr(value)
