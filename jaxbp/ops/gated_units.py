"""Gated linear units: one input times an activation of the other, swiglu and geglu."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import gating, gating_references
from jaxbp.broadcasting import sum_to
from jaxbp.cases import Case, Normal, elementwise_cases
from jaxbp.declaration import BROADCAST, Accuracy, Fault, Flops, Rule
from jaxbp.floats import is_small, times_small
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op

#: LLaMA 7B: 32 tokens, and its 11008 hidden units.
LLAMA = Case("llama", ((32, 11008), (32, 11008)), (Normal(), Normal()))
ORDER = (
    "The gate comes second, as in jax.nn.glu, flax's GeGLU and diffusers; in LLaMA, `gate` is what gate_proj returns, "
    "and x what up_proj does. "
)


_NORMAL_RANGE = (
    "Keeps the inputs alone; one exponential in each pass. Subnormal inputs and activations count as 0, as in stock."
)
_WHERE = "x, the gate, its activation and slope are normal numbers or 0"
_TEXTBOOK = (
    "The formulas of jax.nn with their digits, and the inputs alone are kept: as fast as autodiff, and faster where "
    "the passes are apart."
)


def _times(factor, gate, activation):
    """factor times the activation of the gate, subnormal ones included."""
    half = is_small(gate)
    # Of a small gate the activation is half. Beside a small factor one that is scaled is nothing.
    least, other = jnp.where(half, gate, factor), jnp.where(half, factor / 2, activation.z * activation.factors[0])
    return jnp.where(is_small(least), times_small(least, other), activation.times(factor))


def _cotangents(ct, x, gate, activation, slope):
    # What is multiplied first with a slope that may be next to nothing makes no less of it than the other does.
    below_one = jnp.abs(x) < 1
    first, last = jnp.where(below_one, ct, x), jnp.where(below_one, x, ct)
    product = slope.times(first)
    ct_gate = jnp.where(is_small(last), times_small(last, product), last * product)
    return sum_to(_times(ct, gate, activation), x), sum_to(ct_gate, gate)


def _factors_cotangents(ct, x, gate, activation, slope):
    return sum_to(ct * activation, x), sum_to((ct * x) * slope, gate)


def _in_normal_range(x, gate, activation, slope):
    """Whether no input is subnormal, and neither are the activation and the slope of a gate that is not 0."""
    tiny = jnp.finfo(jnp.promote_types(x.dtype, jnp.float32)).tiny
    x, gate, activation, slope = (np.abs(a.astype(np.float64)) for a in (x, gate, activation, slope))
    # So written NaN is in range.
    return ((x == 0) | ~(x < tiny)) & ((gate == 0) | ~((activation < tiny) | (slope < tiny)))


def _numpy_times(factor, gate, activation):
    """A product for references: beside an infinity, an activation that vanishes, or its slope, is below 0 still."""
    vanished = np.isinf(factor) & np.isfinite(gate) & (gate < 0) & (activation == 0)
    return factor * np.where(vanished, -1, activation)


def _numpy_vjp(ct, x, gate, activation, slope):
    return (
        numpy_sum_to(_numpy_times(ct, gate, activation), x),
        numpy_sum_to(_numpy_times(ct * x, gate, slope), gate),
    )


def normal_range_swiglu_fwd(x, gate):
    return x * gating.silu(gate, gating.Use.FACTOR).value(), (x, gate)


def normal_range_swiglu_bwd(res, ct):
    x, gate = res
    activation, slope = (f(gate, gating.Use.FACTOR).value() for f in (gating.silu, gating.silu_slope))
    return _factors_cotangents(ct, x, gate, activation, slope)


def swiglu_fwd(x, gate):
    return _times(x, gate, gating.silu(gate, gating.Use.ANY_PRODUCT)), (x, gate)


def swiglu_bwd(res, ct):
    x, gate = res
    return _cotangents(
        ct, x, gate, gating.silu(gate, gating.Use.ANY_PRODUCT), gating.silu_slope(gate, gating.Use.ANY_PRODUCT)
    )


def textbook_swiglu_fwd(x, gate):
    return x * (gate * gating_references.textbook_logistic(gate)), (x, gate)


def textbook_swiglu_bwd(res, ct):
    x, gate = res
    s = gating_references.textbook_logistic(gate)
    return _factors_cotangents(ct, x, gate, gate * s, gating_references.textbook_silu_slope(gate, s))


swiglu = Op(
    name="swiglu",
    summary=f"x times silu of the gate. {ORDER}{BROADCAST.replace('y', 'gate', 1)}",
    formula="x silu(gate) with silu(g) = g s(g), s(g) = 1 / (1 + e^-g); "
    "ct_x = ct silu(gate), ct_gate = ct x s(gate) (1 + gate (1 - s(gate)))",
    rules=(
        Rule(
            "normal_range",
            normal_range_swiglu_fwd,
            normal_range_swiglu_bwd,
            _NORMAL_RANGE,
            Accuracy(
                (3.6, 4),
                (3.8, 4.2),
                where=lambda x, gate: _in_normal_range(
                    x, gate, gating_references.numpy_silu(gate), gating_references.numpy_silu_slope(gate)
                ),
                note=_WHERE,
            ),
        ),
        Rule(
            "stable",
            swiglu_fwd,
            swiglu_bwd,
            "Likewise, with subnormal inputs, and the product right where silu alone vanishes.",
            Accuracy((3.6, 4), (3.8, 4.2)),
        ),
        Rule(
            "textbook",
            textbook_swiglu_fwd,
            textbook_swiglu_bwd,
            f"{_TEXTBOOK} Cancels where the derivative of silu is 0, at -1.28.",
            faults=(
                Fault("precision", lambda x, gate: gate < -87.3, "for gate < -87.3, where silu vanishes too early"),
            ),
        ),
    ),
    stock=lambda x, gate: x * jax.nn.silu(gate),
    reference=lambda x, gate: _numpy_times(x, gate, gating_references.numpy_silu(gate)),
    reference_vjp=lambda ct, x, gate: _numpy_vjp(
        ct, x, gate, gating_references.numpy_silu(gate), gating_references.numpy_silu_slope(gate)
    ),
    elementwise=True,
    hard=(
        *(-1.2784645427610738, *gating.SILU_CROSSING.reach, *gating.edges(gating.SILU_REACH)),
        *(-87.33655, -91.886, -181.5, -708.396, -714.96, -1425.0),
    ),
    cases=(*elementwise_cases(Normal(), Normal()), LLAMA),
    flops=Flops(41, 70),
    torch=lambda torch: lambda x, gate: x * torch.nn.functional.silu(gate),
    source="Shazeer 2020, GLU variants improve transformer.",
    example=""">>> y, (ct_x, ct_gate) = jaxbp.swiglu.value_and_vjp((3.0, 1.0), 1.0)
>>> round(float(y), 4), round(float(ct_x), 4), round(float(ct_gate), 4)
(2.1932, 0.7311, 2.783)""",
    version=9,
)


def normal_range_geglu_fwd(x, gate, *, approximate=True):
    return x * gating.gelu(gate, approximate, gating.Use.FACTOR).value(), (x, gate)


def normal_range_geglu_bwd(res, ct, *, approximate=True):
    x, gate = res
    activation, slope = (f(gate, approximate, gating.Use.FACTOR).value() for f in (gating.gelu, gating.gelu_slope))
    return _factors_cotangents(ct, x, gate, activation, slope)


def geglu_fwd(x, gate, *, approximate=True):
    return _times(x, gate, gating.gelu(gate, approximate, gating.Use.ANY_PRODUCT)), (x, gate)


def geglu_bwd(res, ct, *, approximate=True):
    x, gate = res
    activation = gating.gelu(gate, approximate, gating.Use.ANY_PRODUCT)
    return _cotangents(ct, x, gate, activation, gating.gelu_slope(gate, approximate, gating.Use.ANY_PRODUCT))


def textbook_geglu_fwd(x, gate, *, approximate=True):
    return x * gating_references.textbook_gelu(gate, approximate)[0], (x, gate)


def textbook_geglu_bwd(res, ct, *, approximate=True):
    x, gate = res
    return _factors_cotangents(ct, x, gate, *gating_references.textbook_gelu(gate, approximate))


geglu = Op(
    name="geglu",
    summary="x times gelu of the gate, with `approximate`, as in jax.nn.gelu the default, by the formula with tanh. "
    f"{ORDER}{BROADCAST.replace('y', 'gate', 1)}",
    formula="x gelu(gate); ct_x = ct gelu(gate), ct_gate = ct x gelu'(gate)",
    rules=(
        Rule(
            "normal_range",
            normal_range_geglu_fwd,
            normal_range_geglu_bwd,
            _NORMAL_RANGE,
            Accuracy(
                (3.8, 4.9),
                (3.8, 4.5),
                where=lambda x, gate, *, approximate=True: _in_normal_range(
                    x,
                    gate,
                    gating_references.numpy_gelu(gate, approximate),
                    gating_references.numpy_gelu_slope(gate, approximate),
                ),
                note=_WHERE,
            ),
        ),
        Rule(
            "stable",
            geglu_fwd,
            geglu_bwd,
            "Likewise, with subnormal inputs, and the product right where gelu alone vanishes.",
            Accuracy((3.8, 4.9), (3.8, 4.5)),
        ),
        Rule(
            "textbook",
            textbook_geglu_fwd,
            textbook_geglu_bwd,
            _TEXTBOOK,
            faults=(
                Fault("value", lambda x, gate: gate < -2, "for gate < -2, where 1 + tanh(u) cancels"),
                Fault("precision", lambda x, gate: gate < -2, "there"),
            ),
        ),
    ),
    stock=lambda x, gate, *, approximate=True: x * jax.nn.gelu(gate, approximate=approximate),
    reference=lambda x, gate, *, approximate=True: _numpy_times(
        x, gate, gating_references.numpy_gelu(gate, approximate)
    ),
    reference_vjp=lambda ct, x, gate, *, approximate=True: _numpy_vjp(
        ct,
        x,
        gate,
        gating_references.numpy_gelu(gate, approximate),
        gating_references.numpy_gelu_slope(gate, approximate),
    ),
    exact=lambda x, gate, *, approximate=True: x * gating_references.meant_gelu(gate, approximate),
    variants=({}, {"approximate": False}),
    elementwise=True,
    hard=(
        *(-0.7524614, -0.7517915, -gating.TANH_CROSSING.reach, *gating.ERF_CROSSING.reach),
        *(*gating.edges(gating.TANH_REACH), -0.9, 0.9, -9.7, -13.2),
    ),
    cases=(*elementwise_cases(Normal(), Normal()), LLAMA),
    flops=Flops(55, 99),
    torch=lambda torch: (
        lambda x, gate, *, approximate=True: (
            x * torch.nn.functional.gelu(gate, approximate=("none", "tanh")[approximate])
        )
    ),
    source="Shazeer 2020, GLU variants improve transformer.",
    example=""">>> y, (ct_x, ct_gate) = jaxbp.geglu.value_and_vjp((3.0, 1.0), 1.0)
>>> round(float(y), 4), round(float(ct_x), 4), round(float(ct_gate), 4)
(2.5236, 0.8412, 3.2489)""",
    version=10,
)
