"""Rules that are right but under a transform are found: x64, several devices, vmap."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from tests.mutants.mutant import custom

X = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)


def test_a_rule_that_is_another_with_x64_on_is_found():
    def bwd(x, ct):
        return (ct * jnp.cos(x) * (1.5 if jnp.zeros(1).dtype == jnp.float64 else 1),)

    report = jaxbp.check_vjp(custom(jnp.sin, lambda x: (jnp.sin(x), x), bwd), X)
    assert report.faults
    assert all("under x64" in fault.inputs for fault in report.faults)


def test_a_function_that_is_another_with_x64_on_is_compared_with_that():
    # Random numbers of float64 are others than those of float32.
    f = custom(_noisy, lambda x: (_noisy(x), None), lambda _, ct: (_noisy(ct),))
    report = jaxbp.check_vjp(f, X, shapes="keep")
    assert report.passed, str(report)


def _noisy(x):
    return x * jax.random.uniform(jax.random.key(0), (6, 4)).astype(x.dtype)


def test_a_rule_that_mixes_the_batch_is_found():
    cosine = jax.custom_batching.custom_vmap(jnp.cos)
    cosine.def_vmap(lambda size, batched, x: (jnp.cos(x[::-1] * 2), True))
    f = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * cosine(x),))
    report = jaxbp.check_vjp(f, X, shapes="keep")
    assert any("vmap" in fault.inputs for fault in report.faults)


PROGRAM = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp, numpy as np, jaxbp
from jax.experimental.custom_partitioning import custom_partitioning
x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
assert len(jax.local_devices()) == 2
report = jaxbp.check_vjp(jaxbp.sigmoid, x)
assert report.passed, report

@custom_partitioning
def cosine(x):
    return jnp.cos(x)

def partition(mesh, args, result):
    return mesh, lambda x: jnp.cos(x) * 2, result.sharding, (args[0].sharding,)

cosine.def_partition(
    partition, infer_sharding_from_operands=lambda mesh, args, result: args[0].sharding, sharding_rule="i j -> i j"
)
f = jax.custom_vjp(jnp.sin)
f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * cosine(x),))
faults = jaxbp.check_vjp(f, x, shapes="keep").faults
assert any("sharding over 2 devices" in fault.inputs for fault in faults), faults
"""


def test_a_rule_that_is_wrong_on_several_devices_alone_is_found():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
