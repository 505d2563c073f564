"""Piecewise gates: maximum, minimum, absolute."""

import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import sum_to
from jaxbp.cases import Normal, elementwise_cases
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import BROADCAST, NOTES, Flops, Kink, Op, Rule


def _share(wins, ties):
    """The share of the cotangent that an input gets: all where it wins, half where both tie."""
    return jnp.where(wins, 1.0, jnp.where(ties, 0.5, 0.0))


def _split_bwd(x, y, ct, x_wins, y_wins):
    ties = x == y
    share_x, share_y = (_share(wins, ties).astype(ct.dtype) for wins in (x_wins, y_wins))
    return sum_to(ct * share_x, x), sum_to(ct * share_y, y)


def _routed_bwd(x, y, ct, x_wins, y_wins):
    return sum_to(jnp.where(x_wins, ct, 0), x), sum_to(jnp.where(y_wins, ct, 0), y)


def _reference_vjp(ct, x, y, x_wins, y_wins):
    half_ties = np.where(x == y, 0.5, 0.0)
    return numpy_sum_to(ct * (x_wins + half_ties), x), numpy_sum_to(ct * (y_wins + half_ties), y)


def maximum_fwd(x, y):
    return jnp.maximum(x, y), (x, y)


def split_maximum_bwd(res, ct):
    x, y = res
    return _split_bwd(x, y, ct, x > y, y > x)


def textbook_maximum_bwd(res, ct):
    x, y = res
    return _routed_bwd(x, y, ct, x >= y, y >= x)


maximum = Op(
    name="maximum",
    summary="The max gate: routes the cotangent to the larger input. Where an input is NaN the value is NaN and "
    "both gradients are 0, as stock JAX. " + BROADCAST,
    formula="max(x, y); ct_x = ct 1(x > y), ct_y = ct 1(y > x), shared at ties",
    rules=(
        Rule("split", maximum_fwd, split_maximum_bwd, "Both inputs get half where they tie."),
        Rule("textbook", maximum_fwd, textbook_maximum_bwd, "1(x >= y): both get all where they tie."),
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
)


def minimum_fwd(x, y):
    return jnp.minimum(x, y), (x, y)


def split_minimum_bwd(res, ct):
    x, y = res
    return _split_bwd(x, y, ct, x < y, y < x)


def textbook_minimum_bwd(res, ct):
    x, y = res
    return _routed_bwd(x, y, ct, x <= y, y <= x)


minimum = Op(
    name="minimum",
    summary="The min gate: routes the cotangent to the smaller input. Where an input is NaN the value is NaN and "
    "both gradients are 0, as stock JAX. " + BROADCAST,
    formula="min(x, y); ct_x = ct 1(x < y), ct_y = ct 1(y < x), shared at ties",
    rules=(
        Rule("split", minimum_fwd, split_minimum_bwd, "Both inputs get half where they tie."),
        Rule("textbook", minimum_fwd, textbook_minimum_bwd, "1(x <= y): both get all where they tie."),
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
)


def absolute_fwd(x):
    return jnp.abs(x), (x,)


def absolute_bwd(res, ct):
    (x,) = res
    return (ct * jnp.sign(x),)


absolute = Op(
    name="absolute",
    summary="|x|. x [...] -> y [...], floating.",
    formula="|x|; ct_x = ct sign(x)",
    rules=(Rule("sign", absolute_fwd, absolute_bwd, "Keeps x, which costs nothing extra."),),
    stock=jnp.absolute,
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
)
