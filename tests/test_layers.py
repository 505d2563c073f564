"""Embeddings: ids that repeat, from the end, outside. Convolutions: strides, margins, sizes, layouts, empty images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine, reference
from jaxbp.measure.executables import compile_modes

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_rows_that_repeat_add_up():
    ids = jnp.array([[2, 0], [2, 2]])
    y, (ct, none) = jaxbp.embedding.value_and_vjp((TABLE, ids), jnp.ones((2, 2, 3)))
    assert none is None
    np.testing.assert_array_equal(y, TABLE[np.asarray(ids)])
    assert ct[:, 0].tolist() == [1, 0, 3, 0]


def test_wide_ids_that_are_outside_do_not_become_rows_in_int32():
    with jax.enable_x64(True):
        for ids in (np.array([2**32 - 1, 1], np.uint32), jnp.array([2**32, 1]), jnp.array([-(2**63), 1])):
            y, (ct, _) = jaxbp.embedding.value_and_vjp((TABLE, ids), np.ones((2, 3), np.float32))
            assert np.isnan(y[0]).all()
            assert ct[:, 0].tolist() == [0, 1, 0, 0]


def test_a_frequent_token_loses_nothing_in_bfloat16():
    ids, ct = jnp.zeros(1000, jnp.int32), jnp.ones((1000, 1), jnp.bfloat16)
    table = jnp.zeros((2, 1), jnp.bfloat16)
    (_, (ct_table, _)) = jaxbp.embedding.value_and_vjp((table, ids), ct)
    assert ct_table.dtype == jnp.bfloat16
    assert ct_table.tolist() == [[1000], [0]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_ids_from_the_end_and_outside(dtype):
    # More rows than int8 has numbers.
    table = np.arange(300, dtype=np.float32)[:, None]
    ids = np.array([3, 100, 127], dtype) if dtype == "uint8" else np.array([3, -1, -128], dtype)
    y, (ct, _) = jaxbp.embedding.value_and_vjp((table, ids), np.ones((3, 1), np.float32))
    expected = ids.astype(int) % 300
    assert y[:, 0].tolist() == expected.tolist()
    assert np.flatnonzero(ct).tolist() == sorted(expected)
    if dtype == "int32":
        outside = np.array([300, -301, 5], dtype)
        y, (ct, _) = jaxbp.embedding.value_and_vjp((table, outside), np.ones((3, 1), np.float32))
        assert np.isnan(y[:, 0]).tolist() == [True, True, False]
        assert np.flatnonzero(ct).tolist() == [5]
        np.testing.assert_array_equal(y, jnp.take(table, outside, axis=0))


def test_one_id_and_none():
    y, (ct, _) = jaxbp.embedding.value_and_vjp((TABLE, np.int32(1)), np.ones(3, np.float32))
    assert (y.tolist(), ct.sum(axis=1).tolist()) == ([3, 4, 5], [0, 3, 0, 0])
    y, (ct, _) = jaxbp.embedding.value_and_vjp((TABLE, np.zeros(0, np.int32)), np.ones((0, 3), np.float32))
    assert (y.shape, np.abs(ct).sum()) == ((0, 3), 0)


def test_embedding_keeps_nothing():
    args = jaxbp.embedding.case("small").arguments(np.dtype(np.float32))
    engine = make_engine(jaxbp.embedding, "rule:scatter")
    passes = compile_modes(engine, engine.prepare(args), jnp.ones((32, 8)), ("fwd_res", "bwd"))
    assert passes["fwd_res"].residual_bytes == 0


def test_ids_are_not_made_indices_twice():
    """Value and gradient are the very program that autodiff's are: what counts ids from the end costs a loop."""
    case = jaxbp.embedding.case("cache")
    args, ct = case.arguments(np.dtype(np.float32)), np.ones((1024, 64), np.float32)
    programs = set()
    for name in ("rule:scatter", "autodiff"):
        engine = make_engine(jaxbp.embedding, name)
        programs.add(compile_modes(engine, engine.prepare(args), ct, ("fwd_bwd",))["fwd_bwd"].program)
    assert len(programs) == 1
    assert None not in programs


#: Of image and kernel, stride and padding.
CONVOLUTIONS = [
    ((2, 6, 5, 3), (3, 3, 3, 2), 1, "SAME"),
    ((2, 7, 5, 3), (3, 2, 3, 4), 2, "SAME"),
    ((2, 7, 6, 3), (4, 3, 3, 2), (2, 3), "VALID"),
    ((1, 8, 9, 2), (3, 3, 2, 2), 3, ((2, 0), (1, 4))),
    ((1, 3, 3, 2), (5, 5, 2, 2), 1, "SAME"),
    ((2, 5, 6, 3), (1, 1, 3, 4), 1, "SAME"),
    ((2, 5, 6, 3), (1, 1, 3, 4), (1, 3), "VALID"),
    ((2, 5, 6, 3), (1, 1, 3, 4), 2, ((1, 1), (0, 2))),
    ((2, 1, 1, 3), (1, 1, 3, 1), 2, "SAME"),
]


@pytest.mark.parametrize(("x", "w", "stride", "padding"), CONVOLUTIONS, ids=str)
def test_convolutions_of_all_strides_and_margins(x, w, stride, padding):
    rng = np.random.default_rng(2)
    args = tuple(rng.normal(size=shape).astype(np.float32) for shape in (x, w))
    options = {"stride": stride, "padding": padding}
    stock = jaxbp.conv2d.stock(*args, **options)
    ct = rng.normal(size=stock.shape).astype(np.float32)
    y, cts = jaxbp.conv2d.value_and_vjp(args, ct, **options)
    np.testing.assert_allclose(y, stock, rtol=1e-5, atol=1e-5)
    exact_y, exact = reference(jaxbp.conv2d, args, ct, **options)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        np.testing.assert_allclose(actual, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "w", "padding"),
    [
        ((0, 4, 4, 2), (3, 3, 2, 2), "SAME"),
        ((0, 4, 4, 2), (1, 1, 2, 2), "SAME"),
        ((2, 4, 4, 0), (3, 3, 0, 2), "SAME"),
        ((2, 4, 4, 2), (3, 3, 2, 0), "SAME"),
        ((2, 3, 3, 2), (5, 5, 2, 2), "VALID"),
    ],
    ids=str,
)
def test_without_images_channels_or_room_for_the_kernel_all_is_0(x, w, padding):
    args = (np.ones(x, np.float32), np.ones(w, np.float32))
    out = jaxbp.conv2d.output(args, {"padding": padding})
    y, cts = jaxbp.conv2d.value_and_vjp(args, np.ones(out.shape, np.float32), padding=padding)
    for actual, like in zip((y, *cts), (out, *args), strict=True):
        assert actual.shape == like.shape
        assert not np.any(actual)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)], ids=str)
def test_second_derivatives_of_a_convolution(kernel):
    rng = np.random.default_rng(4)
    x, w = rng.normal(size=(1, 4, 5, 2)).astype(np.float32), rng.normal(size=(*kernel, 2, 3)).astype(np.float32)

    def second(f):
        def slope(w):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, w, stride=2))))(x) ** 2)

        return jax.jit(jax.grad(slope))(w)

    np.testing.assert_allclose(second(jaxbp.conv2d), second(jaxbp.conv2d.stock), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_convolutions_add_up_in_float32(dtype):
    # Added one by one in bfloat16 the sum would stop at 64, in float16 at 512.
    x, w = jnp.full((1, 16, 32, 8), 4, dtype), jnp.full((16, 32, 8, 1), 4, dtype)
    y, (ct_x, ct_w) = jaxbp.conv2d.value_and_vjp((x, w / 64), jnp.ones((1, 1, 1, 1), dtype), padding="VALID")
    assert y.dtype == ct_x.dtype == ct_w.dtype == dtype
    assert float(y[0, 0, 0, 0]) == 1024


@pytest.mark.parametrize("shape", [(4, 4, 2), (1, 4, 4, 3)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)], ids=str)
def test_what_does_not_fit_is_a_sentence(shape, kernel):
    with pytest.raises(ValueError, match=r"conv2d cannot take x float32\[.*\], w float32\[.*\]: "):
        jaxbp.conv2d(jnp.ones(shape), jnp.ones((*kernel, 2, 2)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stride": 0}, "stride must be a positive whole number, or two, got 0"),
        ({"stride": (1, -1)}, r"stride must be a positive whole number, or two, got \(1, -1\)"),
        ({"stride": (1,)}, r"stride must be a positive whole number, or two, got \(1,\)"),
        ({"padding": "FOO"}, "padding must be one of SAME, SAME_LOWER, VALID, or numbers before and after, got 'FOO'"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_a_sentence(options, sentence):
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    for call in (jaxbp.conv2d, lambda *args, **how: jaxbp.conv2d.value_and_vjp(args, x, **how)):
        with pytest.raises(ValueError, match=f"conv2d cannot take .*: {sentence}"):
            call(x, w, **options)
