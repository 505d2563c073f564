"""Objectives: the notes' sums, gates in their place, masks and kinks, labels that are none, digits, what is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.engines import make_engine, reference
from jaxbp.measure.executables import compile_modes

PAIRS = [(jaxbp.softmax_objective, jaxbp.softmax_cross_entropy), (jaxbp.hinge_objective, jaxbp.multiclass_hinge)]
OBJECTIVES = pytest.mark.parametrize("op", [op for op, _ in PAIRS], ids=repr)


def arguments(op):
    return op.case("small").arguments(np.dtype(np.float32))


@pytest.mark.parametrize(("op", "loss"), PAIRS, ids=repr)
def test_it_is_the_circuit_of_product_loss_and_penalty(op, loss):
    x, w, labels, strength = arguments(op)

    def circuit(x, w, strength):
        return jnp.sum(loss(jaxbp.matmul(x, w), labels)) + jaxbp.l2_penalty(w, strength)

    y, cts = jax.value_and_grad(circuit, (0, 1, 2))(x, w, strength)
    for rule in op.rules.values():
        ours, (ct_x, ct_w, none, ct_strength) = rule.value_and_vjp((x, w, labels, strength), 1.0, average=False)
        assert none is None
        np.testing.assert_allclose(ours, y, rtol=1e-6)
        for actual, expected in zip((ct_x, ct_w, ct_strength), cts, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize(("rows", "options"), [((), {}), ((2, 3), {}), ((2, 3), {"average": False})], ids=str)
def test_any_leading_axes(op, rows, options):
    rng = np.random.default_rng(5)
    args = (
        rng.normal(size=(*rows, 4)).astype(np.float32),
        rng.normal(size=(4, 3)).astype(np.float32),
        rng.integers(0, 3, rows),
        np.asarray(0.3, np.float32),
    )
    exact_y, exact = reference(op, args, np.asarray(2, np.float32), **options)
    for rule in op.rules.values():
        y, cts = rule.value_and_vjp(args, 2.0, **options)
        np.testing.assert_allclose(y, exact_y, rtol=1e-6)
        for actual, truth in zip(cts, exact, strict=True):
            assert (actual is None) == (truth is None)
            if truth is not None:
                np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize("average", [True, False])
def test_without_rows_it_is_as_stock(op, average):
    args = (np.zeros((0, 4), np.float32), np.ones((4, 3), np.float32), np.zeros(0, np.int32), np.float32(0.5))
    y, cts = op.value_and_vjp(args, 1.0, average=average)
    stock_y, stock = op.value_and_vjp(args, 1.0, engine="autodiff", average=average)
    np.testing.assert_array_equal(y, stock_y)
    assert np.isnan(y) == average
    np.testing.assert_array_equal(cts[1], stock[1])


def test_the_notes_svm_loss_counts_the_label():
    args = arguments(jaxbp.hinge_objective)
    rows = len(args[2])
    for engine in ("rule:mask", "autodiff", "numpy"):
        y, cts = jaxbp.hinge_objective.value_and_vjp(args, 1.0, engine=engine, average=False)
        counted, same = jaxbp.hinge_objective.value_and_vjp(args, 1.0, engine=engine, average=False, count_label=True)
        np.testing.assert_allclose(counted, y + rows, rtol=1e-6)
        np.testing.assert_array_equal(same[1], cts[1])


def test_a_margin_of_zero_moves_nothing():
    # The scores are the entries of w: one margin is 0, one is 1/2.
    x, w, labels = jnp.ones((1, 1)), jnp.array([[2.0, 1.0, 1.5]]), jnp.array([0])
    y, (_, ct_w, _, _) = jaxbp.hinge_objective.value_and_vjp((x, w, labels, 0.0), 1.0)
    assert float(y) == 0.5
    assert ct_w.tolist() == [[-1, 0, 1]]


@OBJECTIVES
def test_labels_from_the_end_and_labels_that_are_none(op):
    x, w, labels, strength = arguments(op)
    y, cts = op.value_and_vjp((x, w, labels, strength), 1.0)
    again, same = op.value_and_vjp((x, w, labels - w.shape[1], strength), 1.0)
    assert float(again) == float(y)
    np.testing.assert_array_equal(same[1], cts[1])
    for outside in (w.shape[1], -w.shape[1] - 1):
        assert np.isnan(op(x, w, np.full_like(labels, outside), strength))


def test_digits_where_every_label_is_all_but_certain():
    x, w, labels = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32) * 20, np.arange(3, dtype=np.int32)
    args, one = (x, w, labels, np.float32(0)), np.float32(1)
    exact_y, exact = exact_vjp(jaxbp.softmax_objective, args, one)
    for rule in jaxbp.softmax_objective.rules.values():
        y, cts = rule.value_and_vjp(args, one)
        assert ulp_error(np.asarray(y), exact_y).max() <= 4
        assert ulp_error(np.asarray(cts[1]), exact[1]).max() <= 4
    assert float(jaxbp.softmax_objective.stock(*args)) == 0


def test_narrow_objectives_are_computed_in_float32():
    dtype = np.dtype(jnp.bfloat16)
    for op, _ in PAIRS:
        args = op.case("small").arguments(dtype)
        wide = tuple(x.astype(np.float32) if x.dtype == dtype else x for x in args)
        y, cts = op.value_and_vjp(args, jnp.ones((), dtype))
        wide_y, wide_cts = op.value_and_vjp(wide, 1.0)
        assert float(y) == float(wide_y.astype(dtype))
        for narrow, full in zip(cts, wide_cts, strict=True):
            if full is not None:
                np.testing.assert_allclose(narrow.astype(jnp.float32), full, rtol=2.0**-8, atol=1e-6)


@OBJECTIVES
def test_second_derivatives_agree_with_those_of_stock(op):
    x, w, labels, strength = arguments(op)

    def second(f):
        return jax.jit(jax.grad(lambda w: jnp.sum(jax.grad(f, 1)(x, w, labels, strength) ** 2)))(w)

    expected = second(op.stock)
    for rule in op.rules.values():
        np.testing.assert_allclose(second(rule), expected, rtol=1e-4, atol=1e-6)


def test_less_is_kept_than_autodiff_keeps():
    kept = {}
    for op, _ in PAIRS:
        for name in (*(f"rule:{rule}" for rule in op.rules), "autodiff"):
            engine, args = make_engine(op, name), arguments(op)
            passes = compile_modes(engine, engine.prepare(args), engine.prepare(np.float32(1)), ("fwd_res", "bwd"))
            kept[op.name, name] = passes["fwd_res"].residual_bytes
    rows, classes = 16, 5
    assert kept["softmax_objective", "rule:slopes"] == 4 * (rows * classes + 1)
    assert kept["softmax_objective", "rule:recompute"] == 4 * (3 * rows + 1)
    assert kept["hinge_objective", "rule:mask"] == rows * classes + 4
    for (op, _), least in kept.items():
        assert least <= kept[op, "autodiff"]


@OBJECTIVES
def test_what_does_not_fit_is_a_sentence(op):
    x, w, labels, strength = arguments(op)
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x .*: labels must have one entry for each row"):
        op(x, w, labels[1:], strength)
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[16, 11\], w float32\[12, 5\]"):
        op(x[:, 1:], w, labels, strength)
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x .*: strength must be one number, .* got \[2\];"):
        op.value_and_vjp((x, w, labels, jnp.ones(2)), jnp.ones(2))
