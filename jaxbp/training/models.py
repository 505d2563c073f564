"""Classifiers as compositions of ops, written once; how an op is applied is up to the engine."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxbp.op import Op
from jaxbp.ops.activations import relu
from jaxbp.ops.arithmetic import add
from jaxbp.ops.linear import linear, matmul
from jaxbp.ops.losses import l2_penalty
from jaxbp.ops.objectives import hinge_objective, softmax_objective
from jaxbp.training.data import CLASSES, PIXELS

#: Arrays by name; those of the last layer are `w`.
Weights = dict[str, Any]
#: `call(op, *args)`: how an engine computes the value of an op.
Call = Callable[..., Any]

#: By name, the loss of the scores `x w` with the penalty of `w`.
LOSSES: dict[str, Op] = {"softmax": softmax_objective, "hinge": hinge_objective}


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier: what its last layer multiplies with its weights `w`.

    Attributes:
        name: on the command line.
        inputs: what it takes for images [n, 64].
        initial: `initial(rng, hidden)` draws the weights; `hidden` is the number of hidden units.
        features: `features(call, weights, x)`, the inputs of the last layer.
        penalized: the weights besides `w` that the penalty counts.
    """

    name: str
    inputs: Callable[[np.ndarray], np.ndarray]
    initial: Callable[[np.random.Generator, int], Weights]
    features: Callable[[Call, Weights, Any], Any]
    penalized: tuple[str, ...] = ()

    def scores(self, call: Call, weights: Weights, x: Any) -> Any:
        """The scores of the classes, [n, 10]."""
        return call(matmul, self.features(call, weights, x), weights["w"])

    def objective(self, loss: str, strength: float, call: Call, weights: Weights, x: Any, labels: Any) -> Any:
        """The mean loss over the examples plus `strength` times the sum of squares of the weights, one number."""
        y = call(LOSSES[loss], self.features(call, weights, x), weights["w"], labels, strength)
        for name in self.penalized:
            y = call(add, y, call(l2_penalty, weights[name], strength))
        return y


def with_ones(images: np.ndarray) -> np.ndarray:
    """The images with a pixel more that is always 1: its weights are the bias (the notes' bias trick)."""
    return np.concatenate([images, np.ones_like(images[:, :1])], axis=1)


def _zeros(rng: np.random.Generator, hidden: int) -> Weights:
    # The objective is convex: any start will do.
    return {"w": np.zeros((PIXELS + 1, CLASSES), np.float32)}


def _he(rng: np.random.Generator, hidden: int) -> Weights:
    """He et al.'s start for layers before a ReLU, and zeros for the bias."""

    def layer(inputs: int, units: int) -> np.ndarray:
        return rng.normal(0, np.sqrt(2 / inputs), (inputs, units)).astype(np.float32)

    return {"hidden": layer(PIXELS, hidden), "bias": np.zeros(hidden, np.float32), "w": layer(hidden, CLASSES)}


MODELS = {
    model.name: model
    for model in (
        Model("linear", with_ones, _zeros, lambda call, weights, x: x),
        Model(
            "two-layer",
            lambda images: images,
            _he,
            # Not linear_relu, whose bits save memory that a batch of small images does not take.
            lambda call, weights, x: call(relu, call(linear, x, weights["hidden"], weights["bias"])),
            ("hidden",),
        ),
    )
}
