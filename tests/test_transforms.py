"""Ops under JAX's transformations: jit, vmap, scan, remat, shard_map, grad of grad, strict promotion."""

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import reference
from jaxbp.promotion import is_inexact


def small(op):
    args = op.case("small").arguments(np.dtype("float32"))
    ct = op.case("small").cotangent(op.output(args, {}).shape, np.dtype("float32"))
    return args, ct


def loss_of(op, ct):
    return lambda *args: jnp.sum(op(*args) * ct)


def all_gradients(f, args):
    """Of the floating arguments."""
    return jax.grad(f, argnums=tuple(i for i, x in enumerate(args) if is_inexact(x)))(*args)


def assert_gradients(op, f):
    args, ct = small(op)
    exact = [x for x in reference(op, args, ct)[1] if x is not None]
    for actual, truth in zip(f(loss_of(op, ct), args), exact, strict=True):
        np.testing.assert_allclose(actual, truth, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("op", jaxbp.OPS[::6], ids=repr)
def test_grad_without_jit(op):
    assert_gradients(op, all_gradients)


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_grad_under_jit_remat_and_vmap_over_all_arguments_or_the_first_alone(op):
    args, ct = small(op)
    others = (None,) * (len(args) - 1)

    @jax.jit
    def gradients(args):
        def of_one(*xs):
            return all_gradients(jax.checkpoint(loss_of(op, ct)), xs)

        batched = tuple(jnp.stack([x, x]) for x in args)
        of_all = jax.vmap(of_one)(*batched)
        of_first = jax.vmap(of_one, in_axes=(0, *others))(batched[0], *args[1:]) if others else of_all
        return of_one(*args), of_all, of_first

    expected, *batched = gradients(args)
    assert_gradients(op, lambda *_: expected)
    for grads in batched:
        for actual, single in zip(grads, expected, strict=True):
            np.testing.assert_allclose(actual[1], single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", [jaxbp.sigmoid, jaxbp.tanh, jaxbp.square], ids=repr)
def test_grad_through_scan(op):
    def chain(f, x):
        return jax.lax.scan(lambda carry, _: (f(carry), None), x, length=3)[0]

    x = jnp.float32(0.3)
    np.testing.assert_allclose(
        jax.grad(lambda x: chain(op, x))(x), jax.grad(lambda x: chain(op.stock, x))(x), rtol=1e-5
    )


@pytest.mark.parametrize("op", [jaxbp.multiply, jaxbp.sigmoid, jaxbp.matmul], ids=repr)
def test_reverse_over_reverse(op):
    args, ct = small(op)
    args = tuple(np.clip(x, -2, 2) for x in args)

    def second(f):
        return jax.grad(lambda *xs: jnp.sum(jax.grad(loss_of(f, ct))(*xs) ** 2))(*args)

    np.testing.assert_allclose(second(op), second(op.stock), rtol=1e-3, atol=1e-5)


#: These broadcast across ranks by design.
BROADCASTS = {"neuron", "linear", "linear_relu", "shift", "scale", "layer_norm", "rms_norm", "rms_norm_linear"}

#: At these points every op has a second derivative.
ORDINARY = np.array([0.15, 0.4, 0.77], np.float32)


@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.elementwise and len(op.arguments) == 1], ids=repr)
def test_second_derivatives_agree_with_those_of_stock(op):
    for options in op.variants:
        for rule in op.rules.values():
            ours, stock = (
                jax.jit(jax.vmap(jax.grad(jax.grad(functools.partial(f, **options)))))(ORDINARY)
                for f in (rule, op.stock)
            )
            np.testing.assert_allclose(ours, stock, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("op", [op for op in jaxbp.OPS if op.elementwise and len(op.arguments) == 2], ids=repr)
def test_mixed_second_derivatives_agree_with_those_of_stock(op):
    def hessian(f):
        reverse = jax.jacrev(jax.grad(f, argnums=(0, 1)), argnums=(0, 1))
        return jax.tree.leaves(jax.jit(jax.vmap(reverse))(ORDINARY, ORDINARY + np.float32(0.5)))

    for rule in op.rules.values():
        for ours, stock in zip(hessian(rule), hessian(op.stock), strict=True):
            np.testing.assert_allclose(ours, stock, rtol=2e-4, atol=1e-6)


#: Where a rule selects a constant for a function that is one in one argument alone, or takes a power of 2 out.
SPECIAL = {
    "divide": [(0, 2), (3, 2), (0, -3), (1e-30, 2), (1e30, 3), (-2, 0.5)],
    "power": [(1, 3), (1, 0.5), (0, 2), (0, 3), (0, 2.5), (2, 0), (1, 0), (1, 1), (2, 1), (0.3, 4), (-2, 2), (-2, 3)],
}


@pytest.mark.parametrize("op", [jaxbp.divide, jaxbp.power], ids=repr)
def test_second_derivatives_at_special_points_are_those_of_stock_in_float64(op):
    def second(f, i, j, dtype):
        points = np.array(SPECIAL[op.name], dtype)
        return jax.jit(jax.vmap(jax.grad(jax.grad(f, i), j)))(*points.T)

    def forward_over_reverse(f, dtype):
        hessian = jax.vmap(jax.hessian(f, argnums=(0, 1)))(*np.array(SPECIAL[op.name], dtype).T)
        return jnp.stack(jax.tree.leaves(hessian))

    def of_a_cotangent(f):
        """What is linear in a cotangent that is 0, by that cotangent: a derivative forward, by two in reverse."""
        backward = jax.vjp(lambda ct: jax.vjp(f, 3.0, 2.0)[1](ct), 0.0)[1]
        return backward((1.0, 1.0))[0]

    for i, j in itertools.product((0, 1), (0, 1)):
        ours = second(op, i, j, np.float32)
        with jax.enable_x64(True):
            np.testing.assert_allclose(ours, second(op.stock, i, j, np.float64), rtol=2e-5)
            np.testing.assert_allclose(second(op, i, j, np.float64), second(op.stock, i, j, np.float64), rtol=1e-9)
    np.testing.assert_allclose(of_a_cotangent(op), of_a_cotangent(op.stock), rtol=1e-6)
    ours = forward_over_reverse(op, np.float32)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ours, forward_over_reverse(op.stock, np.float64), rtol=2e-5)


#: Where the slope of silu and its square are far apart.
TAILS = np.array([-77, -70, -60, -45, -20, 20, 45, 60, 77], np.float32)


def test_second_derivatives_in_the_tails_of_silu_and_swiglu():
    """In reverse and forward over reverse: r (1 - r) (2 - |x| (1 - 2 r)), where r = 1 / (1 + e^|x|)."""
    y = np.abs(TAILS.astype(np.float64))
    r = 1 / (1 + np.exp(y))
    truth, slope = (
        r * (1 - r) * (2 - y * (1 - 2 * r)),
        np.where(TAILS > 0, 1, 0) - np.sign(TAILS) * r * (1 - y * (1 - r)),
    )
    f, g = jaxbp.silu, jaxbp.swiglu
    for second in (jax.grad(jax.grad(f)), jax.hessian(f)):
        np.testing.assert_allclose(jax.vmap(second)(TAILS), truth, rtol=1e-5)
        with jax.enable_x64(True):
            # e^-500 and 1 are too far apart for the digits of float64: r is e^-500.
            np.testing.assert_allclose(second(np.float64(-500)), -498 * np.exp(-500.0), rtol=1e-12)
    by_gate = jax.vmap(jax.grad(jax.grad(g, 1), (0, 1)))(np.full_like(TAILS, 2), TAILS)
    by_x = jax.vmap(jax.grad(jax.grad(g, 0), 1))(np.full_like(TAILS, 2), TAILS)
    for found, expected in zip((*by_gate, by_x), (slope, 2 * truth, slope), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("second", [lambda f: jax.grad(jax.grad(f)), jax.hessian], ids=["reverse", "forward"])
def test_second_derivatives_of_cbrt_where_the_square_of_x_is_no_number(second):
    x = np.array([0, 1.2e-38, 1.2e-37, 1e-36, 1e-20, -8, 1e30, np.inf, -np.inf], np.float32)
    with np.errstate(all="ignore"):
        truth = (-2 / 9 * np.cbrt(x.astype(np.float64)) / x.astype(np.float64) ** 2).astype(np.float32)
    truth[[0, -2, -1]] = -np.inf, 0, 0
    np.testing.assert_allclose(jax.vmap(second(jaxbp.cbrt))(x), truth, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize(("x", "y"), [(0, 3), (1, 3), (2, 2.5), (1, 0.5), (0, 4)])
def test_third_derivatives_of_power(x, y):
    def third(f):
        return jax.grad(jax.grad(jax.grad(lambda x: f(x, float(y)))))(float(x))

    np.testing.assert_allclose(third(jaxbp.power), third(jnp.power), rtol=1e-5)


def test_forward_mode_is_refused_by_jax_and_not_wrong():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(jaxbp.sigmoid, (1.0,), (1.0,))


@pytest.mark.parametrize("op", jaxbp.OPS, ids=repr)
def test_strict_promotion_finds_nothing_to_promote(op):
    args, ct = small(op)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for name in op.rules:
            if name == "staged" or op.name in BROADCASTS:
                continue
            # Traced and not run, since promotion is decided there.
            jax.eval_shape(lambda *xs, f=op.rules[name]: jax.vjp(f, *xs)[1](jnp.asarray(ct)), *args)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, jaxbp
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
x, w = np.linspace(-3, 3, 32, dtype="f").reshape(8, 4), np.linspace(-1, 1, 12, dtype="f").reshape(4, 3)
def loss(x, w):
    return jnp.sum(jaxbp.sigmoid(jaxbp.matmul(x, w)))
def part(x, w):
    return jax.lax.psum(loss(x, w), "i")
sharded = jax.shard_map(part, mesh=mesh, in_specs=(P("i"), P()), out_specs=P())
for actual, expected in zip(jax.jit(jax.grad(sharded, (0, 1)))(x, w), jax.grad(loss, (0, 1))(x, w)):
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
print(len(jax.devices()), "devices agree")
"""


def test_shard_map_on_four_devices():
    """In a process of its own: the number of CPU devices is fixed before JAX starts."""
    on_cpus = "import jax; jax.config.update('jax_platforms', 'cpu'); jax.config.update('jax_num_cpu_devices', 4)\n"
    program = on_cpus + SHARDED
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "4 devices agree" in done.stdout, done.stderr[-2000:]
