"""The engines of a whole objective: rules, autodiff, central differences, and NumPy on a tape."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxbp.declaration import Domain
from jaxbp.differences import perturbed_slopes
from jaxbp.engines import Owner
from jaxbp.op import Op
from jaxbp.training.models import Call, Weights

#: `objective(call, weights, x, labels)`: one number; `call(op, *args)` computes an op.
Objective = Callable[[Call, Weights, Any, Any], Any]
#: `f(weights, x, labels) -> (value, gradient)`; the gradient is a tree like the weights.
ValueAndGradient = Callable[[Weights, Any, Any], tuple[Any, Weights]]

#: The engines whose gradients differ by rounding alone.
EXACT = ("rule", "autodiff", "numpy")
NUMERICAL = "central_difference"
ENGINES = (*EXACT, NUMERICAL)


def owner_of(engine: str) -> Owner:
    """The library that computes."""
    return "numpy" if engine == "numpy" else "jax"


def by_rule(op: Op, *args: Any) -> Any:
    """The op with its default rule."""
    return op(*args)


def by_stock(op: Op, *args: Any) -> Any:
    """What a user would call without jaxbp."""
    return op.stock(*args)


def by_reference(op: Op, *args: Any) -> np.ndarray:
    """The op in NumPy, in the precision of its arguments."""
    return np.asarray(op.reference(*args))


class Tape:
    """Ops computed in NumPy and written down, so that the chain rule can go back through them.

    This is the notes' staged computation: each op knows its own VJP, the stages are taken in reverse, and where a
    variable is used twice its gradients add up.

    >>> from jaxbp.ops.arithmetic import add, multiply
    >>> x, y, z = (np.array(v) for v in (-2.0, 5.0, -4.0))
    >>> tape = Tape()
    >>> f = tape.call(multiply, tape.call(add, x, y), z)
    >>> {name: float(ct) for name, ct in tape.gradient(f, {"x": x, "y": y, "z": z}).items()}
    {'x': -4.0, 'y': -4.0, 'z': 3.0}
    """

    def __init__(self) -> None:
        self._stages: list[tuple[Op, tuple[Any, ...], np.ndarray]] = []

    def call(self, op: Op, *args: Any) -> np.ndarray:
        """The value of an op; arrays are known again by what they are, not by what they hold."""
        y = by_reference(op, *args)
        self._stages.append((op, args, y))
        return y

    def gradient(self, y: np.ndarray, wrt: Weights) -> Weights:
        """The gradient of the number `y` with respect to arrays by name."""
        cts: dict[int, Any] = {id(y): np.ones_like(y)}
        for op, args, output in reversed(self._stages):
            if id(output) in cts:
                for x, ct in zip(args, op.reference_vjp(cts[id(output)], *args), strict=True):
                    if ct is not None and isinstance(x, np.ndarray):
                        cts[id(x)] = cts.get(id(x), 0) + ct
        return {name: np.asarray(cts.get(id(x), np.zeros_like(x)), x.dtype) for name, x in wrt.items()}


def value_and_gradient(objective: Objective, engine: str) -> ValueAndGradient:
    """The objective's value and gradient by one of `ENGINES`; those of JAX are not yet jitted.

    >>> from jaxbp.ops.losses import l2_penalty
    >>> f = lambda call, weights, x, labels: call(l2_penalty, weights["w"], 0.5)
    >>> for engine in ("rule", "numpy", "central_difference"):
    ...     y, gradient = value_and_gradient(f, engine)({"w": np.float32([3, -4])}, None, None)
    ...     print(engine, float(y), np.round(gradient["w"], 2).tolist())
    rule 12.5 [3.0, -4.0]
    numpy 12.5 [3.0, -4.0]
    central_difference 12.5 [3.0, -4.0]
    """
    if engine == "numpy":
        return functools.partial(_on_a_tape, objective)
    if engine == NUMERICAL:
        return functools.partial(_by_differences, objective)
    return jax.value_and_grad(functools.partial(objective, by_rule if engine == "rule" else by_stock))


def _on_a_tape(objective: Objective, weights: Weights, x: Any, labels: Any) -> tuple[Any, Weights]:
    tape = Tape()
    with np.errstate(all="ignore"):  # A descent that diverges overflows, and says so itself.
        y = objective(tape.call, weights, x, labels)
        return y, tape.gradient(y, weights)


def _by_differences(objective: Objective, weights: Weights, x: Any, labels: Any) -> tuple[Any, Weights]:
    flat, restore = ravel_pytree(weights)

    def f(flat: jax.Array) -> Any:
        return objective(by_stock, restore(flat), x, labels)

    y = f(flat)
    slopes = perturbed_slopes(f, "central", Domain(), (flat,), y, jnp.ones_like(y), 0, jnp.arange(flat.size))
    return y, restore(slopes)
