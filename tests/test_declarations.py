"""What every op declares: examples that run, cases that can be drawn, text for people."""

import doctest
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
import jaxbp.measure.plan
from jaxbp.cases import VOCABULARY, Case, Digits, LogUniform, Normal, Uniform
from jaxbp.errors import UsageError

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def failures(op) -> int:
    """How many examples of an op's docstring go wrong."""
    names = {"jax": jax, "jnp": jnp, "np": np, "jaxbp": jaxbp}
    test = doctest.DocTestParser().get_doctest(op.__doc__ + "\n", names, op.name, None, 0)
    assert test.examples
    return doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_the_example_in_the_docstring_runs(op):
    assert failures(op) == 0


def test_a_wrong_example_is_caught():
    assert failures(jaxbp.exp.replace(example=">>> float(jaxbp.exp(0.0))\n2.0")) == 1


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_the_docstring_says_what_a_user_needs(op):
    text = op.__doc__
    for part in (f"{op.name}(", "Formula:", "Rules:", "Source:", "Example:", "->"):
        assert part in text
    for name in op.rules:
        assert name in text
        assert op.rules[name].rule.note
    for kink in op.kinks:
        assert kink.why in text


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_cases_are_drawn_alike_every_time(op):
    for case in op.cases:
        if case.name in ("memory", VOCABULARY):  # Takes seconds.
            continue
        once, again = (case.arguments(np.dtype("float32")) for _ in range(2))
        assert [x.shape for x in once] == list(case.shapes)
        assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
        assert all(np.all(np.isfinite(x)) for x in once)


def test_every_op_has_three_sizes_and_real_data_where_it_is_due():
    for op in jaxbp.OPS:
        assert {"small", "cache", "memory"} <= {case.name for case in op.cases}
    linear = {"matmul", "linear", "neuron", "softmax_objective", "hinge_objective"}
    assert {op.name for op in jaxbp.OPS if "digits" in {c.name for c in op.cases}} == linear


def test_cotangents_stay_away_from_zero():
    ct = jaxbp.exp.case("small").cotangent((1000,), np.dtype("float32"))
    assert np.all(np.abs(ct) >= 0.5)
    assert np.all(np.abs(ct) < 2)
    assert np.any(ct < 0)


def test_digits_are_the_real_images():
    (x, _) = jaxbp.matmul.case("digits").arguments(np.dtype("float32"))
    assert x.shape == (1797, 64)
    assert (x.min(), x.max()) == (0, 1)
    with pytest.raises(ValueError, match=r"digit images have shape \(1797, 64\)"):
        Case("digits", ((3, 4),), (Digits(),)).arguments(np.dtype("float32"))


@pytest.mark.parametrize(
    "draw", [Uniform(-2, 3), Normal(2), LogUniform(-3, 3), LogUniform(-3, 3, signed=False)], ids=str
)
def test_draws_keep_their_word(draw):
    x = draw(np.random.default_rng(0), (10_000,))
    if isinstance(draw, Uniform):
        assert -2 <= x.min() < -1.9
        assert 2.9 < x.max() < 3
    elif isinstance(draw, Normal):
        assert abs(x.std() - 2) < 0.1
    else:
        assert np.abs(x).min() >= 2.0**-3
        assert np.abs(x).max() <= 2.0**3
        assert (x.min() < 0) == draw.signed
        assert abs(np.median(np.log2(np.abs(x)))) < 0.1


@pytest.mark.parametrize("case", jaxbp.linear_relu.cases, ids=lambda case: case.name)
def test_every_engine_is_on_the_same_side_of_a_kink_behind_a_product(case):
    """The sums of linear_relu are exact, in whatever order they are computed, or a wrong gradient would be luck."""
    x, w, b = case.arguments(np.dtype(np.float32))
    x = x[:64]
    exact = np.matmul(x.astype(np.float64), w.astype(np.float64)) + b
    np.testing.assert_array_equal(np.matmul(x, w) + b, exact)
    np.testing.assert_array_equal(np.matmul(x[:, ::-1], w[::-1]) + b, exact)


def test_unknown_names_offer_the_closest():
    with pytest.raises(UsageError, match="did you mean 'sigmoid'"):
        jaxbp.measure.plan.find_op("sigmod")


@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.torch], ids=repr)
def test_torch_is_called_with_the_ops_options_or_without(op):
    """Without torch at hand: a stand-in has every function."""
    called = inspect.signature(op.torch(mock.MagicMock()))
    called.bind(*op.arguments)
    called.bind(*op.arguments, **{name: op.__signature__.parameters[name].default for name in op.options})


@pytest.mark.parametrize("op", [jaxbp.linear_relu, jaxbp.hinge_objective], ids=lambda op: op.name)
def test_sums_before_a_kink_are_exact_so_that_all_engines_are_on_the_same_side(op):
    for case in op.cases:
        x, w = case.arguments(np.dtype(np.float32))[:2]
        np.testing.assert_array_equal(x @ w, x.astype(np.float64) @ w.astype(np.float64))
