"""Every op and its gradient can be exported for every platform, and come back the same."""

import jax
import jax.export
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_value_and_gradient_are_lowered_for_every_platform_and_serialized(op):
    engine = make_engine(op, f"rule:{op.default_rule.name}")
    args = op.case("small").arguments(np.dtype("float32"))
    ct = op.case("small").cotangent(op.output(args, {}).shape, np.dtype("float32"))
    exported = jax.export.export(jax.jit(engine.fwd_bwd), platforms=PLATFORMS)(args, ct)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == PLATFORMS
    expected, actual = (jax.tree.leaves(f(args, ct)) for f in (jax.jit(engine.fwd_bwd), again.call))
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
