"""Gradients of whole objectives: every engine against differences in float64, and the tape's chain rule."""

import functools

import jax
import numpy as np
import pytest

from jaxbp.ops.arithmetic import add, multiply
from jaxbp.ops.powers import square
from jaxbp.training.data import load_examples
from jaxbp.training.descent import Setting, Trainer
from jaxbp.training.gradients import ENGINES, EXACT, Tape, by_reference, value_and_gradient
from jaxbp.training.models import LOSSES, MODELS

ROWS = slice(0, 40)


def posed(model, loss):
    """An objective, weights away from its start, and a few images."""
    train, _ = load_examples(0)
    rng = np.random.default_rng(1)
    weights = MODELS[model].initial(rng, 3)
    weights = {name: (w + rng.normal(0, 0.2, w.shape)).astype(np.float32) for name, w in weights.items()}
    objective = functools.partial(MODELS[model].objective, loss, 0.05)
    return objective, weights, MODELS[model].inputs(train.images[ROWS]), train.labels[ROWS]


def gradient(engine, objective):
    """Value and gradient by an engine, jitted where JAX computes them."""
    f = value_and_gradient(objective, engine)
    return f if engine == "numpy" else jax.jit(f)


def slopes_in_float64(objective, weights, x, labels, name):
    """Some entries of the gradient of some weights, and their places, by central differences in float64."""
    wide = {key: w.astype(np.float64) for key, w in weights.items()}

    def value(change):
        return objective(by_reference, {**wide, name: wide[name] + change}, x.astype(np.float64), labels)

    places = np.random.default_rng(2).choice(wide[name].size, min(wide[name].size, 20), replace=False)
    steps = 1e-6 * np.eye(wide[name].size)[places].reshape(-1, *wide[name].shape)
    return places, np.array([(value(h) - value(-h)) / 2e-6 for h in steps])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
def test_every_engine_has_the_gradient_of_the_objective(model, loss):
    objective, weights, x, labels = posed(model, loss)
    exact = {name: slopes_in_float64(objective, weights, x, labels, name) for name in weights}
    y = objective(by_reference, weights, x, labels)
    for engine in ENGINES if loss == "softmax" else EXACT:
        value, found = gradient(engine, objective)(weights, x, labels)
        assert float(value) == pytest.approx(float(y), rel=1e-6)
        assert found.keys() == weights.keys()
        for name, slopes in found.items():
            places, expected = exact[name]
            allowed = (1e-5 if engine in EXACT else 1e-2) * np.abs(slopes).max()
            np.testing.assert_allclose(
                np.ravel(slopes)[places], expected, rtol=0, atol=allowed, err_msg=f"{engine} {name}"
            )
            assert np.asarray(slopes).dtype == np.float32


def test_the_rule_is_the_rule_and_autodiff_is_not(monkeypatch):
    """A rule that is broken on purpose changes the engine `rule` and no other."""
    objective, weights, x, labels = posed("linear", "softmax")
    broken = LOSSES["softmax"].replace(
        rules=tuple(
            type(bound.rule)(bound.name, bound.fwd, lambda res, ct, **options: (0 * res[0], 0 * res[1], None, ct), "")
            for bound in LOSSES["softmax"].rules.values()
        )
    )
    monkeypatch.setitem(LOSSES, "softmax", broken)
    for engine in EXACT:
        slopes = gradient(engine, objective)(weights, x, labels)[1]["w"]
        assert np.any(np.asarray(slopes)) == (engine != "rule"), engine


def test_on_a_tape_branches_add_up_and_what_is_not_used_has_no_slope():
    x, y = np.array(3.0), np.array(5.0)
    tape = Tape()
    f = tape.call(add, tape.call(square, x), tape.call(multiply, x, y))
    tape.call(square, y)  # Leads nowhere.
    found = tape.gradient(f, {"x": x, "y": y, "z": np.ones(2)})
    assert {name: ct.tolist() for name, ct in found.items()} == {"x": 2 * 3 + 5, "y": 3, "z": [0, 0]}


def test_a_step_changes_the_weights_by_rate_times_gradient():
    trainer = Trainer(Setting(rate=0.25, batch=16), "numpy")
    rows = np.arange(16)
    _, slopes = trainer.gradient(trainer.weights, trainer.x[rows], trainer.labels[rows])
    weights, _, _ = trainer.step(*trainer.arguments(rows))
    np.testing.assert_allclose(weights["w"], -0.25 * np.asarray(slopes["w"]), rtol=1e-5, atol=1e-9)
