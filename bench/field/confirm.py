"""Confirmations of findings: what a package's rule gives at a point, and the truth, found without JAX's derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from bench.field.entry import Verified

Confirmation = Callable[[], tuple[float, float]]
#: Of a sample x with the distribution function F and the density f; checked with F and f of SciPy and differences.
SAMPLED = Verified(
    "gradient",
    "",
    "by design",
    "Implicit reparameterization: dx/dp = -(dF/dp) / f, as of a quantile; the sampler's own path is another.",
)


def slope(f: Callable[..., Any], at: tuple[float, ...], truth: Callable[[], Any], argument: int = 0) -> Confirmation:
    """A function of numbers: its gradient in float32 at a point, and what `truth()` says."""

    def confirm() -> tuple[float, float]:
        got = jax.grad(lambda *xs: jnp.sum(f(*xs)), argnums=argument)(*map(jnp.float32, at))
        return float(got), float(truth())

    return confirm


def value_under_vjp(f: Callable[..., Any], x: np.ndarray) -> Confirmation:
    """The value while it is differentiated, and the value."""
    return lambda: (float(jax.vjp(f, jnp.asarray(x))[0]), float(f(jnp.asarray(x))))


def difference(f: Callable[..., Any], at: tuple[float, ...], argument: int = 0, step: float = 1e-5) -> float:
    """A central difference of a function of float64."""
    low, high = list(at), list(at)
    low[argument], high[argument] = at[argument] - step, at[argument] + step
    return float((f(*high) - f(*low)) / (2 * step))


def derivative(f: Callable[..., Any], at: tuple[float, ...], argument: int) -> float:
    """A derivative in 40 digits."""

    def along(t: Any) -> Any:
        return f(*(t if i == argument else mpmath.mpf(x) for i, x in enumerate(at)))

    with mpmath.workdps(40):
        step, x = mpmath.mpf(10) ** -12, mpmath.mpf(at[argument])
        return float((along(x + step) - along(x - step)) / (2 * step))


def erfcx_slope(x: float) -> float:
    """The derivative of exp(x^2) erfc(x) = U(1/2, 1/2, x^2) / sqrt(pi) for x > 0, with U for Tricomi's function."""
    with mpmath.workdps(40):
        t = mpmath.mpf(x)
        return float(-t * mpmath.hyperu(1.5, 1.5, t * t) / mpmath.sqrt(mpmath.pi))


def logerfcx_slope(x: float) -> float:
    """The derivative of log erfcx(x) for x > 0."""
    with mpmath.workdps(40):
        t = mpmath.mpf(x)
        return float(-t * mpmath.hyperu(1.5, 1.5, t * t) / mpmath.hyperu(0.5, 0.5, t * t))


def dawsn_slope(x: float) -> float:
    """The derivative of Dawson's function, F(x) = x M(1, 3/2, -x^2) with M for Kummer's function."""
    with mpmath.workdps(60):
        t = mpmath.mpf(x)
        return float(1 - 2 * t * t * mpmath.hyp1f1(1, 1.5, -t * t))


def log_ndtr_slope(x: float) -> float:
    """The derivative of the logarithm of the normal distribution function."""
    with mpmath.workdps(40):
        return float(mpmath.npdf(x) / mpmath.ncdf(x))


def mish_slope(x: float) -> float:
    """The derivative of x tanh(log(1 + exp(x)))."""
    with mpmath.workdps(80):
        return float(mpmath.diff(lambda t: t * mpmath.tanh(mpmath.log1p(mpmath.exp(t))), x))


def sinc_slope(x: float) -> float:
    """The derivative of sin(pi x) / (pi x) for x != 0."""
    with mpmath.workdps(80):
        t = mpmath.pi * x
        return float((mpmath.cos(t) - mpmath.sin(t) / t) / x)


def softmin_slope(gamma: float) -> float:
    """The derivative of -g log(1 + exp(-1 / g)), the soft minimum of 0 and 1."""
    return derivative(lambda g: -g * mpmath.log(1 + mpmath.exp(-1 / g)), (gamma,), 0)


def quadratic_form(f: Callable[..., Any]) -> Confirmation:
    """Of B' B the entry [0, 1], differentiated in B[0, 0]: it is B[0, 1]."""
    b = jnp.float32([[1, 2], [3, 4]])
    return lambda: (float(jax.grad(lambda b: f(jnp.eye(2), b)[0, 1])(b)[0, 0]), float(b[0, 1]))


def _log_density(x: Any, alpha: Any, low: Any, high: Any) -> Any:
    power = 1 + alpha
    total = mpmath.log(high / low) if power == 0 else (high**power - low**power) / power
    return alpha * mpmath.log(x) - mpmath.log(total)


def _distribution(x: Any, alpha: Any, low: Any, high: Any) -> Any:
    power = 1 + alpha
    if power == 0:
        return mpmath.log(x / low) / mpmath.log(high / low)
    return (x**power - low**power) / (high**power - low**power)


def _quantile(q: Any, alpha: Any, low: Any, high: Any) -> Any:
    power = 1 + alpha
    if power == 0:
        return low * (high / low) ** q
    return (q * (high**power - low**power) + low**power) ** (1 / power)


def power_law(name: str, f: Callable[..., Any]) -> tuple[Verified, ...]:
    """What the findings of numpyro's truncated power law turned out to be."""
    true = {"log_prob": _log_density, "cdf": _distribution, "icdf": _quantile}[name]

    def said(argument: int, judgement: str, why: str, alpha: float, kind: str = "gradient") -> Verified:
        at = (0.7, alpha, 0.5, 2.0)
        confirmation = slope(f, at, lambda: derivative(true, at, argument), argument)
        return Verified(kind, f"args[{argument}]", judgement, why, confirmation)

    at_pole = "At alpha = -1 it averages two formulas that cancel at alpha +- 0.001: at most one digit is right."
    found = [said(1, "imprecise", at_pole, -1.0, "kink" if name == "icdf" else "witness")]
    if name == "log_prob":
        why = "The rule's derivative in this limit is that of the density, not of its logarithm."
        found += [said(argument, "wrong", why, 0.5) for argument in (2, 3)]
    if name == "cdf":
        found.append(said(3, "wrong", "At alpha = -1 the derivative in the upper limit has the wrong sign.", -1.0))
    return tuple(found)
