"""Real numbers as balls of arbitrary precision, with the infinities and NaN of IEEE 754 beside them.

A finite number is a python-flint `arb`: midpoint and radius, computed to the precision of `flint.ctx`, and certain to
enclose the exact result. An exact number has radius 0. Beside them there are four objects, known by identity:

- `INF`, `NEG_INF`, `NAN`: what IEEE arithmetic gives where the real function has no value, and certain;
- `UNKNOWN`: at this precision nothing is known, as of 1 / x where x may be 0. It passes through arithmetic like NaN,
  and a result that it reaches is not certified.

Zeros have no sign: where IEEE asks for it, as in 1 / 0, a zero counts as +0.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxbp.errors import import_extra

flint: Any = import_extra("flint", "exact")
arb: Any = flint.arb

ZERO, ONE = arb(0), arb(1)
INF, NEG_INF, NAN, UNKNOWN = arb.pos_inf(), arb.neg_inf(), arb.nan(), arb.nan()

#: exp of more than this counts as infinite: arb has no larger numbers, and no floating dtype comes near.
HUGE = 2**60

Ball = Any
Balls = np.ndarray
"""An object array of balls."""


class Undecided(ArithmeticError):
    """A comparison, or a cast to an integer, whose outcome the balls of this precision do not determine.

    Attributes:
        what: the question, as text.
        where: the line of the differentiated code that asks it; set by the interpreter.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = ""

    def __str__(self) -> str:
        return f"{self.what} is undecided" + (f" at {self.where}" if self.where else "")


class MissingRule(NotImplementedError):
    """A primitive that this arithmetic does not know.

    Attributes:
        what: its name, and what about it is missing.
        where: the line of the differentiated code that calls it; set by the interpreter.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = ""

    def __str__(self) -> str:
        return f"exact: there is no rule for the primitive {self.what}" + (
            f", called at {self.where}." if self.where else "."
        )


def ball(x: float) -> Ball:
    """The ball of a float, an int or a bool, exactly."""
    if not isinstance(x, float) or math.isfinite(x):
        return arb(x)
    return NAN if math.isnan(x) else INF if x > 0 else NEG_INF


def balls(x: Any) -> Balls:
    """The exact balls of an array; of an object array itself."""
    x = np.asarray(x)
    if x.dtype == object:
        return x
    # float64 holds every narrower float exactly; integers become Python's, which have no bounds.
    return elementwise(ball, 1)(x if x.dtype.kind in "iub" else x.astype(np.float64))


def elementwise(f: Callable[..., Any], inputs: int) -> Callable[..., np.ndarray]:
    """`f` of single balls as a function of arrays, with broadcasting."""
    ufunc = np.frompyfunc(f, inputs, 1)

    def apply(*arrays: np.ndarray) -> np.ndarray:
        out = ufunc(*arrays)
        return out if isinstance(out, np.ndarray) else boxed(out)

    return apply


def boxed(x: Any) -> np.ndarray:
    """One object as an array without axes."""
    out = np.empty((), object)
    out[()] = x
    return out


def sign(x: Ball) -> float:
    """-1.0, 0.0 or 1.0, or the infinity or NaN itself; `Undecided` if the ball does not tell."""
    if x is INF or x is NEG_INF or x is NAN:
        return math.inf if x is INF else -math.inf if x is NEG_INF else math.nan
    if x is UNKNOWN:
        raise Undecided("the sign of a number that is not known")
    if x > 0:
        return 1.0
    if x < 0:
        return -1.0
    if x.is_zero():
        return 0.0
    raise Undecided(f"the sign of {show(x)}")


def show(x: Ball) -> str:
    """A ball for an error message."""
    names = {id(INF): "inf", id(NEG_INF): "-inf", id(NAN): "nan", id(UNKNOWN): "a number that may be anything"}
    return names.get(id(x)) or x.str(17)


def by_ieee(operation: Callable[..., Any], *operands: Ball) -> Ball:
    """The infinity, NaN or zero that IEEE arithmetic gives; it depends on the finite operands' signs alone."""
    if any(x is NAN for x in operands):
        return NAN
    try:
        out = float(operation(*(np.float64(sign(x)) for x in operands)))
    except Undecided:
        return UNKNOWN
    return ZERO if out == 0 else UNKNOWN if math.isfinite(out) else ball(out)


def add(a: Ball, b: Ball) -> Ball:
    out = a + b
    return out if out.is_finite() else by_ieee(np.add, a, b)


def sub(a: Ball, b: Ball) -> Ball:
    out = a - b
    if not out.is_finite():
        return by_ieee(np.subtract, a, b)
    # The same number, however well it is known: x - max(x) is exactly 0 where x is the largest.
    return ZERO if a is b else out


def mul(a: Ball, b: Ball) -> Ball:
    out = a * b
    return out if out.is_finite() else by_ieee(np.multiply, a, b)


def div(a: Ball, b: Ball) -> Ball:
    out = a / b
    return out if out.is_finite() else by_ieee(np.divide, a, b)


def neg(a: Ball) -> Ball:
    return -a if a.is_finite() else by_ieee(np.negative, a)


def integer_power(x: Ball, n: int) -> Ball:
    if x.is_finite():
        return x**n if n >= 0 else div(ONE, x**-n)
    if n == 0:
        return ONE
    return by_ieee(lambda v: v**n, x)


def power(x: Ball, y: Ball) -> Ball:
    """x ** y as IEEE 754 defines `pow`; NaN for negative x and a y that is no integer."""
    if x is UNKNOWN or y is UNKNOWN:
        return UNKNOWN
    if not (x.is_finite() and y.is_finite()):
        try:
            out = np.power(_base_like(x), _exponent_like(y))
        except Undecided:
            return UNKNOWN
        return ball(float(out))
    out = x**y
    if out.is_finite():
        return out
    if x.is_zero():
        return INF if y < 0 else UNKNOWN
    if x < 0 and not y.contains_integer():
        return NAN
    return INF if x > 0 and x.log() * y > HUGE else UNKNOWN


def _base_like(x: Ball) -> float:
    """A float with x's sign, on the same side of 1 and -1: it has the same power for an infinite exponent."""
    s = sign(x)
    if s == 0 or not math.isfinite(s):
        return s
    return s * 2.0 ** sign(abs(x) - 1)


def _exponent_like(y: Ball) -> float:
    """A float with y's sign, odd where y is: it gives the same power of an infinite base."""
    s = sign(y)
    if s == 0 or not math.isfinite(s):
        return s
    odd = y.is_integer() and int(y.unique_fmpz()) % 2 == 1
    return s if odd else 2 * s


def less(a: Ball, b: Ball) -> bool:
    """a < b, or `Undecided`."""
    if a is b:
        return False
    if not (a.is_finite() and b.is_finite()):
        return _ieee_compare(np.less, a, b, "<")
    if a < b:
        return True
    if a >= b:
        return False
    raise Undecided(f"whether {show(a)} < {show(b)}")


def equal(a: Ball, b: Ball) -> bool:
    """a == b, or `Undecided`. One object is one number; two inexact balls are never certain to be equal."""
    if a is UNKNOWN or b is UNKNOWN:
        raise Undecided(f"whether {show(a)} == {show(b)}")
    if a is b:
        return a is not NAN
    if not (a.is_finite() and b.is_finite()):
        return _ieee_compare(np.equal, a, b, "==")
    if a == b:
        return True
    if a != b:
        return False
    raise Undecided(f"whether {show(a)} == {show(b)}")


def less_equal(a: Ball, b: Ball) -> bool:
    """a <= b, or `Undecided`."""
    if a is NAN or b is NAN:
        return False
    return not less(b, a)


def _ieee_compare(compare: Callable[..., Any], a: Ball, b: Ball, symbol: str) -> bool:
    if a is UNKNOWN or b is UNKNOWN:
        raise Undecided(f"whether {show(a)} {symbol} {show(b)}")
    # Beside an infinity or NaN every finite number is like 0.
    return bool(compare(*(0.0 if x.is_finite() else sign(x) for x in (a, b))))


def maximum(a: Ball, b: Ball) -> Ball:
    """The larger number itself, so that it is known to be equal to it; a ball around both if neither is certain."""
    return _extreme(a, b, less, arb.max)


def minimum(a: Ball, b: Ball) -> Ball:
    """Like `maximum`, the smaller number."""
    return _extreme(a, b, lambda x, y: less(y, x), arb.min)


def _extreme(a: Ball, b: Ball, before: Callable[[Ball, Ball], bool], hull: Callable[[Ball, Ball], Ball]) -> Ball:
    if a is NAN or b is NAN:
        return NAN
    if a is UNKNOWN or b is UNKNOWN:
        return UNKNOWN
    try:
        return b if before(a, b) else a
    except Undecided:
        return hull(a, b)


def truncated(x: Ball, dtype: np.dtype) -> int:
    """The integer that a cast to `dtype` gives: towards 0, saturating; NaN gives 0. Or `Undecided`."""
    bounds = np.iinfo(dtype)
    if not x.is_finite():
        if x is UNKNOWN:
            raise Undecided(f"which integer {show(x)} is cast to")
        return 0 if x is NAN else int(bounds.max) if x is INF else int(bounds.min)
    whole = (x.floor() if x > 0 else x.ceil()).unique_fmpz()
    if whole is None:
        raise Undecided(f"which integer {show(x)} is cast to")
    return min(max(int(whole), int(bounds.min)), int(bounds.max))
