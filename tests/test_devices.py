"""Ops that compute in other portions on a GPU are as right with those, which are others."""

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import reference

OPS = (
    jaxbp.attention,
    jaxbp.padded_attention,
    jaxbp.linear_cross_entropy,
    jaxbp.mean_linear_cross_entropy,
    jaxbp.cumlogsumexp,
)


def passes(op):
    """Value and cotangents of the default rule; a new function each time, so that nothing is taken from a cache."""
    rule = op.default_rule

    def run(args, ct):
        y, res = rule.fwd(*args)
        return y, rule.bwd(res, ct)

    return run


def program(op, args):
    """Of both passes at the case for accelerators, whose arrays need not exist."""
    large = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(op.case("large").shapes, args, strict=True)]
    return str(jax.make_jaxpr(passes(op))(large, jax.eval_shape(op, *large)))


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_portions_of_a_gpu(op, monkeypatch):
    case, dtype = op.case("cache"), np.dtype("float32")
    args = case.arguments(dtype)
    ct = case.cotangent(op.output(args, {}).shape, dtype)
    exact_y, exact = reference(op, args, ct)
    on_processor = program(op, args)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert program(op, args) != on_processor
    y, cts = jax.jit(passes(op))(args, ct)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        if truth is not None:
            np.testing.assert_allclose(actual, truth, rtol=0, atol=1e-5 * np.abs(truth).max())
