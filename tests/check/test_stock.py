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


def test_a_kernel_that_is_wrong_from_its_second_block_on():
    """The one block that it is given is right."""

    def half_beyond(ct_ref, x_ref, ct_x_ref):
        factor = jnp.where(pl.program_id(0) == 0, 1.0, 0.5)
        ct_x_ref[...] = factor * ct_ref[...] * jnp.cos(x_ref[...])

    def bwd(x, ct):
        rows = pl.BlockSpec((16, x.shape[1]), lambda i: (i, 0))
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        grid = (-(-len(x) // 16),)
        return (
            pl.pallas_call(half_beyond, out, grid=grid, in_specs=[rows] * 2, out_specs=rows, interpret=True)(ct, x),
        )

    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), bwd)
    report = jaxbp.check_vjp(f, X[:, :5], stock=jnp.sin)
    assert [finding.kind for finding in report.faults] == ["gradient"]
    assert "with shapes longer" in report.faults[0].inputs


def sine_by_callback(host, **options):
    def call(g, *xs):
        return jax.pure_callback(g, jax.ShapeDtypeStruct(xs[0].shape, xs[0].dtype), *xs, **options)

    f = jax.custom_vjp(lambda x: call(host, x))
    f.defvjp(lambda x: (call(host, x), x), lambda x, ct: (call(lambda x, ct: ct * np.cos(x), x, ct),))
    return f


def test_what_a_plain_call_cannot_do_is_no_fault_of_the_rule():
    def of_fours(x):
        if len(x) % 4:
            raise ValueError("fours, please")
        return np.sin(x)

    # Without a way to be batched, and refusing some lengths where it runs.
    jaxbp.check_vjp(sine_by_callback(np.sin), X[0], stock=jnp.sin).raise_if_failed()
    jaxbp.check_vjp(sine_by_callback(of_fours, vmap_method="sequential"), X[0], stock=jnp.sin).raise_if_failed()


def test_a_domain_holds_under_vmap_too():
    seen = []

    def watched(x):
        seen.append((x.min(), x.max()))
        return np.sin(x)

    f = sine_by_callback(watched, vmap_method="sequential")
    jaxbp.check_vjp(f, abs(X[0]) % 1 + 1, stock=jnp.sin, domain={"args[0]": (1.0, 2.0)}, shapes="keep")
    assert min(low for low, _ in seen) >= 1


def test_what_a_callback_raised_is_told():
    def refuses(x):
        raise ValueError("never on a Thursday")

    report = jaxbp.check_vjp(sine_by_callback(refuses), X[0], stock=jnp.sin, level="quick")
    assert "never on a Thursday" in report.findings[0].text


def test_a_stock_function_that_cannot_be_differentiated_is_told_apart():
    with pytest.raises(UsageError, match="stock without its custom rules cannot be differentiated by JAX, so there is"):
        jaxbp.check_vjp(with_rule(softmax_kernel), X, stock=softmax_kernel)


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
