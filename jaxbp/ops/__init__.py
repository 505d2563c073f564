"""The catalog: every op, in the order in which the notes build them up."""

from jaxbp.op import Op
from jaxbp.ops import activations, arithmetic, exponential, expressions, linear, piecewise, powers

OPS: tuple[Op, ...] = (
    arithmetic.add,
    arithmetic.subtract,
    arithmetic.multiply,
    arithmetic.divide,
    arithmetic.negative,
    arithmetic.reciprocal,
    arithmetic.shift,
    arithmetic.scale,
    powers.square,
    powers.sqrt,
    powers.power,
    exponential.exp,
    exponential.log,
    activations.sigmoid,
    activations.tanh,
    piecewise.maximum,
    piecewise.minimum,
    activations.relu,
    piecewise.absolute,
    linear.matmul,
    linear.linear,
    expressions.scaled_sum,
    expressions.neuron,
    expressions.rational,
)

__all__ = ["OPS", "activations", "arithmetic", "exponential", "expressions", "linear", "piecewise", "powers"]
