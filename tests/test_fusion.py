"""A sum that follows takes no more memory than what it adds up, and what two results share is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import fusion
from jaxbp.measure.executables import planned_memory
from jaxbp.promotion import is_inexact

SHAPE = (256, 512)
BYTES = 4 * SHAPE[0] * SHAPE[1]
#: What there is one of a row or a column.
FEW = 16 * sum(SHAPE)
ROWS = [jaxbp.layer_norm, jaxbp.rms_norm]
#: All but a loop, in which nothing leads to a sum.
OPS = [op for op in jaxbp.OPS if op is not jaxbp.kepler and (op.elementwise or op in ROWS)]


def arguments(op, others=SHAPE):
    shapes = (SHAPE,) + (others,) * (len(op.arguments) - 1)
    return op.case("small").drawn(np.random.default_rng(3), np.dtype("float32"), shapes)


def temporary(f, *args):
    """What the compiled function allocates beside its arguments and results."""
    temp, _ = planned_memory(jax.jit(f).lower(*args).compile())
    assert temp is not None
    return temp


def assert_written_once(f, axis, *args, beside=0):
    """What is summed; `beside` arrays of its size are needed to compute it at all."""
    assert temporary(lambda *args: jnp.sum(f(*args), axis), *args) <= (1 + beside) * BYTES + FEW


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_a_sum_of_the_value_writes_it_down_once_at_most(op):
    assert_written_once(op, -1, *arguments(op, SHAPE[1:] if op in ROWS else SHAPE))


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_a_sum_of_the_gradient_writes_it_down_once_at_most(op):
    args = arguments(op, SHAPE[1:] if op in ROWS else SHAPE)
    first = next(i for i, x in enumerate(args) if is_inexact(x))
    # In layer_norm one is a factor of a product of matrices.
    beside = int(op is jaxbp.layer_norm)
    ct = np.ones(SHAPE, np.float32)
    assert_written_once(lambda ct, *args: jax.vjp(op, *args)[1](ct)[first], 0, ct, *args, beside=beside)


def test_the_gradient_of_a_divisor_that_is_broadcast_is_written_down_once():
    args = arguments(jaxbp.divide, SHAPE[1:])
    ct = np.ones(SHAPE, np.float32)
    assert temporary(lambda ct, *args: jax.vjp(jaxbp.divide, *args)[1](ct)[1], ct, *args) <= BYTES + FEW


@pytest.mark.parametrize("op", [jaxbp.square, jaxbp.negative, jaxbp.sigmoid.rules["textbook"]], ids=repr)
def test_of_a_formula_that_the_library_knows_nothing_is_written(op):
    assert temporary(lambda x: jnp.sum(op(x), -1), *arguments(jaxbp.sigmoid)) <= FEW


def test_a_formula_that_is_cut_up_is_seen(monkeypatch):
    monkeypatch.setattr(fusion, "whole", lambda y, x: y)
    sigmoid = jaxbp.sigmoid.replace(name="sigmoid_cut_up")
    with pytest.raises(AssertionError):
        assert_written_once(sigmoid, -1, *arguments(sigmoid))


@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan])
def test_every_number_stays_what_it_is(number):
    numbers = np.array([number, 1.0], np.float32)
    for x in (number, -np.inf, np.nan):
        found = np.asarray(jax.jit(fusion.whole)(numbers, np.full_like(numbers, x)))
        np.testing.assert_array_equal(found.view(np.int32), numbers.view(np.int32))


def operations(f, *args):
    """As XLA counts them in the loops that it compiled, copies included."""
    cost = jax.jit(f).lower(*args).compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def copied(op):
    """How many of its operations value and gradient in one executable compute twice, of those of the value."""
    x, ct = arguments(op), np.ones(SHAPE, np.float32)
    value = operations(op, *x)
    gradient = operations(lambda ct, *x: jax.vjp(op, *x)[1](ct), ct, *x)
    both = operations(lambda ct, *x: (lambda y, vjp: (y, vjp(ct)))(*jax.vjp(op, *x)), ct, *x)
    shared = value + gradient - both
    return 1 - shared / value


@pytest.mark.parametrize("op", [jaxbp.silu, jaxbp.gelu], ids=repr)
def test_the_exponential_of_a_gate_is_computed_once(op):
    assert copied(op) < 0.5


def test_without_asking_for_it_the_exponential_is_computed_twice(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jaxbp.numerics.once", lambda y: y)
        jax.clear_caches()
        found = copied(jaxbp.silu)
    # What was traced so is no tests' but this one's.
    jax.clear_caches()
    assert found > 0.9


@pytest.mark.parametrize(
    "op", [jaxbp.linear_cross_entropy, jaxbp.mean_linear_cross_entropy, jaxbp.softmax_objective], ids=repr
)
def test_exponentials_take_the_place_of_the_scores_that_they_are_of(op):
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((256, 512), (512, 512)))
    strength = [np.float32(0.1)] if op is jaxbp.softmax_objective else []
    assert temporary(op, x, w, rng.integers(0, 512, 256), *strength) <= BYTES + FEW
