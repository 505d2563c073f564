"""Gradient descent: the same steps for every engine, which differ in the gradient alone."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxbp.engines import Owner
from jaxbp.errors import import_extra
from jaxbp.measure.executables import compile_function
from jaxbp.training.data import load_examples
from jaxbp.training.gradients import by_reference, by_stock, owner_of, value_and_gradient
from jaxbp.training.models import MODELS, Weights

OPTIMIZERS = ("sgd", "momentum", "adam")
SCHEDULES = ("constant", "cosine")
#: The usual share of the last update that `momentum` keeps.
MOMENTUM = 0.9
#: Learning rates that descend well, by optimizer, model and loss.
RATES = {
    ("sgd", "linear", "softmax"): 1.0,
    ("sgd", "linear", "hinge"): 0.05,
    ("sgd", "two-layer", "softmax"): 0.5,
    ("sgd", "two-layer", "hinge"): 0.04,
    ("momentum", "linear", "softmax"): 0.1,
    ("momentum", "linear", "hinge"): 0.01,
    ("momentum", "two-layer", "softmax"): 0.05,
    ("momentum", "two-layer", "hinge"): 0.01,
    ("adam", "linear", "softmax"): 0.01,
    ("adam", "linear", "hinge"): 0.01,
    ("adam", "two-layer", "softmax"): 0.005,
    ("adam", "two-layer", "hinge"): 0.005,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is learned and how, whatever the engine.

    Attributes:
        model: one of `MODELS`.
        loss: one of `LOSSES`.
        batch: images of a mini-batch; None for all of them in each step.
        optimizer: one of `OPTIMIZERS`.
        schedule: one of `SCHEDULES`.
        rate: the learning rate, with which the schedule begins.
        steps: how many updates.
        strength: of the L2 penalty.
        hidden: hidden units of the two-layer network.
        seed: of the split, the start and the batches.
        scale: what all pixels are multiplied with.
    """

    model: str = "linear"
    loss: str = "softmax"
    batch: int | None = None
    optimizer: str = "sgd"
    schedule: str = "constant"
    rate: float = 1.0
    steps: int = 1000
    strength: float = 1e-3
    hidden: int = 32
    seed: int = 0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Curve:
    """How a descent went; entry t is of the weights after t updates.

    Attributes:
        losses: the objective on each step's examples, as its engine computed it.
        train_losses: the objective on all images for training.
        correct: how many images of the test are classified correctly.
        weights: after the last step.
        diverged_at: the step whose objective was not finite; None if all were.
    """

    losses: list[float]
    train_losses: list[float]
    correct: list[int]
    weights: Weights
    diverged_at: int | None

    @property
    def diverged(self) -> bool:
        """Whether numbers overflowed, or it ended above where it began."""
        return self.diverged_at is not None or not self.train_losses[-1] <= self.train_losses[0]


def make_schedule(setting: Setting) -> Any:
    """The learning rate as a function of the step: constant, or rate / 2 (1 + cos(pi t / T)) for T steps.

    >>> cosine = make_schedule(Setting(schedule="cosine", rate=0.2, steps=10))
    >>> [round(float(cosine(t)), 3) for t in (0, 5, 10)]
    [0.2, 0.1, 0.0]
    """
    optax = import_extra("optax", "bench")
    if setting.schedule == "cosine":
        return optax.cosine_decay_schedule(setting.rate, setting.steps)
    return optax.constant_schedule(setting.rate)


def make_optimizer(setting: Setting) -> Any:
    """The optimizer of optax with its schedule."""
    optax = import_extra("optax", "bench")
    if setting.optimizer == "adam":
        return optax.adam(make_schedule(setting))
    return optax.sgd(make_schedule(setting), momentum=MOMENTUM if setting.optimizer == "momentum" else None)


def batches(n: int, setting: Setting) -> Iterator[np.ndarray | None]:
    """The rows of each step, without end: all images in a new random order, then again; None for all rows.

    A batch that would go beyond the last image is left out.

    >>> rows = batches(5, Setting(batch=2))
    >>> first, second = next(rows), next(rows)
    >>> len({*first.tolist(), *second.tolist()})
    4
    """
    rng = np.random.default_rng([setting.seed, 1])
    while True:
        if setting.batch is None:
            yield None
            continue
        order = rng.permutation(n).astype(np.int32)
        for start in range(0, n - setting.batch + 1, setting.batch):
            yield order[start : start + setting.batch]


class Trainer:
    """One engine at work on one setting: the data, the start, a step, and the judge of weights.

    Attributes:
        owner: the library that computes the gradient. The update is optax's in any case.
        x: inputs for training, [n, k], with `labels`.
        weights: the start.
        state: the optimizer's, likewise.
    """

    def __init__(self, setting: Setting, engine: str) -> None:
        self.setting = setting
        self.owner: Owner = owner_of(engine)
        model = MODELS[setting.model]
        objective = functools.partial(model.objective, setting.loss, setting.strength)
        train, test = load_examples(setting.seed)
        own = (lambda tree: tree) if self.owner == "numpy" else jax.device_put
        scale = np.float32(setting.scale)
        self.x, self.labels = own((model.inputs(scale * train.images), train.labels))
        self._test = own((model.inputs(scale * test.images), test.labels))
        self.weights = own(model.initial(np.random.default_rng([setting.seed, 2]), setting.hidden))
        self._optimizer = make_optimizer(setting)
        self.state = self._optimizer.init(self.weights)
        self.gradient = value_and_gradient(objective, engine)

        if self.owner == "numpy":
            update = jax.jit(self._updated)
            self._update = lambda *given: jax.tree.map(np.asarray, update(*given))
        else:
            self._update = self._updated

    def step(self, weights: Weights, state: Any, x: Any, labels: Any, rows: Any) -> tuple[Weights, Any, Any]:
        """The next weights and state, and the objective at these weights; `rows` are those of the batch, None all."""
        value, gradient = self.gradient(weights, *((x, labels) if rows is None else (x[rows], labels[rows])))
        weights, state = self._update(weights, state, gradient)
        return weights, state, value

    def arguments(self, rows: np.ndarray | None) -> tuple[Any, ...]:
        """What the first step takes."""
        return self.weights, self.state, self.x, self.labels, rows

    def judge(self, weights: Weights) -> tuple[float, int]:
        """The objective on all images for training, and how many of the test are classified correctly."""
        judge = _judge_of(self.setting.model, self.setting.loss, self.setting.strength, self.owner)
        with np.errstate(all="ignore"):  # Those of a descent that diverges overflow.
            loss, right = judge(weights, self.x, self.labels, *self._test)
        return float(loss), int(right)

    def _updated(self, weights: Weights, state: Any, gradient: Weights) -> tuple[Weights, Any]:
        updates, state = self._optimizer.update(gradient, state, weights)
        return import_extra("optax", "bench").apply_updates(weights, updates), state


@functools.cache
def _judge_of(name: str, loss: str, strength: float, owner: Owner) -> Callable[..., tuple[Any, Any]]:
    """The objective, and the number of right answers in a test, as a function of weights and data."""
    model = MODELS[name]
    call = by_reference if owner == "numpy" else by_stock

    def judge(weights: Weights, x: Any, labels: Any, test: Any, answers: Any) -> tuple[Any, Any]:
        right = model.scores(call, weights, test).argmax(axis=-1) == answers
        return model.objective(loss, strength, call, weights, x, labels), right.sum()

    return judge if owner == "numpy" else jax.jit(judge)


def descend(setting: Setting, engine: str, steps: int | None = None) -> Curve:
    """Descend with the gradient of one engine; stops where numbers overflow, or after the given steps.

    >>> curve = descend(Setting(steps=20), "numpy")
    >>> curve.train_losses[-1] < curve.train_losses[0] / 2, curve.diverged
    (True, False)
    """
    trainer = Trainer(setting, engine)
    weights, state = trainer.weights, trainer.state
    rows = batches(trainer.labels.size, setting)
    first = trainer.arguments(next(batches(trainer.labels.size, setting)))
    step = trainer.step if trainer.owner == "numpy" else compile_function(trainer.step, *first).apply
    curve = Curve([], [], [], weights, None)

    def judge() -> None:
        loss, right = trainer.judge(weights)
        curve.train_losses.append(loss)
        curve.correct.append(right)

    judge()
    for t in range(setting.steps if steps is None else steps):
        weights, state, value = step(weights, state, trainer.x, trainer.labels, next(rows))
        judge()
        curve.losses.append(float(value))
        if not all(map(math.isfinite, (curve.losses[-1], curve.train_losses[-1]))):
            return dataclasses.replace(curve, weights=weights, diverged_at=t)
    return dataclasses.replace(curve, weights=weights)
