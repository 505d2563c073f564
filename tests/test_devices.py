"""Ops that compute in other portions on a GPU are as right with those, which are others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.devices import compiled_for
from jaxbp.engines import reference
from jaxbp.jaxprs import equations

RULES = (
    (jaxbp.attention, "blocks"),
    (jaxbp.padded_attention, "blocks"),
    (jaxbp.linear_cross_entropy, "chunked"),
    (jaxbp.mean_linear_cross_entropy, "forward"),
    (jaxbp.cumlogsumexp, "recurrence"),
    (jaxbp.cumsum, "reverse"),
    (jaxbp.layer_norm, "statistics"),
    (jaxbp.logsumexp, "exponentials"),
    (jaxbp.norm, "direction"),
    (jaxbp.power, "parts"),
    (jaxbp.sin, "vectorized"),
    (jaxbp.softmax, "output"),
    (jaxbp.softmax, "input"),
    (jaxbp.softmax_cross_entropy, "exponentials"),
    (jaxbp.log_softmax, "exponentials"),
    (jaxbp.log_softmax, "output"),
)
EVERY_RULE = pytest.mark.parametrize(("op", "name"), RULES, ids=[f"{op}-{name}" for op, name in RULES])


@pytest.fixture
def as_on_a_gpu():
    """What is traced from now on is traced as on a GPU."""
    with compiled_for("gpu"):
        yield


def passes(op, name, **options):
    """Value and cotangents of a rule; a new function each time, so that nothing is taken from a cache."""
    rule = op.rules[name].rule

    def run(args, ct):
        y, res = rule.fwd(*args, **options)
        return y, rule.bwd(res, ct, **options)

    return run


def programs(op, name, shapes, **options):
    """Of both passes, on a processor and on a GPU; the arrays need not exist."""
    drawn = op.case("small").arguments(np.dtype("float32"))
    args = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(shapes, drawn, strict=True)]
    ct = jax.eval_shape(functools.partial(op.stock, **options), *args)
    for platform in ("cpu", "gpu"):
        with compiled_for(platform):
            yield str(jax.make_jaxpr(passes(op, name, **options))(args, ct))


@EVERY_RULE
def test_a_gpu_is_given_another_program(op, name):
    on_a_processor, on_a_gpu = programs(op, name, op.case("large").shapes)
    assert on_a_processor != on_a_gpu


@EVERY_RULE
def test_it_is_as_right(op, name, as_on_a_gpu):
    case, dtype = op.case("cache"), np.dtype("float32")
    args = case.arguments(dtype)
    ct = case.cotangent(op.output(args, {}).shape, dtype)
    exact_y, exact = reference(op, args, ct)
    y, cts = jax.jit(passes(op, name))(args, ct)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        if truth is not None:
            np.testing.assert_allclose(actual, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


@pytest.mark.parametrize("name", ["output", "input"])
@pytest.mark.parametrize(("shape", "axis"), [((8, 2**14 + 1), -1), ((64, 32), 0), ((4, 8, 16), (0, 2))])
def test_what_takes_a_gpu_several_kernels_is_not_computed_twice(name, shape, axis):
    for op in (jaxbp.softmax, jaxbp.log_softmax):
        on_a_processor, on_a_gpu = programs(op, name, (shape,), axis=axis)
        assert on_a_processor == on_a_gpu


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_whose_squares_leave_the_range(dtype, as_on_a_gpu):
    info = np.finfo(dtype)
    tiny, huge = float(info.tiny), float(info.max) / 16
    low, high = tiny**0.5, huge**0.5
    rng = np.random.default_rng(0)
    rows = rng.uniform(1, 2, (12, 100)) * np.array(
        [[1], [tiny], [huge / 32], [low], [high], [low * 1e-3], [high * 1e3], [0], [1], [1], [low], [high / 64]]
    )
    # Beside each other: what vanishes or overflows, and what does not.
    rows[8, 0], rows[9, 0], rows[10, 0], rows[11, 0] = tiny, huge / 32, 1e-3, high * 1e6
    x = rows.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        run = jax.jit(passes(jaxbp.norm, "direction", axis=-1))  # XLA multiplies constants that meet.
        y, (ct_x,) = run((jnp.asarray(x),), jnp.ones(len(x), dtype))
    exact = np.sqrt(np.sum(np.square(x.astype(np.longdouble)), axis=-1))
    np.testing.assert_allclose(y, exact, rtol=8 * info.eps)
    np.testing.assert_allclose(ct_x, x / np.where(exact == 0, 1, exact)[:, None], rtol=12 * info.eps, atol=tiny)


def test_a_norm_of_many_entries_whose_squares_are_large(as_on_a_gpu):
    n, x = 2**24, np.float32(2.0**52)
    assert float(jax.jit(lambda x: jaxbp.norm(jnp.broadcast_to(x, n)))(x)) == pytest.approx(2.0**64, rel=1e-6)


def test_what_was_traced_for_a_gpu_is_not_kept():
    def traced():
        return str(jax.make_jaxpr(jaxbp.norm)(jnp.ones(3)))

    on_a_processor = traced()
    with compiled_for("gpu"):
        assert traced() != on_a_processor
    assert traced() == on_a_processor


def test_norms_of_what_is_not_finite(as_on_a_gpu):
    y = jax.jit(lambda x: jaxbp.norm(x, axis=-1))(
        jnp.array([[jnp.inf, 1.0], [-jnp.inf, 1e-30], [jnp.nan, 1.0], [jnp.nan, jnp.inf], [0.0, 0.0]])
    )
    np.testing.assert_array_equal(y, [np.inf, np.inf, np.nan, np.nan, 0])


def rows_with(first, mean):
    """Rows of 1,024 entries around a mean, of which the first ones are others."""
    x = np.random.default_rng(0).normal(mean, 1, (16, 1024)).astype(np.float32)
    x[:, : len(first)] = np.float32(first)
    return x


@pytest.mark.parametrize(
    "x",
    [rows_with([], 0), rows_with([], 1e4), rows_with([1e4] * 32, 0), rows_with([1e4], 0)],
    ids=["around 0", "far from 0", "first ones far", "first one far"],
)
def test_variances_are_of_centred_entries(x, as_on_a_gpu):
    """Within a few units of the largest entry, and as many more as cancel where those that are sampled are far away."""
    args = x, np.ones(1024, np.float32), np.zeros(1024, np.float32)
    ct = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    exact_y, (exact_x, *_) = reference(jaxbp.layer_norm, args, ct)
    y, (ct_x, *_) = jax.jit(passes(jaxbp.layer_norm, "statistics"))(args, ct)
    wide = x.astype(np.float64)
    far = np.mean(wide[:, :32], axis=-1) - np.mean(wide, axis=-1)
    cancelled = 1 + np.square(far) / np.var(wide, axis=-1)
    assert np.max(cancelled) < 1 + 1024 / 32
    for actual, exact in ((y, exact_y), (ct_x, exact_x)):
        error = np.max(np.abs(actual - exact), axis=-1) / np.max(np.abs(exact), axis=-1)
        assert np.all(error < 4 * cancelled * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("op", "options"),
    [(jaxbp.norm, {}), (jaxbp.softmax, {}), (jaxbp.log_softmax, {}), (jaxbp.cumlogsumexp, {})],
    ids=lambda value: str(value) if not isinstance(value, dict) else "",
)
def test_second_derivatives(op, options, as_on_a_gpu):
    x = jnp.array([0.5, -1.0, 2.0, 0.25])

    def curvature(f):
        return jax.hessian(lambda x: jnp.sum(jnp.sin(f(x, **options))))(x)

    np.testing.assert_allclose(curvature(op), curvature(op.stock), rtol=1e-4, atol=1e-5)


def test_second_derivatives_of_layer_norm(as_on_a_gpu):
    args = jnp.array([[0.5, -1.0, 2.0, 0.25]]), jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.zeros(4)
    curvatures = [
        jax.hessian(lambda x, f=f: jnp.sum(jnp.sin(f(x, *args[1:]))))(args[0])
        for f in (jaxbp.layer_norm, jaxbp.layer_norm.stock)
    ]
    np.testing.assert_allclose(*curvatures, rtol=1e-4, atol=1e-5)


def test_cudnn_is_given_narrow_numbers_as_they_are(as_on_a_gpu):
    x, w = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.bfloat16), jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.bfloat16)
    traced = jax.make_jaxpr(passes(jaxbp.conv2d, "transpose"))((x, w), x)
    of_convolutions = [eqn.params for eqn in equations(traced) if eqn.primitive.name == "conv_general_dilated"]
    assert len(of_convolutions) == 3
    assert all(params["preferred_element_type"] in (None, jnp.bfloat16) for params in of_convolutions)
