"""Products with a matrix transposed: right for every shape; narrow ones as XLA's library for products takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.devices import compiled_for
from jaxbp.products import columns_by_columns, rows_by_rows

#: Rows, and the columns of both matrices; and whether one of them is transposed.
SHAPES = [
    ((300, 64, 10), True),
    ((300, 10, 64), False),
    ((300, 64, 16), True),
    ((300, 64, 17), False),
    ((40, 1024, 256), True),
    ((40, 1028, 257), False),
    ((300, 16, 256), True),
    ((300, 16, 255), False),
    ((40, 256, 1024), True),
    ((40, 257, 1028), False),
    ((300, 64, 64), False),
    ((1, 8, 1), True),
    ((0, 8, 2), True),
    ((5, 8, 0), True),
    ((5, 0, 300), True),
]
EVERY_SHAPE = pytest.mark.parametrize(("shape", "transposed"), SHAPES, ids=str)


def drawn(shape, dtype="float32"):
    m, k, n = shape
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(m, k)), dtype), jnp.asarray(rng.normal(size=(m, n)), dtype)


@EVERY_SHAPE
def test_they_are_numpys(shape, transposed):
    a, b = drawn(shape)
    exact = np.matmul(np.asarray(a, np.float64).T, np.asarray(b, np.float64))
    np.testing.assert_allclose(jax.jit(columns_by_columns)(a, b), exact, rtol=1e-5, atol=1e-5 * max(1, shape[0]) ** 0.5)
    c = jnp.ones((7, shape[2]))
    np.testing.assert_allclose(rows_by_rows(b, c), np.matmul(b, np.transpose(c)), rtol=1e-5, atol=1e-4)


@EVERY_SHAPE
def test_a_narrow_matrix_is_transposed_on_a_processor_in_float32(shape, transposed):
    def is_transposed(dtype="float32"):
        return "optimization_barrier" in str(jax.make_jaxpr(columns_by_columns)(*drawn(shape, dtype)))

    assert is_transposed() == transposed
    assert not is_transposed("bfloat16")
    with compiled_for("gpu"):
        assert not is_transposed()


@pytest.mark.parametrize("shape", [(4096, 256, 16), (4096, 16, 256)], ids=str)
def test_the_library_computes_narrow_products(shape):
    program = str(jax.jit(columns_by_columns).lower(*drawn(shape)).compile().as_text())
    assert "ynn_fusion" in program
    assert "lhs_contracting_dims={0}" not in program


@pytest.mark.parametrize("shape", [(12, 8, 2), (12, 2, 256)], ids=str)
def test_they_have_derivatives_and_batches(shape):
    a, b = drawn(shape)

    def plain(a, b):
        return jnp.matmul(a.T, b)

    for by in (
        jax.vmap,
        lambda f: jax.jacrev(lambda *x: f(*(y[0] for y in x)), (0, 1)),
        lambda f: jax.vmap(jax.jit(f)),
    ):
        actual, expected = (by(f)(jnp.stack([a, 2 * a]), jnp.stack([b, b])) for f in (columns_by_columns, plain))
        for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
