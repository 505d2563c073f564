"""Activations that gate their own input: silu, gelu, mish."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import gating, gating_references
from jaxbp.cases import Normal, elementwise_cases
from jaxbp.declaration import Accuracy, Fault, Flops, Rule
from jaxbp.elementary import growth_and_exponent
from jaxbp.floats import half_if_small, two_powers
from jaxbp.gating import (
    ERF_CROSSING,
    SILU_CROSSING,
    SILU_REACH,
    TANH_CROSSING,
    TANH_REACH,
    Crossing,
    edges,
    slope_at_crossing,
    two_parts,
)
from jaxbp.op import Op


def silu_fwd(x):
    return half_if_small(x, gating.silu(x).value()), (x,)


def silu_bwd(res, ct):
    (x,) = res
    return (ct * gating.silu_slope(x).value(),)


def textbook_silu_fwd(x):
    s = gating_references.textbook_logistic(x)
    return x * s, (x, s)


def textbook_silu_bwd(res, ct):
    x, s = res
    return (ct * gating_references.textbook_silu_slope(x, s),)


silu = Op(
    name="silu",
    summary="x times its logistic function, also called swish. x [...] -> y [...], floating.",
    formula="x s(x) with s(x) = 1 / (1 + e^-x); ct_x = ct s(x) (1 + x (1 - s(x)))",
    rules=(
        Rule(
            "stable",
            silu_fwd,
            silu_bwd,
            "One exponential of |x|, scaled: right in the tail, and where the derivative is 0.",
            Accuracy(float32=(2.6, 3.1), float64=(2.2, 2.9)),
        ),
        Rule(
            "textbook",
            textbook_silu_fwd,
            textbook_silu_bwd,
            "Cancels where the derivative is 0, at x = -1.28.",
            faults=(Fault("precision", lambda x: x < -87.3, "for x < -87.3, where the sigmoid vanishes too early"),),
        ),
    ),
    stock=jax.nn.silu,
    reference=gating_references.numpy_silu,
    reference_vjp=lambda ct, x: (ct * gating_references.numpy_silu_slope(x),),
    elementwise=True,
    hard=(-1.2784645427610738, *SILU_CROSSING.reach, *edges(SILU_REACH), -87.33655, -91.886, -708.396, -714.96),
    cases=elementwise_cases(Normal()),
    flops=Flops(34, 51),
    torch=lambda torch: torch.nn.functional.silu,
    source="Elfwing, Uchibe, Doya 2017, Sigmoid-weighted linear units; s' = s (1 - s).",
    example=""">>> round(float(jaxbp.silu(1.0)), 4), round(float(jax.grad(jaxbp.silu)(1.0)), 4)
(0.7311, 0.9277)
>>> print(f"{jax.grad(jaxbp.silu)(-90.0):.3e}, where jax.nn gives {jax.grad(jax.nn.silu)(-90.0):.0f}")
-7.293e-38, where jax.nn gives 0""",
    version=7,
)


def gelu_fwd(x, *, approximate=True):
    return half_if_small(x, gating.gelu(x, approximate).value()), (x,)


def gelu_bwd(res, ct, *, approximate=True):
    (x,) = res
    return (ct * gating.gelu_slope(x, approximate).value(),)


def textbook_gelu_fwd(x, *, approximate=True):
    return gating_references.textbook_gelu(x, approximate)[0], (x,)


def textbook_gelu_bwd(res, ct, *, approximate=True):
    (x,) = res
    return (ct * gating_references.textbook_gelu(x, approximate)[1],)


gelu = Op(
    name="gelu",
    summary="x times the probability that a normal number is below x; with `approximate`, as in jax.nn.gelu the "
    "default, by a formula with tanh that is within 5e-4 of it. x [...] -> y [...], floating.",
    formula="x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, or x Phi(x) with Phi(x) = (1 + erf(x / sqrt(2))) / 2; "
    "ct_x = ct Phi(x) + ct x Phi'(x)",
    rules=(
        Rule(
            "stable",
            gelu_fwd,
            gelu_bwd,
            "An exponential of an exponent in two parts: right in the tail, and where the derivative is 0.",
            Accuracy(float32=(3.2, 4.9), float64=(3, 4.1)),
        ),
        Rule(
            "textbook",
            textbook_gelu_fwd,
            textbook_gelu_bwd,
            "The formulas of jax.nn with their digits, and x alone is kept: as fast as autodiff, and faster where the "
            "passes are apart.",
            faults=(
                Fault("value", lambda x: x < -2, "for x < -2, where 1 + tanh(u) cancels"),
                Fault("precision", lambda x: x < -2, "there"),
            ),
        ),
    ),
    stock=jax.nn.gelu,
    reference=lambda x, *, approximate=True: gating_references.numpy_gelu(x, approximate),
    reference_vjp=lambda ct, x, *, approximate=True: (ct * gating_references.numpy_gelu_slope(x, approximate),),
    exact=lambda x, *, approximate=True: gating_references.meant_gelu(x, approximate),
    variants=({}, {"approximate": False}),
    elementwise=True,
    hard=(
        *(-0.7524614, -0.7517915, -TANH_CROSSING.reach, *ERF_CROSSING.reach, *edges(TANH_REACH)),
        *(-0.9, 0.9, -9.7, -13.2, -21.5, -38.5),
    ),
    cases=elementwise_cases(Normal()),
    flops=Flops(48, 81),
    torch=lambda torch: (
        lambda x, *, approximate=True: torch.nn.functional.gelu(x, approximate=("none", "tanh")[approximate])
    ),
    source="Hendrycks, Gimpel 2016, Gaussian error linear units; Phi'(x) = e^(-x^2/2) / sqrt(2 pi).",
    example=""">>> round(float(jaxbp.gelu(1.0)), 4), round(float(jaxbp.gelu(1.0, approximate=False)), 4)
(0.8412, 0.8413)
>>> print(f"{jax.grad(jaxbp.gelu)(-6.0):.3e}, where jax.nn gives {jax.grad(jax.nn.gelu)(-6.0):.0f}")
-7.710e-10, where jax.nn gives 0""",
    version=7,
)


# fmt: off
#: As those of `gating`: relative errors 2^-27 and 2^-59. It reaches as far as direct sums round more than it does.
MISH_CROSSING = Crossing(
    "-1.19243121451549521213758834042073940560068641",
    (-1.45, -0.15),
    {
        jnp.dtype("float32"): (0.266947913, 0.204731261, 0.0419080259, -0.0202719816, -0.0158271275,
            -0.00334429338, 0.00112094976, 0.000801862469, 0.000580276956, -0.000287506298),
        jnp.dtype("float64"): (0.26694791404953451, 0.20473126408010587, 0.041907821043610056,
            -0.02027182271668606, -0.015821126561754725, -0.0033606849268296988, 0.0010924055416350079,
            0.00098981809325455902, 0.00025412936679783918, -4.1961320507229012e-5, -5.5829408805075977e-5,
            -1.7300186240865431e-5, 9.499744913414937e-7, 2.8970323354869875e-6, 1.0574895267346031e-6,
            1.2309443303198528e-7, -3.4137102326225148e-7, 1.7865264074951646e-7, -1.8537403270622399e-7,
            8.6384020067705143e-8, -1.3133080380726525e-8),
    },
)
# fmt: on


def _exponential(x):
    """|x|, and e^-|x| twice: once as a number, once as 1 + p and two powers of two."""
    y = jnp.abs(gating.clipped(x, (128.0, 800.0)))
    p, k = growth_and_exponent(-y)
    a, b = two_powers(k, x.dtype)
    return y, (1 + p) * (a * b), p, (a, b)


def mish_fwd(x):
    y, e, p, powers = _exponential(x)
    positive = x >= 0
    # tanh(softplus) is, over e^-y left of 0, 1 less what vanishes with e: so it rounds least where e is small.
    missing = e * jnp.where(positive, 2 * e, 0.5 + e / 2) / (1 + e * jnp.where(positive, 2 + 2 * e, 1 + e / 2))
    z = jnp.where(positive, x, -(y + y * p)) * (1 - missing)
    return _times_where(~positive, z, powers), (x,)


def mish_bwd(res, ct):
    (x,) = res
    y, e, p, powers = _exponential(x)
    # Squares and products multiplied out, since that rounds less.
    above = 1 + e * (4 + e * ((6 + 4 * y) + e * (4 + 4 * y)))
    below = 1 + e * (4 + e * (8 + e * (8 + 4 * e)))
    tail = (1 - y) + e * ((1.5 - y) + e * (1 + e / 4))
    tail_below = 1 + e * (2 + e * (2 + e * (1 + e / 4)))
    z = jnp.where(x >= 0, above, tail + tail * p) / jnp.where(x >= 0, below, tail_below)
    near, slope = slope_at_crossing(gating.clipped(x, (128.0, 800.0)), MISH_CROSSING)
    return (ct * _times_where((x < 0) & ~near, jnp.where(near, slope, z), powers),)


def _times_where(condition, z, powers):
    # XLA's CPU backend computes a choice between z and z times powers in two passes over memory.
    a, b = powers
    return z * jnp.where(condition, a, 1) * jnp.where(condition, b, 1)


def mish_reference(x):
    y = np.maximum(x, -1e4)
    e = np.exp(-np.abs(y))
    return y * np.where(x >= 0, (1 + 2 * e) / (1 + e * (2 + 2 * e)), e * (2 + e) / (2 + e * (2 + e)))


def mish_reference_vjp(ct, x):
    y = np.minimum(np.abs(x), 1e4)
    e = np.exp(-y)
    square = np.where(x >= 0, 1 + e * (2 + 2 * e), 1 + e + e * e / 2) ** 2
    above = 1 + e * (4 + e * ((6 + 4 * y) + e * (4 + 4 * y)))
    # As in silu: (1 - y)(1 + e) + e/2 + e^2 + e^3/4 less its own zero at the root r, in t from there and in e - e^r.
    root, rest = two_parts(MISH_CROSSING.root, 53)
    t, at_root = (-y - root) - rest, math.exp(root)
    risen = at_root * np.expm1(t)
    tail = t * (1 + e) + risen * (1.5 + root + (e + at_root) + (e * e + e * at_root + at_root**2) / 4)
    return (ct * (np.where(x >= 0, above, e * tail) / square),)


mish = Op(
    name="mish",
    summary="x times the hyperbolic tangent of its softplus. x [...] -> y [...], floating.",
    formula="x tanh(log(1 + e^x)), which is x (w^2 + 2 w) / (w^2 + 2 w + 2) with w = e^x; "
    "ct_x = ct w (4 (1 + x) (1 + w) + 2 w + 4 w^2 + w^3) / (w^2 + 2 w + 2)^2",
    rules=(
        Rule(
            "stable",
            mish_fwd,
            mish_bwd,
            "One exponential of -|x|, no logarithm: right in the tail, and where the derivative is 0.",
            Accuracy(float32=(3.5, 4), float64=(3.4, 4)),
        ),
    ),
    stock=jax.nn.mish,
    reference=mish_reference,
    reference_vjp=mish_reference_vjp,
    elementwise=True,
    hard=(-1.1924312145154952, *MISH_CROSSING.reach, -87.33655, -91.886, -708.396, -714.96),
    cases=elementwise_cases(Normal()),
    flops=Flops(43, 75),
    torch=lambda torch: torch.nn.functional.mish,
    source="Misra 2019, Mish: a self regularized non-monotonic activation function; tanh(log v) = (v^2 - 1)/(v^2 + 1).",
    example=""">>> round(float(jaxbp.mish(1.0)), 4), round(float(jax.grad(jaxbp.mish)(1.0)), 4)
(0.8651, 1.049)
>>> print(f"{jax.grad(jaxbp.mish)(-1.1924312):.3e}, where jax.nn gives {jax.grad(jax.nn.mish)(-1.1924312):.0f}")
8.126e-10, where jax.nn gives 0""",
)
