"""Attention: any lengths and heads, causal and padded, no matrix of all scores, extreme scores, conventions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine, reference
from jaxbp.jaxprs import equations

OPS = (jaxbp.attention, jaxbp.padded_attention)
BOTH = pytest.mark.parametrize("op", OPS, ids=repr)
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
#: Batch, queries, keys, heads, key heads, d: several blocks that do not come out even, in several groups if causal.
SIZES = [
    pytest.param(jaxbp.attention, (1, 130, 259, 4, 1, 2), False, id="heads that share one key head"),
    pytest.param(jaxbp.attention, (1, 515, 300, 1, 1, 4), True, id="causal, keys end before queries"),
    pytest.param(jaxbp.padded_attention, (2, 150, 210, 4, 2, 3), True, id="padded and causal, queries end first"),
]


def arguments(op, batch, queries, keys, heads=1, key_heads=1, d=4, dtype: Any = np.float32):
    """With padding in the last sequence alone."""
    rng = np.random.default_rng(2)
    shapes = (batch, queries, heads, d), *[(batch, keys, key_heads, d)] * 2
    arrays = tuple(rng.normal(size=s).astype(dtype) for s in shapes)
    if op is jaxbp.attention:
        return arrays
    lengths = (np.full(batch, n, np.int32) for n in (queries, keys))
    return (*arrays, *(np.where(np.arange(batch) == batch - 1, np.maximum(1, n // 2), n) for n in lengths))


def cotangent(args):
    return np.random.default_rng(5).normal(size=args[0].shape).astype(args[0].dtype)


def assert_right(op, args, ct, units=12.0, **options):
    """Within so many units of the largest entry."""
    y, cts = op.value_and_vjp(args, ct, **options)
    exact_y, exact = reference(op, args, ct, **options)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        if truth is None:
            assert actual is None
            continue
        assert actual.shape == truth.shape
        assert actual.dtype == ct.dtype
        allowed = units * float(jnp.finfo(ct.dtype).eps) * np.abs(truth).max(initial=0)
        assert np.abs(np.asarray(actual, np.float64) - truth).max(initial=0) <= allowed


@pytest.mark.parametrize(("op", "sizes", "causal"), SIZES)
def test_any_lengths_and_heads(op, sizes, causal):
    args = arguments(op, *sizes)
    assert_right(op, args, cotangent(args), causal=causal)


def test_the_reference_is_what_jax_computes_with_options_and_shared_heads():
    op, options = jaxbp.padded_attention, {"causal": True, "scale": 0.3}
    args = arguments(op, 2, 6, 9, 4, 2)
    y, cts = op.value_and_vjp(args, cotangent(args), engine="autodiff", **options)
    exact_y, exact = reference(op, args, cotangent(args), **options)
    for actual, truth in zip((y, *cts[:3]), (exact_y, *exact[:3]), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-6)
    assert_right(op, args, cotangent(args), **options)


def test_without_a_batch_axis():
    args = arguments(jaxbp.padded_attention, 1, 6, 9, 2)
    y = jaxbp.padded_attention(*(x[0] for x in args))
    np.testing.assert_allclose(y, reference(jaxbp.padded_attention, args, args[0])[0][0], rtol=1e-5)


@pytest.mark.parametrize(("op", "queries", "keys"), [(OPS[0], 3, 0), (OPS[1], 0, 3)], ids=str)
def test_no_keys_or_no_queries(op, queries, keys):
    args = arguments(op, 2, queries, keys)
    y, cts = op.value_and_vjp(args, cotangent(args))
    assert y.shape == args[0].shape
    assert not y.any()
    assert not any(ct.any() for ct in cts[:3])


def test_heads_that_are_taken_in_turn(monkeypatch):
    args = arguments(jaxbp.attention, 3, 9, 8, 2, 2)
    together = jaxbp.attention(*args)
    # Four of the six heads together, then two.
    monkeypatch.setattr("jaxbp.blocks._SCORES", (4 * 9 * 8, 0))
    in_turn = jax.jit(jaxbp.attention.default_rule.fwd)(*args)[0]
    np.testing.assert_allclose(in_turn, together, rtol=1e-6)


# Padding.


def test_a_sequence_without_keys_and_a_query_beyond_its_length_give_0():
    q, k, v, *_ = arguments(jaxbp.padded_attention, 3, 4, 5)
    lengths = np.array([2, 4, 0]), np.array([5, 0, 3])
    ct = cotangent((q,))
    y, cts = jaxbp.padded_attention.value_and_vjp((q, k, v, *lengths), ct)
    ct_q, ct_k, ct_v, *none = cts
    assert none == [None, None]
    assert not any(x[1:].any() for x in (y, ct_q, ct_k, ct_v))
    assert not any(x[0, 2:].any() for x in (y, ct_q))
    alone = jaxbp.attention.value_and_vjp((q[:1, :2], k[:1], v[:1]), ct[:1, :2])
    for padded, whole in zip((y[:1, :2], ct_q[:1, :2], ct_k[:1], ct_v[:1]), (alone[0], *alone[1]), strict=True):
        np.testing.assert_allclose(padded, whole, rtol=1e-5, atol=1e-6)
    # jax.nn attends to the padding instead.
    stock = jax.jit(jaxbp.padded_attention.stock)(q, k, v, *lengths)
    np.testing.assert_allclose(stock[1], np.broadcast_to(v[1].mean(0), v[1, :4].shape), rtol=1e-5)


@pytest.mark.parametrize("waste", [np.nan, np.inf, 1e30])
def test_what_stands_beyond_the_lengths_does_not_matter(waste):
    args = arguments(jaxbp.padded_attention, 2, 6, 8, 2)
    ct = cotangent(args)
    spoilt = [x.copy() for x in (*args[:3], ct)]
    for x, lengths in zip(spoilt, (args[3], args[4], args[4], args[3]), strict=True):
        x[-1, lengths[-1] :] = waste
    q, k, v, ct_spoilt = spoilt
    y, cts = jaxbp.padded_attention.value_and_vjp(args, ct)
    again, cts_again = jaxbp.padded_attention.value_and_vjp((q, k, v, *args[3:]), ct_spoilt)
    for a, b in zip((y, *cts[:3]), (again, *cts_again[:3]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["int8", "uint32"])
def test_lengths_of_any_integer_dtype_and_too_large_ones(dtype):
    q, k, v, *_ = arguments(jaxbp.padded_attention, 2, 300, 200)
    long = np.array([100, np.iinfo(dtype).max]).astype(dtype)
    y = jaxbp.padded_attention(q, k, v, long, long)
    limit = np.minimum(long.astype(object), 300).astype(np.int32)
    np.testing.assert_array_equal(y, jaxbp.padded_attention(q, k, v, limit, limit))


# Memory.


@BOTH
@CAUSAL
def test_no_matrix_of_all_scores_is_in_the_program(op, causal):
    n = 700
    args = arguments(op, 1, n, n)

    def largest(engine):
        traced = jax.make_jaxpr(lambda args, ct: op.value_and_vjp(args, ct, engine=engine, causal=causal))
        return max(v.aval.size for eqn in equations(traced(args, cotangent(args))) for v in eqn.outvars)

    assert largest("rule:blocks") <= 128 * n
    assert largest("autodiff") >= n * n


def test_memory_is_linear_in_the_length():
    def planned(name, n):
        args, engine = arguments(jaxbp.attention, 1, n, n, d=16), make_engine(jaxbp.attention, name, causal=True)
        compiled = jax.jit(engine.fwd_bwd).lower(args, cotangent(args)).compile()
        plan = compiled.memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes

    short, long = planned("rule:blocks", 1024), planned("rule:blocks", 2048)
    assert long < 2.2 * short
    assert 10 * long < planned("autodiff", 2048)


def test_residuals_are_the_inputs_and_two_numbers_a_query():
    q, k, v = arguments(jaxbp.attention, 2, 6, 9, 4, 2)
    kept = jax.make_jaxpr(lambda *xs: jax.tree.leaves(jax.vjp(jaxbp.attention, *xs)[1]))(q, k, v).jaxpr
    own = [x for x in kept.outvars if x not in kept.invars]
    assert sum(x.aval.size for x in own) == 2 * (2 * 6 * 4)


# Scores of every kind.


@pytest.mark.parametrize(("op", "causal"), [(OPS[0], False), (OPS[1], True)], ids=str)
@pytest.mark.parametrize("size", [1e2, 1e10, 3e18])
def test_large_scores_choose_as_the_reference_does(op, causal, size):
    q, *rest = arguments(op, 2, 6, 8, 2)
    args = (q * np.float32(size), *rest)
    # At 1e2 and beyond rounding of a score is felt in its exponential.
    y, cts = op.value_and_vjp(args, cotangent(args), causal=causal)
    exact, _ = reference(op, args, cotangent(args), causal=causal)
    np.testing.assert_allclose(y, exact, rtol=2e-4, atol=1e-4)
    assert all(np.isfinite(ct).all() for ct in cts[:3])


@pytest.mark.parametrize("rule", jaxbp.attention.rules)
@pytest.mark.parametrize("size", [1e2, 1e3])
def test_large_scores_cost_no_more_digits_than_in_autodiff(rule, size):
    """The backward pass of flash attention, from the logsumexp, loses six times as many at 1e3."""
    rng = np.random.default_rng(0)
    q, k, v, ct = (rng.normal(size=(1, 256, 2, 64)).astype("f") for _ in range(4))
    args = (q * np.float32(size), k, v)
    _, exact = reference(jaxbp.attention, args, ct)

    def errors(engine):
        _, cts = jaxbp.attention.value_and_vjp(args, ct, engine=engine)
        return np.array([np.abs(np.asarray(x, np.float64) - truth).max() for x, truth in zip(cts, exact, strict=True)])

    assert (errors(f"rule:{rule}") < 1.3 * errors("autodiff")).all()


FORWARD = [jax.jit(f, static_argnames="causal") for f in (jaxbp.attention, jaxbp.attention.stock)]


@CAUSAL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_is_so_where_it_is_for_stock(bad, place, causal):
    args = arguments(jaxbp.attention, 2, 4, 5)
    args[place][0, 2] = bad
    ours, theirs = (f(*args, causal=causal) for f in FORWARD)
    assert np.isfinite(ours)[1].all()
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))


def test_narrow_dtypes_are_rounded_once():
    args = arguments(jaxbp.padded_attention, 2, 200, 150, 2, dtype=jnp.dtype("bfloat16"))
    assert_right(jaxbp.padded_attention, args, cotangent(args), units=0.51)


def test_second_derivatives_are_those_of_the_dense_formula():
    """Over two blocks."""
    args = arguments(jaxbp.attention, 1, 130, 5, d=2)
    ct = cotangent(args)

    def second(f):
        def slope(q, k, v):
            grads = jax.grad(lambda *xs: jnp.sum(ct * f(*xs, causal=True)), (0, 1, 2))(q, k, v)
            return sum(jnp.sum(jnp.sin(g)) for g in grads)

        return jax.jit(jax.grad(slope, (0, 1, 2)))(*args)

    for ours, dense in zip(second(jaxbp.attention), second(jaxbp.attention.exact), strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-3, atol=1e-4)


# Sentences.


def test_what_does_not_fit_is_a_sentence():
    q, k, v = arguments(jaxbp.attention, 2, 3, 4, 2)
    with pytest.raises(
        ValueError, match=r"attention cannot take .* got \[2, 3, 2, 4\], \[2, 4, 1, 4\] and \[2, 4, 1, 3\]"
    ):
        jaxbp.attention(q, k, v[..., :3])
    with pytest.raises(ValueError, match="heads of q must be a multiple of those of k and v, got 1 and 2"):
        jaxbp.attention(q[:, :, :1], *(np.repeat(x, 2, axis=2) for x in (k, v)))
    with pytest.raises(ValueError, match=r"lengths must have the shape of the batch, \[2\], got \[2\] and \[\]"):
        jaxbp.padded_attention(q, k, v, np.ones(2, int), 1)
    with pytest.raises(TypeError, match="query_seq_lengths must not be of a floating dtype, got float32"):
        jaxbp.padded_attention(q, k, v, np.ones(2, np.float32), np.ones(2, int))
