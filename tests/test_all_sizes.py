"""Inputs and cotangents of all sizes: wherever autodiff of the stock function is right, so are the rules."""

import functools

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import reference

COUNT = 20_000
FINFO = np.finfo(np.float32)
#: kepler is solved for eccentricities up to 0.99 alone.
OPS = [(op, options) for op in jaxbp.OPS if op.elementwise and op is not jaxbp.kepler for options in op.variants]
#: Beyond it the square of x + y, or one over it, is no normal number.
LARGEST = {jaxbp.rational: 2.0**62}


def drawn(rng, op):
    """Every size, subnormal ones too, those at which activations bend, and what lies between an op's hard numbers."""
    exponents = np.where(rng.random(COUNT) < 0.5, rng.uniform(-149, 128, COUNT), rng.uniform(-20, 8, COUNT))
    # What overflows by less than a factor of 1.2 on the way is not looked at.
    sizes = np.minimum(2.0**exponents, LARGEST.get(op, FINFO.max / 1.2))
    between = rng.uniform(min(op.hard, default=0), max(op.hard, default=0), COUNT)
    return np.where(rng.random(COUNT) < 0.25, between, rng.choice([-1, 1], COUNT) * sizes).astype(np.float32)


def right(found, exact, to):
    with np.errstate(all="ignore"):
        return np.abs(np.asarray(found, np.float64) - exact) <= to * np.abs(exact)


@pytest.mark.parametrize(("op", "options"), OPS, ids=str)
def test_what_is_right_in_stock_is_right(op, options):
    rng = np.random.default_rng(7)
    args = [drawn(rng, op) for _ in op.arguments]
    if op is jaxbp.where:
        args[0] = args[0] > 0
    ct = drawn(rng, op)
    y, cts = op.value_and_vjp(args, ct, **options)
    stock = jax.jit(
        lambda ct, *args: (lambda y, vjp: (y, vjp(ct)))(*jax.vjp(functools.partial(op.stock, **options), *args))
    )
    in_stock, cts_in_stock = stock(ct, *args)
    with np.errstate(all="ignore"):  # Float64 is not enough for all of them.
        exact, exact_cts = reference(op, tuple(args), ct, **options)
    looked_at = 0
    for name, found, other, truth in zip(
        ("value", *op.arguments), (y, *cts), (in_stock, *cts_in_stock), (exact, *exact_cts), strict=True
    ):
        if np.asarray(found).dtype == np.float32:  # The condition of `where` has no cotangent.
            assert np.shape(truth) == (COUNT,)
            normal = (np.abs(truth) >= FINFO.tiny) & (np.abs(truth) <= FINFO.max)
            asked = normal & right(other, truth, 1e-4)
            looked_at += asked.sum()
            wrong = asked & ~right(found, truth, 1e-3)
            worst = np.flatnonzero(wrong)[:3]
            assert not worst.size, (
                f"{wrong.sum()} of {name}, as {found[worst]} for {truth[worst]} at {[x[worst] for x in args]}, "
                f"cotangent {ct[worst]}"
            )
    assert looked_at > COUNT / 2
