"""Cumulative sums: any axis and length, masks at the start, scores far apart, narrow dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import reference


def compare(op, x, rtol, atol, **options):
    ct = np.random.default_rng(1).normal(size=op.output((x,), options).shape).astype(x.dtype)
    exact_y, (exact,) = reference(op, (x,), ct, **options)
    y, (ct_x,) = op.value_and_vjp((x,), ct, **options)
    assert y.shape == exact_y.shape
    np.testing.assert_allclose(np.asarray(y, np.float64), exact_y, rtol=rtol, atol=atol)
    np.testing.assert_allclose(np.asarray(ct_x, np.float64), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_cumsum_along_any_axis(axis):
    compare(jaxbp.cumsum, np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), 1e-5, 1e-6, axis=axis)


@pytest.mark.parametrize(
    ("shape", "axis"), [((0, 3), 0), ((2, 0), None), ((), None), ((1, 5), 0), ((3, 70, 2), 1), ((17,), 0)]
)
def test_cumsum_of_any_length(shape, axis):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    compare(jaxbp.cumsum, x, 1e-5, 1e-5, axis=axis)


def test_what_is_not_finite_is_in_no_sum_before_it():
    x = jnp.array([1.0, 2.0, jnp.inf, 4.0, -jnp.inf, 5.0])
    y, (ct_x,) = jaxbp.cumsum.value_and_vjp((x,), x)
    np.testing.assert_array_equal(y, [1, 3, np.inf, np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(ct_x, [np.nan, np.nan, np.nan, -np.inf, -np.inf, 5])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((3, 70, 2), 1), ((5, 1), 0), ((4200,), -1), ((0, 3), 0)], ids=str)
def test_cumlogsumexp_along_any_axis_of_any_length(shape, axis, reverse):
    # Shorter than a block of the scan, longer, and so long that the blocks are scanned in blocks.
    x = np.random.default_rng(0).normal(0, 4, shape).astype(np.float32)
    compare(jaxbp.cumlogsumexp, x, 1e-5, 2e-6, axis=axis, reverse=reverse)


def test_cumlogsumexp_of_integers_is_that_of_numbers():
    whole = np.array([100, 100, -3], np.int8)
    np.testing.assert_array_equal(jaxbp.cumlogsumexp(whole), jaxbp.cumlogsumexp(whole.astype(np.float32)))


def test_masks_at_the_start_share_equally_where_stock_says_nan():
    x = jnp.array([-jnp.inf, -jnp.inf, 0.0, -jnp.inf, 1.0])
    y, (ct_x,) = jaxbp.cumlogsumexp.value_and_vjp((x,), jnp.ones(5))
    assert y[:2].tolist() == [-np.inf, -np.inf]
    kept = jnp.array([2, 4])
    ct_kept = jaxbp.cumlogsumexp.value_and_vjp((x[kept],), jnp.array([2.0, 1.0]))[1][0]
    np.testing.assert_allclose(ct_x[kept], ct_kept, rtol=1e-6)
    assert ct_x.tolist()[:2] == [1.5, 0.5]  # All of the first cotangent to the first, half of the second to each.
    assert ct_x[3] == 0
    assert jaxbp.cumlogsumexp.value_and_vjp((-jnp.full(2, jnp.inf),), jnp.ones(2))[1][0].tolist() == [1.5, 0.5]
    assert np.isnan(jaxbp.cumlogsumexp.value_and_vjp((x,), jnp.ones(5), engine="autodiff")[1][0]).any()


@pytest.mark.parametrize("x", [[-1e4, 0.0, 1e4, 0.0], [300.0, -300.0, 299.0, 301.0], [1e8, 1e8, 1e8, 1e8]], ids=str)
def test_scores_far_apart_and_far_from_zero(x):
    compare(jaxbp.cumlogsumexp, np.array(x, np.float32), 1e-6, 1e-7)


def test_an_infinite_score_takes_all_that_comes_after_it():
    y, (ct_x,) = jaxbp.cumlogsumexp.value_and_vjp((jnp.array([0.0, jnp.inf, 1.0]),), jnp.array([1.0, 3.0, 5.0]))
    assert y.tolist() == [0, np.inf, np.inf]
    assert ct_x.tolist() == [1, 8, 0]


@pytest.mark.parametrize("op", [jaxbp.cumsum, jaxbp.cumlogsumexp], ids=repr)
def test_narrow_dtypes_are_rounded_once(op):
    x = (1 + np.arange(3000) % 2).astype(jnp.bfloat16)
    exact_y, (exact,) = reference(op, (x,), x)
    y, (ct_x,) = op.value_and_vjp((x,), x)
    assert (y[-1], ct_x[0]) == (exact_y[-1].astype(jnp.bfloat16), exact[0].astype(jnp.bfloat16))


@pytest.mark.parametrize("op", [jaxbp.cumsum, jaxbp.cumlogsumexp], ids=repr)
def test_second_derivatives_agree_with_those_of_stock(op):
    x = jnp.array([0.15, 0.4, -0.77])

    def hessian(f):
        return jax.jit(jax.jacrev(jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))))(x)

    np.testing.assert_allclose(hessian(op), hessian(op.stock), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("op", [jaxbp.cumsum, jaxbp.cumlogsumexp], ids=repr)
def test_an_axis_that_is_not_there_is_told(op):
    with pytest.raises(ValueError, match=rf"{op.name} cannot take x float32\[3\]: axis 1 is out of bounds"):
        op(jnp.ones(3), axis=1)
