"""What has to hold before numbers: purity, linearity, types."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from tests.mutants.mutant import custom

X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)


def sine(bwd):
    return custom(jnp.sin, lambda x: (jnp.sin(x), x), bwd)


def kinds(f, *args, **options):
    return {finding.kind for finding in jaxbp.check_vjp(f, *args, level="quick", **options).faults}


def test_a_rule_that_is_not_linear_in_the_cotangent_is_told():
    assert "linearity" in kinds(sine(lambda x, ct: (jnp.clip(ct, -1, 1) * jnp.cos(x),)), X)
    assert "linearity" in kinds(sine(lambda x, ct: ((ct + 1) * jnp.cos(x),)), X)
    assert not kinds(sine(lambda x, ct: (ct * jnp.cos(x),)), X)


def test_a_rule_that_counts_its_calls_is_told():
    calls = []

    def bwd(x, ct):
        calls.append(1)
        jax.debug.callback(lambda: calls.append(1))
        noise = jax.pure_callback(lambda: np.float32(len(calls)), jax.ShapeDtypeStruct((), jnp.float32))
        return (ct * jnp.cos(x) * (1 + 1e-3 * noise),)

    assert "determinism" in kinds(sine(bwd), X)


def test_a_rule_that_leaks_a_tracer_is_told():
    kept = []

    def bwd(x, ct):
        kept.append(ct)
        return (kept[0] * jnp.cos(x),)

    report = jaxbp.check_vjp(sine(bwd), X, level="quick")
    assert report.faults[0].kind == "contract"
    assert "UnexpectedTracerError" in report.faults[0].text
