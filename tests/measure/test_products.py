"""Products that round their factors are known as such, and are no dishonesty of whoever multiplies with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.measure import task as task_module
from jaxbp.measure.plan import Task
from jaxbp.measure.products import kept_bits, product_bits, product_unit
from jaxbp.measure.task import measure, pose

FLOAT32 = np.dtype("float32")


def narrowly(a: jax.Array, b: jax.Array, *, bits: int = 11) -> jax.Array:
    """A product as units for matrices compute it, from factors of so many bits."""
    return jnp.matmul(*(jax.lax.reduce_precision(x, 8, bits - 1) for x in (a, b)))


@pytest.mark.parametrize("bits", [8, 11, 16, 24])
def test_the_bits_that_a_product_keeps(bits):
    assert kept_bits(jax.jit(functools.partial(narrowly, bits=bits))) == bits


def test_a_processor_keeps_all(monkeypatch):
    assert product_bits("jax") == product_bits("numpy") == 24
    assert product_unit("jax", FLOAT32) == 2.0**-24
    assert product_unit("jax", np.dtype("float16")) == 2.0**-11
    assert product_unit("jax", np.dtype("float64")) == 2.0**-53
    monkeypatch.setattr("jaxbp.measure.products.product_bits", lambda owner: 11)
    assert product_unit("jax", FLOAT32) == 2.0**-11
    assert product_unit("jax", np.dtype("bfloat16")) == 2.0**-8
    assert product_unit("jax", np.dtype("float64")) == 2.0**-53


def rows(monkeypatch, op, unit):
    monkeypatch.setattr(task_module, "product_unit", lambda owner, dtype: unit)
    monkeypatch.setattr(task_module, "find_op", lambda name: op)
    return list(measure(Task(op.name, "small", "float32", "jax", ("autodiff",), "quick")))


def test_what_a_device_rounds_is_allowed_where_matrices_are_multiplied(monkeypatch):
    op = jaxbp.matmul.replace(stock=lambda a, b, *, precision=None: narrowly(a, b, bits=8))
    told = rows(monkeypatch, op, 2.0**-24)
    assert any("is wrong in mode" in row.get("reason", "") for row in told)
    told = rows(monkeypatch, op, 2.0**-8)
    assert not any(row["kind"] == "failure" for row in told)
    assert all(0 < row["bound_fraction"] < 1 for row in told if row["kind"] == "accuracy")


def test_it_is_allowed_nowhere_else(monkeypatch):
    op = jaxbp.exp.replace(stock=lambda x: jax.lax.reduce_precision(jnp.exp(x), 8, 7))
    told = rows(monkeypatch, op, 2.0**-8)
    assert any("is wrong in mode" in row.get("reason", "") for row in told)


def test_the_bound_follows_the_unit():
    problem = pose(Task("matmul", "small", "float32", "jax", ("autodiff",), "quick"))
    plain, wide = (a_priori_bounds(jaxbp.matmul, problem.args, problem.ct, unit=unit)[0] for unit in (None, 2.0**-11))
    assert plain is not None
    assert wide is not None
    assert np.median(wide / plain) == pytest.approx(2.0**13, rel=0.1)
