"""Sums of products are within their a-priori bound, no further into it than autodiff, and a fault is outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Rule
from jaxbp.accuracy.bounds import a_priori_bounds
from jaxbp.engines import reference

SUMS = [op for op in jaxbp.OPS if op.terms]
#: Both batches are stretched: ours and autodiff add up in different orders, of which neither is better.
BROADCAST = [((3, 1, 8, 9), (2, 9, 4))]
SHAPES = {
    "matmul": [((40, 300), (300, 20)), ((5, 8, 30), (30, 7)), ((30,), (4, 30, 6)), *BROADCAST],
    "linear": [((40, 300), (300, 20), (20,)), ((2, 7, 30), (30, 5), ())],
    "l2_penalty": [((300,), ()), ((40, 30), ())],
    "sum": [((40, 300),)],
    "mean": [((40, 300),)],
    "cumsum": [((300,),)],
    "conv2d": [((2, 6, 7, 5), (3, 3, 5, 4))],
}


def drawn(shapes, dtype):
    """Magnitudes over eight binades and both signs, so that terms cancel."""
    rng = np.random.default_rng(3)
    return tuple((rng.normal(size=s) * np.exp2(rng.uniform(-4, 4, s))).astype(jnp.dtype(dtype)) for s in shapes)


def fractions(op, engine, args, ct):
    """The largest error as a fraction of the bound, for the value and each cotangent."""
    y, cts = op.value_and_vjp(args, ct, engine=engine)
    exact_y, exact = reference(op, args, ct)
    quantities = zip((y, *cts), (exact_y, *exact), a_priori_bounds(op, args, ct), strict=True)
    return [float(np.max(np.abs(np.asarray(a).astype(float) - e) / b)) for a, e, b in quantities]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("op", "shapes"), [(op, shapes) for op in SUMS for shapes in SHAPES[op.name]], ids=str)
def test_errors_are_within_the_bound_and_no_worse_than_autodiff(op, shapes, dtype):
    *args, ct = drawn((*shapes, jax.eval_shape(op.stock, *map(np.ones, shapes)).shape), dtype)
    ours = fractions(op, f"rule:{op.default_rule.name}", tuple(args), ct)
    autodiff = fractions(op, "autodiff", tuple(args), ct)
    assert all(fraction <= 1 for fraction in ours)
    if shapes not in BROADCAST:
        assert all(a <= b for a, b in zip(ours, autodiff, strict=True))


def test_a_product_without_its_last_term_is_outside_the_bound():
    def short_fwd(a, b, *, precision=None):
        return jnp.matmul(a[:, :-1], b[:-1]), (a, b)

    op = jaxbp.matmul.replace(rules=(Rule("short", short_fwd, jaxbp.matmul.default_rule.bwd),))
    *args, ct = drawn(((40, 300), (300, 20), (40, 20)), "float32")
    value, *gradients = fractions(op, "rule:short", tuple(args), ct)
    assert value > 10
    assert all(fraction <= 1 for fraction in gradients)


def test_ops_that_are_no_sums_have_no_bound():
    x = np.ones(3, np.float32)
    assert a_priori_bounds(jaxbp.sigmoid, (x,), x) == (None, None)
