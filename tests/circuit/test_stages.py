"""Gradients are those of `jax.grad`, and so are those of the printed Python."""

import drawables
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def blended(x, y):
    """Primitives with a formula of their own in the table, one after the other."""
    a = jnp.tanh(x) + jnp.sin(y) * jnp.cos(x)
    b = jnp.where(a > 0, jnp.sqrt(jnp.abs(a) + 1.0), jnp.exp2(a))
    c = jnp.log1p(b) - jnp.log(b + 2.0) + jnp.expm1(b / 5) ** 3
    d = jnp.concatenate([c, -x, jnp.minimum(x, y)])[1:7:2]
    e = jax.lax.rsqrt(d * d + 1.0) * jnp.arctan(d) + jax.lax.erf(d) / 3.0 + jnp.max(c)
    return jnp.sum(e.reshape(3, 1).T @ jnp.ones((3, 2))) + x[0] ** y[0].astype(jnp.float32) * jnp.clip(y[1], -1, 1)


CASES = {
    "product of sum": (drawables.product_of_sum, (-2.0, 5.0, -4.0)),
    "neuron of gates": (drawables.neuron_of_gates, (2.0, -3.0, -3.0, -1.0, -2.0)),
    "rational": (drawables.rational, (3.0, -4.0)),
    "patterns": (drawables.patterns, (3.0, -4.0, 2.0, -1.0)),
    "layer": (drawables.layer, (drawn(8, 5), drawn(5, 4), drawn(4))),
    "cross entropy": (drawables.cross_entropy, (drawn(2, 3), np.array([0, 2], np.int32))),
    "many primitives": (blended, (np.array([0.3, 1.2, -0.7], np.float32), np.array([1.4, 0.6, 0.2], np.float32))),
    "gathered": (lambda x: jnp.sum(x[jnp.array([0, 2, 2])] ** 2), (drawn(4),)),
    "cumulated and sorted": (lambda x: jnp.sum(jnp.cumsum(x) * jnp.sort(x)), (drawn(5),)),
    "outer product": (lambda x, y: jnp.sum(x[:, None] * y + x[0]), (drawn(3), drawn(2))),
    "through complex numbers": (lambda x: jnp.abs(jnp.fft.fft(x)).sum(), (drawn(4),)),
    "scanned": (lambda x: jax.lax.scan(lambda c, u: (c * u, c), 1.0, x)[0], (drawn(3),)),
    "unused": (lambda x, y: x * 2.0, (3.0, 4.0)),
    "our ops": (lambda x: jaxbp.sigmoid(x) * x, (0.7,)),
    "jitted": (lambda x: jax.jit(lambda u, c: jnp.sin(u) * c)(x, 3.0) + drawables.folded(x), (0.5,)),
    "tree": (lambda p: jnp.sum(p["w"] ** 2) * p["b"], ({"w": drawn(3), "b": 2.0},)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_drawn_and_printed_are_those_of_jax(name):
    f, args = CASES[name]
    circuit = jaxbp.draw_circuit(f, *args)
    text = circuit.to_stages()
    inputs = [w for w in circuit.scope.inputs if w.is_inexact]

    @jax.jit
    def run():
        exec(text, namespace := dict(circuit.given))
        return [namespace[f"d{w.name}"] for w in inputs]

    expected = jax.jit(jax.grad(f, argnums=tuple(range(len(args))), allow_int=True))(*args)
    expected = [x for x in jax.tree.leaves(expected) if x.dtype != jax.dtypes.float0]
    for wire, printed, truth in zip(inputs, run(), expected, strict=True):
        np.testing.assert_allclose(circuit.gradients[wire.name], truth, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(printed, truth, rtol=2e-5, atol=1e-6)


def test_it_is_the_notes_code():
    lines = jaxbp.draw_circuit(drawables.rational, 3.0, -4.0).to_stages().splitlines()
    code = [line.partition("  #")[0].rstrip() for line in lines]
    assert code[code.index("# forward pass") + 1 : code.index("# forward pass") + 9] == [
        "sigy = jax.nn.sigmoid(y)",
        "num = x + sigy",
        "sigx = jax.nn.sigmoid(x)",
        "xpy = x + y",
        "xpysqr = xpy ** 2",
        "den = sigx + xpysqr",
        "invden = 1.0 / den",
        "f = num * invden",
    ]
    assert [line for line in code if line.startswith(("dx", "dy")) and line[2] in " +"] == [
        "dx = dxpy",
        "dy = dxpy",
        "dx += (1 - sigx) * sigx * dsigx",
        "dx += dnum",
        "dy += (1 - sigy) * sigy * dsigy",
    ]
    assert [line.rpartition("# ")[2].split()[0] for line in lines if line.startswith("dnum")] == ["(8)"]


def test_what_has_no_gradient_is_said():
    circuit = jaxbp.draw_circuit(lambda x: jax.lax.while_loop(lambda c: c < 10, lambda c: c * 2, x) + x, 3.0)
    text = circuit.to_stages()
    assert "# No gradient comes back from t1 (1)" in text
    assert "# dx is not known, or not all of it" in text
    exec(text, dict(circuit.given))


def test_large_arrays_are_given_and_not_written():
    circuit = jaxbp.draw_circuit(drawables.layer, drawn(8, 5), drawn(5, 4), drawn(4))
    text = circuit.to_stages()
    assert "# x is given: float32[8, 5]" in text
    assert circuit.given["x"].shape == (8, 5)
    assert "b = jnp.array([" in text


def test_what_has_no_simple_formula_is_a_vjp():
    text = jaxbp.draw_circuit(lambda x: jnp.sum(jnp.cumsum(x)), drawn(3)).to_stages()
    assert "jax.vjp(lambda x: jax.lax.cumsum(x, axis=0, reverse=False), x)" in text
    text = jaxbp.draw_circuit(lambda x: jaxbp.sigmoid(x) * 2.0, 1.0).to_stages()
    assert "jax.vjp(jaxbp.sigmoid, x)" in text
