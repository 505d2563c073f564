"""Functions that an equation defines, which iterations solve: kepler."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import sum_to
from jaxbp.cases import Uniform, elementwise_cases
from jaxbp.declaration import Domain, Flops, Rule
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.quadrants import cosine, sine

#: Newton's steps from Danby's start: enough in float64 up to an eccentricity of 0.99, wherever the planet is.
STEPS = 12
START = 0.85


def _solution(mean_anomaly, eccentricity, sin, cos):
    def step(_, x):
        excess = (x - mean_anomaly) - eccentricity * sin(x)
        return x - excess / (1 - eccentricity * cos(x))

    start = mean_anomaly + START * eccentricity * jnp.sign(mean_anomaly)
    return jax.lax.fori_loop(0, STEPS, step, start)


def kepler_stock(mean_anomaly, eccentricity):
    # As one would write it: autodiff keeps what each step has computed, and goes back through all of them.
    return _solution(mean_anomaly, eccentricity, jnp.sin, jnp.cos)


def kepler_fwd(mean_anomaly, eccentricity):
    y = _solution(mean_anomaly, eccentricity, sine, cosine)
    return y, (y, mean_anomaly, eccentricity)


def kepler_bwd(res, ct):
    y, mean_anomaly, eccentricity = res
    # 1 - e cos(y) cancels for a nearly parabolic orbit close to its focus; with half the angle nothing does.
    half, opposite = sine(y / 2), sine(y)
    steepness = (1 - eccentricity) + 2 * eccentricity * (half * half)
    # By how much y was rounded, to first order: near pi the sine would keep no more digits than that leaves.
    missing = ((mean_anomaly - y) + eccentricity * opposite) / steepness
    ct_mean = ct / (steepness + eccentricity * opposite * missing)
    ct_eccentricity = ct_mean * (opposite + missing * cosine(y))
    return sum_to(ct_mean, mean_anomaly), sum_to(ct_eccentricity, eccentricity)


def kepler_reference(mean_anomaly, eccentricity):
    m, e = np.broadcast_arrays(mean_anomaly, eccentricity)
    y = m + START * e * np.sign(m)
    for _ in range(2 * STEPS):
        y = y - ((y - m) - e * np.sin(y)) / ((1 - e) + 2 * e * np.sin(y / 2) ** 2)
    return y


def kepler_reference_vjp(ct, mean_anomaly, eccentricity):
    y = kepler_reference(mean_anomaly, eccentricity)
    ct_mean = ct / ((1 - eccentricity) + 2 * eccentricity * np.sin(y / 2) ** 2)
    return numpy_sum_to(ct_mean, mean_anomaly), numpy_sum_to(ct_mean * np.sin(y), eccentricity)


kepler = Op(
    name="kepler",
    summary="The eccentric anomaly y of an orbit, which Kepler's equation y - e sin(y) = M gives, for a mean anomaly M "
    "from -pi to pi and an eccentricity |e| < 1. mean_anomaly [...], eccentricity [...] -> y [...], floating, "
    "broadcast as NumPy does; angles in radians.",
    formula="y - e sin(y) = M; ct_M = ct / (1 - e cos(y)), ct_e = ct_M sin(y)",
    rules=(
        Rule(
            "implicit",
            kepler_fwd,
            kepler_bwd,
            "Differentiates the equation, not the steps that solve it: keeps the output and makes up for its rounding.",
        ),
    ),
    stock=kepler_stock,
    reference=kepler_reference,
    reference_vjp=kepler_reference_vjp,
    elementwise=True,
    domain={"mean_anomaly": Domain(-math.pi, math.pi), "eccentricity": Domain(-1.0, 1.0)},
    cases=tuple(
        # What autodiff keeps of all steps leaves every cache at a sixteenth of the usual size.
        dataclasses.replace(case, shapes=((2**18,),) * 2) if case.name == "memory" else case
        for case in elementwise_cases(Uniform(-3.1, 3.1), Uniform(0, 0.9))
    ),
    flops=Flops(STEPS * 140, 250),
    version=2,
    source="Danby 1987, The solution of Kepler's equation III; implicit function theorem.",
    example=""">>> y, (ct_m, ct_e) = jaxbp.kepler.value_and_vjp((1.0, 0.5), 1.0)
>>> print(f"{y:.4f}: {y - 0.5 * jnp.sin(y):.4f}; {ct_m:.4f} {ct_e:.4f}")
1.4987: 1.0000; 1.0374 1.0347""",
)
