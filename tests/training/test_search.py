"""Searches: the grid that is asked for, the best point of it, and descent beside them; and the inputs times 1000."""

import itertools

import numpy as np
import pytest

from jaxbp.errors import UsageError
from jaxbp.training.data import load_examples
from jaxbp.training.descent import RATES, Setting
from jaxbp.training.gradients import by_reference
from jaxbp.training.models import MODELS
from jaxbp.training.rates import RATES as TRIED
from jaxbp.training.rates import try_rates
from jaxbp.training.search import STEP_COST, grid_points, search, space_of

SETTING = Setting(rate=RATES["sgd", "linear", "softmax"])


def objective(point, space):
    train, _ = load_examples(0)
    model = MODELS["linear"]
    weights = {name: np.asarray(w) for name, w in space.weights(point).items()}
    return model.objective("softmax", SETTING.strength, by_reference, weights, model.inputs(train.images), train.labels)


def test_templates_are_orthonormal():
    flat = np.asarray(space_of(9, 0).templates).reshape(9, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(9), atol=1e-6)
    with pytest.raises(UsageError, match="1 to 9 class templates, not 10"):
        space_of(10, 0)


@pytest.mark.parametrize(("dims", "per_axis"), [(1, 100), (2, 10), (3, 4), (None, 1)])
def test_a_grid_has_as_many_points_as_are_allowed(dims, per_axis):
    space = space_of(dims, 0)
    points, found = grid_points(space, 100)
    assert found == per_axis
    assert len(points) == len({tuple(point) for point in points.tolist()}) == per_axis**space.dims <= 100
    if per_axis > 1:
        corners = set(itertools.product((-space.reach, space.reach), repeat=space.dims))
        assert corners <= {tuple(point) for point in points.tolist()}


def test_the_best_of_a_grid_is_found():
    space = space_of(2, 0)
    found = search("grid", space, SETTING, 25)
    points, _ = grid_points(space, 25)
    losses = [float(objective(point, space)) for point in points]
    assert found.point.tolist() == points[np.argmin(losses)].tolist()
    np.testing.assert_allclose(found.best, np.minimum.accumulate(losses), rtol=1e-5)


def test_few_coordinates_can_be_searched_and_many_need_descent():
    evaluations = 90
    for dims in (1, None):
        space = space_of(dims, 0)
        methods = ("grid", "descent") if dims else ("random", "descent")
        found = {method: search(method, space, SETTING, evaluations) for method in methods}
        assert len(found["descent"].best) == evaluations // STEP_COST
        if dims:
            assert found["grid"].best[-1] == pytest.approx(found["descent"].best[-1], rel=0.05)
        else:
            assert len(found["random"].best) == evaluations
            assert found["descent"].best[-1] < 0.5 * found["random"].best[-1]
            assert found["descent"].correct > 2 * found["random"].correct


def test_inputs_times_1000_ask_for_a_rate_a_million_times_smaller():
    once, scaled = (try_rates(Setting(), "rule", scale, 20) for scale in (1.0, 1000.0))
    np.testing.assert_allclose(scaled.gradient, 1000 * once.gradient, rtol=1e-4, atol=1e-2)
    largest = [np.asarray(TRIED)[rates.works].max() for rates in (once, scaled)]
    # To the nearest of the rates that were tried, two a decade.
    assert np.log10(largest[0] / largest[1]) == pytest.approx(6, abs=0.6)
    assert not once.works.all()
