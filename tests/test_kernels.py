"""Kernels: right where they are interpreted, in the form of a GPU and in that of a TPU, and lean by their program."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

import jaxbp
from jaxbp.engines import reference
from jaxbp.jaxprs import equations
from jaxbp.kernels import fold, launch, rms_norm

OPS = (jaxbp.attention, jaxbp.padded_attention, jaxbp.rms_norm)
ATTENTION, PADDED, RMS_NORM = (op.rules["kernel"] for op in OPS)
#: Batch, queries, keys, heads, key heads, d, and whether causal: several blocks that do not come out even, heads that
#: share keys, queries that begin after the last key.
SIZES = [(1, 130, 150, 1, 1, 16, False), (2, 70, 3, 4, 2, 5, True), (1, 130, 200, 2, 2, 33, True)]
ALL = pytest.mark.parametrize("rule", [ATTENTION, PADDED, RMS_NORM], ids=repr)
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])


@pytest.fixture(autouse=True)
def all_digits():
    """On a GPU products of float32 would have 11 of 24 digits."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(params=["gpu", "tpu"])
def form(request, monkeypatch):
    """Kernels in the form that they have on a GPU, or on a TPU, whose memories and grid JAX then simulates."""
    if request.param == "gpu":
        yield request.param
        return

    def start_as_on_a_tpu(start, *args):
        return start("tpu", *args)

    for module in (fold, rms_norm):
        monkeypatch.setattr(module, "on_each_platform", start_as_on_a_tpu)
    monkeypatch.setitem(fold.BLOCK, "tpu", (64, 64))
    with tpu.force_tpu_interpret_mode():
        yield request.param


def attention_arguments(batch, queries, keys, heads, key_heads, d, dtype="float32"):
    rng = np.random.default_rng(2)
    shapes = (batch, queries, heads, d), *[(batch, keys, key_heads, d)] * 2, (batch, queries, heads, d)
    *args, ct = (rng.normal(size=s).astype(jnp.dtype(dtype)) for s in shapes)
    return tuple(args), ct


def assert_right(rule, args, ct, units=12.0, **options):
    """Within so many units of the largest entry; compiled anew, since `value_and_vjp` keeps what it has compiled."""

    @jax.jit
    def run(args, ct):
        y, res = rule.fwd(*args, **options)
        return y, rule.bwd(res, ct, **options)

    y, cts = run(args, ct)
    exact_y, exact = reference(rule.op, args, ct, **options)
    for actual, truth in zip((y, *cts), (exact_y, *exact), strict=True):
        if truth is None:
            assert actual is None
            continue
        assert (actual.shape, actual.dtype) == (truth.shape, ct.dtype)
        allowed = units * float(jnp.finfo(ct.dtype).eps) * np.abs(truth).max(initial=0)
        assert np.abs(np.asarray(actual, np.float64) - truth).max(initial=0) <= allowed


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_attention(form, sizes):
    *sizes, causal = sizes
    assert_right(ATTENTION, *attention_arguments(*sizes), causal=causal, scale=0.3)


@CAUSAL
def test_padded_attention(form, causal):
    """With lengths that end in the midst of a block and between two, and are 0, negative and too large."""
    args, ct = attention_arguments(5, 130, 200, 2, 1, 5)
    lengths = np.array([130, 64, 1, 0, 1000]), np.array([150, 128, 0, 7, -1])
    assert_right(PADDED, (*args, *lengths), ct, causal=causal)


@pytest.mark.parametrize("waste", [np.nan, np.inf])
def test_what_stands_beyond_the_lengths_does_not_matter(form, waste):
    args, ct = attention_arguments(2, 70, 90, 1, 1, 4)
    lengths = np.array([70, 66]), np.array([80, 3])
    y, cts = PADDED.value_and_vjp((*args, *lengths), ct)
    spoilt = [x.copy() for x in (*args, ct)]
    for x, ends in zip(spoilt, (lengths[0], lengths[1], lengths[1], lengths[0]), strict=True):
        for row, end in zip(x, ends, strict=True):
            row[end:] = waste
    again, cts_again = PADDED.value_and_vjp((*spoilt[:3], *lengths), spoilt[3])
    for a, b in zip((y, *cts[:3]), (again, *cts_again[:3]), strict=True):
        np.testing.assert_array_equal(a, b)


@CAUSAL
def test_blocks_beyond_the_lengths_are_left_out(form, causal):
    """A fold that counts the blocks which it is shown."""

    def visits(held, streamed, counts):
        visit = fold.Fold(
            "visits",
            lambda held: (jnp.zeros((1, held[0].shape[1])),),
            lambda state, *_: (state[0] + 1,),
            lambda state, _: state,
            ((1, jnp.float32),),
            flops=1,
            span=(lambda first, last: (0, last)) if causal else None,
        )
        shown, passing = ([jnp.zeros((len(counts), 16, n))] for n in (held, streamed))
        (seen,) = visit(shown, passing, [jnp.array(ends, jnp.int32) for ends in zip(*counts, strict=True)])
        return seen[:, 0, ::64].tolist()

    assert visits(150, 200, [(150, 200), (150, 64), (65, 65), (64, 0), (0, 200)]) == [
        [1, 2, 3] if causal else [4, 4, 4],
        [1, 1, 1],
        [1, 2, 0] if causal else [2, 2, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_attention_in_bfloat16_is_rounded_once(form):
    assert_right(ATTENTION, *attention_arguments(1, 70, 70, 2, 1, 16, "bfloat16"), units=0.51)


def test_values_that_have_much_in_common_cost_a_narrow_dtype_no_digits():
    """What is kept of the value must not be rounded: of ct_p - sum(p ct_p) little is left."""
    (q, k, v), ct = attention_arguments(1, 70, 70, 1, 1, 16, "bfloat16")
    assert_right(ATTENTION, (q, k, (v + 10).astype(v.dtype)), ct, units=0.6)


@CAUSAL
def test_where_one_key_has_all_the_weight_the_scores_have_no_cotangent(form, causal):
    """Not the rounding of ct_p less sum(p ct_p) either, which the checker takes for a fault."""
    (q, k, v), ct = attention_arguments(2, 70, 90, 2, 1, 33)
    q = (1e4 * q).astype("f")
    _, res = jaxbp.attention.default_rule.fwd(q, k, v, causal=causal)
    ct_q, *_ = jaxbp.attention.default_rule.bwd(res, jnp.asarray(ct), causal=causal)
    alone = np.all(np.asarray(ct_q) == 0, axis=-1, keepdims=True)
    assert alone.mean() > 0.9
    ct = jnp.where(alone, ct, 0)
    of_q, of_k, of_v = jax.jit(lambda *args: ATTENTION.bwd(ATTENTION.fwd(*args, causal=causal)[1], ct, causal=causal))(
        q, k, v
    )
    assert of_v.any()
    assert not of_q.any()
    assert not of_k.any()


def test_a_scale_of_numpy_makes_nothing_wider():
    args, ct = attention_arguments(1, 4, 4, 1, 1, 4)
    with jax.enable_x64(True):
        y, cts = ATTENTION.value_and_vjp(args, ct, scale=np.float64(0.5))
    np.testing.assert_allclose(y, ATTENTION(*args, scale=0.5), rtol=1e-6)
    assert {x.dtype for x in (y, *cts)} == {np.dtype("float32")}


#: With queries that see no key, keys that no query sees, and heads that share keys.
SECOND = {
    "attention": (ATTENTION, [(2, 5, 4, 4), (2, 7, 2, 4), (2, 7, 2, 4)], (), "float32", {"scale": 0.7}),
    "causal": (ATTENTION, [(5, 2, 4), (3, 2, 4), (3, 2, 4)], (), "float32", {"causal": True}),
    "padded": (PADDED, [(2, 5, 2, 4), *[(2, 7, 2, 4)] * 2], (np.array([5, 2]), np.array([0, 4])), "bfloat16", {}),
    "rms_norm": (RMS_NORM, [(3, 8), (8,)], (), "float32", {"epsilon": 1e-3}),
}


@pytest.mark.parametrize("case", SECOND)
def test_second_derivatives_are_those_of_the_default_rule(case):
    rule, shapes, lengths, dtype, options = SECOND[case]
    rng = np.random.default_rng(4)
    args = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]

    @functools.partial(jax.jit, static_argnums=0)
    def second(f, args):
        def of_gradient(args):
            gradient = jax.grad(lambda args: jnp.sum(jnp.sin(f(*args, *lengths, **options))))(args)
            return sum(jnp.sum(jnp.cos(x)) for x in gradient)

        return jax.grad(of_gradient)(args)

    for actual, expected in zip(second(rule, args), second(rule.op, args), strict=True):
        largest = float(jnp.max(jnp.abs(expected)))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=20 * float(jnp.finfo(dtype).eps) * largest)


def test_third_derivatives_forward_are_those_of_the_default_rule():
    x, scale = RMS_NORM.op.case("small").arguments(np.dtype("float32"))

    def third(f):
        def derivative(g):
            return lambda t: jax.jvp(g, (t,), (jnp.ones_like(t),))[1]

        return derivative(derivative(jax.grad(lambda t: jnp.sum(jnp.sin(f(t * x, scale))))))(jnp.float32(1))

    assert third(RMS_NORM) == pytest.approx(float(third(RMS_NORM.op)), rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 1e-46])
def test_rows_that_fill_the_last_block_of_rms_norm_are_not_seen(form, epsilon):
    rng = np.random.default_rng(3)
    x, scale, ct = (rng.normal(size=s).astype("f") for s in ((3, 4), (4,), (3, 4)))
    assert_right(RMS_NORM, (x, scale), ct, epsilon=epsilon)


@pytest.mark.parametrize("shape", [(2, 40, 24), (5, 100), (7,), (300, 3)], ids=str)
def test_rms_norm(form, shape):
    rng = np.random.default_rng(3)
    x, scale, ct = (rng.normal(size=s).astype("f") for s in (shape, shape[-1:], shape))
    assert_right(RMS_NORM, (x, scale), ct)


@pytest.mark.parametrize(
    ("rule", "shapes"),
    [(ATTENTION, [(2, 3, 1, 4), (2, 0, 1, 4), (2, 0, 1, 4)]), (RMS_NORM, [(0, 4), (4,)]), (RMS_NORM, [(4, 0), (0,)])],
    ids=str,
)
def test_nothing_gives_zeros(rule, shapes):
    args = tuple(jnp.ones(shape) for shape in shapes)
    y, cts = rule.value_and_vjp(args, jnp.ones(shapes[0]))
    assert y.shape == shapes[0]
    assert not y.any()
    assert [ct.shape for ct in cts] == shapes
    assert not any(ct.any() for ct in cts)


@CAUSAL
def test_large_scores_choose_as_the_reference_does(causal):
    (q, *rest), ct = attention_arguments(1, 6, 80, 2, 2, 4)
    args = (q * np.float32(1e10), *rest)
    y, cts = ATTENTION.value_and_vjp(args, ct, causal=causal)
    np.testing.assert_allclose(y, reference(jaxbp.attention, args, ct, causal=causal)[0], rtol=2e-4, atol=1e-4)
    assert all(np.isfinite(ct).all() for ct in cts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_is_so_where_it_is_for_stock(bad, place):
    args, _ = attention_arguments(2, 4, 70, 1, 1, 4)
    args[place][0, 2] = bad
    ours, theirs = (np.isfinite(f(*args)) for f in (ATTENTION, jaxbp.attention.stock))
    assert ours[1].all()
    np.testing.assert_array_equal(ours, theirs)


@CAUSAL
def test_no_matrix_of_all_scores_is_in_the_program(causal, monkeypatch):
    monkeypatch.setitem(fold.BLOCK, "tpu", (64, 64))
    n = 700
    args, ct = attention_arguments(1, n, n, 1, 1, 4)
    traced = jax.make_jaxpr(lambda args, ct: ATTENTION.value_and_vjp(args, ct, causal=causal))(args, ct)
    assert max(v.aval.size for eqn in equations(traced) for v in eqn.outvars if v.aval.shape) < 20 * n


def test_blocks_that_nobody_sees_are_left_out(form):
    """What is seen is not finite where it would have been looked at in vain."""
    (q, k, v), ct = attention_arguments(1, 192, 192, 1, 1, 16)
    k[:, 128:], v[:, 128:] = np.nan, np.nan
    y, res = ATTENTION.fwd(*map(jnp.asarray, (q, k, v)), causal=True)
    (ct_q, *_) = ATTENTION.bwd(res, jnp.asarray(ct), causal=True)
    for x in (y, ct_q):
        assert np.isfinite(x[:, :128]).all()
        assert np.isnan(x[:, 128:]).all()


@ALL
def test_the_checker_finds_them_right(rule):
    args = rule.op.case("small").arguments(np.dtype("float32"))
    jaxbp.check_vjp(rule, *args, level="quick").raise_if_failed()


def test_under_vmap():
    args, ct = attention_arguments(3, 20, 20, 2, 1, 4)
    mapped = jax.jit(jax.vmap(ATTENTION.value_and_vjp))(args, ct)
    together = ATTENTION.value_and_vjp(args, ct)
    for actual, expected in zip(jax.tree.leaves(mapped), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def sharded(rule, **settings):
    """Value and cotangents with the first axis of all arguments spread."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    return jax.jit(
        jax.shard_map(rule.value_and_vjp, mesh=mesh, in_specs=(spec, spec), out_specs=spec, **settings),
    )


def test_under_shard_map():
    args, ct = attention_arguments(3, 20, 20, 2, 1, 4)
    exported = jax.export.export(sharded(ATTENTION), platforms=["tpu"])(args, ct)
    assert exported.mlir_module().count("tpu_custom_call") == 3
    # JAX's interpreter of kernels does not follow what varies over the mesh.
    actual = sharded(ATTENTION, check_vma=False)(args, ct)
    expected = ATTENTION.value_and_vjp(args, ct)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_a_compiler_is_told_of_the_work(monkeypatch):
    told = []
    monkeypatch.setattr(
        fold, "launch", lambda *args, work, **more: told.append(work) or launch.launch(*args, work=work, **more)
    )
    q = jnp.ones((1, 128, 2, 16))
    jax.eval_shape(lambda q: ATTENTION.fwd(q, q, q), q)
    # For each platform: q once, k and v once for each of its blocks, the value and two numbers a query.
    array = 4 * q.size
    assert {(w.flops, w.exponentials) for w in told} == {((4 * 16 + 4) * 2 * 128**2, 2 * 128**2)}
    assert {w.bytes for w in told} == {array + 2 * blocks * array + array + 2 * 4 * 2 * 128 for blocks in (1, 2)}
