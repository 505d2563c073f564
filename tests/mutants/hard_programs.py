"""Right functions with control flow and transforms inside, with and without custom rules in those."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import jaxbp
from tests.mutants.handwritten_solvers import ROOT, SOLUTION
from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _control()
    yield from _transforms()
    yield from _rules_inside()
    yield from _implicit()


def _recurrence(a: Any, xs: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(a * h + x)
        return h, h

    return lax.scan(step, jnp.zeros_like(xs[0]), xs)[1]


def _control() -> Iterator[Right]:
    x = normal(6, 5)

    def long_recurrence(x: Any) -> Any:
        return lax.scan(lambda h, _: (0.99 * h + 0.1 * jnp.sin(h), None), x, None, length=200)[0]

    def branch(x: Any, flag: Any) -> Any:
        return lax.cond(flag, jnp.sin, lambda x: x**2, x)

    def by_sign(x: Any) -> Any:
        return lax.cond(jnp.sum(x) > 0, lambda x: 2 * x, lambda x: -x, x)

    def both_ways(xs: Any) -> Any:
        return lax.scan(lambda h, x: (0.5 * h + x, h), jnp.zeros_like(xs[0]), xs, reverse=True)

    def nested(xs: Any) -> Any:
        return lax.scan(lambda h, x: (h + jnp.sum(_recurrence(h, x[:, None])), None), jnp.zeros((), xs.dtype), xs)[0]

    yield Right("program/scan", _recurrence, (np.float32(0.7), x))
    yield Right("program/long scan", long_recurrence, (x,))
    yield Right("program/scan from the end", both_ways, (x,))
    yield Right("program/scan in a scan", nested, (x / 4,))
    yield Right("program/logistic map", lambda x: lax.fori_loop(0, 8, lambda i, x: 3.2 * x * (1 - x), x), (x / 9,))
    yield Right("program/cond", branch, (x, np.bool_(True)))
    yield Right("program/cond that is false", branch, (x, np.bool_(False)))
    yield Right("program/cond by the argument", by_sign, (x,))
    yield Right("program/switch", lambda x, i: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x), (x, np.int32(1)))
    yield Right("program/map", lambda x: lax.map(lambda row: jnp.sum(row) * row, x), (x,))
    yield Right("program/associative scan", lambda x: lax.associative_scan(jnp.multiply, x), (x,))
    yield Right("program/linear recurrence in parallel", _parallel, (np.tanh(x), normal(6, 5, seed=2)))


def _parallel(a: Any, b: Any) -> Any:
    """h_t = a_t h_(t-1) + b_t."""
    return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b))[1]


def _transforms() -> Iterator[Right]:
    x = normal(6, 5)
    qkv = (normal(6, 4), normal(6, 4, seed=2), normal(6, 4, seed=3))
    yield Right("program/vmap", jax.vmap(lambda a, b: jnp.dot(a, b) * a), (x, 2 * x))
    yield Right("program/vmap of an op", jax.vmap(jaxbp.matmul, (0, None)), (normal(3, 4, 5), normal(5, 2)))
    yield Right("program/vmap along the last axis", jax.vmap(jax.nn.softmax, 1, 1), (x,))
    yield Right("program/remat", jax.checkpoint(lambda x: jnp.sin(jnp.tanh(x) @ x.T)), (x,))
    yield Right("program/jit", jax.jit(lambda x: jnp.sin(x) * jnp.cos(x)), (x,))
    yield Right("program/gradient inside", jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2)), (x,))
    yield Right("program/gradient of an op inside", jax.grad(lambda x: jnp.sum(jaxbp.sigmoid(x) ** 2)), (x,))
    yield Right("program/Jacobian inside", lambda x: jax.jacobian(jnp.tanh)(x[0]), (x,))
    yield Right("program/Hessian times a vector", _hvp, (normal(5), normal(5, seed=2)))
    yield Right("program/ops", lambda x, y: jaxbp.sigmoid(jaxbp.matmul(jaxbp.tanh(x), y)), (x, normal(5, 4)))
    yield Right("program/stop gradient", lambda x: x * lax.stop_gradient(jnp.exp(x)), (x,))
    yield Right("program/attention", _attention, qkv)
    yield Right("program/attention in bfloat16", _attention, tuple(a.astype(jnp.bfloat16) for a in qkv))
    yield Right("program/named axis", jax.vmap(lambda x: x - lax.pmean(x, "rows"), axis_name="rows"), (x,))


def _hvp(x: Any, v: Any) -> Any:
    return jax.jvp(jax.grad(lambda x: jnp.sum(jnp.sin(x) * x[::-1])), (x,), (v,))[1]


def _attention(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.where(jnp.tri(q.shape[0], k.shape[0], dtype=bool), q @ k.T / 2, -jnp.inf)
    return jax.nn.softmax(scores) @ v


#: sin(x) with its rule: what is put inside of programs.
SINE = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))


def _product_fwd(x: Any, w: Any) -> Any:
    return x @ w, (x, w)


#: A row times a matrix with its rule, to be mapped over rows with the matrix shared.
PRODUCT = custom(jnp.matmul, _product_fwd, lambda res, ct: (res[1] @ ct, jnp.outer(res[0], ct)))


def _rules_inside() -> Iterator[Right]:
    x, w = normal(6, 5), normal(5, 3, seed=2)

    def until_small(x: Any) -> Any:
        return lax.while_loop(lambda y: jnp.max(jnp.abs(y)) > 10, lambda y: y / 2, lax.stop_gradient(x)) + SINE(x)

    def shards(x: Any) -> Any:
        mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
        spec = PartitionSpec("rows")
        return jax.shard_map(SINE, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    yield Right("inside/scan", lambda x: lax.scan(lambda h, r: (SINE(h + r), h), jnp.zeros_like(x[0]), x), (x,))
    yield Right("inside/scan with a matrix", _cells, (x, normal(5, 5, seed=2) / 3))
    yield Right("inside/fori loop", lambda x: lax.fori_loop(0, 4, lambda i, x: SINE(x) + x / 2, x), (x,))
    yield Right("inside/cond", lambda x, c: lax.cond(c, SINE, jnp.cos, x), (x, np.bool_(True)))
    yield Right("inside/switch", lambda x, i: lax.switch(i, [jnp.cos, SINE], x), (x, np.int32(1)))
    yield Right("inside/beside a while loop", until_small, (20 * x,))
    yield Right("inside/vmap", jax.vmap(SINE), (x,))
    yield Right("inside/vmap with a shared matrix", jax.vmap(PRODUCT, (0, None)), (x, w))
    yield Right("inside/vmap of vmap", jax.vmap(jax.vmap(PRODUCT, (0, None)), (0, None)), (normal(2, 3, 5), w))
    yield Right("inside/jit", jax.jit(lambda x: 2 * SINE(x)), (x,))
    yield Right("inside/remat", jax.checkpoint(lambda x: SINE(SINE(x))), (x,))
    yield Right("inside/map", lambda x: lax.map(SINE, x), (x,))
    yield Right("inside/shard map on one device", shards, (x,))
    yield Right("inside/gradient", lambda x: jax.vjp(SINE, x)[1](jnp.ones_like(x))[0], (x,))


def _cells(x: Any, w: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        h = jnp.tanh(PRODUCT(h, w) + row)
        return h, None

    return lax.scan(step, jnp.zeros_like(x[0]), x)[0]


def _implicit() -> Iterator[Right]:
    """Functions that are defined by an equation."""
    x = normal(6, 5)
    yield Right("implicit/fixed point", _fixed_point, (x,))
    yield Right("implicit/Newton's square root", _newton, (np.abs(x) + 0.5,), {"args[0]": (0.1, 10.0)})
    a, b = normal(4, 4) / 4 + 2 * np.eye(4, dtype=np.float32), normal(4, seed=2)
    yield Right("implicit/linear solve", _solve, (a, b))
    yield Right("implicit/custom linear solve", _custom_solve, (a, b))
    yield Right("implicit/bisection", _bisection, (x,))
    yield Right("implicit/iterated to a tolerance", SOLUTION, (x,))
    yield Right("implicit/bisected to a tolerance", ROOT, (x,), {"args[0]": (-1000.0, 1000.0)})


def _iterate(x: Any) -> Any:
    """y = tanh(y / 2 + x) by so many steps that no float64 changes any more."""
    return lax.fori_loop(0, 80, lambda _, y: jnp.tanh(y / 2 + x), jnp.zeros_like(x))


def _fixed_point_back(y: Any, ct: Any) -> Any:
    # dy = (1 - y^2) (dy / 2 + dx)
    slope = (1 - y) * (1 + y)
    return (ct * slope / (1 - slope / 2),)


_fixed_point = custom(_iterate, lambda x: (_iterate(x),) * 2, _fixed_point_back)


def _steps(x: Any) -> Any:
    return lax.fori_loop(0, 12, lambda _, y: (y + x / y) / 2, (1 + x) / 2)


_newton = custom(_steps, lambda x: (_steps(x),) * 2, lambda y, ct: (ct / (2 * y),))


def _solve_fwd(a: Any, b: Any) -> Any:
    y = jnp.linalg.solve(a, b)
    return y, (a, y)


def _solve_back(res: Any, ct: Any) -> Any:
    a, y = res
    g = jnp.linalg.solve(a.T, ct)
    return -jnp.outer(g, y), g


_solve = custom(jnp.linalg.solve, _solve_fwd, _solve_back)


def _custom_solve(a: Any, b: Any) -> Any:
    def solve(matvec: Any, b: Any) -> Any:
        # Jacobi's iteration, which converges for a dominant diagonal.
        return lax.fori_loop(0, 80, lambda _, y: y + (b - matvec(y)) / 2.5, b)

    return lax.custom_linear_solve(lambda y: a @ y, b, solve, transpose_solve=solve)


def _bisected(x: Any) -> Any:
    """The root of y + y^3 = x."""

    def halve(_: Any, ends: Any) -> Any:
        low, high = ends
        middle = (low + high) / 2
        above = middle + middle**3 > x
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    low, high = lax.fori_loop(0, 70, halve, (-jnp.abs(x), jnp.abs(x)))
    y = (low + high) / 2
    # Each step of Newton's makes one more derivative of an estimate right.
    for _ in range(3):
        y = y - (y + y**3 - x) / (1 + 3 * y**2)
    return y


def _bisected_fwd(x: Any) -> Any:
    y = _bisected(x)
    return y, y


_bisection = custom(_bisected, _bisected_fwd, lambda y, ct: (ct / (1 + 3 * y**2),))
