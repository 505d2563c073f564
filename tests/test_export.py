"""Every op and its gradient can be exported for every platform, and come back the same."""

import jax
import jax.export
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def posed(rule):
    """A rule's value and gradient, jitted, and arguments at case `small`."""
    engine, case = make_engine(rule.op, f"rule:{rule.name}"), rule.op.case("small")
    args = case.arguments(np.dtype("float32"))
    return jax.jit(engine.fwd_bwd), args, case.cotangent(rule.op.output(args, {}).shape, np.dtype("float32"))


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_value_and_gradient_are_lowered_for_every_platform_and_serialized(op):
    fwd_bwd, args, ct = posed(op.default_rule)
    exported = jax.export.export(fwd_bwd, platforms=PLATFORMS)(args, ct)
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == PLATFORMS
    expected, actual = (jax.tree.leaves(f(args, ct)) for f in (fwd_bwd, again.call))
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


#: JAX lowers a kernel for one platform at a time, and serializes what Triton takes for none.
COMPILERS = {"cuda": "__gpu$xla.gpu.triton", "rocm": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}
#: From 0.12 on it wants to know for which chip.
CHIPS = {"cuda": ("NVIDIA H100", "gpu"), "rocm": ("gfx942", "gpu"), "tpu": ("TPU v5 lite", "tpu")}


OPS_WITH_KERNELS = [(jaxbp.attention, 3), (jaxbp.padded_attention, 3), (jaxbp.rms_norm, 2)]


# JAX 0.12 says of Triton that it will go; what is to take its place knows neither older GPUs nor the kernels of a TPU.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("platform", COMPILERS)
@pytest.mark.parametrize(("op", "launched"), OPS_WITH_KERNELS, ids=repr)
def test_kernels_are_lowered_by_the_compiler_of_each_platform(op, launched, platform):
    fwd_bwd, *arguments = posed(op.rules["kernel"])
    kind, of = CHIPS[platform]
    chip = jax.sharding.AbstractDevice(kind, 1, of)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=chip)):
        program = fwd_bwd.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert program.count(f"custom_call @{COMPILERS[platform]}(") == launched
