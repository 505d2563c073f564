"""The engines: numerical gradients and their steps, NumPy's precision, torch, and the reference itself."""

import importlib.util

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.declaration import Domain
from jaxbp.differences import evaluations, step
from jaxbp.engines import engine_names, make_engine, reference

UNARY = {
    "negative": lambda x: -x,
    "reciprocal": lambda x: 1 / x,
    "square": lambda x: x * x,
    "sqrt": mpmath.sqrt,
    "exp": mpmath.exp,
    "log": mpmath.log,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
}
BINARY = {
    "divide": lambda x, y: x / y,
    "power": lambda x, y: x**y,
    "rational": lambda x, y: (x + UNARY["sigmoid"](y)) / (UNARY["sigmoid"](x) + (x + y) ** 2),
}


def of_floats(actual, expected):
    """Pairs of results and of what they should be, without the cotangents of integers, which are None."""
    assert [a is None for a in actual] == [b is None for b in expected]
    return [(a, b) for a, b in zip(actual, expected, strict=True) if b is not None]


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_the_reference_agrees_with_arbitrary_precision(name):
    """Value and derivative of the float64 reference against mpmath's differences in 60 digits."""
    op = getattr(jaxbp, name)
    f = {**UNARY, **BINARY}[name]
    args = tuple(x[:25] for x in op.case("small").arguments(np.dtype("float64")))
    ones = np.ones(25)
    with jax.enable_x64(True):
        y = op.reference(*args)
        cts = op.reference_vjp(ones, *args)
    with mpmath.workdps(80):
        for i in range(25):
            point = tuple(mpmath.mpf(float(x[i])) for x in args)
            assert float(y[i]) == pytest.approx(float(f(*point)), rel=1e-14)
            for k, ct in enumerate(cts):
                orders = tuple(int(j == k) for j in range(len(args)))
                truth = mpmath.diff(f, point, orders) if len(args) > 1 else mpmath.diff(f, point[0])
                assert float(ct[i]) == pytest.approx(float(truth), rel=1e-13)


def in_float64(op):
    """With the function that is meant for stock, where that computes a float32 softmax of float64 scores."""
    return op.replace(stock=op.exact) if op.name in ("attention", "padded_attention") else op


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_the_reference_agrees_with_autodiff_in_float64(op):
    op = in_float64(op)
    with jax.enable_x64(True):
        args = op.case("small").arguments(np.dtype("float64"))
        args = op.convert(args, lambda x: np.clip(x, -8, 8))
        ct = op.case("small").cotangent(op.output(args, {}).shape, np.dtype("float64"))
        _, exact = reference(op, args, ct)
        _, cts = op.value_and_vjp(args, ct, engine="autodiff")
    for actual, truth in of_floats(cts, exact):
        scale = np.abs(truth).max()
        np.testing.assert_allclose(np.asarray(actual, np.longdouble) / scale, truth / scale, atol=1e-12)


@pytest.mark.parametrize(
    ("op", "kind", "tolerance"),
    [
        # A sample of the ops: autodiff is compared with all of them above.
        *(pytest.param(op, "forward_difference", 1e-6, id=f"{op.name}-forward") for op in jaxbp.OPS[::6]),
        *(pytest.param(op, "central_difference", 1e-8, id=f"{op.name}-central") for op in jaxbp.OPS[::3]),
    ],
)
def test_differences_agree_with_the_reference_in_float64(op, kind, tolerance):
    op = in_float64(op)
    with jax.enable_x64(True):
        args = op.case("small").arguments(np.dtype("float32"))
        args = op.convert(args, lambda x: np.sign(x) * np.clip(np.abs(x.astype(np.float64)), 0.6, 3))
        if op.name in ("maximum", "minimum"):
            args = (args[0], np.where(np.abs(args[0] - args[1]) < 0.1, args[1] + 0.2, args[1]))
        ct = op.case("small").cotangent(op.output(args, {}).shape, np.dtype("float64"))
        _, exact = reference(op, args, ct)
        _, cts = op.value_and_vjp(args, ct, engine=kind)
    for actual, truth in of_floats(cts, exact):
        scale = np.abs(truth).max()
        assert np.abs(np.asarray(actual) - truth).max() <= 40 * tolerance * scale


def test_a_numerical_gradient_sees_a_wrong_rule():
    """Planted: the rule is spoilt, stock is not, so the two part."""
    rule = jaxbp.exp.default_rule.rule
    wrong = jaxbp.exp.replace(rules=(jaxbp.Rule("off", rule.fwd, lambda res, ct: (ct * res[0] * 1.1,)),))
    x, ct = jnp.linspace(-1, 1, 9), jnp.ones(9)
    (ours,), (numeric,) = (wrong.value_and_vjp((x,), ct, engine=e)[1] for e in ("rule:off", "central_difference"))
    assert np.min(np.asarray(ours) / np.asarray(numeric)) > 1.09


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_steps_grow_with_the_argument_and_stay_in_the_domain(dtype):
    x = jnp.asarray([1e-3, 1.0, 100.0], dtype)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(step(x, "central", Domain()), eps ** (1 / 3) * np.array([1, 1, 100]), rtol=0.02)
    np.testing.assert_allclose(step(x, "forward", Domain()), eps ** (1 / 2) * np.array([1, 1, 100]), rtol=0.02)
    assert np.all(np.asarray(step(x, "central", Domain(low=0.0))) <= np.asarray(x) / 2)
    assert np.all(np.asarray(step(-x, "central", Domain(excluded=(0.0,)))) <= np.asarray(x) / 2)


def test_log_stays_right_of_zero_near_its_edge():
    x = jnp.array([1e-6, 1e-3])
    _, (ct_x,) = jaxbp.log.value_and_vjp((x,), jnp.ones(2), engine="central_difference")
    np.testing.assert_allclose(ct_x, 1 / x, rtol=0.2)


def test_evaluations_are_counted():
    assert evaluations(10, "central") == 21
    assert evaluations(10, "forward") == 11


def test_the_wider_reference_is_wider_than_its_arguments():
    x = np.array([0.1, 20.0])
    _, (ct,) = reference(jaxbp.sigmoid, (x,), np.ones(2))
    assert ct.dtype == np.longdouble
    _, (ct,) = reference(jaxbp.sigmoid, (x.astype("f"),), np.ones(2, "f"))
    assert ct.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numpy_computes_in_float32_at_least_and_rounds_once(dtype):
    x = np.linspace(-4, 4, 65).astype(jnp.dtype(dtype))
    ct = np.ones_like(x)
    y, (ct_x,) = jaxbp.tanh.value_and_vjp((x,), ct, engine="numpy")
    exact_y, (exact,) = reference(jaxbp.tanh, (x,), ct)
    assert isinstance(y, np.ndarray)
    assert y.dtype == ct_x.dtype == x.dtype
    bound = 4 if dtype == "float32" else 0.51
    assert ulp_error(y, exact_y).max() <= bound
    assert ulp_error(ct_x, exact).max() <= bound


def test_numpy_gives_python_numbers_jax_s_default_dtype():
    for x, ct in ((20.0, 1.0), (np.ones(2), np.ones(2))):
        y, (ct_x,) = jaxbp.sigmoid.value_and_vjp((x,), ct, engine="numpy")
        assert y.dtype == ct_x.dtype == np.float32


def test_names_start_with_the_default_rule():
    names = engine_names(jaxbp.maximum)
    assert names[:3] == ("rule:split", "rule:textbook", "autodiff")
    assert {"forward_difference", "central_difference", "numpy"} < set(names)
    assert ("torch" in names) == (importlib.util.find_spec("torch") is not None)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is an optional extra")
@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.torch], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_agrees(op, dtype):
    args = op.case("small").arguments(np.dtype("float32"))
    args = op.convert(args, lambda x: np.clip(x, -4, 4).astype(jnp.dtype(dtype)))
    ct = op.case("small").cotangent(op.output(args, {}).shape, jnp.dtype(dtype))
    exact_y, exact = reference(op, args, ct)
    y, cts = op.value_and_vjp(args, ct, engine="torch")
    eps = float(jnp.finfo(dtype).eps)
    for actual, truth in of_floats((y, *cts), (exact_y, *exact)):
        assert actual.dtype == jnp.dtype(dtype)
        assert np.abs(actual.astype(np.float64) - truth).max() <= 40 * eps * np.abs(truth).max()


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="only where torch is not installed")
def test_torch_is_absent_where_it_is_not_installed():
    with pytest.raises(ImportError, match=r"pip install 'jaxbp\[torch\]'"):
        make_engine(jaxbp.exp, "torch")
