"""Reductions over axes: any axis, large scores, masks, rows without a finite score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.devices import compiled_for
from jaxbp.engines import reference

OPS = (jaxbp.logsumexp, jaxbp.softmax, jaxbp.log_softmax)
RULES = pytest.mark.parametrize(("op", "rule"), [(op, rule) for op in OPS for rule in op.rules], ids=str)


@RULES
@pytest.mark.parametrize("axis", [0, (0, 2), None], ids=str)
def test_any_axis(op, rule, axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    y = op.stock(x, axis=axis)
    ct = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    exact_y, (exact,) = reference(op, (x,), ct, axis=axis)
    y, (ct_x,) = op.rules[rule].value_and_vjp((x,), ct, axis=axis)
    np.testing.assert_allclose(y, exact_y, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(ct_x, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_an_axis_that_is_not_there_is_told(op):
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[3\]: axis 1 is out of bounds"):
        op(jnp.ones(3), axis=1)


@RULES
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_large_scores_neither_overflow_nor_vanish(op, rule, offset):
    x = jnp.array([0.0, 2.0, -1.0]) + offset
    exact_y, (exact,) = reference(op, (np.asarray(x),), np.ones(np.shape(op(x)), np.float32))
    y, (ct_x,) = op.rules[rule].value_and_vjp((x,), jnp.ones(np.shape(op(x))))
    np.testing.assert_allclose(y, exact_y, rtol=1e-6)
    np.testing.assert_allclose(ct_x, exact, rtol=1e-6, atol=2e-7)


@RULES
def test_masked_scores_count_nothing(op, rule):
    x, kept = jnp.array([1.0, -jnp.inf, 0.5]), jnp.array([0, 2])
    ct = jnp.float32(3) if op is jaxbp.logsumexp else jnp.array([3.0, 0.0, -1.0])
    y, (ct_x,) = op.rules[rule].value_and_vjp((x,), ct)
    fewer_y, (fewer,) = op.rules[rule].value_and_vjp((x[kept],), ct[kept] if ct.ndim else ct)
    np.testing.assert_allclose(y[kept] if ct.ndim else y, fewer_y, rtol=1e-6)
    np.testing.assert_allclose(ct_x[kept], fewer, rtol=1e-6)
    assert ct_x[1] == 0


@pytest.mark.parametrize(
    ("op", "rule"),
    [(jaxbp.logsumexp, "weights"), (jaxbp.log_softmax, "output"), (jaxbp.softmax_cross_entropy, "others")],
    ids=repr,
)
@pytest.mark.parametrize(
    ("platform", "dtype", "keeps_them"),
    [("cpu", "float32", True), ("cpu", "bfloat16", False), ("gpu", "float32", False)],
)
def test_exponentials_are_kept_where_that_pays(op, rule, platform, dtype, keeps_them):
    """They and their sums; or what the rule keeps that computes them again."""
    labels = jnp.array([0, 1, 2, 3])
    args = (jnp.zeros((4, 5), dtype), *[labels] * len(op.integers))
    with compiled_for(platform):
        _, res = op.default_rule.rule.fwd(*args)
        _, kept = op.rules[rule].rule.fwd(*args)
    if keeps_them and op.integers:  # Without those of the labels.
        kept = 1 - jnp.eye(4, 5), labels, jnp.full((4, 1), 4), jnp.full((4, 1), 5)
    elif keeps_them:
        kept = jnp.ones((4, 5)), jnp.full((4, 1), 5)
    assert [np.asarray(z).tolist() for z in res] == [np.asarray(z).tolist() for z in kept]


def test_log_softmax_keeps_nothing_for_a_value_alone():
    """Without a gradient it is stock's program, which XLA's CPU backend has one call for."""
    # Smaller rows are no work for that library, and all programs are alike.
    rows = jax.ShapeDtypeStruct((4096, 1024), jnp.float32)
    ours, stock, kept = (
        str(jax.jit(f).lower(rows).compile().as_text()).count(" fusion(")
        for f in (jaxbp.log_softmax, jax.nn.log_softmax, lambda x: jaxbp.log_softmax.default_rule.fwd(x)[0])
    )
    assert ours == stock < kept
    _, pullback = jax.vjp(jaxbp.log_softmax, jnp.ones((4, 5)))
    assert sorted(z.shape for z in jax.tree.leaves(pullback)) == [(4, 1), (4, 5)]


def test_rows_without_a_finite_score():
    x = jnp.array([[-jnp.inf, -jnp.inf], [0.0, 0.0]])
    y, (ct_x,) = jaxbp.logsumexp.value_and_vjp((x,), jnp.ones(2))
    assert y[0] == -jnp.inf
    assert ct_x.tolist() == [[0, 0], [0.5, 0.5]]
    assert np.isnan(jaxbp.logsumexp.value_and_vjp((x,), jnp.ones(2), engine="autodiff")[1][0][0]).all()
    for op in (jaxbp.softmax, jaxbp.log_softmax):
        assert np.isnan(op(x)).tolist() == np.isnan(op.stock(x)).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 0), ((3, 0), -1), ((2, 0, 3), (0, 1))], ids=str)
@pytest.mark.parametrize("op", [jaxbp.softmax, jaxbp.log_softmax], ids=repr)
def test_rows_without_scores(op, shape, axis):
    for rule in op.rules:
        y, (ct_x,) = op.value_and_vjp((jnp.zeros(shape),), jnp.zeros(shape), engine=f"rule:{rule}", axis=axis)
        assert y.shape == ct_x.shape == shape


def test_an_infinite_score():
    x = jnp.array([jnp.inf, 0.0])
    assert jaxbp.logsumexp(x) == jax.nn.logsumexp(x) == jnp.inf


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_second_derivatives_agree_with_those_of_stock(op):
    x = jnp.array([0.15, 0.4, -0.77])

    def hessian(f):
        return jax.jit(jax.jacrev(jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))))(x)

    for rule in op.rules.values():
        np.testing.assert_allclose(hessian(rule), hessian(op.stock), rtol=2e-4, atol=1e-6)
