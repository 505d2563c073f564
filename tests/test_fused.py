"""Fused ops: blocks of every size, no full logits anywhere, labels of every kind, digits, huge and infinite logits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.accuracy.exact import exact_vjp
from jaxbp.accuracy.ulp import ulp_error
from jaxbp.engines import make_engine, reference
from jaxbp.measure.executables import compile_modes

OP = jaxbp.linear_cross_entropy
X = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25], [2.0, 1.0]], np.float32)
W = np.array([[0.5, -1.0, 2.0, 0.0, 1.5], [1.0, 0.25, -0.5, 3.0, -2.0]], np.float32)


def value_and_grads(f, x, w, labels, **options):
    """The losses, and the gradients of their sum."""

    @jax.jit
    def both(x, w):
        y, pull = jax.vjp(lambda x, w: f(x, w, labels, **options), x, w)
        return y, *pull(jnp.ones_like(y))

    return both(x, w)


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_blocks_that_divide_the_classes_or_do_not(chunk):
    args, ct = (X, W, np.array([4, 0, -1, -4], np.int32)), np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    y, cts = OP.value_and_vjp(args, ct, chunk=chunk)
    exact_y, exact = reference(OP, args, ct)
    np.testing.assert_allclose(y, exact_y, rtol=1e-6)
    for actual, truth in zip(cts[:2], exact, strict=False):
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_without_classes_is_a_sentence(chunk):
    with pytest.raises(ValueError, match=rf"linear_cross_entropy: chunk must be a positive number .*, got {chunk}"):
        OP(X, W, np.zeros(4, np.int32), chunk=chunk)


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match=r"linear_cross_entropy cannot take .*: labels must have .*\[4\], got \[3\]"):
        OP(X, W, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"linear_cross_entropy cannot take x float32\[4, 2\], w float32\[5, 2\]"):
        OP(X, W.T, np.zeros(4, np.int32))


def test_any_leading_axes_and_none():
    labels = np.array([4, 0, 2, 3], np.int32)
    y, ct_x, ct_w = value_and_grads(OP, X, W, labels)
    y_2d, ct_x_2d, ct_w_2d = value_and_grads(OP, X.reshape(2, 2, 2), W, labels.reshape(2, 2))
    assert y_2d.tolist() == y.reshape(2, 2).tolist()
    assert ct_x_2d.tolist() == ct_x.reshape(2, 2, 2).tolist()
    assert ct_w_2d.tolist() == ct_w.tolist()
    assert OP(X[1], W, labels[1]).shape == ()


@pytest.mark.parametrize("shapes", [((0, 2), (2, 3)), ((3, 0), (0, 4)), ((2, 3), (3, 1))], ids=str)
def test_no_tokens_no_features_and_one_class(shapes):
    x, w = (np.ones(shape, np.float32) for shape in shapes)
    labels = np.zeros(shapes[0][0], np.int32)
    for actual, stock in zip(value_and_grads(OP, x, w, labels), value_and_grads(OP.stock, x, w, labels), strict=True):
        np.testing.assert_allclose(actual, stock, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_labels_are_those_of_softmax_cross_entropy(dtype):
    def composed(x, w, labels):
        return jaxbp.softmax_cross_entropy(x @ w, labels)

    for labels in ([4, -1, 1, -5], [0, 5, -6, 1]):
        results = value_and_grads(OP, X, W, jnp.array(labels, dtype), chunk=2)
        for actual, expected in zip(results, value_and_grads(composed, X, W, jnp.array(labels)), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 2])
def test_wide_labels_that_are_none_do_not_become_some_in_int32(chunk):
    labels = np.array([2**32 - 1, 2, 4, 0], np.uint32)
    assert np.isnan(OP(X, W, labels, chunk=chunk)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 2, 2), (5, 3, 3)], ids=str)
def test_a_single_block_under_vmap(sizes):
    """XLA cannot lower a product behind a barrier and then transposed, where vmap gives it a further axis."""
    n, d, classes = sizes
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(2, n, d)).astype(np.float32), rng.normal(size=(d, classes)).astype(np.float32)
    labels = np.arange(n) % classes

    def grads(f):
        return jax.vmap(jax.grad(lambda x, w: f(x, w, labels).sum(), (0, 1)), (0, None))(x, w)

    ours = grads(lambda *args: OP(*args, chunk=classes))
    for actual, expected in zip(ours, grads(OP.stock), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_digits_where_the_label_is_all_but_certain():
    x, w, labels = 8 * X[3:], 2 * W, np.array([2], np.int32)
    ct = np.ones(1, np.float32)
    exact_y, exact = exact_vjp(OP, (x, w, labels), ct)
    y, cts = OP.value_and_vjp((x, w, labels), ct, chunk=2)
    stock, _ = OP.value_and_vjp((x, w, labels), ct, engine="autodiff")
    assert exact_y < 1e-3
    assert ulp_error(np.asarray(y), exact_y).max() <= 16
    assert ulp_error(np.asarray(cts[1]), exact[1]).max() <= 32
    assert ulp_error(np.asarray(stock), exact_y).max() > 100


@pytest.mark.parametrize(("classes", "rest"), [(32000, False), (32003, True)])
def test_blocks_leave_no_rest_where_a_few_more_do_not(classes, rest):
    shapes = ((4096, 8), np.float32), ((8, classes), np.float32), ((4096,), np.int32)
    traced = jax.make_jaxpr(OP.default_rule.fwd)(*itertools.starmap(jax.ShapeDtypeStruct, shapes))
    assert any(eqn.primitive.name == "scan" for eqn in traced.eqns)
    assert any(eqn.primitive.name == "dot_general" for eqn in traced.eqns) == rest


def test_huge_logits_and_masks_as_stock():
    inf = np.inf
    w = np.array([[-inf, 1e4, 1e4, -3e38, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)
    x = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [0.5, 1.0]], np.float32)
    for labels in ([1, 2, 4, 4], [0, 1, 1, 3]):
        labels = np.array(labels)
        # Stock rounds the logarithm of the sum where it has added the largest logit.
        np.testing.assert_allclose(OP(x, w, labels, chunk=2), OP.stock(x, w, labels), rtol=1e-3)
    infinite = np.array([[0.0, inf, 0.0], [0.0, 0.0, 0.0]], np.float32)
    assert OP(1 + x[:2], infinite, np.array([0, 2]), chunk=1).tolist() == [inf, inf]
    huge = value_and_grads(OP, x, w[:, 1:], np.array([0, 1, 3, 3]), chunk=1)
    assert all(np.isfinite(part).all() for part in huge)


def test_logits_that_round_otherwise_in_the_backward_pass_make_no_huge_gradient():
    labels, ct = np.array([4, 0, 2, 1], np.int32), np.ones(4, np.float32)
    _, (x, w, labels, shift, others, total) = OP.default_rule.fwd(X, W, labels, chunk=2)
    # As if the largest logits had been smaller by 5, as rounding may have it where they are about 1e8.
    ct_x, _, _ = OP.default_rule.bwd((x, w, labels, shift - 5, others, total), ct, chunk=2)
    assert np.abs(ct_x).max() <= 2 * np.abs(W).max() * W.shape[1]


def test_narrow_arguments_are_computed_in_float32_and_rounded_once():
    labels = jnp.array([4, 0, 2, 3])
    wide = value_and_grads(OP, X, W, labels, chunk=2)
    narrow = value_and_grads(OP, jnp.bfloat16(X), jnp.bfloat16(W), labels, chunk=2)
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, rtol=2.0**-8, atol=1e-6)


def test_second_derivatives_agree_with_those_of_stock():
    labels = jnp.array([4, 0, 2, 3])

    def curved(f):
        def slope(x, w):
            return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(lambda *xw: jnp.sum(f(*xw) ** 2), (0, 1))(x, w))

        return jax.jit(jax.grad(slope, (0, 1)))(X, W)

    ours, stock = curved(lambda x, w: OP(x, w, labels, chunk=2)), curved(lambda x, w: OP.stock(x, w, labels))
    for actual, expected in zip(ours, stock, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-4)


def test_under_shard_map():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, labels = jax.sharding.PartitionSpec, np.array([4, 0, 2, 3])

    def part(x, w, n):
        return jax.lax.psum(OP(x, w, n, chunk=2).sum(), "i")

    sharded = jax.shard_map(part, mesh=mesh, in_specs=(spec("i"), spec(), spec("i")), out_specs=spec())
    expected = value_and_grads(OP, X, W, labels, chunk=2)[1:]
    for actual, truth in zip(jax.grad(sharded, (0, 1))(X, W, labels), expected, strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-6)


def test_few_logits_are_kept_and_not_computed_again():
    labels, ct = np.array([4, 0, -1, -4], np.int32), np.array([1.0, -2.0, 0.5, 3.0], np.float32)
    passes = compile_modes(make_engine(OP, "rule:chunked"), (X, W, labels), ct, ("fwd_res", "bwd"))
    # Their exponentials, and two sums a token.
    assert passes["fwd_res"].residual_bytes == 4 * len(X) * (W.shape[1] + 2)
    blocks = OP.value_and_vjp((X, W, labels), ct, chunk=2)
    for actual, expected in zip(
        jax.tree.leaves(OP.value_and_vjp((X, W, labels), ct)), jax.tree.leaves(blocks), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_three_numbers_a_token_are_kept_and_no_pass_holds_the_logits():
    tokens, d, classes = 512, 8, 8192
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((tokens, d), (d, classes)))
    labels, ct = rng.integers(0, classes, tokens, dtype=np.int32), np.ones(tokens, np.float32)
    engine = make_engine(OP, "rule:chunked", chunk=512)
    passes = compile_modes(engine, (x, w, labels), ct, ("fwd_res", "bwd"))
    assert passes["fwd_res"].residual_bytes == 3 * 4 * tokens
    # The logits of a block and their slopes are a sixteenth of all logits each.
    for mode, executable in passes.items():
        assert executable.temp_bytes is not None
        assert executable.temp_bytes < 4 * tokens * classes / 6, mode


@pytest.mark.parametrize("shape", [(3,), (2, 5, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("units", [1, 8, 13])
def test_bits_of_any_number_of_outputs(shape, units):
    rng = np.random.default_rng(0)
    args = tuple(rng.normal(size=s).astype(np.float32) for s in (shape, (3, units), (units,)))
    ct = rng.normal(size=(*shape[:-1], units)).astype(np.float32)
    y, cts = jaxbp.linear_relu.value_and_vjp(args, ct)
    exact_y, exact = reference(jaxbp.linear_relu, args, ct)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-6)


def test_relu_of_0_and_of_nan_passes_no_gradient_on():
    x, w, b = np.array([[1.0], [2.0], [np.nan]], np.float32), np.ones((1, 1), np.float32), np.float32(-1)
    y, (ct_x, _, ct_b) = jaxbp.linear_relu.value_and_vjp((x, w, b), np.full((3, 1), 5, np.float32))
    assert y[:2].tolist() == [[0], [1]]
    assert np.isnan(y[2, 0])
    assert ct_x.tolist() == [[0], [5], [0]]
    assert ct_b == 5


def test_one_bit_an_output_is_kept():
    case = jaxbp.linear_relu.case("small")
    args, ct = case.arguments(np.dtype(np.float32)), case.cotangent((16, 16), np.dtype(np.float32))
    passes = compile_modes(make_engine(jaxbp.linear_relu, "rule:bits"), args, ct, ("fwd_res", "bwd"))
    assert passes["fwd_res"].residual_bytes == 16 * 16 / 8
