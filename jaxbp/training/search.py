"""Optimization without gradients: grid search and random search, and descent in the same spaces beside them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.errors import UsageError
from jaxbp.training.data import CLASSES, load_examples
from jaxbp.training.descent import Setting
from jaxbp.training.gradients import by_rule, by_stock
from jaxbp.training.models import MODELS, with_ones

METHODS = ("grid", "random", "descent")
#: A step of descent counts as so many evaluations of the loss: the backward pass has two matrix products more.
STEP_COST = 3
#: How far searches go: the weights of the minimum are about half as large, and those of random searches do best so.
TEMPLATE_REACH, WEIGHT_REACH = 10.0, 0.3


@dataclasses.dataclass(frozen=True)
class Space:
    """The weights of a linear classifier as a sum of templates, or each weight by itself.

    Attributes:
        dims: how many coordinates.
        templates: float32 [dims, 65, 10], orthonormal; None where each weight is a coordinate.
        reach: searches look at coordinates in [-reach, reach].
    """

    dims: int
    templates: np.ndarray | None
    reach: float

    def weights(self, point: Any) -> dict[str, Any]:
        """The weights at a point [dims]."""
        if self.templates is None:
            return {"w": point.reshape(-1, CLASSES)}
        return {"w": jnp.tensordot(point, self.templates, 1)}


@dataclasses.dataclass(frozen=True)
class Found:
    """How a search went.

    Attributes:
        best: the smallest loss after each evaluation; of descent, each step counts as `STEP_COST` of them.
        point: where it was.
        correct: how many images of the test these weights classify correctly.
        per_axis: points of a grid on each axis.
    """

    best: np.ndarray
    point: np.ndarray
    correct: int
    per_axis: int | None = None


def space_of(dims: int | None, seed: int) -> Space:
    """The space of the `dims` first class templates; of all weights if None.

    The templates are the singular vectors of the classes' mean images less the mean of all, a matrix [65, 10] of rank
    9: what a classifier by the nearest mean multiplies images with.

    >>> space_of(2, seed=0).templates.shape
    (2, 65, 10)
    """
    train, _ = load_examples(seed)
    x = with_ones(train.images)
    if dims is None:
        return Space(x.shape[1] * CLASSES, None, WEIGHT_REACH)
    if not 1 <= dims < CLASSES:
        raise UsageError(f"There are 1 to {CLASSES - 1} class templates, not {dims}.")
    means = np.stack([x[train.labels == c].mean(axis=0) for c in range(CLASSES)], axis=1)
    u, _, v = np.linalg.svd(means - x.mean(axis=0)[:, None], full_matrices=False)
    return Space(dims, np.einsum("id,dj->dij", u[:, :dims], v[:dims]).astype(np.float32), TEMPLATE_REACH)


def grid_points(space: Space, evaluations: int) -> tuple[np.ndarray, int]:
    """As many points on each axis as the evaluations allow, in the order of nested loops; a single one is the centre.

    >>> points, per_axis = grid_points(space_of(2, seed=0), 10)
    >>> per_axis, points[:2].tolist()
    (3, [[-10.0, -10.0], [-10.0, 0.0]])
    """
    per_axis = round(evaluations ** (1 / space.dims))
    while per_axis**space.dims > evaluations:
        per_axis -= 1
    axis = np.linspace(-space.reach, space.reach, per_axis, dtype=np.float32) if per_axis > 1 else np.zeros(1, "f")
    if per_axis == 1:
        return np.zeros((1, space.dims), np.float32), 1
    return np.stack(np.meshgrid(*[axis] * space.dims, indexing="ij"), axis=-1).reshape(-1, space.dims), per_axis


def search(method: str, space: Space, setting: Setting, evaluations: int) -> Found:
    """Look for the weights of the smallest objective with so many evaluations of it."""
    train, test = load_examples(setting.seed)
    model = MODELS["linear"]
    x, labels = jnp.asarray(model.inputs(train.images)), jnp.asarray(train.labels)

    def objective(call: Callable[..., Any], point: jax.Array, x: jax.Array, labels: jax.Array) -> Any:
        return model.objective(setting.loss, setting.strength, call, space.weights(point), x, labels)

    per_axis = None
    if method == "descent":
        steps = evaluations // STEP_COST
        gradient = jax.value_and_grad(functools.partial(objective, by_rule))

        def step(point: jax.Array, _: None) -> tuple[jax.Array, tuple[Any, jax.Array]]:
            value, slopes = gradient(point, x, labels)
            return point - setting.rate * slopes, (value, point)

        start = jnp.zeros(space.dims, jnp.float32)
        _, (losses, points) = jax.jit(lambda start: jax.lax.scan(step, start, length=steps))(start)
    else:
        if method == "grid":
            points, per_axis = grid_points(space, evaluations)
        else:
            rng = np.random.default_rng([setting.seed, 3])
            points = rng.uniform(-space.reach, space.reach, (evaluations, space.dims)).astype(np.float32)
        evaluate = jax.jit(lambda points, x, labels: jax.lax.map(lambda p: objective(by_stock, p, x, labels), points))
        losses = evaluate(points, x, labels)
    losses, points = np.asarray(losses), np.asarray(points)
    best = points[np.argmin(losses)]
    scores = model.scores(by_stock, space.weights(best), model.inputs(test.images))
    right = int((np.asarray(scores).argmax(axis=-1) == test.labels).sum())
    return Found(np.minimum.accumulate(losses), best, right, per_axis)
