"""mean_linear_cross_entropy: blocks of every size, no logits kept, one pass over them, labels of every kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine, reference
from jaxbp.measure.executables import compile_modes
from jaxbp.ops import mean_losses

OP = jaxbp.mean_linear_cross_entropy


def drawn(tokens=(7,), d=3, classes=5):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(*tokens, d)).astype("f"), rng.normal(size=(d, classes)).astype("f")
    return x, w, rng.integers(-classes, classes, tokens)


@pytest.mark.parametrize("block", [None, 1, 2, 3, 7, 20])
def test_blocks_that_divide_the_tokens_or_do_not(block):
    args, ct = drawn(), np.array(1.5, np.float32)
    y, cts = OP.value_and_vjp(args, ct, block=block)
    exact_y, exact = reference(OP, args, ct)
    np.testing.assert_allclose(y, exact_y, rtol=1e-6)
    for actual, truth in zip(cts[:2], exact, strict=False):
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-7)


def test_any_leading_axes():
    x, w, labels = drawn((2, 3))
    y, (ct_x, ct_w, _) = OP.value_and_vjp((x, w, labels), np.float32(1))
    flat_y, (flat_x, flat_w, _) = OP.value_and_vjp((x.reshape(6, 3), w, labels.reshape(6)), np.float32(1))
    assert (y, ct_w.tolist()) == (flat_y, flat_w.tolist())
    assert ct_x.reshape(6, 3).tolist() == flat_x.tolist()


def test_it_is_the_mean_of_the_losses_of_each_token():
    x, w, labels = drawn((40,))
    f = jax.jit(jax.value_and_grad(lambda x, w: jnp.mean(jaxbp.linear_cross_entropy(x, w, labels)), (0, 1)))
    y, grads = f(x, w)
    ours, (ct_x, ct_w, _) = OP.value_and_vjp((x, w, labels), np.float32(1), block=16)
    np.testing.assert_allclose(ours, y, rtol=1e-6)
    for actual, expected in zip((ct_x, ct_w), grads, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)


def test_neither_logits_nor_more_than_a_block_of_them_are_held():
    tokens, d, classes = 512, 8, 4096
    args = (np.zeros((tokens, d), "f"), np.zeros((d, classes), "f"), np.zeros(tokens, np.int32))
    engine = make_engine(OP, "rule:forward", block=32, precision=None)
    modes = compile_modes(engine, engine.prepare(args), jnp.float32(1), ("fwd_res", "bwd"))
    assert modes["fwd_res"].residual_bytes == 4 * (tokens * d + d * classes)
    assert (modes["fwd_res"].temp_bytes or np.inf) < 4 * tokens * classes / 3


def test_features_that_do_not_fit_are_told_without_tokens_too():
    for tokens in (0, 2):
        with pytest.raises(ValueError, match=r"cannot take x float32\[\d, 5\], w float32\[3, 4\]"):
            OP(jnp.ones((tokens, 5)), jnp.ones((3, 4)), jnp.zeros(tokens, int))


@pytest.mark.parametrize("op", [OP, jaxbp.linear_cross_entropy], ids=repr)
def test_a_language_models_last_layer_takes_a_fifteenth_of_the_memory(op):
    """As compiled, without running it."""
    x, w, labels = (jax.ShapeDtypeStruct(s, np.float32) for s in ((4096, 256), (256, 32000), (4096,)))
    args = x, w, jax.ShapeDtypeStruct(labels.shape, np.int32)
    ct = jax.eval_shape(op, *args)

    def planned(name):
        plan = jax.jit(make_engine(op, name).fwd_bwd).lower(args, ct).compile().memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes

    assert 15 * planned(f"rule:{op.default_rule.name}") < planned("autodiff")


@pytest.mark.parametrize(
    ("tokens", "features", "classes", "expected"),
    [
        (4096, 256, 32000, 256),
        (4096, 768, 50257, 512),
        (8192, 4096, 128256, 1024),
        (4096, 16, 8192, 512),
        (4099, 256, 32000, 242),
        (7, 3, 5, 7),
        (3, 2, 2**23, 3),
        (0, 3, 5, 0),
    ],
)
def test_default_blocks_have_as_many_tokens_as_features_and_leave_none_over(tokens, features, classes, expected):
    w = jax.ShapeDtypeStruct((features, classes), np.float32)
    assert mean_losses._block_of_tokens(tokens, w, None) == expected


@pytest.mark.parametrize("block", [None, 1, 2])
def test_the_slope_of_a_certain_label_keeps_its_digits(block):
    x, w = np.array([[1, 2], [-1, 3]], "f"), np.array([[20, 0, -3], [5, 0, 1]], "f")
    args, ct = (x, w, np.array([0, -1])), np.array(1, np.float32)
    _, cts = OP.value_and_vjp(args, ct, block=block)
    for actual, truth in zip(cts[:2], reference(OP, args, ct)[1], strict=False):
        np.testing.assert_allclose(actual, truth, rtol=1e-5)


def test_small_gradients_of_many_tokens_outlast_float16():
    x, w, labels = drawn((2**18,))
    args, ct = (x.astype(np.float16), w.astype(np.float16), labels), np.array(2.0**14, np.float16)  # A loss scale.
    _, cts = OP.value_and_vjp(args, ct, block=2**16)
    _, exact = reference(OP, args, ct)
    for actual, truth in zip(cts[:2], exact, strict=False):
        typical = np.median(np.abs(truth))
        np.testing.assert_allclose(np.asarray(actual, np.float64), truth, rtol=1e-3, atol=1e-3 * typical)
    # As they are, without the scale, most would be rounded to a few digits or to 0.
    assert np.median(np.abs(exact[0])) / 2.0**14 < np.finfo(np.float16).tiny


@pytest.mark.parametrize("block", [None, 1])
@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0)], ids=str)
def test_no_tokens_and_no_features(shape, block):
    x, w, labels = jnp.zeros(shape), jnp.ones((shape[1], 2)), jnp.zeros(shape[0], int)
    for f in (functools.partial(OP, block=block), OP.stock):
        ct_x, ct_w = jax.grad(f, (0, 1))(x, w, labels)
        np.testing.assert_array_equal(ct_x, np.zeros(shape))
        np.testing.assert_array_equal(ct_w, np.zeros((shape[1], 2)))


def test_a_label_that_is_none_is_not_a_number():
    x, w, _ = drawn((2,))
    assert np.isnan(OP(x, w, np.array([1, 5])))


@pytest.mark.parametrize("block", [0, -3])
def test_a_block_without_tokens_is_a_sentence(block):
    with pytest.raises(ValueError, match=rf"block must be a positive number of tokens, got {block}"):
        OP(*drawn(), block=block)


def test_labels_that_do_not_fit_are_a_sentence():
    x, w, labels = drawn()
    with pytest.raises(ValueError, match=r"mean_linear_cross_entropy cannot take .*\[7\], got \[6\]"):
        OP(x, w, labels[:6])
