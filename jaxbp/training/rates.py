"""The notes' inputs times 1000: how much the gradient grows, and which learning rates still work."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.training.data import PIXELS
from jaxbp.training.descent import Setting, Trainer

#: What all pixels are multiplied with.
SCALES = (1.0, 1000.0)
#: Two a decade.
RATES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-20, 5))


@dataclasses.dataclass(frozen=True)
class Rates:
    """What every learning rate does at one scale of the inputs.

    Attributes:
        scale: what all pixels are multiplied with.
        gradient: the gradient of the pixels' weights at the start, [64, 10].
        first: the objective at the start.
        last: by learning rate, the objective after the last step.
        highest: by learning rate, the largest objective on the way.
    """

    scale: float
    gradient: np.ndarray
    first: float
    last: np.ndarray
    highest: np.ndarray

    @property
    def works(self) -> np.ndarray:
        """The rates with which the objective fell and never rose above where it began."""
        return (self.last < self.first) & (self.highest <= self.first)


def try_rates(setting: Setting, engine: str, scale: float, steps: int) -> Rates:
    """Descend on all images without penalty at every one of `RATES`, all of them at once.

    Without, because the penalty of smaller weights is smaller: it would not be the same problem.
    """
    trainer = Trainer(dataclasses.replace(setting, model="linear", batch=None, strength=0.0, scale=scale), engine)

    def descend(rate: jax.Array, weights: Any, x: Any, labels: Any) -> jax.Array:
        def step(weights: Any, _: None) -> tuple[Any, Any]:
            value, gradient = trainer.gradient(weights, x, labels)
            return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), value

        # The last of these updates is one too many, and nobody looks at it.
        return jax.lax.scan(step, weights, length=steps + 1)[1]

    def run(rates: jax.Array, *arguments: Any) -> tuple[jax.Array, Any]:
        values = jax.vmap(descend, in_axes=(0, None, None, None))(rates, *arguments)
        return values, trainer.gradient(*arguments)[1]

    tried = jnp.asarray(RATES, jnp.float32)
    values, gradient = jax.jit(run)(tried, trainer.weights, trainer.x, trainer.labels)
    # What is no number any more was too large.
    values = np.where(np.isfinite(values), values, np.inf)
    pixels = np.asarray(gradient["w"])[:PIXELS]
    return Rates(scale, pixels, float(values[0, 0]), values[:, -1], values.max(axis=1))
