"""Every primitive's value and derivative: against mpmath, IEEE arithmetic, the ops' references and float64 autodiff."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from jax import lax
from jax.scipy import special

import jaxbp
from jaxbp.engines import reference

mp: Any = mpmath.mp.clone()
mp.prec = 400


def bell(x):
    return 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)


def i0e(x):
    return mp.exp(-abs(x)) * mp.besseli(0, x)


def i1e(x):
    return mp.exp(-abs(x)) * mp.besseli(1, x)


def silu_slope(x):
    return (1 + mp.exp(-x) * (1 + x)) / (1 + mp.exp(-x)) ** 2


# The function, its value and derivative in mpmath, and points.
CLOSED_FORMS = [
    (jnp.exp, mp.exp, mp.exp, (-700, -1.5, 1e-20, 3)),
    (jnp.exp2, lambda x: mp.power(2, x), lambda x: mp.power(2, x) * mp.ln(2), (-1000.3, -1.5, 1e-20, 3.3)),
    (jnp.expm1, mp.expm1, mp.exp, (-50, -1e-20, 1e-5, 3)),
    (jnp.log, mp.ln, lambda x: 1 / x, (1e-300, 0.3, 1 + 2**-52, 1e300)),
    (jnp.log1p, lambda x: mp.ln(1 + x), lambda x: 1 / (1 + x), (-0.999, 1e-30, 2, 1e300)),
    (jnp.log2, lambda x: mp.ln(x) / mp.ln(2), lambda x: 1 / (x * mp.ln(2)), (0.3, 5)),
    # The code's own constant, 1 / ln(10) in float64.
    (jnp.log10, lambda x: mp.ln(x) * mp.mpf(0.4342944819032518), lambda x: mp.mpf(0.4342944819032518) / x, (0.3, 5)),
    (jnp.sqrt, mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x)), (5e-324, 2, 1e300)),
    (lax.rsqrt, lambda x: 1 / mp.sqrt(x), lambda x: -1 / (2 * x * mp.sqrt(x)), (1e-200, 2, 1e300)),
    (jnp.cbrt, lambda x: mp.sign(x) * mp.cbrt(abs(x)), lambda x: 1 / (3 * mp.cbrt(x * x)), (-8, -0.3, 0.3, 1e200)),
    (jnp.sin, mp.sin, mp.cos, (-1e22, 1e-20, 3.141592653589793)),
    (jnp.cos, mp.cos, lambda x: -mp.sin(x), (-1e22, 1e-20, 1.5707963267948966)),
    (jnp.tan, mp.tan, lambda x: mp.sec(x) ** 2, (-1.5, 1e-20, 1.5707963267948966)),
    (jnp.arcsin, mp.asin, lambda x: 1 / mp.sqrt(1 - x * x), (-0.999, 1e-20, 0.5)),
    (jnp.arccos, mp.acos, lambda x: -1 / mp.sqrt(1 - x * x), (-0.999, 1e-20, 0.5)),
    (jnp.arctan, mp.atan, lambda x: 1 / (1 + x * x), (-1e200, 1e-20, 0.5)),
    (jnp.sinh, mp.sinh, mp.cosh, (-700, 1e-20, 2)),
    (jnp.cosh, mp.cosh, mp.sinh, (-700, 1e-20, 2)),
    (jnp.tanh, mp.tanh, lambda x: mp.sech(x) ** 2, (-40, 1e-20, 2)),
    (jnp.arcsinh, mp.asinh, lambda x: 1 / mp.sqrt(1 + x * x), (-30, 1e-20, 0.5)),
    (jnp.arccosh, mp.acosh, lambda x: 1 / mp.sqrt(x * x - 1), (1 + 2**-52, 3)),
    (jnp.arctanh, mp.atanh, lambda x: 1 / (1 - x * x), (-0.999, 1e-20, 0.5)),
    (jax.nn.sigmoid, lambda x: 1 / (1 + mp.exp(-x)), lambda x: mp.sech(x / 2) ** 2 / 4, (-80, 1e-20, 2)),
    (jax.nn.softplus, lambda x: mp.ln(1 + mp.exp(x)), lambda x: 1 / (1 + mp.exp(-x)), (-80, 0, 1e-20, 50)),
    (jax.nn.silu, lambda x: x / (1 + mp.exp(-x)), silu_slope, (-80, -1.278464542761074, 3)),
    (special.erf, mp.erf, bell, (-5, 1e-20, 0.5)),
    (special.erfc, mp.erfc, lambda x: -bell(x), (-5, 1e-20, 20)),
    (special.erfinv, mp.erfinv, lambda x: 1 / bell(mp.erfinv(x)), (-0.99, 0.5)),
    (special.gammaln, lambda x: mp.ln(abs(mp.gamma(x))), mp.digamma, (-2.5, 0.1, 30)),
    (special.digamma, mp.digamma, lambda x: mp.polygamma(1, x), (0.1, 30)),
    (special.i0e, i0e, lambda x: i1e(x) - mp.sign(x) * i0e(x), (-3, 0.5)),
    (special.i1e, i1e, lambda x: i0e(x) - (mp.sign(x) + 1 / x) * i1e(x), (-3, 1e-20, 0.5)),
    (lambda x: x**-3, lambda x: x**-3, lambda x: -3 * x**-4, (-0.3, 3)),
    (lambda x: x**2.5, lambda x: x**2.5, lambda x: 2.5 * x**1.5, (1e-30, 3)),
]


@pytest.mark.parametrize(("f", "value", "slope", "points"), CLOSED_FORMS, ids=range(len(CLOSED_FORMS)))
def test_value_and_derivative_are_those_of_mpmath_correctly_rounded(f, value, slope, points):
    rng = np.random.default_rng(3)
    low, high = max(min(points), -5), min(max(points), 5)
    x = np.array([*points, *rng.uniform(low, high, 4)], float)
    y, (ct_x,) = jaxbp.exact_vjp(f, (x,), np.ones_like(x))
    exact_points = [mp.mpf(v) for v in x.tolist()]
    assert y.tolist() == [float(value(v)) for v in exact_points]
    assert ct_x.tolist() == [float(slope(v)) for v in exact_points]


EDGES = np.array([-math.inf, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf, math.nan])
UNARY = "abs sign floor ceil round rint exp exp2 expm1 log log1p log2 sqrt cbrt sin cos tan arcsin arccos arctan "
UNARY += "sinh cosh tanh arcsinh arccosh arctanh square reciprocal isfinite isnan isinf signbit trunc"


@pytest.mark.parametrize("name", UNARY.split())
def test_unary_functions_at_poles_ends_and_infinities(name):
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(EDGES)
    np.testing.assert_allclose(jaxbp.exact_value(getattr(jnp, name), (EDGES,)), expected, rtol=1e-15, atol=1e-15)


SPECIAL = [special.erf, special.erfc, special.erfinv, special.gammaln, special.i0e, special.i1e, lax.rsqrt]


@pytest.mark.parametrize("f", [*SPECIAL, jax.nn.sigmoid], ids=lambda f: f.__name__)
def test_special_functions_at_poles_ends_and_infinities(f):
    with jax.enable_x64(True):
        expected = np.asarray(f(EDGES))
    np.testing.assert_allclose(jaxbp.exact_value(f, (EDGES,)), expected, rtol=1e-13, atol=1e-13)


BINARY = (
    "add subtract multiply divide power arctan2 hypot maximum minimum fmod remainder logaddexp fmax fmin heaviside "
)
BINARY += "less less_equal greater greater_equal equal not_equal floor_divide copysign"


@pytest.mark.parametrize("name", BINARY.split())
def test_binary_functions_of_infinities_zeros_and_nan(name):
    x, y = (a.ravel() for a in np.meshgrid(EDGES, EDGES))
    f = getattr(jnp, name)
    with jax.enable_x64(True):
        expected = np.asarray(f(x, y))
    np.testing.assert_allclose(jaxbp.exact_value(f, (x, y)), expected, rtol=1e-14)


def gradient(f, *args):
    return [float(ct) for ct in jaxbp.exact_vjp(f, args, 1.0)[1]]


def test_derivatives_at_poles_and_kinks_follow_ieee_and_jax():
    assert gradient(jnp.log, 0.0) == [math.inf]
    assert gradient(jnp.sqrt, 0.0) == [math.inf]
    assert gradient(jnp.divide, 1.0, 0.0) == [math.inf, -math.inf]
    assert gradient(jnp.maximum, 1.0, 1.0) == [0.5, 0.5]
    assert gradient(jax.nn.relu, 0.0) == [0.0]
    assert gradient(jnp.logaddexp, 2.0, 2.0) == [0.5, 0.5]
    assert gradient(jnp.sinc, 0.0) == [0.0]
    assert gradient(jnp.abs, 0.0) == [float(jax.grad(jnp.abs)(0.0))]
    assert gradient(jnp.power, 0.0, 2.0) == [0.0, 0.0]
    assert math.isnan(gradient(lambda x: x * jnp.inf * 0, 1.0)[0])
    assert math.isnan(gradient(lambda x: jnp.sqrt(x * x), 0.0)[0])


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_every_op_agrees_with_its_reference(op):
    args = tuple(x[:12] if x.ndim and op.elementwise else x for x in op.case("small").arguments(np.dtype(np.float32)))
    y_shape = jax.eval_shape(op.stock, *args)
    ct = op.case("small").cotangent(y_shape.shape, np.dtype(np.float32))
    expected_y, expected = reference(op, args, ct)
    for f in (op.stock, op):
        y, cts = jaxbp.exact_vjp(f, args, ct)
        for actual, wanted in zip((y, *cts), (expected_y, *expected), strict=True):
            if wanted is None:
                assert actual is None
                continue
            assert actual.shape == wanted.shape
            # Sums that cancel are judged against the largest entry.
            scale = np.abs(wanted) if op.elementwise and op.name != "rational" else np.abs(wanted).max()
            assert (np.abs(actual - wanted) <= 1e-12 * scale).all()


def normal(*shape):
    return np.random.default_rng(4).normal(size=shape)


def uniform(*shape):
    return np.random.default_rng(5).uniform(0.1, 0.9, shape)


def agrees_with_autodiff(f, *args) -> bool:
    """Whether value and VJP are those of float64 JAX, to 1e-10."""
    floats = [i for i, x in enumerate(args) if np.asarray(x).dtype.kind == "f"]

    def of_floats(*xs):
        changed = dict(zip(floats, xs, strict=True))
        return f(*(changed.get(i, x) for i, x in enumerate(args)))

    def value_and_vjp(ct, *xs):
        y, pull = jax.vjp(of_floats, *xs)
        return y, pull(ct)

    with jax.enable_x64(True):
        xs = [jnp.asarray(args[i]) for i in floats]
        ct = np.asarray(np.random.default_rng(6).uniform(0.5, 2, jax.eval_shape(of_floats, *xs).shape))
        y, cts = jax.jit(value_and_vjp)(ct, *xs)
    exact_y, exact_cts = jaxbp.exact_vjp(f, args, ct)
    pairs = zip((y, *cts), (exact_y, *(exact_cts[i] for i in floats)), strict=True)
    return all(np.allclose(a, b, rtol=1e-10, atol=1e-12) and np.shape(a) == b.shape for a, b in pairs)


#: Functions of jax.nn that are no activation: with other arguments they are tested below, or need hardware.
OTHERS = {"dot_product_attention", "one_hot", "get_scaled_dot_general_config", "scaled_dot_general", "scaled_matmul"}
ACTIVATIONS = sorted(n for n in dir(jax.nn) if n[0] != "_" and callable(getattr(jax.nn, n)) and n not in OTHERS)


def test_the_activations_are_found():
    assert {"relu", "gelu", "log_softmax", "squareplus", "sparse_plus"} <= set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    x = 3 * (normal(2, 6) if name != "log1mexp" else uniform(2, 6))
    assert agrees_with_autodiff(getattr(jax.nn, name), x)


def attention(q, k, v, *, causal):
    # jax.nn.dot_product_attention takes its softmax in float32: 1e-6 is what autodiff can be compared to there.
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
    q, k, v = normal(3, 1, 3, 2, 2)
    y = jaxbp.exact_value(lambda *args: attention(*args, causal=causal), (q, k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / math.sqrt(2)
    scores = np.where(np.tri(3) if causal else True, scores, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(y, np.einsum("bnts,bsnh->btnh", weights, v), rtol=1e-12)
    with jax.enable_x64(True):
        _, pull = jax.vjp(lambda *args: attention(*args, causal=causal), q, k, v)
        expected = pull(jnp.ones(y.shape))
    _, cts = jaxbp.exact_vjp(lambda *args: attention(*args, causal=causal), (q, k, v), np.ones(y.shape))
    for actual, wanted in zip(cts, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


labels = np.array([0, 5])
rows = np.array([0, 2, 0])
STRUCTURED = {
    "gelu erf": (lambda x: jax.nn.gelu(x, approximate=False), normal(5)),
    "one_hot": (lambda i, w: jax.nn.one_hot(i, 3) @ w, np.array([0, 2, -1]), normal(3, 2)),
    "cross entropy": (optax.softmax_cross_entropy_with_integer_labels, normal(2, 6), labels),
    "soft cross entropy": (optax.softmax_cross_entropy, normal(2, 6), uniform(2, 6)),
    "norm": (jnp.linalg.norm, normal(3, 2)),
    "variance": (lambda x: jnp.var(x, axis=0), normal(4, 2)),
    "broadcast": (lambda x, y: x[:, None] * y - x.sum(), normal(3), normal(4)),
    "einsum": (lambda a, b: jnp.einsum("bij,bkj->bki", a, b), normal(2, 3, 4), normal(2, 5, 4)),
    "matmul of integers": (lambda x, n: x @ n, normal(2, 3), np.arange(6).reshape(3, 2)),
    "cumsum": (lambda x: lax.cumsum(x, axis=1), normal(2, 4)),
    "cumprod": (lambda x: lax.cumprod(x, axis=0, reverse=True), normal(3, 2)),
    "cummax": (lambda x: lax.cummax(x, axis=0), normal(4, 2)),
    "cummin": (lambda x: lax.cummin(x, axis=0, reverse=True), normal(4)),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, axis=0), normal(4)),
    "prod": (jnp.prod, normal(2, 3)),
    "max": (lambda x: x.max(axis=1), normal(3, 4)),
    "min": (lambda x: x.min(), normal(3, 4)),
    "sort": (lambda x: jnp.sort(x, axis=0), normal(4, 2)),
    "sort by key": (lambda x, y: lax.sort((x, y), num_keys=1)[1], normal(5), uniform(5)),
    "argsort": (lambda x: x[jnp.argsort(-x)] * jnp.argmax(x) + jnp.argmin(x), normal(5)),
    "top_k": (lambda x: lax.top_k(x, 2)[0], normal(2, 5)),
    "median": (jnp.median, normal(5)),
    "gather": (lambda x: x[rows, 1:3], normal(5, 4)),
    "gather fill": (lambda x: jnp.take(x, rows + 1, axis=0, mode="fill", fill_value=7), normal(2, 2)),
    "gather clip": (lambda x: jnp.take(x, rows + 1, axis=0, mode="clip"), normal(2, 2)),
    "gather batch": (jax.vmap(lambda x, i: x[i]), normal(3, 4), rows),
    "scatter": (lambda x, u: x.at[jnp.array([0, 2])].set(u), normal(4, 2), normal(2, 2)),
    "scatter-add": (lambda x, u: x.at[rows, 1:3].add(u), normal(4, 3), normal(3, 2)),
    "scatter drop": (lambda x, u: x.at[rows + 2].add(u, mode="drop"), normal(4), normal(3)),
    "scatter-mul": (lambda x, u: x.at[jnp.array([2, 0])].multiply(u, unique_indices=True), normal(4), normal(2)),
    "scatter-max": (lambda x: x.at[rows].max(0.1), normal(4)),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i, i), (2, 2)), normal(4, 3), np.int64(3)),
    "dynamic_update_slice": (lambda x, u: lax.dynamic_update_slice(x, u, (1,)), normal(4), normal(2)),
    "pad": (lambda x, v: lax.pad(x, v, ((1, -1, 2), (-1, 2, 0))), normal(3, 4), normal()),
    "slices": (lambda x: jnp.concatenate([x[::-1, ::2].T.reshape(-1), *jnp.split(x[0], 2)]), normal(3, 4)),
    "convolution": (
        lambda x, k: lax.conv_general_dilated(x, k, (2, 1), [(1, 2), (0, 1)], (1, 2), (2, 1)),
        *(normal(1, 2, 4, 3), normal(2, 2, 2, 2)),
    ),
    "grouped convolution": (
        lambda x, k: lax.conv_general_dilated(
            x, k, (1,), "SAME", feature_group_count=2, dimension_numbers=("NWC", "WIO", "NWC")
        ),
        *(normal(2, 4, 4), normal(2, 2, 6)),
    ),
    "max pooling": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 1), "SAME"), normal(3, 4)),
    "mean pooling": (lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (2,), "VALID") / 2, normal(6)),
    "clip": (lambda x: jnp.clip(x, -0.5, 0.5) + lax.clamp(-0.5, x, 1.0), normal(6)),
    "polyval": (jnp.polyval, normal(3), normal(2)),
    "mod": (lambda x, y: x % y + jnp.fmod(x, y), 5 * normal(6), uniform(6)),
    "xlogy": (special.xlogy, uniform(3), uniform(3)),
    "logit": (special.logit, uniform(3)),
    "log_ndtr": (special.log_ndtr, normal(3)),
    "random": (lambda x: x * jax.random.uniform(jax.random.key(0), (3,)), normal(3)),
    "stop_gradient": (lambda x: x * lax.stop_gradient(x), normal(3)),
    "barrier": (lambda x: sum(lax.optimization_barrier((x, x * x))), normal(3)),
    "reductions of booleans": (lambda x: x * jnp.any(x > 0) * jnp.all(x < 9), normal(3)),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structure_agrees_with_float64_autodiff(name):
    f, *args = STRUCTURED[name]
    assert agrees_with_autodiff(f, *args)


def test_a_planted_error_in_structure_is_caught(monkeypatch):
    from jaxbp.accuracy import exact_balls
    from jaxbp.accuracy.exact_control import RULES
    from jaxbp.accuracy.exact_structure import scatter

    f, *args = STRUCTURED["scatter-add"]
    monkeypatch.setitem(RULES, "scatter-add", scatter(exact_balls.sub))
    assert not agrees_with_autodiff(f, *args)
