"""Wrong rules made from the right ones: each operator spoils the default rule of an op in one way."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp import Op
from jaxbp.engines import reference
from tests.mutants.mutant import Mutant, custom

Args = tuple[np.ndarray, ...]
Grads = tuple[Any, ...]
#: A change of gradients: `change(gradients, cotangent, arguments) -> gradients`.
Change = Callable[[Grads, Any, Args], Grads]

#: Entries of an elementwise op's arguments.
SIZE = 96
#: Ops whose gradients do not depend on the arguments but through a sign, so that saved residuals cannot be imprecise
#: and the second derivative is 0 (here and below, one name a line would fill the page).
FLAT = {
    "add", "subtract", "negative", "shift", "relu", "leaky_relu", "absolute", "maximum", "minimum", "clip", "where",
    "sum", "mean", "max", "min", "cumsum", "multiclass_hinge", "embedding",
}  # fmt: skip
#: Ops of one number, so that there is one cotangent.
TOTALS = {"sum", "mean", "var", "norm", "max", "min", "l2_penalty", "softmax_objective", "hinge_objective"}
#: Those whose gradient is the same for all entries, and those where it is 0 for all but one.
EVEN, LONE = {"sum", "mean"}, {"max", "min"}
#: Ops whose gradient is 0 for half of the entries.
GATES = {"relu", "maximum", "minimum", "where", "multiclass_hinge"}
#: Ops whose gradient is the same for two arguments, or but for a sign that is then said to be flipped.
SYMMETRIC = {"add", "scaled_sum", "squared_error"}
#: Smooth functions whose domain holds 0, where their derivative is not 0.
STEEP_AT_0 = {
    "exp", "expm1", "log1p", "sigmoid", "tanh", "sin", "arctan", "softplus", "log_sigmoid", "silu", "gelu",
    "mish", "elu",
}  # fmt: skip
#: Whose gradient somebody could have taken for that of the first (one pair a line would fill the page).
NEXT = {
    "sin": "cos", "cos": "sin", "tanh": "sigmoid", "sigmoid": "tanh", "silu": "gelu", "gelu": "silu",
    "softplus": "log_sigmoid", "log_sigmoid": "softplus", "sqrt": "rsqrt", "rsqrt": "sqrt", "log": "log1p",
    "square": "cbrt", "cbrt": "square", "arctan": "tanh", "relu": "absolute", "absolute": "relu",
    "maximum": "minimum", "minimum": "maximum", "reciprocal": "negative", "negative": "square",
    "multiply": "divide", "divide": "multiply", "add": "subtract", "subtract": "add", "hypot": "multiply",
    "exp": "square", "expm1": "square", "mish": "silu", "elu": "relu", "leaky_relu": "relu", "swiglu": "multiply",
    "geglu": "swiglu",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Operator:
    """A way to spoil a rule.

    Attributes:
        name: of the operator.
        make: `make(op) -> Mutant`; None where it would make no difference.
    """

    name: str
    make: Callable[[Op], Mutant | None]


def arguments(op: Op, shapes: tuple[tuple[int, ...], ...] | None = None) -> Args:
    """Small float32 arguments from the distributions of the op's own small case."""
    case = op.case("small")
    if shapes is None:
        own = case.shapes
        shapes = tuple((SIZE,) if s == (1024,) else s for s in own) if op.elementwise else own
    rng = np.random.default_rng(3)
    return case.drawn(rng, np.dtype(np.float32), shapes)


def _rule(op: Op) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward pass with the op's options at their defaults."""
    parameters = inspect.signature(op.default_rule.fwd).parameters
    options = {name: parameters[name].default for name in op.options}
    rule = op.default_rule
    return functools.partial(rule.fwd, **options), functools.partial(rule.bwd, **options)


def _domain(op: Op) -> dict[str, tuple[float, float]]:
    places = {name: i for i, name in enumerate(op.arguments)}
    return {f"args[{places[name]}]": (d.low, d.high) for name, d in op.domain.items()}


def mutant(name: str, op: Op, fwd: Any, bwd: Any, args: Args, kinds: tuple[str, ...], **facts: Any) -> Mutant:
    """The function that an op means under a wrong rule."""
    f = custom(op.exact, fwd, bwd)
    return Mutant(f"{op.name}/{name}", op.name, f, op, args, kinds, domain=_domain(op), **facts)


def by_change(
    name: str,
    kinds: tuple[str, ...],
    change: Change,
    when: Callable[[Op], bool] = lambda op: True,
    prepare: Callable[[Op], Args] = arguments,
    **facts: Any,
) -> Operator:
    """The operator that changes the right gradients; the rule keeps the arguments beside its own residuals."""

    def make(op: Op) -> Mutant | None:
        if not when(op):
            return None
        fwd, bwd = _rule(op)

        def keeping(*args: Any) -> Any:
            y, res = fwd(*args)
            return y, (res, args)

        def changed(kept: Any, ct: Any) -> Grads:
            res, args = kept
            grads = bwd(res, ct)
            floats = [i for i, g in enumerate(grads) if g is not None]
            spoilt = change(tuple(jnp.asarray(grads[i]) for i in floats), ct, tuple(args[i] for i in floats))
            return tuple(dict(zip(floats, spoilt, strict=True)).get(i) for i in range(len(grads)))

        return mutant(name, op, keeping, changed, prepare(op), kinds, **facts)

    return Operator(name, make)


def of_first(change: Callable[..., Any]) -> Change:
    """A change of the first argument's gradient alone: `change(gradient, x)`."""
    return lambda gs, ct, args: (change(gs[0], args[0]), *gs[1:])


def of_all(change: Callable[[Any], Any]) -> Change:
    """The same change of every gradient."""
    return lambda gs, ct, args: tuple(change(g) for g in gs)


def by_cotangent(
    name: str,
    kinds: tuple[str, ...],
    change: Callable[[Any], Any],
    when: Callable[[Op], bool] = lambda op: True,
    **facts: Any,
) -> Operator:
    """The operator that gives the backward pass another cotangent."""

    def make(op: Op) -> Mutant | None:
        if not when(op):
            return None
        fwd, bwd = _rule(op)
        return mutant(name, op, fwd, lambda res, ct: tuple(bwd(res, change(ct))), arguments(op), kinds, **facts)

    return Operator(name, make)


def by_residuals(name: str, kinds: tuple[str, ...], change: Callable[[Any], Any], **facts: Any) -> Operator:
    """The operator that changes what is kept of floats between forward and backward pass."""

    def make(op: Op) -> Mutant | None:
        if op.name in FLAT:
            return None
        fwd, bwd = _rule(op)

        def spoilt(res: Any, ct: Any) -> Grads:
            return tuple(bwd(jax.tree.map(change, res), ct))

        return mutant(name, op, fwd, spoilt, arguments(op), kinds, **facts)

    return Operator(name, make)


def by_value(name: str, kinds: tuple[str, ...], change: Callable[[Any], Any], **facts: Any) -> Operator:
    """The operator that changes the value of the forward pass."""

    def make(op: Op) -> Mutant | None:
        fwd, bwd = _rule(op)

        def spoilt(*args: Any) -> Any:
            y, res = fwd(*args)
            return change(y), res

        return mutant(name, op, spoilt, lambda res, ct: tuple(bwd(res, ct)), arguments(op), kinds, **facts)

    return Operator(name, make)


def by_broadcast(name: str, kinds: tuple[str, ...], reduce: Callable[[Any], Any]) -> Operator:
    """The operator that reduces a broadcast argument's gradient otherwise than by a sum."""

    def make(op: Op) -> Mutant | None:
        if not op.elementwise or len(op.arguments) < 2:
            return None
        fwd, bwd = _rule(op)
        rest = () if op.name in ("shift", "scale") else (7,)
        args = arguments(op, ((12, 7), *(rest for _ in op.arguments[1:])))

        def spread(*args: Any) -> Any:
            return fwd(*(jnp.broadcast_to(x, (12, 7)) for x in args))

        def reduced(res: Any, ct: Any) -> Grads:
            first, *others = bwd(res, ct)
            return first, *(reduce(g if rest else g.reshape(84)) for g in others)

        return mutant(name, op, spread, reduced, args, kinds)

    return Operator(name, make)


def _caching() -> Operator:
    def make(op: Op) -> Mutant | None:
        fwd, bwd = _rule(op)
        kept: list[Any] = []

        def caching(res: Any, ct: Any) -> Grads:
            if not kept:
                kept.append(tuple(bwd(res, ct)))
            return kept[0]

        kinds = ("determinism", "raises", "tracer")
        return mutant("caching", op, fwd, caching, arguments(op), kinds, proof="second call")

    return Operator("caching", make)


def _next_function() -> Operator:
    def make(op: Op) -> Mutant | None:
        if op.name not in NEXT:
            return None
        fwd, _ = _rule(op)
        other = getattr(jaxbp, NEXT[op.name])

        def keeping(*args: Any) -> Any:
            return fwd(*args)[0], args

        def wrong(args: Any, ct: Any) -> Grads:
            return jax.vjp(other.stock, *args)[1](ct)

        return mutant("next_function", op, keeping, wrong, arguments(op), ("gradient",))

    return Operator("next_function", make)


def _with_zeros(op: Op) -> Args:
    (x,) = arguments(op)
    x[5::9] = 0
    return (x,)


def _with_ties(op: Op) -> Args:
    x, y, *rest = arguments(op)
    y[3::11] = x[3::11] = 1 + np.abs(y[3::11])
    return (x, y, *rest)


def _many(op: Op) -> Args:
    return arguments(op, tuple((10_000,) for _ in op.arguments))


def _beyond() -> Operator:
    def make(op: Op) -> Mutant | None:
        if not op.elementwise or op.integers:
            return None
        # Where the derivative has all but vanished autodiff is no better than such a rule: let it show before.
        args = arguments(op)
        y = op.output(args, {})
        x, slope = np.abs(args[0]), np.abs(reference(op, args, np.ones(y.shape, y.dtype))[1][0])
        cut = float(np.median(x[slope > 1e-3 * slope.max()])) if slope.shape == x.shape else float(np.median(x))
        change = of_first(lambda g, x: jnp.where(jnp.abs(x) > cut, 1.5 * g, g))
        return by_change("wrong_beyond", ("beyond",), change).make(op)

    return Operator("wrong_beyond", make)


def _unary(op: Op) -> bool:
    return len(op.arguments) == 1 and op.elementwise


def _binary(op: Op) -> bool:
    return len(op.arguments) == 2 and op.elementwise and op.name not in ("shift", "scale")


def _several(op: Op) -> bool:
    return len(op.arguments) - len(op.integers) > 1


def _last_zero(g: Any) -> Any:
    n = g.shape[0]
    return g.at[n - max(1, n // 8) :].set(0) if g.ndim else jnp.zeros_like(g)


def _swap(gs: Grads, ct: Any, args: Args) -> Grads:
    return (gs[1], gs[0], *gs[2:])


def _in_dtype(dtype: Any) -> Callable[[Any], Any]:
    """Rounds floats to a narrow dtype and back."""

    def rounded(x: Any) -> Any:
        return x.astype(dtype).astype(x.dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x

    return rounded


def _one_off(g: Any, x: Any) -> Any:
    """The largest entry off by 10 %."""
    flat = g.reshape(-1)
    return flat.at[jnp.argmax(jnp.abs(flat))].multiply(1.1).reshape(g.shape)


def _middle(g: Any) -> Any:
    """The middle size of a gradient's entries."""
    return jnp.median(jnp.abs(g))


def _every_other_twice(g: Any, x: Any) -> Any:
    flat = g.reshape(-1)
    return flat.at[::2].multiply(2).reshape(g.shape)


def _nan_at_zero(gs: Grads, ct: Any, args: Args) -> Grads:
    return tuple(jnp.where(g == 0, jnp.nan, g) for g in gs)


PRECISION = ("precision",)
OPERATORS: tuple[Operator, ...] = (
    by_change("zero", ("zero",), of_first(lambda g, x: jnp.zeros_like(g))),
    by_change("sign_flipped", ("sign",), of_first(lambda g, x: -g)),
    by_change("twice", ("2 times",), of_first(lambda g, x: 2 * g)),
    by_change("half", ("0.5 times",), of_first(lambda g, x: g / 2)),
    by_change("a_tenth_more", ("1.1 times",), of_all(lambda g: 1.1 * g)),
    by_change("a_thousandth_more", ("1.001 times",), of_all(lambda g: g * np.float32(1.001))),
    by_change("sixth_digit", ("1.00002 times", "precision"), of_all(lambda g: g * np.float32(1 + 2e-5))),
    by_change(
        "clipped",
        ("linear", "clip", "cut off"),
        of_first(lambda g, x: jnp.clip(g, -_middle(g), _middle(g))),
        lambda op: op.name not in EVEN,
    ),
    by_change(
        "small_to_zero",
        ("zero",),
        of_first(lambda g, x: jnp.where(jnp.abs(g) < _middle(g), 0, g)),
        lambda op: op.name not in GATES | EVEN | LONE,
    ),
    by_change("every_other_twice", ("2 times",), of_first(_every_other_twice), lambda op: op.name not in LONE),
    by_change("magnitude", ("sign",), of_first(lambda g, x: jnp.abs(g)), lambda op: op.name not in EVEN | LONE),
    by_change("one_added", ("added", "too large"), of_first(lambda g, x: g + 1)),
    by_change(
        "rolled", ("shifted",), of_first(lambda g, x: jnp.roll(g, 1, 0)), lambda op: op.name not in EVEN | {"neuron"}
    ),
    by_change("reversed", ("reversed",), of_first(lambda g, x: g[::-1]), lambda op: op.name not in EVEN),
    by_change("second_dropped", ("zero",), lambda gs, ct, args: (gs[0], jnp.zeros_like(gs[1]), *gs[2:]), _several),
    by_change(
        "swapped",
        ("swapped",),
        _swap,
        lambda op: (_binary(op) or op.name in ("matmul", "scaled_sum")) and op.name not in SYMMETRIC,
    ),
    by_change("transposed", ("transposed",), of_first(lambda g, x: g.T), lambda op: op.name in ("matmul", "linear")),
    by_change("one_off", ("in 1 of",), of_first(_one_off)),
    by_change("one_of_many_off", ("in 1 of",), of_first(_one_off), _unary, _many),
    by_change("last_zero", ("last block",), of_first(lambda g, x: _last_zero(g)), lambda op: op.name not in LONE),
    by_change(
        "last_too_large", ("last block",), of_first(lambda g, x: g - _last_zero(g) + g), lambda op: op.name not in LONE
    ),
    by_change(
        "wrong_at_zero",
        ("x is 0",),
        of_first(lambda g, x: jnp.where(x == 0, 0, g)),
        lambda op: op.name in STEEP_AT_0,
        _with_zeros,
    ),
    by_change(
        "wrong_at_ties",
        ("ties",),
        lambda gs, ct, args: tuple(jnp.where(args[0] == args[1], 2 * g, g) for g in gs),
        lambda op: _binary(op) and op.name not in ("maximum", "minimum", "squared_error"),
        _with_ties,
    ),
    by_change("through_float16", ("precision", "infinite"), of_all(_in_dtype(jnp.float16)), level="standard"),
    by_change("through_bfloat16", PRECISION, of_all(_in_dtype(jnp.bfloat16))),
    by_change(
        "positive_only",
        ("beyond", "x <", "x >"),
        of_first(lambda g, x: jnp.where(x > 0, g, 3 * g)),
        lambda op: op.elementwise and not op.domain and op.name not in ("relu",),
    ),
    by_change("nan_at_zero", ("NaN",), _nan_at_zero, proof="zero cotangent"),
    by_change("another_dtype", ("dtype", "contract"), of_all(lambda g: g.astype(jnp.bfloat16)), proof="contract"),
    by_change("flat", ("shape", "contract"), of_first(lambda g, x: g.reshape(1, -1)), proof="contract"),
    by_cotangent("cotangent_ignored", ("cotangent",), jnp.ones_like),
    by_cotangent(
        "cotangent_averaged",
        ("averaged",),
        lambda ct: jnp.full_like(ct, jnp.mean(ct)),
        lambda op: op.name not in TOTALS,
    ),
    by_cotangent("cotangent_squared", ("linear",), jnp.square),
    # The one random cotangent of the quick level may lie within.
    by_cotangent("cotangent_clipped", ("linear", "clip"), lambda ct: jnp.clip(ct, -0.5, 0.5), level="standard"),
    by_cotangent("cotangent_rounded", PRECISION, _in_dtype(jnp.bfloat16)),
    by_residuals("kept_in_bfloat16", PRECISION, _in_dtype(jnp.bfloat16)),
    by_residuals("first_order_only", ("first order",), jax.lax.stop_gradient, proof="second order", level="standard"),
    by_value("value_off", ("value",), lambda y: y * np.float32(1.001)),
    by_value("value_rounded", ("value",), _in_dtype(jnp.bfloat16)),
    by_value("value_of_another_dtype", ("dtype", "contract"), lambda y: y.astype(jnp.bfloat16), proof="contract"),
    by_broadcast("broadcast_mean", ("averaged",), lambda g: jnp.mean(g, 0)),
    by_broadcast("broadcast_first", ("broadcast", "missing sum"), lambda g: g[0]),
    _caching(),
    _next_function(),
    _beyond(),
)


def mutants() -> Iterator[Mutant]:
    """Every operator applied to every op where it makes a difference."""
    for operator in OPERATORS:
        for op in jaxbp.OPS:
            made = operator.make(op)
            if made:
                yield made
