"""Activations that gate their own input: silu, gelu."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.cases import Normal, elementwise_cases
from jaxbp.declaration import Accuracy, Fault, Flops, Rule
from jaxbp.floats import order_key, power_of_two, rounded, sign_bit, upper_half
from jaxbp.numerics import numpy_logistic
from jaxbp.op import Op

Coefficients = Mapping[np.dtype, tuple[float, ...]]

#: log2(e), ln(2), log2(e) / 2; what is taken in two parts is given to 40 digits.
_LOG2_E = 1.4426950408889634
_LN_2 = "0.6931471805599453094172321214581765680755"
_HALF_LOG2_E = "0.7213475204444817036799623405009460687133"
#: In gelu's tanh(u), 2u = a x + b x^3 with a = 2 sqrt(2/pi) and b = 0.044715 a: here a and 3 b, of x d(2u)/dx, then
#: a log2(e) and b log2(e).
_SLOPE = "1.595769121605730711759784239737527473903"
_TRIPLE_CUBE = "0.2140644488178007463290162568395906229868"
_LOG2_SLOPE = "2.302208198144324889133894770436626800488"
_LOG2_CUBE = "0.1029432395800234874176221046600737673838"
_BELL = 0.3989422804014327  # 1 / sqrt(2 pi)


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where a derivative crosses zero: its terms cancel there, so within `reach` it is (x - root) p(x - root).

    The root is given to 45 digits; `slope` are the coefficients of p.
    """

    root: str
    reach: tuple[float, float]
    slope: Coefficients


# Formatted by hand: the formatter gives each coefficient a line.
# fmt: off
#: Of (2^f - 1) / f on |f| <= 0.501, the constant term first, as in all of these. They interpolate at Chebyshev nodes,
#: computed in 60 digits and rounded to 9 and 17; relative errors before that 2^-26 and 2^-61.
_EXP2: Coefficients = {
    jnp.dtype("float32"): (0.693147188, 0.240226508, 0.0555035669, 0.00961808219, 0.00133910879, 0.000154533573),
    jnp.dtype("float64"): (0.6931471805599453, 0.24022650695910072, 0.055504108664821625, 0.00961812910762848,
        0.0013333558146406126, 0.0001540353039337056, 1.5252733841998576e-05, 1.3215486808924243e-06,
        1.017805686096008e-07, 7.054897191908525e-09, 4.4558581456653997e-10, 2.5729523340946688e-11),
}
#: The numerator and the denominator of q(y), for 0.85 <= y <= 16 and 0.85 <= y <= 40, where e^(-y^2/2) (1 - q) /
#: (y sqrt(2 pi)) is the probability that a normal number exceeds y; likewise, with nodes of (y - 1) / (y + 1) and
#: (y - 2) / (y + 2); errors 2^-28 (1 - q) and 2^-60 (1 - q).
_TAIL_ABOVE: Coefficients = {
    jnp.dtype("float32"): (1.00016245, 0.594742105, 0.171655001, 0.0243829872),
    jnp.dtype("float64"): (1.0000000000157931, 1.3082155595267086, 0.8684576042599172, 0.37397090583625003,
        0.11374581400399839, 0.025206486696929434, 0.004067701949991361, 0.0004628885131868242, 3.405691914057461e-05,
        1.2642978943954004e-06),
}
_TAIL_BELOW: Coefficients = {
    jnp.dtype("float32"): (1.0, 1.84912764, 1.48593602, 0.670399207, 0.171534632, 0.0243854086),
    jnp.dtype("float64"): (1.0, 2.561529697028816, 3.078858985651272, 2.297875774721424, 1.1867143709539902,
        0.44686641024025087, 0.1257445661437497, 0.02658756686084937, 0.004169872697277114, 0.00046668140704025267,
        3.405691913884344e-05, 1.2642978944033866e-06),
}
#: Of erf(y / sqrt 2) / (2 y) in y^2, for y^2 <= 0.82; relative errors 2^-32 and 2^-65.
_CENTRE: Coefficients = {
    jnp.dtype("float32"): (0.39894228, -0.0664903726, 0.00997345035, -0.00118676896, 0.000114100005, -7.9522007e-06),
    jnp.dtype("float64"): (0.3989422804014327, -0.06649038006690544, 0.009973557010035678, -0.0011873282154778197,
        0.00011543468759040041, -9.444656112513813e-06, 6.659688280035599e-07, -4.1225473899166563e-08,
        2.271756555846255e-09, -1.1137401506833071e-10, 4.243421493067232e-12),
}
#: Their p interpolate at Chebyshev nodes likewise; relative errors 2^-28 and 2^-58, 2^-30 and 2^-59, 2^-29 and 2^-60.
SILU_CROSSING = Crossing(
    "-1.27846454276107379510935873902298015543947749",
    (-1.578, -0.979),
    {
        jnp.dtype("float32"): (0.217811706, 0.146648811, 0.0188748109, -0.0152239409, -0.00660629627, 0.00015535357,
            0.000792028644),
        jnp.dtype("float64"): (0.2178117057198001, 0.1466487969969469, 0.01887481422378289, -0.015222655223187918,
            -0.006606589138459801, 0.00012662741006079126, 0.000798521888716759, 0.00018570724496926025,
            -4.090556087533797e-05, -2.973358541775607e-05, -2.939065684118467e-06, 2.3467370827814416e-06,
            8.310599169031407e-07, -3.6285163343973574e-08),
    },
)
TANH_CROSSING = Crossing(
    "-0.752461422071016258487954443288916090605392178",
    (-1.152, -0.353),
    {
        jnp.dtype("float32"): (0.430400091, 0.38751844, -0.0157828563, -0.113943999, -0.0166191001, 0.0196713667,
            0.00525590179, -0.00233063781, -0.00088404819),
        jnp.dtype("float64"): (0.4304000910248585, 0.3875184461357889, -0.015782853521848036, -0.11394448308095462,
            -0.016619328343050303, 0.019682309459450948, 0.00526105925472406, -0.002422731830835693,
            -0.0009274420152302726, 0.0002639273263482654, 0.0001242521151406037, -3.495244215208736e-05,
            -1.594896050311977e-05, 5.893313638104327e-06, 2.420383804936924e-06, -8.980673769662941e-07,
            -3.8299640394489464e-07),
    },
)
ERF_CROSSING = Crossing(
    "-0.751791524693564457457904946779524039664471153",
    (-1.3, 0.06),
    {
        jnp.dtype("float32"): (0.431493993, 0.388284986, -0.0181997079, -0.114008346, -0.0147708056, 0.0194228937,
            0.0045331801, -0.0022436103, -0.000722601803, 0.00018695162, 5.41676939e-05),
        jnp.dtype("float64"): (0.4314939923140469, 0.388284982990552, -0.01819967639867103, -0.11400823329722246,
            -0.014771522148248208, 0.019421679838218606, 0.004539228379222594, -0.0022395380686256864,
            -0.00074482683983022, 0.0001863397519635649, 8.615948567570099e-05, -1.121441561844305e-05,
            -7.74848215104115e-06, 4.329773163863857e-07, 5.702904347746665e-07, -1.8919388673777073e-09,
            -3.538812748424012e-08, -1.0707323847805207e-09, 1.741594769489362e-09),
    },
)
# fmt: on


def _polynomial(x: jax.Array, coefficients: Coefficients) -> jax.Array:
    *lower, last = coefficients[x.dtype]
    return functools.reduce(lambda y, coefficient: y * x + coefficient, reversed(lower), jnp.full_like(x, last))


def _two_parts(number: str, digits: int) -> tuple[float, float]:
    """A number as one of that many binary digits, and the rest."""
    exact = Fraction(number)
    mantissa, exponent = math.frexp(exact)
    high = math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)
    return high, float(exact - Fraction(high))


def _halves(number: str, dtype: np.dtype) -> tuple[float, float]:
    """A number in two parts, of which the first has as many digits as `upper_half` leaves."""
    return _two_parts(number, (jnp.finfo(dtype).nmant + 1) // 2)


def _halves_of_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x^2 to half of its digits, and the rest."""
    high, square = upper_half(x), upper_half(x * x)
    return square, (high * high - square) + (x - high) * (x + high)


def _exp2(k: jax.Array, f: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(g, a, b)` with 2^(k + f) = (1 + g) a b, for whole k and |f| <= 1/2; a and b are powers of two.

    The product may be subnormal where a result is not, and z + z g rounds less than z times 1 + g.
    """
    whole = k.astype(jnp.int32)
    return f * _polynomial(f, _EXP2), power_of_two(whole >> 1, f.dtype), power_of_two(whole - (whole >> 1), f.dtype)


def _exp2_of_two_parts(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`_exp2` of their sum: what the exponent is rounded by is an error of the result, relative to 1."""
    k = jnp.round(high)
    return _exp2(k, (high - k) + low)


def _magnitude(x: jax.Array, most: tuple[float, float]) -> jax.Array:
    """|x|, but no more than where all has vanished, in float32 and float64; its derivative at 0 is 1."""
    return jnp.minimum(jnp.where(x >= 0, x, -x), most[x.dtype == jnp.float64])


def _with_crossing(x: jax.Array, direct: jax.Array, crossing: Crossing) -> jax.Array:
    """The derivative: `direct`, but close to its zero by the crossing."""
    high, low = _two_parts(crossing.root, jnp.finfo(x.dtype).nmant + 1)
    # Else XLA adds up the two constants.
    distance = rounded(x - high)
    near = (x > crossing.reach[0]) & (x < crossing.reach[1])
    distance = jnp.where(near, distance - low, 0)
    return jnp.where(near, distance * _polynomial(distance, crossing.slope), direct)


def _half_if_tiny(x, y):
    """y, but x / 2 where x is so small that arithmetic would take that for 0; in bfloat16 it can round to a normal."""
    magnitude = jnp.abs(order_key(x))
    half = lax.bitcast_convert_type(magnitude >> 1, x.dtype)
    return jnp.where(magnitude < 2 << jnp.finfo(x.dtype).nmant, jnp.where(sign_bit(x), -half, half), y)


def _silu_gate(x):
    """The gate's e^-|x| as from `_exp2`, |x|, and 1 - |x|."""
    y = _magnitude(x, (128.0, 800.0))
    c, d = _halves(_LN_2, x.dtype)
    k = jnp.round(-_LOG2_E * y)  # So k c is exact, and the first difference too.
    return _exp2(k, _LOG2_E * ((-y - k * c) - k * d)), y, 1 - y


def _tanh_gate(x):
    """Likewise of gelu, where (1 + tanh u) / 2 = 1 / (1 + e^-2u): e^-|2u|, |x|, and 1 - |x| d(2u)/dx."""
    y = _magnitude(x, (12.0, 24.0))
    exponent, exponent_rest = _cubic(y, _LOG2_SLOPE, _LOG2_CUBE)
    slope, slope_rest = _cubic(y, _SLOPE, _TRIPLE_CUBE)
    return _exp2_of_two_parts(-exponent, -exponent_rest), y, (1 - slope) - slope_rest


def _cubic(x, linear, cube):
    """linear x + cube x^3 in two parts."""
    (a, b), (c, d) = (_halves(number, x.dtype) for number in (linear, cube))
    square, rest = _halves_of_square(x)
    factor = upper_half(a + c * (x * x))
    factor_rest = ((a - factor) + c * square) + (b + (c * rest + d * (x * x)))
    high = upper_half(x)
    return high * factor, x * factor_rest + (x - high) * factor


def _where_negative(x, z, a, b):
    # XLA's CPU backend computes a choice between z and z a b in two passes over memory.
    return z * jnp.where(x >= 0, 1, a) * jnp.where(x >= 0, 1, b)


def _gated(x, gate):
    """x / (1 + e^-v) for v of the sign of x."""
    (g, a, b), y, _ = gate(x)
    z = jnp.where(x >= 0, x, -(y + y * g)) / (1 + (1 + g) * (a * b))
    return _half_if_tiny(x, _where_negative(x, z, a, b))


def _gated_slope(x, gate, crossing):
    """Its derivative: 1 + e (1 + |x| v') over (1 + e)^2, and for x < 0 e (1 - |x| v' + e) over that, e = e^-|v|."""
    (g, a, b), _, complement = gate(x)
    e = (1 + g) * (a * b)
    tail = complement + e
    z = jnp.where(x >= 0, 1 + e * (2 - complement), tail + tail * g) / (1 + e * (2 + e))
    return _with_crossing(x, _where_negative(x, z, a, b), crossing)


def silu_fwd(x):
    return _gated(x, _silu_gate), (x,)


def silu_bwd(res, ct):
    (x,) = res
    return (ct * _gated_slope(x, _silu_gate, SILU_CROSSING),)


def textbook_silu_fwd(x):
    s = 1 / (1 + jnp.exp(-x))
    return x * s, (x, s)


def textbook_silu_bwd(res, ct):
    x, s = res
    return (ct * (s * (1 + x * (1 - s))),)


def silu_reference(x):
    # -800 gates to -0, and so does -inf in the limit.
    return np.maximum(x, -800) * numpy_logistic(x)


def silu_reference_vjp(ct, x):
    y = np.minimum(np.abs(x), 800)
    e = np.exp(-y)
    # 1 - y + e is t + e^r (e^t - 1), with t from the root r: nothing cancels.
    root, rest = _two_parts(SILU_CROSSING.root, 53)
    t = (-y - root) - rest
    tail = t + math.exp(root) * np.expm1(t)
    return (ct * (np.where(x >= 0, 1 + e * (1 + y), e * tail) / (1 + e * (2 + e))),)


silu = Op(
    name="silu",
    summary="x times its logistic function, also called swish. x [...] -> y [...], floating.",
    formula="x s(x) with s(x) = 1 / (1 + e^-x); ct_x = ct s(x) (1 + x (1 - s(x)))",
    rules=(
        Rule(
            "stable",
            silu_fwd,
            silu_bwd,
            "One exponential of -|x|, its power of two kept apart: right in the tail, and where the derivative is 0.",
            Accuracy(float32=(3, 3.8), float64=(2.6, 3.5)),
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
    reference=silu_reference,
    reference_vjp=silu_reference_vjp,
    elementwise=True,
    hard=(-1.2784645427610738, *SILU_CROSSING.reach, -87.33655, -91.886, -708.396, -714.96),
    cases=elementwise_cases(Normal()),
    flops=Flops(37, 57),
    torch=lambda torch: torch.nn.functional.silu,
    source="Elfwing, Uchibe, Doya 2017, Sigmoid-weighted linear units; s' = s (1 - s).",
    example=""">>> round(float(jaxbp.silu(1.0)), 4), round(float(jax.grad(jaxbp.silu)(1.0)), 4)
(0.7311, 0.9277)
>>> print(f"{jax.grad(jaxbp.silu)(-90.0):.3e}, where jax.nn gives {jax.grad(jax.nn.silu)(-90.0):.0f}")
-7.293e-38, where jax.nn gives 0""",
)


def _normal_tail(x):
    """For |x| > 0.9: e^(-x^2/2) as from `_exp2`, |x|, its square in two parts, and q."""
    y = jnp.maximum(_magnitude(x, (16.0, 40.0)), 0.5)
    c, d = _halves(_HALF_LOG2_E, x.dtype)
    square, rest = _halves_of_square(y)
    gate = _exp2_of_two_parts(-(square * c), -(y * y * d + rest * c))
    return gate, y, (square, rest), _polynomial(y, _TAIL_ABOVE) / _polynomial(y, _TAIL_BELOW)


def gelu_fwd(x, *, approximate=True):
    if approximate:
        return _gated(x, _tanh_gate), (x,)
    (g, a, b), y, _, q = _normal_tail(x)
    z = _BELL * q - _BELL
    tail = jnp.maximum(x, 0) + (z + z * g) * a * b
    centre = x * (0.5 + x * _polynomial(jnp.minimum(x * x, 1), _CENTRE))
    return _half_if_tiny(x, jnp.where(y < 0.9, centre, tail)), (x,)


def gelu_bwd(res, ct, *, approximate=True):
    (x,) = res
    if approximate:
        return (ct * _gated_slope(x, _tanh_gate, TANH_CROSSING),)
    (g, a, b), y, (square, rest), q = _normal_tail(x)
    z = _BELL * ((1 - square) - (rest + q)) / y
    slope = _with_crossing(-jnp.abs(x), (z + z * g) * a * b, ERF_CROSSING)
    return (ct * jnp.where(x >= 0, 1 - slope, slope),)


def gelu_reference(x, *, approximate=True):
    # -100 gates to -0, and so does -inf in the limit.
    y = np.maximum(x, -100)
    return y * (numpy_logistic(_numpy_cubic(y, 1)) if approximate else _numpy_normal(y))


def gelu_reference_vjp(ct, x, *, approximate=True):
    y = np.minimum(np.abs(x), 100)
    if not approximate:
        slope = _numpy_erf_slope(-y)
        return (ct * np.where(x >= 0, 1 - slope, slope),)
    e = np.exp(-_numpy_cubic(y, 1))
    # As in silu, with differences of the cubics divided by t.
    root, rest = _two_parts(TANH_CROSSING.root, 53)
    t = (-y - root) - rest
    squares = y * y - y * root + root * root
    slope, cube = float(_SLOPE), float(_TRIPLE_CUBE)
    tail = t * (slope + cube * squares) + math.exp(_numpy_cubic(root, 1)) * np.expm1(t * (slope + cube / 3 * squares))
    return (ct * (np.where(x >= 0, 1 + e * (1 + _numpy_cubic(y, 3)), e * tail) / (1 + e * (2 + e))),)


def _numpy_cubic(x, times):
    return x * (float(_SLOPE) + float(_TRIPLE_CUBE) * times / 3 * (x * x))


def _numpy_normal(x):
    from scipy import special

    return special.ndtr(np.asarray(x, np.float64)).astype(x.dtype)


def _numpy_erf_slope(x):
    bell = _BELL * np.exp(x * x / -2)
    # Close to the root its Taylor series there, for the terms cancel.
    r, rest = _two_parts(ERF_CROSSING.root, 53)
    t = (x - r) - rest
    higher = -(r**4) + 7 * r**2 - 4 + t / 4 * (r**5 - 11 * r**3 + 18 * r)
    series = 2 - r**2 + t / 2 * (r**3 - 4 * r + t / 3 * higher)
    return np.where(np.abs(t) < 1e-3, _BELL * math.exp(r * r / -2) * t * series, _numpy_normal(x) + x * bell)


def gelu_exact(x, *, approximate=True):
    if approximate:
        # 0.044715 = 165/1000 (256 + 15)/1000: whole numbers that are exact in every dtype.
        cube = 165 * (x * x * x) / 1000
        return x * jax.nn.sigmoid(jnp.sqrt(2 / jnp.arctan(1.0)) * (x + (256 * cube + 15 * cube) / 1000))
    return x * lax.erfc(-x / jnp.sqrt(2.0)) / 2


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
            Accuracy(float32=(3.2, 4), float64=(3, 3.8)),
        ),
    ),
    stock=jax.nn.gelu,
    reference=gelu_reference,
    reference_vjp=gelu_reference_vjp,
    exact=gelu_exact,
    variants=({}, {"approximate": False}),
    elementwise=True,
    hard=(-0.7524614, -0.7517915, *TANH_CROSSING.reach, *ERF_CROSSING.reach, -0.9, 0.9, -9.7, -13.2, -21.5, -38.5),
    cases=elementwise_cases(Normal()),
    flops=Flops(70, 95),
    torch=lambda torch: (
        lambda x, *, approximate=True: torch.nn.functional.gelu(x, approximate=("none", "tanh")[approximate])
    ),
    source="Hendrycks, Gimpel 2016, Gaussian error linear units; Phi'(x) = e^(-x^2/2) / sqrt(2 pi).",
    example=""">>> round(float(jaxbp.gelu(1.0)), 4), round(float(jaxbp.gelu(1.0, approximate=False)), 4)
(0.8412, 0.8413)
>>> print(f"{jax.grad(jaxbp.gelu)(-6.0):.3e}, where jax.nn gives {jax.grad(jax.nn.gelu)(-6.0):.0f}")
-7.710e-10, where jax.nn gives 0""",
)
