"""Functions that JAX cannot differentiate without their rules: judged by what they should compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

import jaxbp
from jaxbp.errors import UsageError

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 32)).astype("f"))


def softmax_kernel(x):
    """Row by row, eight at a time: nobody has thought of what is left over."""

    def kernel(x_ref, y_ref):
        e = jnp.exp(x_ref[...] - jnp.max(x_ref[...], axis=1, keepdims=True))
        y_ref[...] = e / jnp.sum(e, axis=1, keepdims=True)

    rows = pl.BlockSpec((8, x.shape[1]), lambda i: (i, 0))
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out, grid=(len(x) // 8,), in_specs=[rows], out_specs=rows, interpret=True)(x)


def softmax_callback(x):
    return jax.pure_callback(lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), X, x, vmap_method="sequential")


def with_rule(primal, factor=1.0):
    f = jax.custom_vjp(primal)
    f.defvjp(
        lambda x: (primal(x),) * 2,
        lambda y, ct: (factor * y * (ct - jnp.sum(y * ct, axis=1, keepdims=True)),),
    )
    return f


def softmax(x):
    return jax.nn.softmax(x, axis=1)


@pytest.mark.parametrize("primal", [softmax_kernel, softmax_callback])
def test_a_right_rule_of_what_jax_cannot_differentiate(primal):
    with pytest.raises(UsageError, match="nothing to compare with; give stock, a function of plain JAX"):
        jaxbp.check_vjp(with_rule(primal), X)
    jaxbp.check_vjp(with_rule(primal), X, stock=softmax, shapes="keep", level="quick").raise_if_failed()


def test_a_wrong_rule_is_found():
    report = jaxbp.check_vjp(with_rule(softmax_kernel, 1.001), X, stock=softmax, shapes="keep", level="quick")
    assert report.faults[0].looks_like.startswith("1.001 times what it should be")


def test_values_that_are_not_those_that_are_meant_are_found():
    report = jaxbp.check_vjp(with_rule(softmax_kernel), X, stock=lambda x: softmax(1.0001 * x), level="quick")
    assert {finding.kind for finding in report.faults} >= {"value", "gradient"}


def test_other_shapes_show_what_a_kernel_leaves_out():
    report = jaxbp.check_vjp(with_rule(softmax_kernel), X, stock=softmax)
    assert {finding.kind for finding in report.faults} == {"value", "gradient"}
    assert all("wrong at other shapes alone" in finding.looks_like + finding.text for finding in report.faults)


def test_shapes_that_the_stock_function_does_not_admit_are_not_tried():
    def of_these_rows(x):
        return softmax(x + jnp.zeros((16, 1)))

    jaxbp.check_vjp(with_rule(softmax), X, stock=of_these_rows).raise_if_failed()


def test_a_stock_function_of_another_kind_is_a_sentence():
    kernel = with_rule(softmax_kernel)
    with pytest.raises(UsageError, match=r"stock must return what the function does, y float32\[16, 32\], but it retu"):
        jaxbp.check_vjp(kernel, X, stock=jnp.sum)
    with pytest.raises(UsageError, match="stock: The function cannot be called with"):
        jaxbp.check_vjp(kernel, X, stock=jnp.matmul)


def test_a_kernel_is_measured_beside_its_stock_function():
    frame = jaxbp.bench_vjp(with_rule(softmax_kernel), X, stock=softmax, level="quick")
    rule = frame[frame["engine"] == "rule"]
    assert (rule["status"] == "ok").all(), rule["reason"].tolist()
