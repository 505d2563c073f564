"""equilibrium: the equation holds, the gradient solves its own, and what is kept does not grow with the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.engines import make_engine
from jaxbp.measure.executables import compile_modes


def drawn(rows=(5,), n=6, norm=0.5, seed=3):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(n, n))
    return rng.normal(size=(*rows, n)), norm * w / np.linalg.norm(w, 2)


@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (0,)])
def test_the_gradient_is_that_of_the_linear_system(rows):
    """Against a direct solution of (I - J) with LAPACK, which no iteration is part of."""
    x, w = drawn(rows)
    ct = np.random.default_rng(4).normal(size=x.shape)
    with jax.enable_x64(True):
        z, (ct_x, ct_w) = jaxbp.equilibrium.value_and_vjp((x, w), ct, steps=60)
    z = np.asarray(z)
    np.testing.assert_allclose(z, np.tanh(x + z @ w), atol=1e-15)
    slope = 1 - z**2
    system = np.eye(6) - slope[..., :, None] * w
    v = np.linalg.solve(system, (slope * ct)[..., None])[..., 0]
    np.testing.assert_allclose(ct_x, v, atol=1e-13)
    np.testing.assert_allclose(ct_w, z.reshape(-1, 6).T @ v.reshape(-1, 6), atol=1e-12)


def test_what_is_kept_does_not_grow_with_the_steps():
    args = jaxbp.equilibrium.case("small").arguments(np.dtype(np.float32))
    for engine, factor in (("rule:implicit", 1), ("autodiff", 4)):
        kept = []
        for steps in (10, 40):
            made = make_engine(jaxbp.equilibrium, engine, steps=steps, precision=None)
            modes = compile_modes(made, made.prepare(args), jnp.ones((8, 8)), ("fwd_res", "bwd"))
            kept.append(modes["fwd_res"].residual_bytes)
        assert kept[1] == pytest.approx(factor * kept[0], rel=0.1)


def test_a_saturated_state_keeps_the_digits_of_its_slope():
    w = jnp.zeros((1, 1))
    _, (ct_x, _) = jaxbp.equilibrium.value_and_vjp((jnp.array([[12.0]]), w), jnp.ones((1, 1)))
    assert float(ct_x[0, 0]) == pytest.approx(1 / np.cosh(12.0) ** 2, rel=1e-6)


def test_rows_that_do_not_converge_are_not_numbers():
    w = 30 * jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    z, (ct_x, ct_w) = jaxbp.equilibrium.value_and_vjp((jnp.array([[0.1, 0.1], [400.0, 400.0]]), w), jnp.ones((2, 2)))
    assert np.isnan(z).tolist() == [[True, True], [False, False]]
    # They have no part in the gradient, and the other row is saturated.
    assert not np.any(ct_x)
    assert not np.any(ct_w)


def test_few_steps_are_too_few():
    x, w = drawn(norm=0.9)
    assert np.isnan(jaxbp.equilibrium(x.astype("f"), w.astype("f"), steps=3)).all()


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"w must be square .* \[3, 3\], got \[3, 2\]"):
        jaxbp.equilibrium(jnp.ones((4, 3)), jnp.ones((3, 2)))
