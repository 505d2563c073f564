"""Descents: as good as scikit-learn's classifiers, the same curve by every exact engine; rates that are too large."""

import functools
import math

import numpy as np
import pytest

from jaxbp.report.training import distance
from jaxbp.training.data import load_examples
from jaxbp.training.descent import OPTIMIZERS, RATES, Setting, batches, descend, make_schedule
from jaxbp.training.gradients import EXACT
from jaxbp.training.models import LOSSES
from jaxbp.training.yardstick import fit_yardstick

STEPS = 600


def setting(model, loss, **changes):
    settled = {"batch": 128, "schedule": "cosine", "rate": RATES["sgd", model, loss], "steps": STEPS, **changes}
    return Setting(model, loss, **settled)


@functools.cache
def curve(loss, engine):
    return descend(setting("linear", loss), engine)


@functools.cache
def yardstick(model, loss):
    return fit_yardstick(setting(model, loss))


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("loss", LOSSES)
def test_descent_reaches_the_accuracy_of_scikit_learn(loss, engine):
    theirs = yardstick("linear", loss)
    assert theirs.correct / theirs.tests > 0.93
    ours = curve(loss, engine)
    assert ours.correct[-1] >= theirs.correct - 0.01 * theirs.tests
    assert ours.correct[0] <= 0.2 * theirs.tests
    assert not ours.diverged


def test_logistic_regression_is_the_minimum_of_the_objective():
    minimum = yardstick("linear", "softmax").objective
    assert minimum is not None
    reached = curve("softmax", "rule").train_losses[-1]
    assert minimum - 1e-4 <= reached < 1.5 * minimum


@pytest.mark.parametrize("engine", ["rule", "numpy"])
@pytest.mark.parametrize("loss", LOSSES)
def test_curves_of_exact_engines_agree(loss, engine):
    ours, theirs = (curve(loss, name) for name in (engine, "autodiff"))
    assert distance(ours.losses[:200], theirs.losses[:200]) < 1e-5
    # They were not computed by the same code.
    assert ours.losses != theirs.losses


def test_curves_of_the_network_agree():
    ours, theirs = (descend(setting("two-layer", "softmax"), name, 200) for name in ("rule", "autodiff"))
    assert len(ours.losses) == 200
    assert distance(ours.losses, theirs.losses) < 1e-5
    assert ours.correct[-1] > 0.9 * 360


def test_the_learning_rate_falls_as_the_notes_write_it():
    cosine = make_schedule(Setting(schedule="cosine", rate=0.3, steps=50))
    notes = [0.5 * 0.3 * (1 + math.cos(t * math.pi / 50)) for t in range(51)]
    np.testing.assert_allclose([float(cosine(t)) for t in range(51)], notes, rtol=1e-5, atol=1e-8)
    constant = make_schedule(Setting(rate=0.3, steps=50))
    assert {float(constant(t)) for t in (0, 25, 50)} == {0.3}


def test_a_smaller_last_rate_means_smaller_last_steps():
    constant, cosine = (
        descend(setting("linear", "hinge", schedule=s, steps=100), "numpy") for s in ("constant", "cosine")
    )
    last = [np.ptp(c.train_losses[-10:]) for c in (constant, cosine)]
    assert last[1] < last[0] / 3


def test_batches_take_every_image_once_before_any_again():
    n = 100
    asked = Setting(batch=30, seed=4)
    rows = batches(n, asked)
    epochs = [np.concatenate([np.asarray(next(rows)) for _ in range(3)]) for _ in range(2)]
    assert all(len(set(epoch.tolist())) == 90 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    again, other = (np.asarray(next(batches(n, Setting(batch=30, seed=seed)))) for seed in (4, 5))
    np.testing.assert_array_equal(again, epochs[0][:30])
    assert other.tolist() != again.tolist()
    assert next(batches(n, Setting())) is None


def test_the_seed_splits_the_images_and_no_image_is_in_both():
    train, test = load_examples(3)
    other, _ = load_examples(4)
    assert not np.array_equal(train.images, other.images)
    assert {tuple(image) for image in train.images}.isdisjoint(tuple(image) for image in test.images)
    assert train.images.min() == 0
    assert train.images.max() == 1
    shares = [np.bincount(part.labels) / part.labels.size for part in (train, test)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.01)


@pytest.mark.parametrize("engine", ["rule", "numpy"])
def test_numbers_that_overflow_end_the_descent(engine):
    ended = descend(setting("linear", "softmax", rate=1e38, schedule="constant", steps=6), engine)
    assert ended.diverged
    assert ended.diverged_at is not None
    assert len(ended.losses) == ended.diverged_at + 1


def test_a_rate_that_only_climbs_has_diverged():
    ended = descend(setting("linear", "softmax", rate=500.0, batch=None, schedule="constant", steps=5), "numpy")
    assert ended.diverged
    assert ended.diverged_at is None


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "sgd"])
def test_every_optimizer_descends(optimizer):
    rate = RATES[optimizer, "linear", "softmax"]
    ended = descend(setting("linear", "softmax", optimizer=optimizer, rate=rate, steps=60), "numpy")
    assert ended.correct[-1] > 0.85 * 360
