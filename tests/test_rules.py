"""Every rule of every op against the NumPy reference, and planted faults that this comparison must catch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Op, Rule
from jaxbp.accuracy.summary import summarize
from jaxbp.broadcasting import shape_of, sum_to
from jaxbp.engines import reference
from jaxbp.numerics import numpy_sum_to

OPS = {op.name: op for op in jaxbp.OPS}
RULES = [(op, f"rule:{name}") for op in jaxbp.OPS for name in op.rules]
#: Entries of these are sums that may cancel: their errors are judged against the largest entry alone.
SUMS = {
    "matmul",
    "linear",
    "neuron",
    "rational",
    "hypot",
    "shift",
    "scale",
    "scaled_sum",
    "logsumexp",
    "softmax",
    "log_softmax",
    "layer_norm",
    "rms_norm",
    "rms_norm_linear",
    "embedding",
    "conv2d",
    "softmax_objective",
    "hinge_objective",
    "var",
    "cumsum",
    "cumlogsumexp",
    "attention",
    "padded_attention",
    "linear_cross_entropy",
    "linear_relu",
    "mean_linear_cross_entropy",
}
#: Rules that the op's own documentation calls inaccurate in the tails.
TEXTBOOK_TAILS = {"sigmoid", "tanh", "neuron", "expm1", "softplus", "log_sigmoid", "silu", "swiglu"}
DTYPES = ["float32", "float64", "bfloat16", "float16"]
#: The cases' arguments reach magnitudes whose gradients overflow or vanish in float16.
BEYOND_FLOAT16 = {
    "exp",
    "expm1",
    "log1p",
    "sigmoid",
    "tanh",
    "log",
    "reciprocal",
    "divide",
    "square",
    "sqrt",
    "rsqrt",
    "cbrt",
    "power",
    "arctan",
    "rational",
}


def draw(op: Op, dtype: str, shapes: tuple[tuple[int, ...], ...] | None = None, limit=(0, np.inf)):
    """Small arguments of an op and a cotangent, as NumPy arrays."""
    rng = np.random.default_rng(7)
    case = op.case("small")
    drawn = case.drawn(rng, np.dtype(np.float64), shapes)
    args = op.convert(drawn, lambda x: (np.sign(x) * np.clip(np.abs(x), *limit)).astype(jnp.dtype(dtype)))
    if op.name in ("maximum", "minimum", "clip"):
        # Ties are a matter of convention, and have tests of their own.
        first, *others = args
        args = (first, *(np.where(first == x, x + 1, x).astype(x.dtype) for x in others))
    y = jax.eval_shape(op.stock, *args)
    return args, case.cotangent(y.shape, np.dtype(y.dtype))


def assert_right(op: Op, engine: str, args, ct, sizes=None, most_ulp=16.0) -> None:
    """Value and every cotangent: shape, dtype, and error against the reference.

    Where cotangents are sums that may cancel, `sizes` are what their errors are seen beside.
    """
    y, cts = op.value_and_vjp(args, ct, engine=engine)
    exact_y, exact_cts = reference(op, args, ct)
    eps = float(jnp.finfo(ct.dtype).eps)
    assert len(cts) == len(args)
    beside = (exact_y, *(sizes or exact_cts))
    for actual, exact, like, size in zip((y, *cts), (exact_y, *exact_cts), (ct, *args), beside, strict=True):
        if like.dtype.kind in "ib":
            assert actual is exact is None
            continue
        actual = np.asarray(actual)
        assert actual.shape == exact.shape == like.shape
        assert actual.dtype == like.dtype
        error = summarize(actual.ravel(), exact.ravel())
        assert error.wrong_nans == error.wrong_infinities == 0
        largest = np.abs(np.asarray(size, np.float64)).max()
        assert np.abs(actual.astype(np.float64) - exact).max() <= 16 * eps * largest
        if op.name not in SUMS and (not sizes or like.shape == ct.shape):
            assert error.wrong_zeros == 0
            assert error.max_ulp <= most_ulp


@pytest.mark.parametrize(
    ("op", "engine", "dtype"),
    # float16 goes the way of bfloat16, through float32: a sample of the rules.
    [
        pytest.param(op, engine, dtype, id=f"{op.name}-{engine}-{dtype}")
        for i, (op, engine) in enumerate(RULES)
        for dtype in DTYPES
        if dtype != "float16" or i % 3 == 0
    ],
)
def test_rule_agrees_with_the_reference(op, engine, dtype):
    with jax.enable_x64(dtype == "float64"):
        args, ct = draw(op, dtype, limit=limit(op, engine, dtype))
        assert_right(op, engine, args, ct)
        if op.elementwise and ct.dtype.itemsize == 2 and engine == f"rule:{op.default_rule.name}":
            # Narrow dtypes compute in float32 and round once; a residual that is the output is rounded before.
            assert_right(op, engine, args, np.ones_like(ct), most_ulp=0.51)


def limit(op: Op, engine: str, dtype: str) -> tuple[float, float]:
    """The magnitudes to which arguments are clipped."""
    if op.name in TEXTBOOK_TAILS and engine == "rule:textbook":
        return 0, 1  # Where 1 - y does not cancel, the textbook rule is right too.
    if op.name in ("gelu", "geglu") and engine == "rule:textbook":
        return 0, 0.5  # Away from the zero of its derivative at -0.75.
    if op.name == "logit" and engine == "rule:textbook":
        return 0, 0.25  # Away from its zero at 1/2.
    if dtype == "float16" and op.name in BEYOND_FLOAT16:
        return 0.5, 4
    return 0, np.inf


@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.elementwise and len(op.arguments) > 1], ids=repr)
@pytest.mark.parametrize("shapes", [((3, 1), (1, 4)), ((), (5,)), ((4, 1, 2), (3, 1))])
def test_cotangents_are_summed_over_broadcast_axes(op, shapes):
    shapes = (*shapes, shapes[0])[: len(op.arguments)]
    args, ct = draw(op, "float32", shapes)
    _, terms = reference(op, tuple(np.broadcast_to(x, ct.shape) for x in args), ct)
    sizes = [None if term is None else numpy_sum_to(np.abs(term), x) for term, x in zip(terms, args, strict=True)]
    for name in op.rules:
        assert_right(op, f"rule:{name}", args, ct, sizes)


MATMUL_SHAPES = [
    ((4,), (4,)),
    ((4,), (4, 3)),
    ((2, 4), (4,)),
    ((2, 4), (4, 3)),
    ((5, 2, 4), (4, 3)),
    ((2, 4), (5, 4, 3)),
    ((5, 2, 4), (5, 4, 3)),
    ((6, 1, 2, 4), (5, 4, 3)),
    ((5, 2, 4), (4,)),
    ((4,), (5, 4, 3)),
    ((5, 2, 4), (1, 4, 3)),
]


@pytest.mark.parametrize("shapes", MATMUL_SHAPES, ids=str)
def test_matmul_takes_all_shapes_of_jnp(shapes):
    args, ct = draw(jaxbp.matmul, "float32", shapes)
    assert_right(jaxbp.matmul, "rule:transpose", args, ct)


@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
def test_linear_and_neuron_take_any_batch_axes(rows):
    args, ct = draw(jaxbp.linear, "float32", ((*rows, 4), (4, 5), (5,)))
    assert_right(jaxbp.linear, "rule:transpose", args, ct)
    for rule in jaxbp.neuron.rules:
        args, ct = draw(jaxbp.neuron, "float32", ((5,), (*rows, 4)))
        assert_right(jaxbp.neuron, f"rule:{rule}", args, ct)


@pytest.mark.parametrize("rule", list(jaxbp.neuron.rules))
def test_a_neuron_without_features_has_its_bias_alone(rule):
    w, x = np.array([2.0], np.float32), np.zeros((3, 0), np.float32)
    y, (ct_w, ct_x) = jaxbp.neuron.value_and_vjp((w, x), np.ones(3, np.float32), engine=f"rule:{rule}")
    np.testing.assert_allclose(y, np.full(3, 1 / (1 + np.exp(-2.0))), rtol=1e-6)
    assert float(ct_w[0]) == pytest.approx(3 * float(y[0] * (1 - y[0])), rel=1e-5)
    assert ct_x.shape == (3, 0)


KINKS = [(op, kink, name) for op in jaxbp.OPS for kink in op.kinks for name in kink.gradient]


@pytest.mark.parametrize(("op", "kink", "rule"), KINKS, ids=str)
def test_kinks_follow_the_stated_convention(op, kink, rule):
    args = tuple(map(np.asarray, op.convert(kink.at, np.float32)))
    _, cts = op.rules[rule].value_and_vjp(args, np.float32(1))
    for actual, expected in zip(cts, kink.gradient[rule], strict=True):
        assert actual is expected or np.asarray(actual).tolist() == (
            list(expected) if isinstance(expected, tuple) else expected
        )


def test_every_kink_states_every_rule():
    for op in jaxbp.OPS:
        for kink in op.kinks:
            assert set(kink.gradient) == set(op.rules)


@pytest.mark.parametrize(
    ("op", "x", "exact"),
    [(jaxbp.sigmoid, 20.0, 2.0611536e-9), (jaxbp.tanh, 44.0, 2.42218e-38)],
    ids=["sigmoid", "tanh"],
)
def test_the_default_rule_is_right_where_autodiff_says_zero(op, x, exact):
    assert float(jax.grad(op.stock)(x)) == 0
    assert float(jax.grad(op)(x)) == pytest.approx(exact, rel=1e-5)
    assert float(jax.grad(op)(-x)) == pytest.approx(exact, rel=1e-5)


def test_linear_takes_one_bias_for_all_outputs():
    args, ct = draw(jaxbp.linear, "float32", ((3, 4), (4, 5), ()))
    assert_right(jaxbp.linear, "rule:transpose", args, ct)


# Planted faults: each is a rule as somebody could have written it.


def spoil(op: Op, bwd) -> Op:
    """A copy of an op whose default rule has another backward pass."""
    rule = op.default_rule.rule
    return op.replace(rules=(Rule(rule.name, rule.fwd, bwd),))


def wrong_sign(res, ct):
    x, y = res
    return jaxbp.divide.default_rule.bwd(res, ct)[0], sum_to(ct * x / (y * y), y)


def missing_broadcast_sum(res, ct):
    x, y = res
    return ct * y, ct * x


def transposed(res, ct):
    a, b = res
    return jnp.matmul(ct, b), jnp.matmul(a, ct)


def one_entry_off(res, ct):
    (ct_x,) = jaxbp.sigmoid.default_rule.bwd(res, ct)
    return (ct_x.at[17].multiply(1.001),)


def second_gradient_forgotten(res, ct):
    a, _ = res
    ct_a, _ = jaxbp.matmul.default_rule.bwd(res, ct)
    return ct_a, jnp.zeros_like(a)


FAULTS = [
    (jaxbp.divide, wrong_sign, None),
    (jaxbp.multiply, missing_broadcast_sum, ((3,), (2, 3))),
    (jaxbp.matmul, transposed, ((4, 4), (4, 4))),
    (jaxbp.matmul, second_gradient_forgotten, ((4, 4), (4, 4))),
    (jaxbp.sigmoid, one_entry_off, None),
]


@pytest.mark.parametrize(("op", "bwd", "shapes"), FAULTS, ids=[bwd.__name__ for _, bwd, _ in FAULTS])
def test_planted_faults_are_caught(op, bwd, shapes):
    args, ct = draw(op, "float32", shapes)
    engine = f"rule:{op.default_rule.name}"
    assert_right(op, engine, args, ct)
    with pytest.raises((AssertionError, ValueError, TypeError)):
        assert_right(spoil(op, bwd), engine, args, ct)


def test_a_forward_pass_that_is_off_is_caught():
    wrong = jaxbp.add.replace(rules=(Rule("off", lambda x, y: (x + y * 1.0001, (shape_of(x), shape_of(y))), add_bwd),))
    args, ct = draw(jaxbp.add, "float32")
    with pytest.raises(AssertionError):
        assert_right(wrong, "rule:off", args, ct)


def add_bwd(res, ct):
    return jaxbp.add.default_rule.bwd(res, ct)


def test_an_argument_that_is_kept_in_a_narrow_dtype_costs_nothing():
    x = jnp.ones(8, jnp.bfloat16)
    traced = jax.make_jaxpr(lambda x: jax.tree.leaves(jax.vjp(jaxbp.sigmoid, x)))(x)
    residuals = traced.jaxpr.outvars[1:]
    assert residuals == [traced.jaxpr.invars[0]]
