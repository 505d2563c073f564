"""Parts of floats: what keeps a compiler from cancelling what was rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.floats import rounded, two_sum


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_is_rounded_before_it_is_taken_apart(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray([1e-3, 1e-9, 1e-17], dtype)
        lost = jax.jit(lambda x: rounded(1 + x) - 1)(x)
        assert np.array_equal(lost, (1 + np.asarray(x)) - 1)
        _, t = jax.jit(two_sum)(jnp.ones_like(x), x)
        assert np.array_equal(np.asarray(t), np.asarray(x) - lost)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_is_no_operation_that_changes_nothing_by_its_parameters(dtype):
    """XLA's GPU compiler takes those out, and (1 + x) - 1 is x again: on an H100 log1p was 0 below 1e-7."""
    with jax.enable_x64(True):
        jaxpr = jax.make_jaxpr(rounded)(jnp.ones(3, dtype))
        (eqn,) = jaxpr.eqns
        finfo = jnp.finfo(dtype)
        assert (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) != (finfo.nexp, finfo.nmant)
