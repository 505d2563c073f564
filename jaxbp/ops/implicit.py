"""Values that an equation defines, whose gradient follows from the equation and not from how it was solved."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import Case, Normal, Uniform
from jaxbp.declaration import Domain, Flops, Rule, Shapes
from jaxbp.op import Op
from jaxbp.promotion import widened

STEPS = 40
#: A row has converged if one more step changes no entry by more than so many times the spacing of numbers at 1.
SETTLED = 8


def _require_square(x, w):
    if not x.ndim or w.shape != (x.shape[-1],) * 2:
        n = x.shape[-1] if x.ndim else "n"
        raise ValueError(f"w must be square with as many rows as x has features, [{n}, {n}], got {list(w.shape)}.")


def _repeated(step, start, steps):
    return jax.lax.fori_loop(0, steps, lambda _, z: step(z), start)


def _settled(step, z):
    """z, but NaN in the rows that another step still changes."""
    changed = jnp.abs(step(z) - z) > SETTLED * jnp.finfo(z.dtype).eps
    return jnp.where(jnp.any(changed, axis=-1, keepdims=True), jnp.nan, z)


def _step(x, w, precision):
    _require_square(x, w)
    return lambda z: jnp.tanh(x + jnp.matmul(z, w, precision=precision))


def equilibrium_stock(x, w, *, steps=STEPS, precision=None):
    return _repeated(_step(x, w, precision), jnp.zeros_like(x), steps)


def equilibrium_fwd(x, w, *, steps=STEPS, precision=None):
    wide, wide_w = widened(x), widened(w)
    z = equilibrium_stock(wide, wide_w, steps=steps, precision=precision)
    z = _settled(_step(wide, wide_w, precision), z)
    return z.astype(x.dtype), (x, w, z)


def equilibrium_bwd(res, ct, *, steps=STEPS, precision=None):
    x, w, z = res
    wide, wide_w = widened(x), widened(w)
    # Rows without a value have no part in the gradient, as if they were constant.
    lost = jnp.isnan(z)
    z, ct = jnp.where(lost, 0, z), jnp.where(lost, 0, widened(ct))
    # Not 1 - z^2, which cancels where z is close to 1.
    q = jnp.exp(-2 * jnp.abs(wide + jnp.matmul(z, wide_w, precision=precision)))
    slope = 4 * q / (1 + q * (2 + q))
    v = _repeated(lambda v: slope * (ct + jnp.matmul(v, wide_w.T, precision=precision)), slope * ct, steps)
    rows = (math.prod(x.shape[:-1]), x.shape[-1])
    ct_w = jnp.matmul(z.reshape(rows).T, v.reshape(rows), precision=precision)
    return v.astype(x.dtype), ct_w.astype(w.dtype)


def equilibrium_reference(x, w, *, steps=STEPS, precision=None):
    z = np.zeros_like(x)
    for _ in range(steps):
        z = np.tanh(x + np.matmul(z, w))
    return z


def equilibrium_reference_vjp(ct, x, w, *, steps=STEPS, precision=None):
    z = equilibrium_reference(x, w, steps=steps)
    q = np.exp(-2 * np.abs(x + np.matmul(z, w)))
    slope = 4 * q / (1 + q * (2 + q))
    v = slope * ct
    for _ in range(steps):
        v = slope * (ct + np.matmul(v, w.T))
    rows = (-1, x.shape[-1])
    return v, np.matmul(z.reshape(rows).T, v.reshape(rows))


def equilibrium_flops(shapes: Shapes) -> Flops:
    x, w = shapes
    entries, product = math.prod(x), 2 * math.prod(x) * w[1]
    return Flops((STEPS + 1) * (product + 2 * entries), (STEPS + 2) * product + (2 * STEPS + 8) * entries)


def _equilibrium_cases():
    """Rows and their features at three sizes. The weights' norm is about 0.3: each step leaves less than that."""
    sizes = {"small": (8, 8), "cache": (256, 64), "memory": (4096, 256)}
    return tuple(
        Case(name, ((rows, n), (n, n)), (Normal(), Uniform(-0.28 / math.sqrt(n), 0.28 / math.sqrt(n))))
        for name, (rows, n) in sizes.items()
    )


equilibrium = Op(
    name="equilibrium",
    summary="The solution z of z = tanh(x + z w), found by repeating that from z = 0: a layer of infinite depth. "
    "x [..., n], w [n, n] -> z [..., n], floating. It converges where the largest singular value s of w is below 1: "
    "after `steps` repetitions about s^steps of the error is left, in value and gradient alike. Rows that have not "
    "converged by then are NaN, and have no part in the gradient. `precision` is jnp.matmul's.",
    formula="z = tanh(x + z w); with s = sech(x + z w)^2 and the solution v of v = s (ct + v w^T): "
    "ct_x = v, ct_w = z^T v summed over all rows",
    rules=(
        Rule(
            "implicit",
            equilibrium_fwd,
            equilibrium_bwd,
            "The derivative of the equation, by an iteration of its own: keeps the solution alone, and not what led to "
            "it, and takes one product a step in place of two.",
        ),
    ),
    stock=equilibrium_stock,
    # As stock, but NaN where it has not converged.
    exact=lambda x, w, *, steps=STEPS, precision=None: equilibrium_fwd(x, w, steps=steps, precision=precision)[0],
    # Where tests draw, at 8 features: weights as small as that converge, whatever they are.
    domain={"w": Domain(-0.1, 0.1)},
    reference=equilibrium_reference,
    reference_vjp=equilibrium_reference_vjp,
    cases=_equilibrium_cases(),
    flops=equilibrium_flops,
    source="The implicit function theorem; Bai, Kolter, Koltun, Deep equilibrium models (2019).",
    example=""">>> w = jnp.array([[0.0, 0.5], [0.5, 0.0]])
>>> z, (ct_x, ct_w) = jaxbp.equilibrium.value_and_vjp((jnp.array([1.0, 1.0]), w), jnp.ones(2))
>>> print(f"{z[0]:.6f} = {jnp.tanh(1 + 0.5 * z[0]):.6f}; slope {ct_x[0]:.4f}")
0.895219 = 0.895219; slope 0.2205""",
)
