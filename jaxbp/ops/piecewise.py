"""Piecewise gates: maximum, minimum, clip, where, absolute."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import shape_of, sum_to
from jaxbp.cases import Mask, Normal, Uniform, elementwise_cases
from jaxbp.declaration import BROADCAST, NOTES, Accuracy, Fault, Flops, Kink, Rule
from jaxbp.floats import is_zero_or_nan, order_key
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


def clip_fwd(x, min, max):
    raised, _ = maximum_fwd(min, x)
    y, _ = minimum_fwd(max, raised)
    return y, (x, min, max)


def split_clip_bwd(res, ct):
    x, min, max = res
    raised, _ = maximum_fwd(min, x)
    ct_max, ct_raised = split_minimum_bwd((max, raised), ct)
    ct_min, ct_x = split_maximum_bwd((min, x), ct_raised)
    return ct_x, ct_min, ct_max


def inside_clip_bwd(res, ct):
    x, min, max = res
    _, low, _ = _order(x, min)
    below_x, below_min = _order(x, max)[0], _order(min, max)[0]
    ct = jnp.where((x == x) & (min == min) & (max == max), ct, 0)
    high = below_x | below_min
    return (
        sum_to(jnp.where(high | low, 0, ct), x),
        sum_to(jnp.where(low & ~high, ct, 0), min),
        sum_to(jnp.where(high, ct, 0), max),
    )


def clip_reference_vjp(ct, x, min, max):
    raised = np.maximum(min, x)
    ct_max, ct_raised = _reference_vjp(ct, max, raised, max < raised, raised < max)
    ct_min, ct_x = _reference_vjp(ct_raised, min, x, min > x, x > min)
    return ct_x, ct_min, ct_max


clip = Op(
    name="clip",
    summary="min(max, max(min, x)): x within bounds, which are arguments with gradients of their own; where min > max "
    "it is max. Where an argument is NaN the value is NaN and all gradients are 0, as stock JAX. x [...], min [...], "
    "max [...] -> y [...], floating, broadcast as NumPy does.",
    formula="min(max, max(min, x)); ct_x = ct 1(min < x < max), ct_min = ct 1(x < min <= max), "
    "ct_max = ct 1(max < max(min, x)), shared at ties",
    rules=(
        Rule(
            "split",
            clip_fwd,
            split_clip_bwd,
            "The max gate and then the min gate, whose inputs get half each where they tie.",
            EXACT,
        ),
        Rule("inside", clip_fwd, inside_clip_bwd, "All to x where it is on a bound, and nothing to the bound.", EXACT),
    ),
    stock=jnp.clip,
    reference=lambda x, min, max: np.minimum(max, np.maximum(min, x)),
    reference_vjp=clip_reference_vjp,
    elementwise=True,
    kinks=tuple(
        Kink(
            at,
            {"split": split, "inside": (1.0, 0.0, 0.0)},
            "Halves are stock JAX's convention; that x on a bound counts as inside is torch.clamp's.",
        )
        for at, split in (
            ((1.0, 1.0, 3.0), (0.5, 0.5, 0.0)),
            ((3.0, 1.0, 3.0), (0.5, 0.0, 0.5)),
            ((2.0, 2.0, 2.0), (0.25, 0.25, 0.5)),
        )
    ),
    cases=elementwise_cases(Normal(), Uniform(-2, -0.75), Uniform(0.75, 2)),
    flops=Flops(2, 6),
    torch=lambda torch: torch.clamp,
    source="The max gate of the CS231n notes, followed by its mirror image.",
    example=""">>> x = jnp.array([-2.0, 0.5, 3.0])
>>> y, (ct_x, ct_min, ct_max) = jaxbp.clip.value_and_vjp((x, -1.0, 1.0), jnp.ones(3))
>>> y.tolist(), ct_x.tolist(), float(ct_min), float(ct_max)
([-1.0, 0.5, 1.0], [0.0, 1.0, 0.0], 1.0, 1.0)""",
)


def where_fwd(condition, x, y):
    return jnp.where(condition, x, y), (condition, shape_of(x), shape_of(y))


@jax.jit
def _routed_by(condition, ct):
    # Selected, not multiplied with the condition: 0 times an infinite cotangent would be NaN.
    return jnp.where(condition, ct, 0), jnp.where(condition, 0, ct)


def where_bwd(res, ct):
    condition, x, y = res
    # In one call, as autodiff has it: by itself XLA computes them in the other order, which is another program.
    ct_x, ct_y = _routed_by(condition, ct)
    return None, sum_to(ct_x, x), sum_to(ct_y, y)


def where_reference_vjp(ct, condition, x, y):
    return None, numpy_sum_to(np.where(condition, ct, 0), x), numpy_sum_to(np.where(condition, 0, ct), y)


where = Op(
    name="where",
    summary="x where the condition holds, else y; what is not selected gets the gradient 0. condition [...], "
    "boolean or integer (not 0 holds), x [...], y [...], floating -> [...], broadcast as NumPy does.",
    formula="x if condition else y; ct_x = ct 1(condition), ct_y = ct 1(not condition)",
    rules=(Rule("select", where_fwd, where_bwd, "Keeps the condition, which costs nothing extra.", EXACT),),
    integers=("condition",),
    stock=jnp.where,
    reference=np.where,
    reference_vjp=where_reference_vjp,
    elementwise=True,
    cases=elementwise_cases(Mask(), Normal(), Normal()),
    flops=Flops(1, 2),
    torch=lambda torch: lambda condition, x, y: torch.where(condition.bool(), x, y),
    version=2,
    source="A gate that copies one of its inputs routes the cotangent to that one.",
    example=""">>> condition = jnp.array([True, False])
>>> y, (_, ct_x, ct_y) = jaxbp.where.value_and_vjp((condition, jnp.array([1.0, 2.0]), 0.0), jnp.array([3.0, 4.0]))
>>> y.tolist(), ct_x.tolist(), float(ct_y)
([1.0, 0.0], [3.0, 0.0], 4.0)""",
)


def absolute_fwd(x):
    return jnp.abs(x), (x,)


def absolute_bwd(res, ct):
    (x,) = res
    # By the bits, as copysign has the sign: a comparison would take a subnormal x for 0.
    return (jnp.where(is_zero_or_nan(x), 0 * x, ct * jnp.copysign(jnp.ones_like(x), x)),)


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
    version=3,
)
