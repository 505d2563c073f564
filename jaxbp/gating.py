"""Activations that gate their own input, and their slopes, right to a few ULP: what the gated ops share."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.floats import order_key, power_of_two, rounded, sign_bit, two_powers, upper_half
from jaxbp.numerics import growth_and_exponent, numpy_logistic

Coefficients = Mapping[np.dtype, tuple[float, ...]]

#: log2(e) / 2; what is taken in two parts is given to 40 digits.
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


class Scaled(NamedTuple):
    """The number z times some powers of two, whose product may be subnormal or 0 where a result is not.

    z times the first power is at most about 1 where x < 0, and the other powers are at most 1: whatever it is
    multiplied with, `times` neither overflows nor vanishes on the way.
    """

    z: jax.Array
    powers: tuple[jax.Array, ...]

    def value(self) -> jax.Array:
        return functools.reduce(jnp.multiply, self.powers, self.z)

    def times(self, factor: jax.Array) -> jax.Array:
        return functools.reduce(jnp.multiply, self.powers[1:], factor * (self.z * self.powers[0]))


class Gate(NamedTuple):
    """What a gate is computed from, at v > 0 and at -v: e^-v = (1 + growth) times the powers.

    `size` is |x|, and `complement` is 1 - |x| v'. z + z growth rounds less than z times 1 + growth.
    """

    growth: jax.Array
    powers: tuple[jax.Array, ...]
    size: jax.Array
    complement: jax.Array

    @property
    def decay(self) -> jax.Array:
        """e^-v."""
        return functools.reduce(jnp.multiply, self.powers[1:], (1 + self.growth) * self.powers[0])

    def decaying(self, z: jax.Array) -> jax.Array:
        """z e^-v without the powers."""
        return z + z * self.growth


def polynomial(x: jax.Array, coefficients: Coefficients) -> jax.Array:
    *lower, last = coefficients[x.dtype]
    return functools.reduce(lambda y, coefficient: y * x + coefficient, reversed(lower), jnp.full_like(x, last))


def two_parts(number: str, digits: int) -> tuple[float, float]:
    """A number as one of that many binary digits, and the rest."""
    exact = Fraction(number)
    mantissa, exponent = math.frexp(exact)
    high = math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)
    return high, float(exact - Fraction(high))


def _halves(number: str, dtype: np.dtype) -> tuple[float, float]:
    """A number in two parts, of which the first has as many digits as `upper_half` leaves."""
    return two_parts(number, (jnp.finfo(dtype).nmant + 1) // 2)


def _halves_of_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x^2 to half of its digits, and the rest."""
    high, square = upper_half(x), upper_half(x * x)
    return square, (high * high - square) + (x - high) * (x + high)


def _powers(k: jax.Array, dtype: np.dtype, multiplied: bool) -> tuple[jax.Array, ...]:
    """2^k as a product, for whole k <= 0. Three reach twice as far as two; the first of them is the least."""
    if not multiplied:
        return two_powers(k, dtype)
    other = (5 * k + 15) >> 4
    return power_of_two(k - 2 * other, dtype), *(power_of_two(other, dtype),) * 2


def _exp2_of_two_parts(high: jax.Array, low: jax.Array, multiplied: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`(g, powers)` with 2^(high + low) = (1 + g) times the powers of two.

    What the exponent is rounded by is an error of the result, relative to 1.
    """
    k = jnp.round(high)
    f = (high - k) + low
    return f * polynomial(f, _EXP2), _powers(k.astype(jnp.int32), f.dtype, multiplied)


def _size(x: jax.Array, most: tuple[float, float]) -> jax.Array:
    """|x|, but no more than where all has vanished, in float32 and float64; its derivative at 0 is 1."""
    return jnp.minimum(jnp.where(x >= 0, x, -x), most[x.dtype == jnp.float64])


def with_crossing(x: jax.Array, direct: Scaled, crossing: Crossing) -> Scaled:
    """The derivative: `direct`, but close to its zero by the crossing."""
    high, low = two_parts(crossing.root, jnp.finfo(x.dtype).nmant + 1)
    # Else XLA adds up the two constants.
    distance = rounded(x - high)
    near = (x > crossing.reach[0]) & (x < crossing.reach[1])
    distance = jnp.where(near, distance - low, 0)
    slope = distance * polynomial(distance, crossing.slope)
    return Scaled(jnp.where(near, slope, direct.z), tuple(jnp.where(near, 1, p) for p in direct.powers))


def half_if_tiny(x: jax.Array, y: jax.Array) -> jax.Array:
    """y, but x / 2 where x is so small that arithmetic would take that for 0; in bfloat16 it can round to a normal."""
    magnitude = jnp.abs(order_key(x))
    half = lax.bitcast_convert_type(magnitude >> 1, x.dtype)
    return jnp.where(magnitude < 2 << jnp.finfo(x.dtype).nmant, jnp.where(sign_bit(x), -half, half), y)


def exponential_gate(x: jax.Array, multiplied: bool = False) -> Gate:
    """The gate of silu and mish, v = |x|; `multiplied` where the result is, and so matters as long as x e^-v does."""
    y = _size(x, (190.0, 1460.0) if multiplied else (128.0, 800.0))
    growth, k = growth_and_exponent(-y)
    return Gate(growth, _powers(k, x.dtype, multiplied), y, 1 - y)


def tanh_gate(x: jax.Array, multiplied: bool = False) -> Gate:
    """The gate of gelu, where (1 + tanh u) / 2 = 1 / (1 + e^-2u), v = |2u|."""
    y = _size(x, (13.5, 27.5) if multiplied else (12.0, 24.0))
    slope, slope_rest = _cubic(y, _SLOPE, _TRIPLE_CUBE)
    exponent, exponent_rest = _cubic(y, _LOG2_SLOPE, _LOG2_CUBE)
    return Gate(*_exp2_of_two_parts(-exponent, -exponent_rest, multiplied), y, (1 - slope) - slope_rest)


def _cubic(x, linear, cube):
    """linear x + cube x^3 in two parts."""
    (a, b), (c, d) = (_halves(number, x.dtype) for number in (linear, cube))
    square, rest = _halves_of_square(x)
    factor = upper_half(a + c * (x * x))
    factor_rest = ((a - factor) + c * square) + (b + (c * rest + d * (x * x)))
    high = upper_half(x)
    return high * factor, x * factor_rest + (x - high) * factor


def where_negative(x: jax.Array, z: jax.Array, powers: tuple[jax.Array, ...]) -> Scaled:
    """z, times the powers where x < 0."""
    # XLA's CPU backend computes a choice between z and z times powers in two passes over memory.
    return Scaled(z, tuple(jnp.where(x >= 0, 1, p) for p in powers))


def gated(x: jax.Array, gate: Gate) -> Scaled:
    """x / (1 + e^-v) for v of the sign of x."""
    z = jnp.where(x >= 0, x, -gate.decaying(gate.size)) / (1 + gate.decay)
    return where_negative(x, z, gate.powers)


def gated_slope(x: jax.Array, gate: Gate, crossing: Crossing) -> Scaled:
    """Its derivative: 1 + e (1 + |x| v') over (1 + e)^2, and for x < 0 e (1 - |x| v' + e) over that, e = e^-|v|."""
    e = gate.decay
    tail = gate.decaying(gate.complement + e)
    z = jnp.where(x >= 0, 1 + e * (2 - gate.complement), tail) / (1 + e * (2 + e))
    return with_crossing(x, where_negative(x, z, gate.powers), crossing)


def _normal_tail(x, multiplied):
    """For |x| > 0.9: e^(-x^2/2) as from `_exp2`, |x|, its square in two parts, and q."""
    y = jnp.maximum(_size(x, (19.5, 54.0) if multiplied else (16.0, 40.0)), 0.5)
    c, d = _halves(_HALF_LOG2_E, x.dtype)
    square, rest = _halves_of_square(y)
    gate = _exp2_of_two_parts(-(square * c), -(y * y * d + rest * c), multiplied)
    return gate, y, (square, rest), polynomial(y, _TAIL_ABOVE) / polynomial(y, _TAIL_BELOW)


def normal_gated(x: jax.Array, multiplied: bool = False) -> Scaled:
    """x times the probability that a normal number is below x."""
    (g, powers), y, _, q = _normal_tail(x, multiplied)
    z = _BELL * q - _BELL
    tail = Scaled(z + z * g, powers)
    centre = x * (0.5 + x * polynomial(jnp.minimum(x * x, 1), _CENTRE))
    z = jnp.where(y < 0.9, centre, jnp.where(x >= 0, x + tail.value(), tail.z))
    return Scaled(z, tuple(jnp.where(x <= -0.9, p, 1) for p in powers))


def normal_slope(x: jax.Array, multiplied: bool = False) -> Scaled:
    """Its derivative."""
    (g, powers), y, (square, rest), q = _normal_tail(x, multiplied)
    z = _BELL * ((1 - square) - (rest + q)) / y
    below = with_crossing(-jnp.abs(x), Scaled(z + z * g, powers), ERF_CROSSING)
    return where_negative(x, jnp.where(x >= 0, 1 - below.value(), below.z), below.powers)


def silu(x: jax.Array, multiplied: bool = False) -> Scaled:
    return gated(x, exponential_gate(x, multiplied))


def silu_slope(x: jax.Array, multiplied: bool = False) -> Scaled:
    return gated_slope(x, exponential_gate(x, multiplied), SILU_CROSSING)


def gelu(x: jax.Array, approximate: bool, multiplied: bool = False) -> Scaled:
    return gated(x, tanh_gate(x, multiplied)) if approximate else normal_gated(x, multiplied)


def gelu_slope(x: jax.Array, approximate: bool, multiplied: bool = False) -> Scaled:
    if approximate:
        return gated_slope(x, tanh_gate(x, multiplied), TANH_CROSSING)
    return normal_slope(x, multiplied)


def meant_gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """What gelu means, for `exact_vjp`: `jax.nn.gelu` without constants that are rounded."""
    if approximate:
        # 0.044715 = 165/1000 (256 + 15)/1000: whole numbers that are exact in every dtype.
        cube = 165 * (x * x * x) / 1000
        return x * jax.nn.sigmoid(jnp.sqrt(2 / jnp.arctan(1.0)) * (x + (256 * cube + 15 * cube) / 1000))
    return x * lax.erfc(-x / jnp.sqrt(2.0)) / 2


def numpy_silu(x: np.ndarray) -> np.ndarray:
    # -10^4 gates to -0, and so does -inf in the limit.
    return np.maximum(x, -1e4) * numpy_logistic(x)


def numpy_silu_slope(x: np.ndarray) -> np.ndarray:
    y = np.minimum(np.abs(x), 1e4)
    e = np.exp(-y)
    # 1 - y + e is t + e^r (e^t - 1), with t from the root r: nothing cancels.
    root, rest = two_parts(SILU_CROSSING.root, 53)
    t = (-y - root) - rest
    tail = t + math.exp(root) * np.expm1(t)
    return np.where(x >= 0, 1 + e * (1 + y), e * tail) / (1 + e * (2 + e))


def numpy_gelu(x: np.ndarray, approximate: bool) -> np.ndarray:
    # -100 gates to -0, and so does -inf in the limit.
    y = np.maximum(x, -100)
    return y * (numpy_logistic(_numpy_cubic(y, 1)) if approximate else _numpy_normal(y))


def numpy_gelu_slope(x: np.ndarray, approximate: bool) -> np.ndarray:
    y = np.minimum(np.abs(x), 100)
    if not approximate:
        slope = _numpy_erf_slope(-y)
        return np.where(x >= 0, 1 - slope, slope)
    e = np.exp(-_numpy_cubic(y, 1))
    # As in silu, with differences of the cubics divided by t.
    root, rest = two_parts(TANH_CROSSING.root, 53)
    t = (-y - root) - rest
    squares = y * y - y * root + root * root
    slope, cube = float(_SLOPE), float(_TRIPLE_CUBE)
    tail = t * (slope + cube * squares) + math.exp(_numpy_cubic(root, 1)) * np.expm1(t * (slope + cube / 3 * squares))
    return np.where(x >= 0, 1 + e * (1 + _numpy_cubic(y, 3)), e * tail) / (1 + e * (2 + e))


def _numpy_cubic(x, times):
    return x * (float(_SLOPE) + float(_TRIPLE_CUBE) * times / 3 * (x * x))


def _numpy_normal(x):
    from scipy import special

    return special.ndtr(np.asarray(x, np.float64)).astype(x.dtype)


def _numpy_erf_slope(x):
    bell = _BELL * np.exp(x * x / -2)
    # Close to the root its Taylor series there, for the terms cancel.
    r, rest = two_parts(ERF_CROSSING.root, 53)
    t = (x - r) - rest
    higher = -(r**4) + 7 * r**2 - 4 + t / 4 * (r**5 - 11 * r**3 + 18 * r)
    series = 2 - r**2 + t / 2 * (r**3 - 4 * r + t / 3 * higher)
    return np.where(np.abs(t) < 1e-3, _BELL * math.exp(r * r / -2) * t * series, _numpy_normal(x) + x * bell)
