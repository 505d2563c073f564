"""Piecewise gates: maximum, minimum, absolute."""

import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import sum_to
from jaxbp.cases import Normal, elementwise_cases
from jaxbp.declaration import BROADCAST, NOTES, Accuracy, Fault, Flops, Kink, Rule
from jaxbp.floats import is_positive, order_key
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.promotion import is_inexact

#: Nothing is rounded.
EXACT = Accuracy((0, 0), (0, 0), (0, 0))


def _order(x, y):
    """Whether x > y, y > x, and x = y, by the bits: a comparison would take subnormal numbers for 0."""
    known = (x == x) & (y == y)  # Nothing is true of NaN.
    key_x, key_y = order_key(x), order_key(y)
    return known & (key_x > key_y), known & (key_y > key_x), known & (key_x == key_y)


def _select(x_wins, y_wins, x, y, tied):
    """The winner; where there is none, `tied`."""
    return jnp.where(x_wins, x, jnp.where(y_wins, y, tied))


def _split_bwd(x, y, ct, x_wins, y_wins, ties):
    # Selected, not multiplied with a share: 0 times an infinite cotangent would be NaN.
    half = jnp.where(ties, ct / 2, 0)
    return sum_to(jnp.where(x_wins, ct, half), x), sum_to(jnp.where(y_wins, ct, half), y)


def _routed_bwd(x, y, ct, x_wins, y_wins, ties):
    return sum_to(jnp.where(x_wins | ties, ct, 0), x), sum_to(jnp.where(y_wins | ties, ct, 0), y)


def _reference_vjp(ct, x, y, x_wins, y_wins):
    half = np.where(x == y, ct / 2, 0)
    return numpy_sum_to(np.where(x_wins, ct, half), x), numpy_sum_to(np.where(y_wins, ct, half), y)


def maximum_fwd(x, y):
    z = jnp.maximum(x, y)
    if is_inexact(x):
        x_larger, y_larger, _ = _order(x, y)
        z = _select(x_larger, y_larger, x, y, z)
    return z, (x, y)


def split_maximum_bwd(res, ct):
    x, y = res
    return _split_bwd(x, y, ct, *_order(x, y))


def textbook_maximum_bwd(res, ct):
    x, y = res
    return _routed_bwd(x, y, ct, *_order(x, y))


maximum = Op(
    name="maximum",
    summary="The max gate: routes the cotangent to the larger input. Where an input is NaN the value is NaN and "
    "both gradients are 0, as stock JAX. " + BROADCAST,
    formula="max(x, y); ct_x = ct 1(x > y), ct_y = ct 1(y > x), shared at ties",
    rules=(
        Rule("split", maximum_fwd, split_maximum_bwd, "Both inputs get half where they tie.", EXACT),
        Rule(
            "textbook",
            maximum_fwd,
            textbook_maximum_bwd,
            "1(x >= y): both get all where they tie.",
            faults=(Fault("gradient", lambda x, y: x == y, "where x = y: twice as much as there is to share"),),
        ),
    ),
    stock=jnp.maximum,
    reference=np.maximum,
    reference_vjp=lambda ct, x, y: _reference_vjp(ct, x, y, x > y, y > x),
    elementwise=True,
    kinks=(
        Kink(
            (1.0, 1.0),
            {"split": (0.5, 0.5), "textbook": (1.0, 1.0)},
            "Half each is stock JAX's convention; 1(x >= y) is the notes'.",
        ),
    ),
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(1, 4),
    torch=lambda torch: torch.maximum,
    source=f"{NOTES}: f(x, y) = max(x, y), df/dx = 1(x >= y).",
    example=""">>> y, (ct_x, ct_y) = jaxbp.maximum.value_and_vjp((4.0, 2.0), 1.0)
>>> float(y), float(ct_x), float(ct_y)
(4.0, 1.0, 0.0)""",
    version=2,
)


def minimum_fwd(x, y):
    z = jnp.minimum(x, y)
    if is_inexact(x):
        x_larger, y_larger, _ = _order(x, y)
        z = _select(y_larger, x_larger, x, y, z)
    return z, (x, y)


def split_minimum_bwd(res, ct):
    x, y = res
    x_larger, y_larger, ties = _order(x, y)
    return _split_bwd(x, y, ct, y_larger, x_larger, ties)


def textbook_minimum_bwd(res, ct):
    x, y = res
    x_larger, y_larger, ties = _order(x, y)
    return _routed_bwd(x, y, ct, y_larger, x_larger, ties)


minimum = Op(
    name="minimum",
    summary="The min gate: routes the cotangent to the smaller input. Where an input is NaN the value is NaN and "
    "both gradients are 0, as stock JAX. " + BROADCAST,
    formula="min(x, y); ct_x = ct 1(x < y), ct_y = ct 1(y < x), shared at ties",
    rules=(
        Rule("split", minimum_fwd, split_minimum_bwd, "Both inputs get half where they tie.", EXACT),
        Rule(
            "textbook",
            minimum_fwd,
            textbook_minimum_bwd,
            "1(x <= y): both get all where they tie.",
            faults=(Fault("gradient", lambda x, y: x == y, "where x = y: twice as much as there is to share"),),
        ),
    ),
    stock=jnp.minimum,
    reference=np.minimum,
    reference_vjp=lambda ct, x, y: _reference_vjp(ct, x, y, x < y, y < x),
    elementwise=True,
    kinks=(
        Kink(
            (1.0, 1.0),
            {"split": (0.5, 0.5), "textbook": (1.0, 1.0)},
            "Half each is stock JAX's convention; 1(x <= y) mirrors the notes' maximum.",
        ),
    ),
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(1, 4),
    torch=lambda torch: torch.minimum,
    source=f"{NOTES}, mirrored.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.minimum.value_and_vjp((4.0, 2.0), 1.0)
>>> float(y), float(ct_x), float(ct_y)
(2.0, 0.0, 1.0)""",
    version=2,
)


def absolute_fwd(x):
    return jnp.abs(x), (x,)


def absolute_bwd(res, ct):
    (x,) = res
    # The sign by the bits: a comparison would take a subnormal x for 0. What is left for `0 * x` is 0 and NaN.
    return (jnp.where(is_positive(x), ct, jnp.where(is_positive(-x), -ct, 0 * x)),)


absolute = Op(
    name="absolute",
    summary="|x|. x [...] -> y [...], floating.",
    formula="|x|; ct_x = ct sign(x)",
    rules=(Rule("sign", absolute_fwd, absolute_bwd, "Keeps x, which costs nothing extra.", EXACT),),
    stock=jnp.absolute,
    exact=lambda x: x * jnp.sign(x),  # With the derivative 0 at 0.
    reference=np.absolute,
    reference_vjp=lambda ct, x: (ct * np.sign(x),),
    elementwise=True,
    kinks=(Kink((0.0,), {"sign": (0.0,)}, "sign(0) = 0, the middle of the subgradients; stock JAX says 1."),),
    cases=elementwise_cases(Normal()),
    flops=Flops(1, 2),
    torch=lambda torch: torch.abs,
    source="d|x|/dx = sign(x).",
    example=""">>> float(jax.grad(jaxbp.absolute)(-3.0))
-1.0""",
    version=2,
)
