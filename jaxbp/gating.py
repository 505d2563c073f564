"""Activations that gate their own input, and their slopes, right to a few ULP: what the gated ops share."""

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.elementary import (
    Coefficients,
    exp2_growth,
    exp2_quotient,
    growth_in_factors,
    halves,
    polynomial,
    two_parts,
)
from jaxbp.floats import (
    nearest_whole,
    power_of_biased,
    power_of_two,
    rounded,
    two_powers,
    upper_half,
)
from jaxbp.numerics import scaled_share

#: What is taken in two parts is given to 40 digits.
LOG2_E = Fraction("1.442695040888963407359924681001892137427")
#: In gelu's tanh(u), v = 2u = a x + b x^3 with a = 2 sqrt(2/pi) and b = 0.044715 a.
SLOPE = Fraction("1.595769121605730711759784239737527473903")
CUBE = Fraction("0.07135481627260024877633875227986354099557")
#: How the exponential of a gate is had, as `growth_in_factors`.
Exponential = Callable[[jax.Array, int], tuple[jax.Array, jax.Array, jax.Array]]
#: The |x| where an activation of a negative x has vanished, where its product with any number has, and from which on it
#: is below 2^-110 or 2^-700.
Reach = Mapping[np.dtype, tuple[float, float, float]]
SILU_REACH: Reach = {jnp.dtype("float32"): (110.0, 183.0, 78.0), jnp.dtype("float64"): (780.0, 1460.0, 490.0)}
TANH_REACH: Reach = {jnp.dtype("float32"): (10.9, 13.5, 9.6), jnp.dtype("float64"): (21.9, 27.5, 18.6)}
#: Powers of 2 with which shares are normal numbers up to there; the second twice, and from `far` on.
_SCALE = {jnp.dtype("float32"): 40, jnp.dtype("float64"): 128}
_HALF_SCALE = {jnp.dtype("float32"): 80, jnp.dtype("float64"): 600}
BELL = 0.3989422804014327  # 1 / sqrt(2 pi)


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Where a derivative crosses zero: its terms cancel there, so within `reach` it is (x - root) p(x - root).

    The root is given to 45 digits; `slope` are the coefficients of p. Where `reach` ends at 0 or beyond, only x <= 0
    are asked for.
    """

    root: str
    reach: tuple[float, float]
    slope: Coefficients


@dataclasses.dataclass(frozen=True)
class OddCrossing:
    """Where a derivative that is 1/2 + x Q(x^2) crosses zero: near it by x^2, in half as many terms as by x.

    With r = |root|, Q(r^2) is 1 / (2 r). So for x = -y it is (r - y) (1 / (2 r) + (y^2 + r y) p(y^2)), where p(s) is
    the quotient of differences (Q(s) - Q(r^2)) / (s - r^2).

    Attributes:
        root: to 45 digits.
        reach: the y up to where it is used.
        quotient: the coefficients of p.
    """

    root: str
    reach: float
    quotient: Coefficients


# Formatted by hand: the formatter gives each coefficient a line.
# fmt: off
#: Interpolated at Chebyshev nodes, computed in 60 digits and rounded to 9 and 17, as those of `elementary`.
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
#: Interpolated at Chebyshev nodes likewise; relative errors of the derivatives 2^-27 and 2^-58, 2^-24 and 2^-56, 2^-29
#: and 2^-60.
SILU_CROSSING = Crossing(
    "-1.27846454276107379510935873902298015543947749",
    (-1.78, -0.78),
    {
        jnp.dtype("float32"): (0.217811707, 0.146648797, 0.0188746504, -0.0152227467, -0.0066033138, 0.000128673686,
            0.000777651805, 0.000171761958),
        jnp.dtype("float64"): (0.2178117057198001, 0.14664879699694689, 0.018874814223782322, -0.015222655223185998,
            -0.0066065891383574442, 0.00012662740996709235, 0.00079852188186347617, 0.00018570724648490235,
            -4.0905342722470541e-5, -2.9733580643766048e-5, -2.9426294284953059e-6, 2.346321824535779e-6,
            8.5996330479106091e-7, -3.1781675233023283e-8, -9.2684129426640684e-8, -1.5926894903166751e-8,
            4.7540996980821995e-9),
    },
)
TANH_CROSSING = OddCrossing(
    "-0.752461422071016258487954443288916090605392178",
    1.05,
    {
        jnp.dtype("float32"): (-0.235604186, 0.0559407498, -0.009302735, 0.00112543482, -8.33420457e-05),
        jnp.dtype("float64"): (-0.23560419257381343, 0.05594104078788728, -0.009304695647041068, 0.0011295267222762673,
            -8.531611746169187e-05, -2.366708815338294e-06, 2.392325246839677e-06, -5.583922754505716e-07,
            9.27211551589074e-08, -1.2188942606366221e-08, 1.219561131569329e-09, -7.188494540548972e-11),
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


def edges(reach: Reach) -> tuple[float, ...]:
    """Where the formulas of a gate change, for the tests to look at."""
    return tuple(-place for places in reach.values() for place in places)


class Use(enum.Enum):
    """What becomes of an activation or its slope."""

    #: It is the result.
    RESULT = enum.auto()
    #: Something is multiplied with it, as a number of its dtype.
    FACTOR = enum.auto()
    #: Likewise, and it matters as long as its product with any number does: it is returned scaled.
    ANY_PRODUCT = enum.auto()


class Scaled(NamedTuple):
    """The number z times some factors of at most 1, whose product may be subnormal or 0 where a result is not.

    Where they are not 1, z is at most about 1 / one of them: `times` neither overflows nor vanishes on the way.
    """

    z: jax.Array
    factors: tuple[jax.Array, ...]

    def times(self, y: jax.Array) -> jax.Array:
        first, *others = self.factors
        return functools.reduce(jnp.multiply, others, (y * first) * self.z)

    def value(self) -> jax.Array:
        return functools.reduce(jnp.multiply, self.factors, self.z)

    def unless(self, condition: jax.Array, value: jax.Array) -> "Scaled":
        """This number, but the value where the condition holds."""
        return Scaled(jnp.where(condition, value, self.z), tuple(jnp.where(condition, 1, f) for f in self.factors))


@dataclasses.dataclass(frozen=True)
class Gate:
    """What x / (1 + e^-v) and its derivative are computed from, for odd v that rise with x.

    Attributes:
        x: the argument.
        y: |x|, but no more than where all has vanished.
        share_of: z / (1 + e^|v|) for z, scaled: z = 1 is the share of -y that passes.
        factors: of the scaled share; as it is for x >= 0 if the use is any product.
        unit: what the share's factors make close to 0.
        use: what becomes of results.
    """

    x: jax.Array
    y: jax.Array
    share_of: Callable[[jax.Array | float], jax.Array]
    factors: tuple[jax.Array, ...]
    unit: float
    use: Use

    def value(self) -> Scaled:
        """x / (1 + e^-v)."""
        # Not `maximum`, which takes XLA more instructions for NaN; y is NaN where x is. At -inf it is y that is made 0,
        # not the product: XLA would read the share through a mask, which takes half as long again from memory.
        # With x = 0 among them: the derivative of |x| there is 1, so that of this must be.
        positive = jnp.where(self.x >= 0, self.x, 0)
        y = self._finished(self.y)
        # A gradient that needs the value too shares what is divided by; beside factors, which are read, the share.
        passed = self.share_of(y) if self.use is Use.RESULT else y * self.share_of(1.0)
        return self._scaled(positive - self._times_unit(passed))

    def slope(self, linear: jax.Array, near: jax.Array, close: jax.Array) -> Scaled:
        """Its derivative: with r the share and `linear` = 1 - y v', r (1 - y v' (1 - r)), and 1 less that for x > 0.

        Where `near`, that at -y is `close` times `unit`: at its zero the terms cancel.
        """
        z = self.share_of(1.0)
        # Where there is a second factor r is nothing beside 1 and `linear` without it.
        r = z * self.factors[0]
        below = self._times_unit(jnp.where(near, close, z * linear + z * (r * (1 - linear))))
        return self._scaled(self._finished(jnp.where(self.x >= 0, 1 - below, below)))

    def _finished(self, z: jax.Array) -> jax.Array:
        """z, but 0 at -inf where it is not clipped to where all has vanished."""
        return _unless_minus_infinity(self.x, z) if self.use is Use.ANY_PRODUCT else z

    def _times_unit(self, z: jax.Array) -> jax.Array:
        """z times the factors of the share, or as much of that as it is for x >= 0."""
        return z if self.use is Use.ANY_PRODUCT else z * self.unit

    def _scaled(self, z: jax.Array) -> Scaled:
        return Scaled(z, self.factors if self.use is Use.ANY_PRODUCT else ())


def _unless_minus_infinity(x: jax.Array, z: jax.Array) -> jax.Array:
    """z, but the limit 0 of an activation and its slope at -inf: infinity times that is NaN, as in stock."""
    return jnp.where(x == -jnp.inf, 0, z)


def _halves_of_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x^2 to half of its digits, and the rest."""
    high, square = upper_half(x), upper_half(x * x)
    return square, (high * high - square) + (x - high) * (x + high)


def _exp2_of_two_parts(high: jax.Array, low: jax.Array, use: Use) -> Scaled:
    """2^(high + low) for high + low < 0: 1 + g, as which g is returned, times powers of two.

    What the exponent is rounded by is an error of the result, relative to 1.
    """
    k, n = nearest_whole(high)
    f = (high - k) + low
    return Scaled(exp2_growth(f), _powers(n, f.dtype, use))


def _powers(k: jax.Array, dtype: np.dtype, use: Use) -> tuple[jax.Array, ...]:
    """2^k as a product, for whole k <= 0. Three reach twice as far as two; the first of them is the least."""
    if use is not Use.ANY_PRODUCT:
        return two_powers(k, dtype)
    part = (5 * k + 15) >> 4
    return power_of_two(k - 2 * part, dtype), *(power_of_two(part, dtype),) * 2


def clipped(x: jax.Array, most: tuple[float, float]) -> jax.Array:
    """x, but no further from 0 than where all has vanished, in float32 and float64."""
    limit = most[x.dtype == jnp.float64]
    return jnp.clip(x, -limit, limit)


def slope_at_crossing(x: jax.Array, crossing: Crossing, times: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Where x, which is clipped, is close to the zero of the derivative, and the derivative there, `times` as much."""
    high, low = two_parts(crossing.root, jnp.finfo(x.dtype).nmant + 1)
    # In t = x - high, which is exact; the rest of the root matters to the constant term alone.
    first, *others = (times * coefficient for coefficient in crossing.slope[x.dtype])
    slope = polynomial(x - high, {x.dtype: (-low * first, first, *others)})
    near = x > crossing.reach[0]
    return (near if crossing.reach[1] >= 0 else near & (x < crossing.reach[1])), slope


def cubic_less_whole(y: jax.Array, slope: Fraction, cube: Fraction, plus: int = 0) -> tuple[jax.Array, jax.Array]:
    """`(f, n + plus)`: slope y + cube y^3 = n + f, with n whole, for 0 <= y <= 27.5.

    |f| is at most 1/2 plus 2^-11 of the cubic, which is more than `exp2_quotient` is made for where the cubic is above
    2: by 2^-24 of the exponential where it is 100, and by 2^-22 at the end.

    Where a product that is added is not rounded, f is right to the digits of 1/2, not to those of the cubic. XLA's
    backends for CPUs and GPUs see to that in one executable; where each operation is by itself, the error is relative
    to the cubic.
    """
    nmant = jnp.finfo(y.dtype).nmant
    b, b_rest = two_parts(cube, nmant + 1)
    # It has no digit after the last one of the largest mean, so that the difference of the two is exact.
    a, a_rest = two_parts(slope, nmant - 4)
    half = upper_half(y)
    square = half * half
    mean = rounded(a + b * (y * y))
    k, n = nearest_whole(half * mean, plus)
    # What `square`, a and b leave out, by b.
    rest = ((y - half) * (y + half) + a_rest / b) + (b_rest / b) * square
    return (y * mean - k) + y * (((a - mean) + b * square) + b * rest), n


def _gate(x: jax.Array, reach: Reach, exponential: Exponential, use: Use) -> Gate:
    """The gate where e^|v| = (1 + f q) 2^n, for `f, q, n + plus = exponential(y, plus)`."""
    vanished, product_vanished, far_from = reach[x.dtype]
    bias = jnp.finfo(x.dtype).maxexp - 1
    # 1 + e^|v| may overflow where results do not vanish: it is computed times a power of 2.
    if use is Use.ANY_PRODUCT:
        # Above `far_from` a share is nothing beside x.
        shrunk = jnp.clip(x, -product_vanished, far_from)
        y, far, unit = jnp.abs(shrunk), shrunk < -far_from, 1.0
        half = _HALF_SCALE[x.dtype]
        f, q, n = exponential(y, bias)
        n = n - jnp.where(far, 2 * half, 0)
        # Times the first, 1 is nothing beside that e^|v| with both.
        one = jnp.where(far, 2.0**-half, 1).astype(x.dtype)
        factors = (one, one)
    else:
        y = jnp.minimum(jnp.abs(x), vanished)
        unit = 2.0 ** -_SCALE[x.dtype]
        f, q, n = exponential(y, bias - _SCALE[x.dtype])
        one = jnp.full_like(x, unit)
        factors = (one,)
    share_of = functools.partial(scaled_share, f, q, power_of_biased(n, x.dtype), one)
    return Gate(x, y, share_of, factors, unit, use)


def silu(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """x / (1 + e^-x)."""
    return _gate(x, SILU_REACH, growth_in_factors, use).value()


def silu_slope(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """Its derivative."""
    gate = _gate(x, SILU_REACH, growth_in_factors, use)
    return gate.slope(1 - gate.y, *slope_at_crossing(-gate.y, SILU_CROSSING, 1 / gate.unit))


def _tanh_gate(x: jax.Array, use: Use) -> Gate:
    def exponential(y, plus):
        f, n = cubic_less_whole(y, SLOPE * LOG2_E, CUBE * LOG2_E, plus)
        return f, exp2_quotient(f), n

    return _gate(x, TANH_REACH, exponential, use)


def tanh_gated(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """x (1 + tanh(u)) / 2 = x / (1 + e^-v)."""
    return _tanh_gate(x, use).value()


def tanh_slope(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """Its derivative."""
    gate = _tanh_gate(x, use)
    linear, close = _tanh_terms(gate.y, 1 / gate.unit)
    return gate.slope(linear, gate.y < TANH_CROSSING.reach, close)


def _tanh_terms(y: jax.Array, times: float) -> tuple[jax.Array, jax.Array]:
    """1 - y v', and what is, close to the root, the derivative at -y, `times` as much."""
    high, low = (-part for part in two_parts(TANH_CROSSING.root, jnp.finfo(y.dtype).nmant + 1))
    r, a, b = high + low, float(SLOPE), float(3 * CUBE)
    # Exact close to the root but for `low`, which matters there alone. Both terms begin with it: so they round less.
    before, square = high - y, y * y
    products = square + r * y
    linear = (1 - a * r - b * r**3) + before * ((a + b * r**2) + b * products)
    first = times / (2 * r)
    coefficients = tuple(times * c for c in TANH_CROSSING.quotient[y.dtype])
    at_root = first + 2 * r**2 * sum(c * r ** (2 * i) for i, c in enumerate(coefficients))
    return linear, before * (first + products * polynomial(square, {y.dtype: coefficients})) + low * at_root


def _normal_tail(x: jax.Array, use: Use):
    """For |x| > 0.9: e^(-x^2/2) as from `_exp2_of_two_parts`, |x|, its square in two parts, and q."""
    y = jnp.maximum(jnp.abs(clipped(x, (19.5, 54.0) if use is Use.ANY_PRODUCT else (16.0, 40.0))), 0.5)
    c, d = halves(LOG2_E / 2, x.dtype)
    square, rest = _halves_of_square(y)
    bell = _exp2_of_two_parts(-(square * c), -(y * y * d + rest * c), use)
    return bell, y, (square, rest), polynomial(y, _TAIL_ABOVE) / polynomial(y, _TAIL_BELOW)


def normal_gated(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """x times the probability that a normal number is below x."""
    (g, (first, *others)), y, _, q = _normal_tail(x, use)
    z = BELL * q - BELL
    tail = Scaled((z + z * g) * first, tuple(others))
    centre = x * (0.5 + x * polynomial(jnp.minimum(x * x, 1), _CENTRE))
    z = jnp.where(y < 0.9, centre, jnp.where(x >= 0, x + tail.value(), tail.z))
    z = _unless_minus_infinity(x, z) if use is Use.ANY_PRODUCT else z
    return Scaled(z, tuple(jnp.where(x <= -0.9, p, 1) for p in others))


def normal_slope(x: jax.Array, use: Use = Use.RESULT) -> Scaled:
    """Its derivative."""
    (g, (first, *others)), y, (square, rest), q = _normal_tail(x, use)
    z = BELL * ((1 - square) - (rest + q)) / y
    crossing = slope_at_crossing(-jnp.abs(clipped(x, (19.5, 54.0))), ERF_CROSSING)
    below = Scaled((z + z * g) * first, tuple(others)).unless(*crossing)
    slope = below.unless(x >= 0, 1 - below.value())
    return slope._replace(z=_unless_minus_infinity(x, slope.z)) if use is Use.ANY_PRODUCT else slope


def gelu(x: jax.Array, approximate: bool, use: Use = Use.RESULT) -> Scaled:
    return tanh_gated(x, use) if approximate else normal_gated(x, use)


def gelu_slope(x: jax.Array, approximate: bool, use: Use = Use.RESULT) -> Scaled:
    return tanh_slope(x, use) if approximate else normal_slope(x, use)
