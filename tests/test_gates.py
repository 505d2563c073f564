"""What is particular to gates, powers and roots: subnormal arguments, edges, infinite cotangents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp

TINY = float(np.finfo(np.float32).tiny)
LEAST = float(np.finfo(np.float32).smallest_subnormal)


def gradients(op, *args, ct=1.0):
    """Value and gradients at single numbers in float32, computed as arrays are."""
    arrays = tuple(np.full(8, x, np.float32) for x in args)
    y, cts = op.value_and_vjp(arrays, np.full(8, ct, np.float32))
    return float(y[0]), tuple(float(c[0]) for c in cts)


@pytest.mark.parametrize(
    ("op", "args", "value"),
    [
        (jaxbp.add, (TINY / 2, TINY), 1.5 * TINY),
        (jaxbp.subtract, (TINY, -TINY / 2), 1.5 * TINY),
        (jaxbp.multiply, (LEAST, 2.0**100), 2.0**-49),
        (jaxbp.divide, (LEAST, 2.0**-100), 2.0**-49),
        (jaxbp.divide, (3 * LEAST, LEAST), 3.0),
        (jaxbp.reciprocal, (TINY / 2,), 2.0**127),
        (jaxbp.sqrt, (4 * LEAST,), 2.0**-73.5),
        (jaxbp.rsqrt, (2 * LEAST,), 2.0**74),
        (jaxbp.cbrt, (LEAST,), 2.0 ** (-149 / 3)),
        (jaxbp.power, (LEAST, -0.5), 2.0**74.5),
        (jaxbp.power, (0.0, -LEAST), np.inf),
        (jaxbp.hypot, (TINY / 2, TINY), TINY * 1.25**0.5),
    ],
    ids=str,
)
def test_subnormal_arguments_are_not_0(op, args, value):
    assert gradients(op, *args)[0] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        (jaxbp.divide, (2.0**-126, 2.0**-126), (2.0**126, -(2.0**126))),
        (jaxbp.divide, (2.0**127, 2.0**126), (2.0**-126, -(2.0**-125))),
        (jaxbp.divide, (3 * LEAST, 2.0**-120), (2.0**120, -3 * 2.0**91)),
        (jaxbp.hypot, (3 * 2.0**125, 4 * 2.0**125), (0.6, 0.8)),
        (jaxbp.hypot, (3 * LEAST, 4 * LEAST), (0.6, 0.8)),
        (jaxbp.hypot, (-np.inf, 1.0), (-1.0, 0.0)),
        (jaxbp.power, (2.0**127, 1.5), (1.5 * 2.0**63.5, np.inf)),
        (jaxbp.power, (2.0**-120, 1.125), (1.125 * 2.0**-15, 0.0)),
        (jaxbp.power, (-2.0, 4.0), (-32.0, np.nan)),
        (jaxbp.power, (-2.0, 3.0), (12.0, np.nan)),
        (jaxbp.power, (-2.0, 2.5), (np.nan, np.nan)),
        (jaxbp.power, (np.inf, -1.0), (0.0, 0.0)),
        (jaxbp.power, (0.5, np.inf), (0.0, 0.0)),
    ],
    ids=str,
)
def test_gradients_far_out(op, args, expected):
    """In range though x y, y^2 or x^y are not, and limits at infinity."""
    np.testing.assert_allclose(gradients(op, *args)[1], expected, rtol=1e-6, atol=TINY)


@pytest.mark.parametrize(
    ("op", "args", "ct", "expected"),
    [
        (jaxbp.divide, (1e10, 1e-15), 1e-10, (1e5, -1e30)),
        (jaxbp.divide, (1e10, 1e-15), 0.0, (0.0, 0.0)),
        (jaxbp.divide, (1e-30, 1e10), 1e20, (1e10, -1e-30)),
        (jaxbp.divide, (0.0, 1e-39), 1e-5, (1e34, 0.0)),
        (jaxbp.divide, (1e38, np.inf), 1e30, (0.0, 0.0)),
        (jaxbp.divide, (np.inf, 1e37), 1.0, (1e-37, -np.inf)),
        (jaxbp.divide, (1e-38, 0.0), 1e-20, (np.inf, -np.inf)),
        (jaxbp.divide, (1e-38, 1e19), 3e38, (3e19, -3e-38)),
        (jaxbp.divide, (1e30, 1e-22), 1e-37, (1e-15, -1e37)),
        (jaxbp.arctan, (1e19,), 1e20, (1e-18,)),
    ],
    ids=str,
)
def test_a_cotangent_brings_a_slope_that_is_out_of_range_back(op, args, ct, expected):
    np.testing.assert_allclose(gradients(op, *args, ct=ct)[1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (np.float32, np.float64),
        pytest.param(
            np.float64,
            np.longdouble,
            marks=pytest.mark.skipif(
                np.finfo(np.longdouble).maxexp < 4 * 1024,
                reason="long double has the range of float64 on this platform",
            ),
        ),
    ],
)
def test_quotients_of_any_three_numbers(dtype, wide):
    limits, generator = np.finfo(dtype), np.random.default_rng(0)
    unsigned = np.dtype(f"uint{limits.bits}").type
    bits = generator.integers(0, np.iinfo(unsigned).max, (3, 100_000), dtype=unsigned, endpoint=True)
    subnormal = bits & unsigned((1 << limits.bits - 1) | ((1 << limits.nmant) - 1))
    numbers = np.where(generator.random(bits.shape) < 0.3, subnormal, bits).view(dtype)
    tiny = limits.smallest_normal
    far_out = np.asarray(
        [0, -0.0, np.inf, -np.inf, np.nan, limits.smallest_subnormal, -tiny, 1, -1, limits.max / 2, limits.max], dtype
    )
    x, y, ct = np.where(generator.random(numbers.shape) < 0.2, generator.choice(far_out, numbers.shape), numbers)
    ct = np.where(np.abs(ct) < tiny, tiny, ct)  # A subnormal cotangent counts as 0, as in stock.
    with jax.enable_x64(True):
        _, cts = jaxbp.divide.value_and_vjp((x, y), ct)
        ct_x, ct_y = map(np.asarray, cts)
    with np.errstate(all="ignore"):  # In the wider dtype nothing but what is infinite overflows.
        by_y = ct.astype(wide) / y
        for actual, exact in ((ct_x, by_y), (ct_y, -by_y * (x.astype(wide) / y))):
            size, close = np.abs(exact), 4 * limits.eps
            np.testing.assert_array_equal(np.isnan(actual), np.isnan(exact))
            ordinary = (size >= tiny * (1 + close)) & (size <= limits.max)
            assert (np.abs(actual[ordinary] / exact[ordinary] - 1) < 1.6 * limits.eps).all()
            large = size > wide(limits.max) * (1 + close)
            np.testing.assert_array_equal(actual[large], np.sign(exact[large]) * np.inf)
            assert (np.abs(actual[size < tiny]) <= tiny).all()


def test_a_quotient_by_one_number_is_rounded_once():
    # XLA would multiply with the rounded reciprocal.
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(jaxbp.divide(x, np.float32(3.7)), x / np.float32(3.7))
    np.testing.assert_array_equal(jaxbp.divide(x.reshape(10, 100), x[:100]), x.reshape(10, 100) / x[:100])
    batched = jax.jit(jax.vmap(jaxbp.divide, in_axes=(0, None)))
    np.testing.assert_array_equal(batched(x.reshape(10, 100), x[:100]), x.reshape(10, 100) / x[:100])


@pytest.mark.parametrize("op", [jaxbp.maximum, jaxbp.minimum], ids=repr)
def test_the_winner_takes_an_infinite_cotangent_and_the_loser_nothing(op):
    _, cts = gradients(op, 1.0, 2.0, ct=np.inf)
    assert sorted(cts) == [0, np.inf]
    assert gradients(op, np.nan, 2.0)[1] == (0, 0)


@pytest.mark.parametrize("op", [jaxbp.maximum, jaxbp.minimum], ids=repr)
def test_subnormal_numbers_have_an_order(op):
    y, cts = op.value_and_vjp(
        (np.array([LEAST, -LEAST], np.float32), np.array([3 * LEAST, 0], np.float32)), np.ones(2, np.float32)
    )
    x_wins = [False, False] if op is jaxbp.maximum else [True, True]
    assert [np.asarray(c).tolist() for c in cts] == [[float(w) for w in x_wins], [float(not w) for w in x_wins]]
    assert y.shape == (2,)


@pytest.mark.parametrize("op", [jaxbp.absolute, jaxbp.relu, jaxbp.square], ids=repr)
def test_gradients_at_subnormal_arguments(op):
    x = np.array([0.75 * TINY, -0.75 * TINY, 0.0], np.float32)
    _, (ct_x,) = op.value_and_vjp((x,), np.ones(3, np.float32))
    expected = {"absolute": [1, -1, 0], "relu": [1, 0, 0], "square": [1.5 * TINY, -1.5 * TINY, 0]}[op.name]
    np.testing.assert_allclose(ct_x, expected, rtol=1e-6)


@pytest.mark.parametrize("op", [jaxbp.add, jaxbp.multiply, jaxbp.power, jaxbp.square, jaxbp.maximum], ids=repr)
def test_whole_numbers_stay_whole(op):
    args = (jnp.int32(3), jnp.int32(2))[: len(op.arguments)]
    assert op(*args).dtype == jnp.int32
    assert int(op(*args)) == int(op.stock(*args))
