"""What gets differentiated: a function's jaxpr without custom rules, and the jaxpr of its value and VJP.

JAX's rules for its primitives hold over the reals, but for some that carry a constant rounded to float64 (2 / sqrt(pi)
in that of erf, 1/3 in that of cbrt) or patch a neighbourhood (that of bessel_i1e). Those primitives get rules here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.extend.core.primitives import closed_call_p

from jaxbp import op as op_module
from jaxbp.jaxprs import JAX, called_jaxpr, closed_jaxpr, function_source, is_float
from jaxbp.op import MEANT

#: JAX's functions that keep their custom derivative: their code has a kink or a pole where the function has none, or
#: the rule is what states the convention at the kink.
JAX_OWN = frozenset(
    ("relu", "relu6", "logaddexp", "logaddexp2", "_softmax", "xlogy", "xlog1py", "_xlogx", "logit", "log1mexp")
)


def trace(f: Callable[..., Any], leaves: Sequence[jax.ShapeDtypeStruct]) -> tuple[ClosedJaxpr, Any]:
    """The jaxpr of `f` of flat arguments without custom rules, and the tree of its output's shapes."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*leaves)
    return without_custom_rules(closed), shapes


def vjp(primal: ClosedJaxpr) -> ClosedJaxpr:
    """The jaxpr of `(*args, *cts) -> (*outputs, *cotangents)`, for the arguments and outputs that are floats."""
    f = jaxpr_as_fun(primal)
    floats = [i for i, aval in enumerate(primal.in_avals) if is_float(aval.dtype)]
    float_outs = [i for i, aval in enumerate(primal.out_avals) if is_float(aval.dtype)]
    n = len(primal.in_avals)

    def value_and_cotangents(*args_and_cts: Any) -> tuple[Any, ...]:
        args, cts = list(args_and_cts[:n]), list(args_and_cts[n:])

        def of_floats(*xs: Any) -> tuple[list[Any], list[Any]]:
            for i, x in zip(floats, xs, strict=True):
                args[i] = x
            outs = f(*args)
            return [outs[i] for i in float_outs], outs

        _, pull, outs = jax.vjp(of_floats, *(args[i] for i in floats), has_aux=True)
        return (*outs, *pull(cts))

    inputs = [*primal.in_avals, *(primal.out_avals[i] for i in float_outs)]
    return jax.make_jaxpr(value_and_cotangents)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs))


def vjp_by_columns(primal: ClosedJaxpr) -> ClosedJaxpr:
    """The same by forward mode, which goes through while loops: one column of the Jacobian for each entry."""
    f = jaxpr_as_fun(primal)
    floats = [i for i, aval in enumerate(primal.in_avals) if is_float(aval.dtype)]
    float_outs = [i for i, aval in enumerate(primal.out_avals) if is_float(aval.dtype)]
    n = len(primal.in_avals)

    def value_and_cotangents(*args_and_cts: Any) -> tuple[Any, ...]:
        args, cts = list(args_and_cts[:n]), args_and_cts[n:]

        def column(i: int, direction: Any) -> Any:
            def along(x: Any) -> list[Any]:
                outs = f(*args[:i], x, *args[i + 1 :])
                return [outs[j] for j in float_outs]

            _, tangents = jax.jvp(along, (args[i],), (direction,))
            return sum(jnp.sum(ct * t) for ct, t in zip(cts, tangents, strict=True))

        def gradient(i: int) -> Any:
            x = args[i]
            basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
            return jax.vmap(lambda direction: column(i, direction))(basis).reshape(x.shape).astype(x.dtype)

        return (*f(*args), *map(gradient, floats))

    inputs = [*primal.in_avals, *(primal.out_avals[i] for i in float_outs)]
    return jax.make_jaxpr(value_and_cotangents)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs))


def without_custom_rules(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Put the primal in place of every function with a custom derivative, but for `JAX_OWN`."""
    jaxpr = closed.jaxpr.replace(eqns=[_rewritten(eqn) for eqn in closed.jaxpr.eqns])
    return ClosedJaxpr(jaxpr, closed.consts)


def _rewritten(eqn: Any) -> Any:
    name = eqn.primitive.name
    if name in EXACT_RULES and is_float(eqn.outvars[0].aval.dtype):
        avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        return _calling(eqn, jax.make_jaxpr(EXACT_RULES[name])(*avals))
    if name == "custom_jvp_call" and _is_jax_own(called_jaxpr(eqn).jaxpr):
        return eqn
    if name.startswith(("custom_jvp_call", "custom_vjp_call", "custom_vmap_call")):
        called = called_jaxpr(eqn)
        meant = _meant(called.jaxpr)
        if meant:
            called = jax.make_jaxpr(meant)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in called.in_avals))
        return _calling(eqn, without_custom_rules(called))
    return eqn.replace(params={key: _inner(value) for key, value in eqn.params.items()})


def _inner(value: Any) -> Any:
    """A parameter of an equation, without custom rules where it is a jaxpr or a tuple of them."""
    if isinstance(value, ClosedJaxpr):
        return without_custom_rules(value)
    if isinstance(value, Jaxpr) and not value.constvars:
        return without_custom_rules(closed_jaxpr(value)).jaxpr
    return tuple(map(_inner, value)) if type(value) is tuple else value


def _calling(eqn: Any, closed: ClosedJaxpr) -> Any:
    return eqn.replace(primitive=closed_call_p, params={"call_jaxpr": closed}, effects=closed.effects)


def _is_jax_own(jaxpr: Jaxpr) -> bool:
    name, file = function_source(jaxpr)
    return name in JAX_OWN and file.startswith(str(JAX))


def _meant(jaxpr: Jaxpr) -> Callable[..., Any] | None:
    """The function that an op of jaxbp means, which its own code may approximate by a polynomial."""
    name, file = function_source(jaxpr)
    return MEANT[name][1] if file.startswith(op_module.__file__) and name in MEANT else None


def _with_derivative(primitive: Callable[..., Any], derivative: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A function of one argument whose derivative is `derivative(x, y)`."""
    f = jax.custom_jvp(primitive)

    @f.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        y = primitive(x)
        return y, lax.mul(t, derivative(x, y))

    return f


def _sqrt_pi(x: Any) -> Any:
    # Not a number that Python computes and rounds, but equations of the jaxpr.
    return lax.sqrt(lax.mul(lax.full_like(x, 4), lax.atan(lax.full_like(x, 1))))


def _bell(x: Any, y: Any) -> Any:
    return lax.div(lax.mul(lax.full_like(x, 2), lax.exp(lax.neg(lax.mul(x, x)))), _sqrt_pi(x))


def _erf_inv_slope(x: Any, y: Any) -> Any:
    return lax.mul(lax.div(_sqrt_pi(x), lax.full_like(x, 2)), lax.exp(lax.mul(y, y)))


def _cbrt_slope(x: Any, y: Any) -> Any:
    return lax.div(lax.full_like(x, 1), lax.mul(lax.full_like(x, 3), lax.mul(y, y)))


def _i1e_slope(x: Any, y: Any) -> Any:
    """i0e(x) - y (sign(x) + 1 / x), and 1/2 at 0."""
    zero = lax.eq(x, lax.full_like(x, 0))
    safe = lax.select(zero, lax.full_like(x, 1), x)
    slope = lax.sub(lax.bessel_i0e(safe), lax.mul(y, lax.add(lax.sign(safe), lax.div(lax.full_like(x, 1), safe))))
    return lax.select(zero, lax.full_like(x, 0.5), slope)


EXACT_RULES: dict[str, Callable[..., Any]] = {
    "erf": _with_derivative(lax.erf, _bell),
    "erfc": _with_derivative(lax.erfc, lambda x, y: lax.neg(_bell(x, y))),
    "erf_inv": _with_derivative(lax.erf_inv, _erf_inv_slope),
    "cbrt": _with_derivative(lax.cbrt, _cbrt_slope),
    "bessel_i1e": _with_derivative(lax.bessel_i1e, _i1e_slope),
}


def struct(x: np.ndarray) -> jax.ShapeDtypeStruct:
    """What an argument is traced as: floats of any width as float64."""
    return jax.ShapeDtypeStruct(x.shape, jnp.float64 if is_float(x.dtype) else x.dtype)
