"""Sums, extrema and norms over axes: any axis, ties, rows without entries, magnitudes whose squares overflow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine, reference
from jaxbp.measure.executables import compile_modes

OPS = (jaxbp.sum, jaxbp.mean, jaxbp.var, jaxbp.norm, jaxbp.max, jaxbp.min)
RULES = pytest.mark.parametrize(("op", "rule"), [(op, rule) for op in OPS for rule in op.rules], ids=str)


@RULES
@pytest.mark.parametrize(("axis", "keepdims"), [(0, True), ((0, -1), False), (None, True)], ids=str)
def test_any_axis(op, rule, axis, keepdims):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    options = {"axis": axis, "keepdims": keepdims}
    ct = np.asarray(op.stock(x, **options)) + 1
    exact_y, (exact,) = reference(op, (x,), ct, **options)
    y, (ct_x,) = op.rules[rule].value_and_vjp((x,), ct, **options)
    assert y.shape == exact_y.shape
    np.testing.assert_allclose(y, exact_y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ct_x, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_an_axis_that_is_not_there_is_told(op):
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[3\]: .*axis 1 is out of bounds"):
        op(jnp.ones(3), axis=1)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_second_derivatives_agree_with_those_of_stock(op):
    x = jnp.array([[0.15, 0.4], [-0.77, 1.1]])

    def hessian(f):
        return jax.jit(jax.jacrev(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, axis=1))))))(x)

    for rule in op.rules.values():
        np.testing.assert_allclose(hessian(rule), hessian(op.stock), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("op", "others"), [(jaxbp.max, 0.0), (jaxbp.min, 9.0)], ids=repr)
def test_ties_over_several_axes(op, others):
    x = np.full((2, 3, 2), others, np.float32)
    x[1, :, 0] = x[0, 2, :] = 3
    ct = np.array([1, 2, 4], np.float32)
    shared = op.value_and_vjp((x,), ct, axis=(0, 2))[1][0]
    np.testing.assert_array_equal(shared, (x == 3) * np.array([1, 2, 4 / 3], np.float32)[:, None])
    first = np.zeros_like(x)
    first[1, 0, 0], first[1, 1, 0], first[0, 2, 0] = ct
    np.testing.assert_array_equal(op.rules["first"].value_and_vjp((x,), ct, axis=(0, 2))[1][0], first)


def test_more_ties_than_float32_counts():
    """2^24 + 1, next to which float32 has no number: half of them, if a count stands still, would be a wrong share."""
    n = 2**24 + 2
    shares = jaxbp.max.value_and_vjp((jnp.zeros(n, jnp.float32),), 1.0)[1][0]
    assert shares[0] == shares[-1] == np.float32(1) / np.float32(n)


@pytest.mark.parametrize("op", [jaxbp.max, jaxbp.min], ids=repr)
def test_infinite_entries_nan_and_none(op):
    for rule in op.rules.values():
        y, (ct_x,) = rule.value_and_vjp(
            (jnp.array([[jnp.inf] * 2, [-jnp.inf] * 2, [jnp.nan, 0]]),), jnp.ones(3), axis=1
        )
        assert y[:2].tolist() == [np.inf, -np.inf]
        assert np.isnan(y[2])
        assert ct_x.tolist() == ([[0.5] * 2] * 2 if rule.name == "split" else [[1, 0]] * 2) + [[0, 0]]
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[0\]: zero-size array"):
        op(jnp.zeros(0))
    assert op(jnp.zeros((0, 3)), axis=1).shape == (0,)


def test_no_entries():
    empty = jnp.zeros((2, 0))
    assert jaxbp.sum(empty) == jaxbp.norm(empty) == 0
    for op in (jaxbp.mean, jaxbp.var):
        assert np.isnan(op(empty, axis=1)).all()
    for op in (jaxbp.sum, jaxbp.mean, jaxbp.var, jaxbp.norm):
        assert op.value_and_vjp((empty,), jnp.ones(2), axis=1)[1][0].shape == (2, 0)


@pytest.mark.parametrize("ddof", [0, 1, 2, 3])
def test_the_variance_of_fewer_entries_than_are_taken_off_is_nan(ddof):
    x = jnp.array([1.0, 4.0])
    y, (ct_x,) = jaxbp.var.value_and_vjp((x,), 1.0, ddof=ddof)
    np.testing.assert_array_equal(y, jnp.var(x, ddof=ddof))
    assert np.isnan(ct_x).all() == (ddof >= 2)


def test_a_large_mean_takes_no_digits_of_the_variance():
    x = np.float32(1e4) + np.random.default_rng(0).integers(-8, 8, 512).astype(np.float32)
    exact_y, (exact,) = reference(jaxbp.var, (x,), np.ones((), np.float32))
    y, (ct_x,) = jaxbp.var.value_and_vjp((x,), 1.0)
    np.testing.assert_allclose(y, exact_y, rtol=1e-6)
    np.testing.assert_allclose(ct_x, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("size", [1e20, 1e-30, 3e38, 4e-38])
def test_norms_whose_squares_overflow_or_vanish(size):
    x = (np.array([[0.6, -0.8], [0.0, 0.0], [0.5, 0.0]]) * size).astype(np.float32)
    ct = np.full(3, 3, np.float32)
    exact_y, (exact,) = reference(jaxbp.norm, (x,), ct, axis=1)
    at_once = jaxbp.norm.value_and_vjp((x,), ct, axis=1)
    row_by_row = jax.vmap(lambda x, ct: jaxbp.norm.value_and_vjp((x,), ct))(x, ct)
    for y, (ct_x,) in (at_once, row_by_row):
        np.testing.assert_allclose(y, exact_y, rtol=3e-7)
        np.testing.assert_allclose(ct_x, exact, rtol=3e-7)
    assert not np.allclose(jaxbp.norm.stock(x, axis=1), exact_y, rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [3e30, 3e20, 1, 3e-20, 3e-30])
def test_second_derivatives_of_norms_whose_squares_overflow_or_vanish(size):
    x = size * np.array([1, 4 / 3])
    radius = np.linalg.norm(x)
    exact = np.eye(2) / radius - np.outer(x, x) / radius**3
    second = jax.jacrev(jax.grad(jaxbp.norm))(jnp.array(x, jnp.float32))
    np.testing.assert_allclose(second, exact, rtol=1e-6)


def test_the_norm_of_infinite_entries():
    assert jaxbp.norm(jnp.array([1.0, -jnp.inf])) == np.inf
    assert np.isnan(jaxbp.norm(jnp.array([1.0, jnp.nan])))


@pytest.mark.parametrize("op", [jaxbp.sum, jaxbp.mean, jaxbp.var, jaxbp.norm], ids=repr)
def test_narrow_dtypes_are_rounded_once(op):
    x = (1 + np.arange(3000) % 2).astype(jnp.bfloat16)
    ct = np.asarray(1, jnp.bfloat16)
    exact_y, (exact,) = reference(op, (x,), ct)
    y, (ct_x,) = op.value_and_vjp((x,), ct)
    assert y == exact_y.astype(jnp.bfloat16)
    np.testing.assert_array_equal(ct_x, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("op", "ours"),
    [(jaxbp.sum, 0), (jaxbp.mean, 0), (jaxbp.var, 4), (jaxbp.norm, 4), (jaxbp.max, 4), (jaxbp.cumsum, 0)],
    ids=repr,
)
def test_no_more_is_kept_than_a_number(op, ours):
    engine, args = make_engine(op, f"rule:{op.default_rule.name}"), op.case("small").arguments(np.dtype(np.float32))
    ct = op.case("small").cotangent(op.output(args, {}).shape, np.dtype(np.float32))
    passes = compile_modes(engine, engine.prepare(args), engine.prepare(ct), ("fwd_res", "bwd"))
    assert passes["fwd_res"].residual_bytes == ours
