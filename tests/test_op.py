"""The contract of an op: how it is called, what it promotes, and the sentences it says to wrong input."""

import copy
import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.declaration import Flops
from jaxbp.errors import UnknownNameError


def test_the_catalog_is_what_the_package_offers():
    assert len({op.name for op in jaxbp.OPS}) == len(jaxbp.OPS)
    for op in jaxbp.OPS:
        assert getattr(jaxbp, op.name) is op


def test_a_rule_is_the_same_op_under_another_rule():
    x = jnp.linspace(-3, 3, 7)
    textbook = jaxbp.sigmoid.rules["textbook"]
    np.testing.assert_allclose(textbook(x), jaxbp.sigmoid(x), rtol=1e-6)
    y, residuals = textbook.fwd(x)
    (ct_x,) = textbook.bwd(residuals, jnp.ones(7))
    np.testing.assert_allclose(ct_x, (1 - y) * y, rtol=1e-6)
    assert float(jax.grad(textbook)(20.0)) == 0
    assert float(jax.grad(jaxbp.sigmoid)(20.0)) > 0


def test_a_rule_may_have_another_way_to_the_value_alone():
    def marked(x, *, axis=-1):
        return jax.nn.log_softmax(x, axis=axis) + axis

    rule = dataclasses.replace(jaxbp.log_softmax.default_rule.rule, value=marked)
    op, x = jaxbp.log_softmax.replace(rules=(rule,)), jnp.ones((2, 2))
    stock = jax.nn.log_softmax(x)
    np.testing.assert_allclose(op(x), stock - 1, rtol=1e-6)
    np.testing.assert_allclose(op(x, axis=0), stock, rtol=1e-6)
    np.testing.assert_allclose(jax.vjp(op, x)[0], stock, rtol=1e-6)
    np.testing.assert_allclose(op.value_and_vjp((x,), x)[0], stock, rtol=1e-6)
    with pytest.raises(
        ValueError, match="The op exp is elementwise: the value of its rules is computed by their `fwd`"
    ):
        jaxbp.exp.replace(rules=(dataclasses.replace(jaxbp.exp.default_rule.rule, value=jnp.exp),))


def test_default_rule_and_named_engine():
    args, ct = (jnp.array([20.0]),), jnp.array([1.0])
    assert float(jaxbp.sigmoid.value_and_vjp(args, ct)[1][0][0]) > 0
    assert float(jaxbp.sigmoid.value_and_vjp(args, ct, engine="rule:stable")[1][0][0]) > 0
    assert float(jaxbp.sigmoid.value_and_vjp(args, ct, engine="autodiff")[1][0][0]) == 0


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_value_dtype_shape_and_weak_type_are_stocks(op, dtype):
    args = op.convert(op.case("small").arguments(np.dtype(np.float32)), lambda x: jnp.ones(x.shape, dtype))
    ours, stock = jax.eval_shape(op, *args), jax.eval_shape(op.stock, *args)
    assert (ours.shape, ours.dtype, ours.weak_type) == (stock.shape, stock.dtype, stock.weak_type)


@pytest.mark.parametrize(
    "pair",
    [(jnp.bfloat16(2), jnp.float32(3)), (jnp.bfloat16(2), 3.0), (jnp.int32(2), jnp.float16(3)), (True, 2.5), (2, 3)],
    ids=str,
)
@pytest.mark.parametrize("op", [jaxbp.add, jaxbp.multiply, jaxbp.maximum, jaxbp.divide], ids=repr)
def test_mixed_dtypes_promote_as_stock(op, pair):
    ours, stock = op(*pair), op.stock(*pair)
    assert ours.dtype == stock.dtype
    assert float(ours) == float(stock)


def test_integer_and_boolean_arguments_get_no_gradient():
    x, i = jnp.array([1.0, 2.0]), jnp.array([3, 4])
    y, (ct_x, ct_i) = jaxbp.multiply.value_and_vjp((x, i), jnp.ones(2))
    assert ct_i is None
    assert ct_x.tolist() == [3, 4]
    assert y.tolist() == [3, 8]
    for engine in ("autodiff", "central_difference", "numpy"):
        _, (other_x, other_i) = jaxbp.multiply.value_and_vjp((x, i), jnp.ones(2), engine=engine)
        assert other_i is None
        np.testing.assert_allclose(other_x, ct_x, rtol=1e-3)
    assert jax.grad(lambda x: jaxbp.multiply(x, x > 1).sum())(x).tolist() == [0, 1]


def test_a_mixed_dtype_gradient_comes_back_in_each_arguments_dtype():
    x, y = jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.float32)
    _, (ct_x, ct_y) = jaxbp.multiply.value_and_vjp((x, y), jnp.ones(3))
    assert (ct_x.dtype, ct_y.dtype) == (jnp.bfloat16, jnp.float32)


def test_all_integers_have_a_value_but_no_gradient():
    assert jaxbp.add(2, 3).dtype == jnp.int32
    with pytest.raises(TypeError, match="add: no argument has a floating dtype"):
        jaxbp.add.value_and_vjp((2, 3), 1)


def test_options_reach_all_passes():
    a, b = jnp.ones((2, 3)), jnp.ones((3, 4))
    text = jax.jit(
        lambda a, b: jax.vjp(lambda a, b: jaxbp.matmul(a, b, precision="highest"), a, b)[1](jnp.ones((2, 4)))
    )
    lowered = text.lower(a, b).as_text()
    assert lowered.count("HIGHEST") >= 2
    assert "HIGHEST" not in jax.jit(jaxbp.matmul).lower(a, b).as_text()
    y, _ = jaxbp.matmul.value_and_vjp((a, b), jnp.ones((2, 4)), precision="highest")
    assert y.shape == (2, 4)


def test_keyword_arguments():
    x, w, b = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.zeros(4)
    assert jaxbp.linear(w=w, b=b, x=x).tolist() == jaxbp.linear(x, w, b).tolist()


V: Any = jnp.ones(3)
BAD_CALLS = {
    "too few": (lambda: jaxbp.add(V), TypeError, r"add\(x, y\): missing a required argument: 'y'"),
    "too many": (lambda: jaxbp.exp(V, V), TypeError, r"exp\(x\): too many positional arguments"),
    "unknown option": (lambda: jaxbp.exp(V, axis=1), TypeError, r"exp\(x\): got an unexpected keyword argument 'axis'"),
    "list": (lambda: jaxbp.exp([1.0]), TypeError, "exp: argument x must be an array or a number, got list"),
    "string": (lambda: jaxbp.add(V, "a"), TypeError, "add: argument y must be an array or a number, got str"),
    "complex": (lambda: jaxbp.exp(V + 1j), TypeError, "exp: argument x must be of a floating, .* got complex64"),
    "broadcast": (lambda: jaxbp.add(V, jnp.ones(4)), ValueError, r"add: the shapes of x float32\[3\], y float32\[4\]"),
    "matmul": (
        lambda: jaxbp.matmul(jnp.ones((2, 3)), jnp.ones((2, 3))),
        ValueError,
        r"matmul cannot take a float32\[2, 3\], b float32\[2, 3\]: ",
    ),
    "linear": (
        lambda: jaxbp.linear(V, jnp.ones((4, 2)), jnp.ones(2)),
        ValueError,
        r"linear cannot take x float32\[3\], w ",
    ),
    "labels that are no integers": (
        lambda: jaxbp.softmax_cross_entropy(jnp.ones((3, 2)), V),
        TypeError,
        r"softmax_cross_entropy: argument labels must not be of a floating dtype, .* labels.astype\('int32'\)",
    ),
    "labels of another shape": (
        lambda: jaxbp.multiclass_hinge(jnp.ones((3, 2)), jnp.arange(2)),
        ValueError,
        r"multiclass_hinge cannot take scores .*: labels must have one entry for each .*, the shape \[3\], got \[2\]",
    ),
    "neuron": (lambda: jaxbp.neuron(V, V), ValueError, r"neuron cannot take w float32\[3\], x "),
    "dtype that stock refuses": (lambda: jaxbp.sigmoid(3), ValueError, r"sigmoid cannot take x int32\[\]: .*floating"),
    "no rules": (lambda: jaxbp.exp.replace(rules=()), ValueError, "The op exp needs at least one rule"),
    "two rules of one name": (
        lambda: jaxbp.exp.replace(rules=(jaxbp.exp.default_rule.rule,) * 2),
        ValueError,
        "The op exp has two rules of one name: output, output",
    ),
    "no tuple": (lambda: jaxbp.exp.value_and_vjp(V, V), TypeError, "exp: args must be a tuple of the arguments, got"),
    "complex number": (lambda: jaxbp.exp(1j), TypeError, "exp: argument x .* complex numbers are not supported"),
    "ct shape": (
        lambda: jaxbp.exp.value_and_vjp((V,), jnp.ones(4)),
        ValueError,
        r"exp: ct must have .*\[3\], got \[4\]",
    ),
    "ct dtype": (
        lambda: jaxbp.exp.value_and_vjp((V,), jnp.ones(3, jnp.bfloat16)),
        TypeError,
        "exp: ct must have the output's dtype float32, got bfloat16",
    ),
    "ct type": (lambda: jaxbp.exp.value_and_vjp((V,), None), TypeError, "exp: ct must be an array or a number, got"),
    "args count": (lambda: jaxbp.add.value_and_vjp((V,), V), TypeError, "add.*missing a required argument: 'y'"),
    "engine": (
        lambda: jaxbp.exp.value_and_vjp((V,), V, engine="autodif"),
        UnknownNameError,
        "There is no engine of exp called 'autodif'; did you mean 'autodiff'",
    ),
    "rule": (
        lambda: jaxbp.sigmoid.value_and_vjp((V,), V, engine="rule:text"),
        UnknownNameError,
        "did you mean 'rule:textbook'",
    ),
    "rule by name": (
        lambda: jaxbp.exp.rules["outptu"],
        UnknownNameError,
        "There is no rule of exp called 'outptu'; did you mean 'output'",
    ),
    "axis of a mesh": (
        lambda: jaxbp.logsumexp(V, axis="rows"),
        TypeError,
        "logsumexp: axis must be an int, a tuple of ints, or None, got 'rows'",
    ),
    "list of axes": (lambda: jaxbp.sum(V, axis=[0]), TypeError, r"sum: axis must be an int, .*, got \[0\]"),
    "number as axis": (lambda: jaxbp.softmax(V, axis=(0.0,)), TypeError, r"softmax: axis must be .*, got \(0.0,\)"),
    "array as axis": (lambda: jaxbp.max(V, axis=jnp.int32(0)), TypeError, r"max: the option axis .*axis.item\(\)"),
    "case": (lambda: jaxbp.exp.case("memry"), UnknownNameError, "There is no case of exp called 'memry'; did you mean"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_input_is_told_in_a_sentence(name):
    call, error, sentence = BAD_CALLS[name]
    with pytest.raises(error, match=sentence):
        call()


def test_replace_leaves_the_original_alone():
    copy = jaxbp.exp.replace(name="copy", rules=(jaxbp.exp.default_rule.rule,))
    assert (copy.name, jaxbp.exp.name) == ("copy", "exp")
    assert copy.default_rule.op is copy
    assert float(jax.grad(copy)(0.0)) == 1


def test_flops_are_counted_per_entry_and_per_product():
    assert jaxbp.multiply.count_flops(((3, 1), (4,))) == Flops(12, 24)
    assert jaxbp.matmul.count_flops(((2, 3), (3, 4))) == Flops(48, 96)
    assert jaxbp.matmul.count_flops(((5, 2, 3), (3, 4))) == Flops(240, 480)
    assert jaxbp.matmul.count_flops(((3,), (3,))) == Flops(6, 12)
    assert jaxbp.linear.count_flops(((2, 3), (3, 4), (4,))) == Flops(56, 104)


def test_ops_are_pickled_by_name_and_copied_as_themselves():
    assert pickle.loads(pickle.dumps(jaxbp.sigmoid)) is jaxbp.sigmoid
    assert copy.deepcopy({"activation": jaxbp.tanh})["activation"] is jaxbp.tanh


@pytest.mark.parametrize("engine", ["rule:transpose", "autodiff", "forward_difference", "central_difference", "numpy"])
@pytest.mark.parametrize(("m", "k", "n"), [(2, 0, 3), (0, 3, 4), (2, 3, 0)])
def test_empty_matrices_have_gradients(engine, m, k, n):
    a, b = jnp.ones((m, k)), jnp.ones((k, n))
    y, (ct_a, ct_b) = jaxbp.matmul.value_and_vjp((a, b), jnp.ones((m, n)), engine=engine)
    assert (y.shape, ct_a.shape, ct_b.shape) == ((m, n), (m, k), (k, n))
    np.testing.assert_allclose(ct_a, n, rtol=1e-2)
    np.testing.assert_allclose(ct_b, m, rtol=1e-2)


def test_hessians_work_though_forward_mode_alone_does_not():
    assert float(jax.hessian(jaxbp.sigmoid)(1.0)) == pytest.approx(float(jax.hessian(jax.nn.sigmoid)(1.0)), rel=1e-5)
