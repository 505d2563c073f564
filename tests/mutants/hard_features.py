"""Right functions by every way that JAX has to define a derivative: options of `custom_vjp`, `custom_jvp`, nesting."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _symbolic_zeros()
    yield from _static()
    yield from _remat()
    yield from _jvp()
    yield from _nested()
    yield from _kept()


def _is_zero(ct: Any) -> bool:
    return isinstance(ct, jax.custom_derivatives.SymbolicZero)


def _symbolic_zeros() -> Iterator[Right]:
    """Rules that are told which arguments are differentiated, and which cotangents are 0."""
    x, y = normal(6, 5), normal(6, 5, seed=2)

    @jax.custom_vjp
    def product(a: Any, b: Any) -> Any:
        return a * b

    def product_fwd(a: Any, b: Any) -> Any:
        # Nothing is kept for a gradient that nobody asks for.
        return a.value * b.value, (b.value if a.perturbed else None, a.value if b.perturbed else None)

    def product_bwd(res: Any, ct: Any) -> Any:
        b, a = res
        if _is_zero(ct):
            return None, None
        return None if b is None else ct * b, None if a is None else ct * a

    product.defvjp(product_fwd, product_bwd, symbolic_zeros=True)

    @jax.custom_vjp
    def both(x: Any) -> Any:
        return jnp.sin(x), jnp.cos(x)

    def both_bwd(x: Any, cts: Any) -> Any:
        ct_sin, ct_cos = cts
        total = jnp.zeros_like(x)
        if not _is_zero(ct_sin):
            total += ct_sin * jnp.cos(x)
        if not _is_zero(ct_cos):
            total -= ct_cos * jnp.sin(x)
        return (total,)

    both.defvjp(lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value), both_bwd, symbolic_zeros=True)

    yield Right("feature/symbolic zeros", product, (x, y))
    yield Right("feature/symbolic zeros of an argument", lambda a, b: product(a, lax.stop_gradient(b)), (x, y))
    yield Right("feature/symbolic zeros of two outputs", both, (x,))
    yield Right("feature/symbolic zero of an output that is dropped", lambda x: both(x)[0], (x,))


def _static() -> Iterator[Right]:
    """Arguments that are no arrays."""
    x = normal(6, 5)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
    def power(n: int, x: Any, scale: float) -> Any:
        return scale * x**n

    def power_fwd(n: int, x: Any, scale: float) -> Any:
        return scale * x**n, x

    def power_bwd(n: int, scale: float, x: Any, ct: Any) -> Any:
        return (ct * scale * n * x ** (n - 1),)

    power.defvjp(power_fwd, power_bwd)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def applied(f: Callable[[Any], Any], x: Any) -> Any:
        return f(x)

    def applied_bwd(f: Callable[[Any], Any], x: Any, ct: Any) -> Any:
        return jax.vjp(f, x)[1](ct)

    applied.defvjp(lambda f, x: (f(x), x), applied_bwd)

    @jax.custom_vjp
    def scaled(x: Any, by: Any = 2.0, shift: Any = 1.0) -> Any:
        return by * x + shift

    def scaled_bwd(res: Any, ct: Any) -> Any:
        x, by = res
        return ct * by, jnp.sum(ct * x), jnp.sum(ct)

    scaled.defvjp(lambda x, by=2.0, shift=1.0: (by * x + shift, (x, by)), scaled_bwd)

    def summed(x: Any, axis: int = 0) -> Any:
        f = custom(
            lambda x: jnp.sum(x, axis),
            lambda x: (jnp.sum(x, axis), x),
            lambda x, ct: (jnp.broadcast_to(jnp.expand_dims(ct, axis), x.shape),),
        )
        return f(x)

    yield Right("feature/nondiff arguments", lambda x: power(3, x, 0.5), (x,))
    yield Right("feature/nondiff function", functools.partial(applied, jnp.tanh), (x,))
    yield Right("feature/default arguments", lambda x: scaled(x), (x,))
    yield Right("feature/keyword arguments", lambda x, b: scaled(x, shift=jnp.sum(b)), (x, normal(3)))
    yield Right("feature/partial of a keyword", functools.partial(summed, axis=1), (x,))
    yield Right("feature/static argument of jit", functools.partial(jax.jit(summed, static_argnums=1), axis=1), (x,))


def _remat() -> Iterator[Right]:
    """Rules whose forward pass is left out where nobody differentiates, and such under `jax.checkpoint`."""
    x = normal(6, 5)
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),), optimize_remat=True)
    yield Right("feature/optimize_remat", f, (x,))
    yield Right("feature/optimize_remat in a checkpoint", jax.checkpoint(lambda x: f(f(x))), (x,))
    g = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    nothing = jax.checkpoint_policies.nothing_saveable
    yield Right("feature/checkpoint that saves nothing", jax.checkpoint(lambda x: g(g(x)), policy=nothing), (x,))


def _jvp() -> Iterator[Right]:
    x, y = normal(6, 5), normal(6, 5, seed=2)
    f = jax.custom_jvp(jnp.sin)
    f.defjvps(lambda t, y, x: t * jnp.cos(x))
    yield Right("feature/custom_jvp", f, (x,))
    g = jax.custom_jvp(lambda a, b: a * b)
    g.defjvp(lambda xs, ts: (xs[0] * xs[1], ts[0] * xs[1] + xs[0] * ts[1]))
    yield Right("feature/custom_jvp of two", g, (x, y))
    h = jax.custom_jvp(lambda x: jnp.log(1 + jnp.exp(x)))
    h.defjvps(lambda t, y, x: t * jax.nn.sigmoid(x))
    yield Right("feature/custom_jvp against overflow", h, (x,))
    yield Right("feature/custom_jvp of custom_vjp", _sine_of_tanh(f), (x,))
    yield Right("feature/custom_gradient", _by_custom_gradient, (x,))
    yield Right("feature/linear by its transpose", _linear_call, (x,))


def _sine_of_tanh(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """f(tanh(x)), the tanh by a rule from its output."""
    g = custom(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, lambda y, ct: (ct * (1 - y * y),))
    return lambda x: f(g(x))


@jax.custom_gradient
def _by_custom_gradient(x: Any) -> Any:
    return x**2, lambda ct: ct * 2 * x


def _linear_call(x: Any) -> Any:
    return jax.custom_derivatives.linear_call(lambda _, x: 3 * x, lambda _, ct: 3 * ct, (), x)


def _nested() -> Iterator[Right]:
    """Rules in rules."""
    x = normal(6, 5)
    sine = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * cosine(x),))
    cosine = custom(jnp.cos, lambda x: (jnp.cos(x), x), lambda x, ct: (-ct * sine(x),))
    yield Right("nested/rules that call each other", sine, (x,))
    outer = custom(lambda x: sine(x) ** 2, lambda x: (sine(x) ** 2, x), lambda x, ct: (ct * 2 * sine(x) * cosine(x),))
    yield Right("nested/rule of a rule", outer, (x,))
    differentiated = custom(
        lambda x: jnp.sum(sine(x)), lambda x: (jnp.sum(sine(x)), x), lambda x, ct: jax.vjp(_total(sine), x)[1](ct)
    )
    yield Right("nested/backward pass that differentiates a rule", differentiated, (x,))
    in_scan = custom(_scanned, lambda x: (_scanned(x), x), lambda x, ct: (ct * (1 - jnp.tanh(x) ** 2) * 3,))
    yield Right("nested/scan in both passes", in_scan, (x,))
    yield Right("nested/one rule many times", lambda x: sine(sine(x) + sine(2 * x)) * sine(x), (x,))


def _total(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: jnp.sum(f(x))


def _scanned(x: Any) -> Any:
    return lax.scan(lambda total, _: (total + jnp.tanh(x), None), jnp.zeros_like(x), None, length=3)[0]


def _kept() -> Iterator[Right]:
    """Residuals of all sorts."""
    x = normal(6, 5)
    f = custom(lambda x: x**2, lambda x: (x**2, {"x": x, "two": 2, "none": None}), _from_dict)
    yield Right("kept/dict with a number and None", f, (x,))
    f = custom(jnp.sin, lambda x: (jnp.sin(x), (x > 0, jnp.abs(x))), _from_sign)
    yield Right("kept/sign and size apart", f, (x,))
    f = custom(jnp.sum, lambda x: (jnp.sum(x), jnp.zeros((0, *x.shape), x.dtype)), _from_nothing)
    yield Right("kept/shape alone", f, (x,))
    f = custom(jnp.square, lambda x: (x**2, jax.tree_util.Partial(lambda x, ct: 2 * ct * x, x)), lambda g, ct: (g(ct),))
    yield Right("kept/function", f, (x,))
    f = custom(lambda x: x[0], lambda x: (x[0], x), lambda x, ct: (jnp.zeros_like(x).at[0].set(ct),))
    yield Right("kept/ct put into zeros", f, (x,))
    rows = np.array([True, False, True, True, False, True])
    yield Right("kept/booleans for integers", _masked_rows, (x, rows))


def _from_dict(res: Any, ct: Any) -> Any:
    return (ct * res["two"] * res["x"],)


def _from_sign(res: Any, ct: Any) -> Any:
    positive, size = res
    return (ct * jnp.cos(jnp.where(positive, size, -size)),)


def _from_nothing(like: Any, ct: Any) -> Any:
    return (jnp.broadcast_to(ct, like.shape[1:]),)


_masked_rows = custom(
    lambda x, keep: jnp.where(keep[:, None], x, 0),
    lambda x, keep: (jnp.where(keep[:, None], x, 0), keep),
    lambda keep, ct: (jnp.where(keep[:, None], ct, 0), None),
)
