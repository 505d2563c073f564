"""The elementwise primitives in balls: one row each, with the values at poles, domain ends and infinities."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxbp.accuracy import exact_balls as xb
from jaxbp.accuracy.exact_balls import (
    HUGE,
    INF,
    NAN,
    NEG_INF,
    ONE,
    UNKNOWN,
    ZERO,
    Ball,
    MissingRule,
    Undecided,
    arb,
    balls,
    elementwise,
)

#: `rule(eqn, *values)` gives an equation's output, or the list of its outputs if there is more than one.
Rule = Callable[..., Any]


def on_balls(f: Callable[..., Ball], inputs: int) -> Rule:
    """The rule that applies `f` to single balls; integers become exact balls."""
    apply = elementwise(f, inputs)
    return lambda eqn, *values: apply(*map(balls, values))


def compared(f: Callable[[Ball, Ball], bool]) -> Rule:
    apply = elementwise(f, 2)
    return lambda eqn, a, b: apply(balls(a), balls(b)).astype(bool)


def unary(
    f: Callable[[Ball], Ball],
    at_neg_inf: Ball | Callable[[], Ball],
    at_inf: Ball | Callable[[], Ball],
    *,
    at: Mapping[float, Ball] | None = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> Rule:
    """A function of one number.

    Args:
        f: of a finite ball. Where its result is neither finite nor one of the special objects, the rest decides.
        at_neg_inf: its value at -inf; a function where it depends on the precision.
        at_inf: likewise at inf.
        at: poles, and the values there.
        low: below it, and above `high`, the function is NaN.
        high: see `low`.
    """
    ends = {id(NEG_INF): at_neg_inf, id(INF): at_inf, id(NAN): NAN, id(UNKNOWN): UNKNOWN}

    def apply(x: Ball) -> Ball:
        if not x.is_finite():
            end = ends[id(x)]
            return end() if callable(end) else end
        out = f(x)
        if out.is_finite() or id(out) in ends:
            return out
        for point, value in (at or {}).items():
            if x == point:
                return value
        return NAN if x < low or x > high else UNKNOWN

    return on_balls(apply, 1)


def pi_times(factor: float) -> Callable[[], Ball]:
    return lambda: arb.pi() * factor


def logistic(x: Ball) -> Ball:
    # The exponential that decays, which arb can form for every x.
    e = (-abs(x)).exp()
    return 1 / (1 + e) if x > 0 else e / (1 + e) if x <= 0 else 1 / (1 + (-x).exp())


def sinh(x: Ball) -> Ball:
    return INF if x > HUGE else NEG_INF if x < -HUGE else x.sinh()


def cbrt(x: Ball) -> Ball:
    if x >= 0:
        return x.root(3)
    return -(-x).root(3) if x < 0 else UNKNOWN


def lgamma(x: Ball) -> Ball:
    if x > 0:
        return x.lgamma()
    reciprocal = x.rgamma()
    return INF if reciprocal.is_zero() else -abs(reciprocal).log()


def digamma(x: Ball) -> Ball:
    return NAN if x.is_integer() and x <= 0 else x.digamma()


def bessel_e(order: int) -> Callable[[Ball], Ball]:
    return lambda x: (-abs(x)).exp() * x.bessel_i(order)


def half_even(x: Ball) -> Ball:
    shifted = x + 0.5
    below = shifted.floor()
    tie = shifted.is_exact() and shifted == below
    return below - 1 if tie and int(below.unique_fmpz()) % 2 else below


def half_away(x: Ball) -> Ball:
    return x.sgn() * (abs(x) + 0.5).floor()


def rounded(eqn: Any, x: np.ndarray) -> np.ndarray:
    to_even = eqn.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN
    return (ROUND_HALF_EVEN if to_even else ROUND_HALF_AWAY)(eqn, x)


def atan2(y: Ball, x: Ball) -> Ball:
    if y.is_finite() and x.is_finite():
        out = arb.atan2(y, x)
        return out if out.is_finite() else UNKNOWN
    if y is NAN or x is NAN:
        return NAN
    try:
        # Beside an infinity the angle is a multiple of pi / 4.
        return arb.pi() * round(math.atan2(xb.sign(y), xb.sign(x)) * 4 / math.pi) / 4
    except Undecided:
        return UNKNOWN


def rem(a: Ball, b: Ball) -> Ball:
    """a - b trunc(a / b): the sign of a, as C's fmod."""
    if not (a.is_finite() and b.is_finite()) or b.is_zero():
        if a is UNKNOWN or b is UNKNOWN:
            return UNKNOWN
        return a if a.is_finite() and (b is INF or b is NEG_INF) else NAN
    if a.is_exact() and b.is_exact():
        q = abs(a.fmpq() / b.fmpq()).floor()
        return arb(abs(a.fmpq()) - q * abs(b.fmpq())) * a.sgn()
    quotient = abs(a / b)
    if not quotient.is_finite():
        return UNKNOWN
    # Where a may be a multiple of b the floor is a ball around two integers, and so is the result.
    return a - b * quotient.floor() * (a / b).sgn()


def polygamma(m: Ball, x: Ball) -> Ball:
    if not (m.is_integer() and m >= 0 and x.is_finite()):
        return ZERO if x is INF and m >= 1 else NAN if x is NAN else UNKNOWN
    order = int(m.unique_fmpz())
    if order == 0:
        return digamma(x)
    out = arb(math.factorial(order)) * arb(order + 1).zeta(x)
    if not out.is_finite():
        return UNKNOWN
    return out if order % 2 else -out


def is_finite(x: Ball) -> bool:
    if x is UNKNOWN:
        raise Undecided(f"whether {xb.show(x)} is finite")
    return x.is_finite()


def clamp(low: Ball, x: Ball, high: Ball) -> Ball:
    return xb.minimum(xb.maximum(low, x), high)


def polynomial(x: Ball, *coefficients: Ball) -> Ball:
    out = ZERO
    for c in reversed(coefficients):
        out = xb.add(xb.mul(out, x), c)
    return out


def identity(eqn: Any, *values: np.ndarray) -> Any:
    return values[0] if len(values) == 1 else list(values)


def cast(eqn: Any, x: np.ndarray) -> np.ndarray:
    """Between floats the identity: no value is rounded. From a float to an integer towards 0."""
    dtype = np.dtype(eqn.outvars[0].aval.dtype)
    if x.dtype != object:
        return balls(x)
    if dtype.kind not in "iub":
        return x
    if dtype.kind == "b":
        return elementwise(lambda v: not xb.equal(v, ZERO), 1)(x).astype(bool)
    return elementwise(lambda v: xb.truncated(v, dtype), 1)(x).astype(dtype)


def bits(eqn: Any, x: np.ndarray) -> np.ndarray:
    """Float64 numbers as 64-bit integers, as `jnp.signbit` looks at them, and back, as `jax.random` makes them."""

    def as_float(v: Ball) -> float:
        value = xb.sign(v) if not v.is_finite() else float(v)
        if v.is_finite() and not (v.is_exact() and v == value):
            raise Undecided(f"the bits of {xb.show(v)}, which is no float64")
        return value

    dtype = np.dtype(eqn.outvars[0].aval.dtype)
    if dtype.itemsize != 8:
        raise MissingRule("bitcast_convert_type, except between float64 and 64-bit integers")
    if x.dtype != object:
        return balls(x.view(dtype))
    return elementwise(as_float, 1)(x).astype(np.float64).view(dtype)


ROUND_HALF_EVEN = unary(half_even, NEG_INF, INF)
ROUND_HALF_AWAY = unary(half_away, NEG_INF, INF)

ELEMENTWISE: dict[str, Rule] = {
    "add": on_balls(xb.add, 2),
    "add_any": on_balls(xb.add, 2),
    "sub": on_balls(xb.sub, 2),
    "mul": on_balls(xb.mul, 2),
    "div": on_balls(xb.div, 2),
    "neg": on_balls(xb.neg, 1),
    "max": on_balls(xb.maximum, 2),
    "min": on_balls(xb.minimum, 2),
    "pow": on_balls(xb.power, 2),
    "rem": on_balls(rem, 2),
    "atan2": on_balls(atan2, 2),
    "polygamma": on_balls(polygamma, 2),
    "clamp": on_balls(clamp, 3),
    "polynomial": lambda eqn, *values: on_balls(polynomial, len(values))(eqn, *values),
    "integer_pow": lambda eqn, x: elementwise(lambda v: xb.integer_power(v, eqn.params["y"]), 1)(x),
    "square": on_balls(lambda x: xb.mul(x, x), 1),
    "one_minus_square": on_balls(lambda x: xb.sub(ONE, xb.mul(x, x)), 1),
    "abs": unary(abs, INF, INF),
    "sign": unary(arb.sgn, -ONE, ONE),
    "floor": unary(arb.floor, NEG_INF, INF),
    "ceil": unary(arb.ceil, NEG_INF, INF),
    "round": rounded,
    "sqrt": unary(arb.sqrt, NAN, INF, low=0),
    "rsqrt": unary(arb.rsqrt, NAN, ZERO, at={0: INF}, low=0),
    "cbrt": unary(cbrt, NEG_INF, INF),
    "exp": unary(lambda x: INF if x > HUGE else x.exp(), ZERO, INF),
    "exp2": unary(lambda x: INF if x > HUGE else arb(2) ** x, ZERO, INF),
    "expm1": unary(lambda x: INF if x > HUGE else x.expm1(), -ONE, INF),
    "log": unary(arb.log, NAN, INF, at={0: NEG_INF}, low=0),
    "log2": unary(lambda x: x.log() / arb.const_log2(), NAN, INF, at={0: NEG_INF}, low=0),
    "log1p": unary(arb.log1p, NAN, INF, at={-1: NEG_INF}, low=-1),
    "sin": unary(arb.sin, NAN, NAN),
    "cos": unary(arb.cos, NAN, NAN),
    "tan": unary(arb.tan, NAN, NAN),
    "asin": unary(arb.asin, NAN, NAN, low=-1, high=1),
    "acos": unary(arb.acos, NAN, NAN, low=-1, high=1),
    "atan": unary(arb.atan, pi_times(-0.5), pi_times(0.5)),
    "sinh": unary(sinh, NEG_INF, INF),
    "cosh": unary(lambda x: INF if abs(x) > HUGE else x.cosh(), INF, INF),
    "tanh": unary(arb.tanh, -ONE, ONE),
    "asinh": unary(arb.asinh, NEG_INF, INF),
    "acosh": unary(arb.acosh, NAN, INF, low=1),
    "atanh": unary(arb.atanh, NAN, NAN, at={-1: NEG_INF, 1: INF}, low=-1, high=1),
    "logistic": unary(logistic, ZERO, ONE),
    "erf": unary(arb.erf, -ONE, ONE),
    "erfc": unary(arb.erfc, arb(2), ZERO),
    "erf_inv": unary(arb.erfinv, NAN, NAN, at={-1: NEG_INF, 1: INF}, low=-1, high=1),
    "lgamma": unary(lgamma, INF, INF),
    "digamma": unary(digamma, NAN, INF),
    "bessel_i0e": unary(bessel_e(0), ZERO, ZERO),
    "bessel_i1e": unary(bessel_e(1), ZERO, ZERO),
    "is_finite": lambda eqn, x: elementwise(is_finite, 1)(x).astype(bool),
    "eq": compared(xb.equal),
    "ne": compared(lambda a, b: not xb.equal(a, b)),
    "lt": compared(xb.less),
    "gt": compared(lambda a, b: xb.less(b, a)),
    "le": compared(xb.less_equal),
    "ge": compared(lambda a, b: xb.less_equal(b, a)),
    "convert_element_type": cast,
    "bitcast_convert_type": bits,
    **dict.fromkeys(("copy", "copy_p", "reduce_precision", "stop_gradient", "optimization_barrier"), identity),
    **dict.fromkeys(("device_put", "sharding_constraint", "pvary", "pcast", "name"), identity),
}
