"""Rules are tried at the other shapes that their functions admit, and at no others."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.check.shapes import other_shapes
from jaxbp.check.subject import make_subject
from tests.mutants.mutant import custom

RNG = np.random.default_rng(0)


def shapes_of(f, *args):
    found = {}
    for name, subject in other_shapes(make_subject(f, args)):
        kind = name.partition(",")[0].removeprefix("with shapes ")
        found[kind] = [x.shape for x in subject.leaves]
    return found


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_dimensions_of_the_same_size_change_together():
    found = shapes_of(jnp.matmul, normal(4, 6), normal(6, 3))
    (m, k), (k_too, n) = found["prime"]
    assert k == k_too
    assert len({m, k, n}) == 3
    assert found["of size 1"] == [(1, 1), (1, 1)]
    assert 0 in found["empty"][0] + found["empty"][1]


def test_square_arguments_become_oblong():
    (a, b), (c, d) = shapes_of(jnp.matmul, normal(4, 4), normal(4, 4))["not square"]
    assert b == c
    assert a != b or c != d


def test_a_function_of_one_shape_alone_keeps_it():
    assert shapes_of(lambda x: x.reshape(2, 3), normal(6)) == {}


def test_labels_stay_below_the_number_of_classes():
    def picked(logits, labels):
        return jnp.take_along_axis(logits, labels[:, None], 1)

    labels = np.array([0, 4, 2, 4], np.int32)
    for _, subject in other_shapes(make_subject(picked, (normal(4, 5), labels))):
        logits, labels = subject.leaves
        assert not labels.size or labels.max() < logits.shape[1]


def test_a_rule_that_is_right_at_the_given_shape_alone_is_found():
    def bwd(shape, ct):
        return (jnp.full(shape, ct / 12),)  # The mean over the batch that it was written for.

    f = custom(jnp.mean, lambda x: (jnp.mean(x), x.shape), bwd)
    report = jaxbp.check_vjp(f, normal(4, 3))
    assert not report.passed
    assert "with shapes" in report.faults[0].inputs
    assert jaxbp.check_vjp(f, normal(4, 3), shapes="keep").passed


def test_a_rule_that_raises_where_its_function_does_not_is_found():
    f = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x).reshape(4, 3),))
    report = jaxbp.check_vjp(f, normal(4, 3))
    assert not report.passed
    assert "the rule raises" in report.faults[0].text
    assert report.faults[0].looks_like == "wrong at other shapes alone"
    assert jaxbp.check_vjp(f, normal(4, 3), shapes="keep").passed


def test_a_function_that_cannot_run_there_itself_gets_none():
    # The transform of nothing is an error of XLA's own.
    assert not jaxbp.check_vjp(lambda x: jnp.abs(jnp.fft.rfft(x)) ** 2, normal(16)).findings


def test_no_shapes_of_scalars():
    assert shapes_of(jax.nn.silu, np.float32(1)) == {}


def test_a_rule_that_raises_without_entries_alone_gets_a_note():
    def bwd(x, ct):
        return (ct * jnp.cos(x) + 0 * jnp.max(x),)

    report = jaxbp.check_vjp(custom(jnp.sin, lambda x: (jnp.sin(x), x), bwd), normal(4, 3))
    assert report.passed
    assert any("With shapes empty" in finding.text for finding in report.findings)
