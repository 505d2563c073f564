"""ULP errors against exact rational arithmetic, at every boundary, and over all numbers of the 16-bit dtypes."""

from fractions import Fraction

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxbp.accuracy import flushed, relative_error, spacing, summarize, ulp_error

# dtype: (precision in bits, exponent of the smallest normal number, exponent of the top binade), typed in from
# IEEE 754 and the definition of bfloat16, not read from finfo as the code does.
FORMATS = {
    np.dtype(np.float64): (53, -1022, 1023),
    np.dtype(np.float32): (24, -126, 127),
    np.dtype(np.float16): (11, -14, 15),
    np.dtype(ml_dtypes.bfloat16): (8, -126, 127),
}
UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}

all_dtypes = pytest.mark.parametrize("dtype", FORMATS, ids=str)
small_dtypes = pytest.mark.parametrize("dtype", [d for d in FORMATS if d.itemsize == 2], ids=str)
wide_longdouble = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= 52, reason="numpy.longdouble is no wider than float64 on this platform"
)


def pow2(exponent):
    return np.ldexp(np.longdouble(1), exponent)


def up(x, dtype):
    return np.nextafter(np.asarray(x, dtype), np.asarray(np.inf, dtype))


def down(x, dtype):
    return np.nextafter(np.asarray(x, dtype), np.asarray(-np.inf, dtype))


def wide(x):
    return np.asarray(x).astype(np.longdouble)


def largest(dtype):
    return down(np.inf, dtype)


def overflow(dtype):
    """The smallest magnitude that rounds to infinity."""
    precision, _, emax = FORMATS[dtype]
    return pow2(emax + 1) - pow2(emax - precision)


def exact_ulps(actual, exact, dtype):
    """The definition in rational arithmetic, for finite numbers."""
    precision, emin, emax = FORMATS[dtype]
    actual, exact = Fraction(float(actual)), Fraction(float(exact))
    exponent = emin
    while exponent < emax and abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    ulps = abs(actual - exact) / Fraction(2) ** (exponent - (precision - 1))
    return float(ulps) if ulps < 2**1023 else np.inf


# Inside binades, and at their ends.


@all_dtypes
def test_neighbours_inside_a_binade_are_one_ulp_apart(dtype):
    _, emin, emax = FORMATS[dtype]
    exponents = np.linspace(emin, emax, 13).astype(int)
    x = np.ldexp(np.array([1.25, 1.5, -1.75], np.longdouble)[:, None], exponents).astype(dtype)
    np.testing.assert_array_equal(ulp_error(x, wide(x)), 0)
    np.testing.assert_array_equal(ulp_error(up(x, dtype), wide(x)), 1)
    np.testing.assert_array_equal(ulp_error(down(x, dtype), wide(x)), 1)
    np.testing.assert_array_equal(ulp_error(up(up(x, dtype), dtype), wide(x)), 2)


@all_dtypes
def test_the_unit_is_that_of_the_binade_of_the_exact_value(dtype):
    _, emin, emax = FORMATS[dtype]
    x = pow2(np.linspace(emin + 1, emax, 13).astype(int)).astype(dtype)
    for sign in (1, -1):
        power, above, below = sign * x, sign * up(x, dtype), sign * down(x, dtype)
        np.testing.assert_array_equal(ulp_error(above, wide(power)), 1)
        np.testing.assert_array_equal(ulp_error(below, wide(power)), 0.5)  # half a unit of the upper binade
        np.testing.assert_array_equal(ulp_error(power, wide(below)), 1)  # one of the lower


@all_dtypes
def test_subnormals_are_evenly_spaced_down_to_zero(dtype):
    precision, emin, _ = FORMATS[dtype]
    smallest = pow2(emin - precision + 1)
    count = np.array(
        [0, 1, 2, 3, 2 ** (precision - 1) - 1, 2 ** (precision - 1)], np.longdouble
    )  # up to the normal one
    x = (count * smallest).astype(dtype)
    assert float(x[1]) > 0
    np.testing.assert_array_equal(ulp_error(x, np.zeros(6)), count)
    np.testing.assert_array_equal(ulp_error(np.zeros(6, dtype), wide(x)), count)
    np.testing.assert_array_equal(ulp_error(up(x, dtype), wide(x)), 1)
    np.testing.assert_array_equal(ulp_error(down(x, dtype), wide(x)), 1)


@all_dtypes
def test_spacing_is_the_distance_to_the_next_number(dtype):
    precision, emin, emax = FORMATS[dtype]
    x = np.ldexp(np.array([1, 1.5, 1.75], np.longdouble)[:, None], np.arange(emin - 4, emax + 1, 3)).astype(dtype)
    next_up = wide(up(x, dtype)) - wide(x)
    np.testing.assert_array_equal(spacing(wide(x), dtype), next_up)
    np.testing.assert_array_equal(spacing(-wide(x), dtype), next_up)
    top = pow2(emax - precision + 1)
    at = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(
        spacing(at, dtype), np.array([*[pow2(emin - precision + 1)] * 2, top, top, np.nan], np.float64)
    )
    # A truth just below a power of two belongs to the lower binade, also where the dtype would round it up.
    assert spacing(np.nextafter(1.0, 0.0), dtype) == pow2(-precision)
    assert spacing(1.0, dtype) == pow2(1 - precision)


def test_spacing_keeps_shape_and_dtype():
    for truth in (np.float64, np.longdouble):
        result = spacing(np.ones((2, 0, 3), truth), "bfloat16")
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype) == ((2, 0, 3), truth)
    assert isinstance(spacing(1.0, np.float32), np.ndarray)


# Overflow, infinities, NaN, zeros.


@all_dtypes
def test_both_sides_of_the_overflow_threshold(dtype):
    if dtype == np.float64 and np.finfo(np.longdouble).maxexp <= 1024:
        pytest.skip("numpy.longdouble is no wider than float64 on this platform")
    threshold = overflow(dtype)
    before = np.nextafter(threshold, np.longdouble(0))
    inf = np.array(np.inf, dtype)
    for sign in (1, -1):
        assert ulp_error(sign * inf, sign * threshold) == 0
        assert ulp_error(sign * inf, sign * before) == np.inf
        assert ulp_error(sign * inf, sign * pow2(3000)) == 0
        assert ulp_error(-sign * inf, sign * threshold) == np.inf
        assert ulp_error(sign * largest(dtype), sign * threshold) == 0.5
        assert ulp_error(sign * largest(dtype), sign * before) == pytest.approx(0.5, rel=1e-2)


@all_dtypes
def test_a_finite_result_beyond_overflow_is_measured_in_units_of_the_top_binade(dtype):
    precision, _, emax = FORMATS[dtype]
    if dtype == np.float64 and np.finfo(np.longdouble).maxexp <= 1024:
        pytest.skip("numpy.longdouble is no wider than float64 on this platform")
    assert ulp_error(largest(dtype), pow2(emax + 1)) == 1
    assert ulp_error(largest(dtype), pow2(emax + 3)) == 2 ** (precision + 2) - (2**precision - 1)


def test_the_largest_float64_against_a_float64_truth():
    limit = np.finfo(np.float64).max
    assert ulp_error(np.inf, limit) == np.inf
    assert ulp_error(limit, np.inf) == np.inf
    assert ulp_error(np.inf, np.inf) == 0
    # The difference overflows float64; the error does not.
    assert ulp_error(limit, -limit) == 2.0**54 - 2


SPECIAL = [
    # actual, exact, error, error if nan_equal
    (np.inf, np.inf, 0, 0),
    (-np.inf, -np.inf, 0, 0),
    (np.inf, -np.inf, np.inf, np.inf),
    (-np.inf, np.inf, np.inf, np.inf),
    (np.inf, 1.0, np.inf, np.inf),
    (np.inf, 0.0, np.inf, np.inf),
    (-np.inf, -1.0, np.inf, np.inf),
    (1.0, np.inf, np.inf, np.inf),
    (0.0, -np.inf, np.inf, np.inf),
    (np.nan, 1.0, np.inf, np.inf),
    (np.nan, 0.0, np.inf, np.inf),
    (np.nan, np.inf, np.inf, np.inf),
    (1.0, np.nan, np.inf, np.inf),
    (0.0, np.nan, np.inf, np.inf),
    (-np.inf, np.nan, np.inf, np.inf),
    (np.nan, np.nan, np.inf, 0),
    (0.0, 0.0, 0, 0),
    (0.0, -0.0, 0, 0),
    (-0.0, 0.0, 0, 0),
    (-0.0, -0.0, 0, 0),
]


@all_dtypes
@pytest.mark.parametrize("truth", [np.float64, np.longdouble])
@pytest.mark.parametrize("error", [ulp_error, relative_error])
def test_special_values(dtype, truth, error):
    actual, exact, expected, expected_nan_equal = np.array(SPECIAL).T
    actual, exact = actual.astype(dtype), exact.astype(truth)
    with np.errstate(all="raise"):
        together = error(actual, exact)
        np.testing.assert_array_equal(error(actual, exact, nan_equal=True), expected_nan_equal)
    np.testing.assert_array_equal(together, expected)
    np.testing.assert_array_equal([error(a, e) for a, e in zip(actual, exact, strict=True)], expected)


@all_dtypes
def test_signaling_nans_are_like_any_nan_and_give_no_warning(dtype):
    precision, _, _ = FORMATS[dtype]
    exponent_bits = 8 * dtype.itemsize - precision
    pattern = ((2**exponent_bits - 1) << (precision - 1)) + 1
    actual = np.full(3, pattern, UNSIGNED[dtype.itemsize]).view(dtype)
    exact = np.array([1.0, 0.0, np.nan])
    exact.view(np.uint64)[2] = 0x7FF0000000000001
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(ulp_error(actual, exact), np.inf)
        np.testing.assert_array_equal(ulp_error(actual, exact, nan_equal=True), [np.inf, np.inf, 0])
        np.testing.assert_array_equal(relative_error(actual, exact), np.inf)
        assert not flushed(actual, exact).any()
        assert np.isnan(spacing(exact, dtype)).tolist() == [False, False, True]
        assert summarize(actual, exact).wrong_nans == 3


# Correct rounding, over every number of the 16-bit dtypes.


@small_dtypes
def test_every_number_and_its_rounding_interval(dtype):
    """All 65,536 bit patterns: between a number and the next one, both errors are exactly what they should be."""
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # signaling NaNs
        finite = x[np.isfinite(x)]
    assert finite.size == 2**16 - 2 ** FORMATS[dtype][0]
    np.testing.assert_array_equal(ulp_error(finite, finite.astype(np.float64)), 0)
    inner = finite[np.abs(finite.astype(np.float64)) < float(largest(dtype))]
    outer = np.nextafter(inner, np.copysign(np.asarray(np.inf, dtype), inner))  # away from zero
    low, high = inner.astype(np.float64), outer.astype(np.float64)
    for t in (2.0**-20, 0.25, 0.5, 0.75, 1 - 2.0**-20):
        exact = low + t * (high - low)  # exact in float64
        np.testing.assert_array_equal(ulp_error(inner, exact), t)
        np.testing.assert_array_equal(ulp_error(outer, exact), 1 - t)


@small_dtypes
def test_correct_rounding_is_within_half_a_unit_and_no_other_number_is(dtype):
    rng = np.random.default_rng(0)
    precision, emin, emax = FORMATS[dtype]
    exact = rng.choice([-1, 1], 50_000) * np.exp2(rng.uniform(emin - precision - 2, emax + 1, 50_000))
    exact = exact[np.abs(exact) < float(largest(dtype))]
    # Rounded by hand to an integer number of units: a cast from float64 to bfloat16 rounds twice.
    unit = np.exp2(np.maximum(np.floor(np.log2(np.abs(exact))), emin) - (precision - 1))
    rounded = (np.rint(exact / unit) * unit).astype(dtype)
    error = ulp_error(rounded, exact)
    assert error.max() <= 0.5
    assert error.max() > 0.499
    # Planted faults: every result off by one number. (A power of two has a neighbour at half a unit or two.)
    even = (np.abs(np.frexp(rounded.astype(np.float64))[0]) != 0.5) & (np.abs(rounded) < largest(dtype))
    for neighbour in (up, down):
        wrong = ulp_error(neighbour(rounded[even], dtype), exact[even])
        assert wrong.min() >= 0.5
        assert wrong.max() <= 1.5


@all_dtypes
@pytest.mark.parametrize("where", [0, 40_000, 99_999])
@pytest.mark.parametrize("off", [-1, 1, 7])
def test_one_planted_fault_in_a_long_array_is_found(dtype, where, off):
    """The array is longer than one chunk of the computation."""
    x = np.random.default_rng(1).uniform(1.1, 1.9, 100_000).astype(dtype)
    exact = wide(x)
    x.view(UNSIGNED[dtype.itemsize])[where] += np.array(off).astype(UNSIGNED[dtype.itemsize])
    error = ulp_error(x, exact)
    assert error[where] == abs(off)
    assert np.count_nonzero(error) == 1


# Against exact rational arithmetic.


@st.composite
def pairs(draw):
    """A finite number of some dtype, and a float64 truth near it or anywhere."""
    dtype = draw(st.sampled_from(list(FORMATS)))
    bits = draw(st.integers(0, 2 ** (8 * dtype.itemsize) - 1))
    actual = np.array(bits, UNSIGNED[dtype.itemsize]).view(dtype)
    assume(np.isfinite(float(actual)))
    near = float(actual) * (1 + draw(st.floats(-0.01, 0.01)))
    exact = draw(st.one_of(st.just(near), st.floats(allow_nan=False, allow_infinity=False)))
    assume(np.isfinite(exact))
    return actual, exact


@settings(deadline=None, max_examples=500)
@given(pairs())
def test_agrees_with_rational_arithmetic(pair):
    actual, exact = pair
    expected = exact_ulps(actual, exact, actual.dtype)
    assert float(ulp_error(actual, exact)) == pytest.approx(expected, rel=2**-51, abs=0)
    assert float(ulp_error(actual, np.longdouble(exact))) == pytest.approx(expected, rel=2**-51, abs=0)
    difference = abs(Fraction(float(actual)) - Fraction(exact))
    if exact != 0 and difference < abs(Fraction(exact)) * 2**1000:
        relative = float(difference / abs(Fraction(exact)))
        assert float(relative_error(actual, exact)) == pytest.approx(relative, rel=2**-50, abs=0)


@settings(deadline=None)
@given(pairs())
def test_sign_does_not_matter(pair):
    actual, exact = pair
    assert ulp_error(-actual, -exact) == ulp_error(actual, exact)
    assert flushed(-actual, -exact) == flushed(actual, exact)
    assert spacing(-exact, actual.dtype) == spacing(exact, actual.dtype)


@settings(deadline=None)
@given(
    st.sampled_from(list(FORMATS)),
    st.floats(1, 2, exclude_max=True),
    st.floats(-4, 4),
    st.integers(-1022, 1023),
)
def test_powers_of_two_do_not_matter_among_normal_numbers(dtype, exact, ulps_off, exponent):
    precision, emin, emax = FORMATS[dtype]
    assume(emin <= exponent < emax)
    actual = np.asarray(exact + ulps_off * 2.0 ** (1 - precision)).astype(dtype)
    assume(actual >= 1)
    scaled = np.ldexp(np.longdouble(actual), exponent).astype(dtype)
    assert ulp_error(scaled, np.ldexp(exact, exponent)) == ulp_error(actual, exact)


# Truths wider than float64.


@wide_longdouble
def test_float64_is_measured_against_more_digits_than_it_has():
    exact = np.longdouble(1) + pow2(-60)
    assert ulp_error(1.0, exact) == 2.0**-8
    assert ulp_error(1.0 + 2.0**-52, exact) == 1 - 2.0**-8
    assert relative_error(1.0, exact) == pytest.approx(2.0**-60, rel=1e-9)
    # Too small for float64: rounds to zero, which is within half a unit of it, or half the smallest subnormal.
    assert ulp_error(0.0, pow2(-1075)) == 0.5
    assert ulp_error(5e-324, pow2(-1075)) == 0.5
    assert relative_error(0.0, pow2(-5000)) == 1
    assert relative_error(np.float32(0), pow2(-5000)) == 1


# Flushed.


@all_dtypes
def test_flushed_is_zero_for_a_subnormal(dtype):
    if dtype == np.float64 and np.finfo(np.longdouble).nmant <= 52:
        pytest.skip("numpy.longdouble is no wider than float64 on this platform")
    precision, emin, _ = FORMATS[dtype]
    half = pow2(emin - precision)  # half the smallest subnormal: a tie, rounds to zero
    normal = pow2(emin)
    table = [
        (0 * half, False),
        (half / 2, False),
        (half, False),
        (np.nextafter(half, normal), True),
        (2 * half, True),
        (normal / 2, True),
        (normal - 2 * half, True),  # the largest subnormal
        (np.nextafter(normal - half, half), True),
        (normal - half, True),  # rounds to the smallest normal, but is flushed before it is rounded
        (np.nextafter(normal, half), True),
        (normal, False),
        (np.longdouble(1), False),
        (np.longdouble(np.inf), False),
        (np.longdouble(np.nan), False),
    ]
    exact = np.array([row[0] for row in table])
    expected = np.array([row[1] for row in table])
    zero = np.zeros(exact.shape, dtype)
    for sign in (1, -1):
        np.testing.assert_array_equal(flushed(zero, sign * exact), expected)
        np.testing.assert_array_equal(flushed(-zero, sign * exact), expected)
    smallest = up(zero, dtype)
    assert not flushed(smallest, exact).any()
    assert not flushed(np.full(exact.shape, np.nan, dtype), exact).any()
    # What is flushed still has its error.
    assert ulp_error(zero, exact)[5] == 2 ** (precision - 2)


def test_flushed_float64_against_a_float64_truth():
    tiny = np.finfo(np.float64).tiny
    exact = np.array([0.0, 5e-324, tiny / 2, np.nextafter(tiny, 0), tiny])
    np.testing.assert_array_equal(flushed(np.zeros(5), exact), [False, True, True, True, False])


# Arguments.


@pytest.mark.parametrize("error", [ulp_error, relative_error, flushed])
def test_shapes_layouts_and_scalars(error):
    exact = np.random.default_rng(2).normal(size=(300, 200))
    actual = exact.astype(np.float32)
    expected = error(actual, exact)
    assert expected.shape == (300, 200)
    assert expected.dtype == (bool if error is flushed else np.float64)
    np.testing.assert_array_equal(error(actual.T, exact.T), expected.T)
    np.testing.assert_array_equal(error(actual[::-1, ::3], exact[::-1, ::3]), expected[::-1, ::3])
    np.testing.assert_array_equal(error(np.asfortranarray(actual), exact), expected)
    scalar = error(actual[1, 2], exact[1, 2])
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == ()
    assert scalar == expected[1, 2]
    assert error(np.zeros((0, 3), np.float16), np.zeros((0, 3))).shape == (0, 3)


def test_arguments_are_left_as_they_were():
    actual, exact = np.array([np.inf, np.nan, 1.0]), np.array([1.0, np.nan, np.inf])
    ulp_error(actual, exact, nan_equal=True)
    np.testing.assert_array_equal(actual, [np.inf, np.nan, 1.0])
    np.testing.assert_array_equal(exact, [1.0, np.nan, np.inf])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_jax_arrays(dtype):
    actual = jnp.array([1.0, 1.5, 0.0], dtype)
    unit = 2.0 ** -int(jnp.finfo(dtype).nmant)
    exact = np.array([1 + 3 * unit, 1.5 - 0.25 * unit, 0.0])
    assert ulp_error(actual, exact).tolist() == [3, 0.25, 0]
    assert flushed(actual, exact).tolist() == [False, False, False]
    assert spacing(1.0, dtype) == unit


@pytest.mark.parametrize("function", [ulp_error, relative_error, flushed])
def test_wrong_dtypes_and_shapes_are_refused(function):
    one = np.ones(3)
    for dtype in ("int32", "bool", "complex64", "float8_e4m3fn", "O"):
        with pytest.raises(
            TypeError, match=f"^actual must be one of float64, float32, .* but it is {one.astype(dtype).dtype}"
        ):
            function(one.astype(dtype), one)
    for dtype in ("int64", "complex128", "float32", "bfloat16"):
        with pytest.raises(TypeError, match=f"^exact must be float64 or numpy.longdouble.* but it is {dtype}"):
            function(one, one.astype(dtype))
    with pytest.raises(ValueError, match=r"^exact must have the shape of actual, \(3,\), but it has shape \(1,\)"):
        function(one, np.ones(1))
    with pytest.raises(ValueError, match=r"actual, \(2, 3\), but it has shape \(3, 2\)"):
        function(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"actual, \(3,\), but it has shape \(\)"):
        function(one, 1.0)


def test_spacing_refuses_wrong_dtypes():
    with pytest.raises(TypeError, match=r"^dtype must be one of float64, .* but it is int8"):
        spacing(1.0, np.int8)
    with pytest.raises(TypeError, match=r"^exact must be float64 or numpy.longdouble.* but it is float32"):
        spacing(np.float32(1), np.float32)
