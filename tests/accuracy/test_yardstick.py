"""The yardstick of a census is certified, and a yardstick that is off is found out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.yardstick import certified_values, certify


@pytest.mark.parametrize("op", [jaxbp.sigmoid, jaxbp.log, jaxbp.divide], ids=repr)
def test_references_are_certified_to_far_below_a_unit(op):
    certified = certify(op, "float32", {})
    assert certified["points"] > 20_000
    assert set(certified["max_ulp"]) == {"value", *(f"ct_{name}" for name in op.arguments)}
    assert 0 < max(certified["max_ulp"].values()) < 1e-7


def test_a_reference_that_is_off_is_found_out():
    op = jaxbp.sigmoid.replace(reference_vjp=lambda ct, x: (ct * np.exp(-x) / (1 + np.exp(-x)) ** 2 * (1 + 1e-9),))
    assert certify(op, "float32", {})["max_ulp"]["ct_x"] > 1e-3
    missing = jaxbp.sigmoid.replace(reference_vjp=lambda ct, x: (np.full_like(x, np.nan),))
    assert certify(missing, "float32", {})["max_ulp"]["ct_x"] == np.inf


@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.reference_both], ids=repr)
def test_references_in_one_pass_are_the_two(op):
    x = 10 ** np.linspace(-40, 38, 20_001)
    x = np.concatenate([x, -x, [0.0, -0.0, np.inf, np.nan]])
    number = np.isfinite(x)
    ct = np.full_like(x, 3)
    with np.errstate(invalid="ignore"):
        y, *cts = op.reference_both(ct, x)
        apart = (op.reference(x), *op.reference_vjp(ct, x))
    for got, expected in zip((y, *cts), apart, strict=True):
        np.testing.assert_array_max_ulp(got, expected, 2)
        np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number])


def test_points_that_cannot_be_certified_are_left_out_alone():
    """At 0 no precision decides whether sin^2 + cos^2 - 1 is positive; elsewhere the answer is plain."""

    def undecidable_at_0(x):
        return jnp.where(jnp.sin(x) ** 2 + jnp.cos(x) ** 2 - 1 + jnp.where(x == 0.25, 0, 1) > 0, x, -x)

    op = jaxbp.negative.replace(exact=undecidable_at_0)
    x = np.array([0.0, 0.25, 1.0, 2.0, 3.0])
    (y, ct_x), known = certified_values(op, (x,), {})
    assert known.tolist() == [True, False, True, True, True]
    assert y[known].tolist() == [0, 1, 2, 3]
    assert ct_x[known].tolist() == [1, 1, 1, 1]


def test_extended_results_have_more_digits_than_float64():
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no wider than float64 on this platform.")
    y, (ct_x,) = exact_vjp(jax.nn.sigmoid, (np.array([0.1, np.inf]),), np.ones(2), extended=True)
    assert y.dtype == ct_x.dtype == np.longdouble
    # 1 / (1 + e^-0.1) of the float64 number 0.1, to 21 digits, by mpmath.
    import mpmath

    with mpmath.workdps(30):
        s = 1 / (1 + mpmath.exp(-mpmath.mpf(0.1)))
        for ours, truth in ((y[0], s), (ct_x[0], s * (1 - s))):
            high = float(ours)
            assert abs(mpmath.mpf(high) + mpmath.mpf(float(ours - high)) - truth) < truth * mpmath.mpf(2) ** -60
    assert (y[1], ct_x[1]) == (1, 0)
