"""The points looked at: neighbours of what is hard, every magnitude."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.points import NEIGHBOURS, hard_points, random_points

DTYPES = ["float32", "float64", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_points_hold_the_ends_of_the_dtype_and_what_is_no_number(dtype):
    points = hard_points(jaxbp.log, dtype)
    finfo = jnp.finfo(dtype)
    for x in (0, finfo.tiny, -finfo.tiny, finfo.smallest_subnormal, finfo.max, np.inf, -np.inf):
        assert np.any(points.astype(np.float64) == float(x))
    assert np.isnan(points.astype(np.float64)).any()
    assert points.dtype == jnp.dtype(dtype)


def test_declared_points_come_with_their_neighbours():
    points = hard_points(jaxbp.sigmoid.replace(hard=(3.5,)), "float32")
    x = np.float32(3.5)
    for _ in range(NEIGHBOURS + 1):
        assert x in points
        x = np.nextafter(x, np.float32(np.inf))
    assert x not in points


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_points_have_both_signs_and_every_magnitude(dtype):
    with np.errstate(invalid="ignore"):  # Signaling NaNs.
        points = random_points(dtype, 10**5).astype(np.float64)
    finite = points[np.isfinite(points) & (points != 0)]
    exponents = np.floor(np.log2(np.abs(finite)))
    assert exponents.max() > 0.9 * jnp.finfo(dtype).maxexp
    assert exponents.min() < jnp.finfo(dtype).minexp
    assert 0.4 < np.mean(finite > 0) < 0.6
