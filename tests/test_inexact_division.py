"""Elementwise rules where a division is not rounded correctly, as on a GPU, whose quotients are 2 ULP off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal

import jaxbp
from jaxbp.accuracy.points import hard_points, random_points
from jaxbp.accuracy.summary import summarize
from jaxbp.accuracy.yardstick import quantities, reference_values
from jaxbp.floats import two_product
from jaxbp.jaxprs import CALLS, called_jaxpr, is_float

STATED = [
    (op, bound.rule, options)
    for op in jaxbp.OPS
    for bound in op.rules.values()
    for options in op.variants
    if op.elementwise and bound.rule.accuracy and len(op.arguments) <= 2
]
NAMES = ["-".join((op.name, rule.name, *map(str, options.values()))) for op, rule, options in STATED]
#: No rule has an error of more than three quotients in one result, each by 2 ULP.
ADDED = 3 * 2
#: The range of values that no rounding may leave, by op.
RANGES = {"tanh": (-1, 1), "sigmoid": (0, 1)}


def moved(quotient, x, y, end):
    """x / y, two floats further towards an end; itself where it is exact or infinite."""
    product, rest = two_product(quotient, y)
    unmoved = jnp.isinf(quotient) | ((product == x) & (rest == 0))
    return jnp.where(unmoved, quotient, jnp.nextafter(jnp.nextafter(quotient, end), end))


def evaluated(jaxpr, args, end):
    """What a jaxpr computes with its quotients moved."""
    values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    values |= zip(jaxpr.jaxpr.invars, args, strict=True)
    for eqn in jaxpr.jaxpr.eqns:
        operands = [x.val if isinstance(x, Literal) else values[x] for x in eqn.invars]
        if eqn.primitive.name in CALLS:
            results = evaluated(called_jaxpr(eqn), operands, end)
        else:
            results = eqn.primitive.bind(*operands, **eqn.params)
            results = results if eqn.primitive.multiple_results else [results]
        if eqn.primitive.name == "div" and is_float(results[0].dtype):
            x, y = operands
            results = [moved(results[0], x, y, end)]
        values.update(zip(eqn.outvars, results, strict=True))
    return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.jaxpr.outvars]


@pytest.mark.parametrize(("op", "rule", "options"), STATED, ids=NAMES)
def test_quotients_that_are_off(op, rule, options):
    """They cost a few ULP, and no zero, infinity or NaN. On an H100 tanh was more than 1."""

    def passes(*args):
        y, res = rule.fwd(*args, **options)
        return y, *rule.bwd(res, jnp.ones_like(y), **options)

    if len(op.arguments) == 1:
        args = (np.concatenate([hard_points(op, "float32"), random_points("float32", 30_000)]),)
    else:
        args = tuple(random_points("float32", 30_000, seed) for seed in (1, 2))
    exact, stated = reference_values(op, args, options), rule.accuracy.holds(*args, **options)
    jaxpr = jax.make_jaxpr(passes)(*args)
    run = jax.jit(lambda end, *args: evaluated(jaxpr, args, end))
    low, high = RANGES.get(op.name, (-np.inf, np.inf))
    for end in (-np.inf, np.inf):
        results = [np.asarray(result) for result in run(np.float32(end), *args)]
        assert not ((results[0] < low) | (results[0] > high)).any()
        for quantity, actual, truth in zip(quantities(op), results, exact, strict=True):
            normal = stated & ~(np.abs(truth) < 2 * np.finfo(np.float32).tiny)
            error = summarize(actual[normal], truth[normal], nan_equal=True)
            at = [x[normal][error.worst_index] for x in args]
            assert error.wrong_nans == error.wrong_infinities == error.wrong_zeros == 0, f"at {at}: {error}"
            assert error.max_ulp <= rule.accuracy.bound("float32", quantity) + ADDED, f"{quantity} at {at}: {error}"
