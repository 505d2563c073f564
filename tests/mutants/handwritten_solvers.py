"""Wrong rules as people write them, of functions that iterate until they have an answer."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.register import normal, wrong


def _converged(step: Any, x: Any) -> Any:
    """Iterated until nothing moves by more than a tolerance, as solvers do."""

    def moving(state: Any) -> Any:
        return jnp.max(jnp.abs(state[0] - state[1])) > 1e-5

    return lax.while_loop(moving, lambda state: (step(state[0], x), state[0]), (jnp.zeros_like(x), x + 1))[0]


def _contraction(y: Any, x: Any) -> Any:
    return jnp.tanh(y / 2 + x)


#: The solution of y = tanh(y/2 + x), with a right rule.
SOLUTION = custom(
    lambda x: _converged(_contraction, x),
    lambda x: (_converged(_contraction, x),) * 2,
    lambda y, ct: (ct * (1 - y * y) / (1 - (1 - y * y) / 2),),
)


@wrong(normal(9), kinds=("times", "beyond"), truth=SOLUTION)
def solver_to_a_tolerance_goes_back_without_its_feedback():
    """y = tanh(y/2 + x): the derivative of the right-hand side alone, not divided by 1 minus its share of y."""

    def f(x):
        return _converged(_contraction, x)

    return f, lambda x: (f(x),) * 2, lambda y, ct: (ct * (1 - y * y),)


@wrong(normal(9), kinds=("times", "beyond"))
def solver_on_a_constant_point_goes_back_without_its_feedback():
    """As people write it by hand: iterated on what is held constant, then one Newton step that is differentiated."""

    def f(x):
        y = lax.stop_gradient(_converged(_contraction, x))
        slope = (1 - jnp.tanh(y / 2 + x) ** 2) / 2
        return y - (y - jnp.tanh(y / 2 + x)) / lax.stop_gradient(1 - slope)

    return f, lambda x: (f(x),) * 2, lambda y, ct: (ct * (1 - y * y),)


def _bisected(x: Any) -> Any:
    """The root y of y^3 + y = x."""

    def halve(ends: Any) -> Any:
        low, high = ends
        middle = (low + high) / 2
        above = middle**3 + middle < x
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = (jnp.full_like(x, -64), jnp.full_like(x, 64))
    return lax.while_loop(lambda ends: jnp.max(ends[1] - ends[0]) > 1e-4, halve, ends)[0]


#: It with a right rule: autodiff finds no slope in steps.
ROOT = custom(_bisected, lambda x: (_bisected(x),) * 2, lambda y, ct: (ct / (1 + 3 * y**2),))


@wrong(normal(9), truth=ROOT)
def bisection_to_a_tolerance_has_the_slope_of_its_inverse():
    """dx/dy is returned."""
    return _bisected, lambda x: (_bisected(x),) * 2, lambda y, ct: (ct * (1 + 3 * y**2),)
