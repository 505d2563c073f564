"""Other checkers are asked as a sensible user would, and what they cannot take is neither right nor wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import rivals
from jaxbp.check.rivals import RAISES, RIGHT, UNABLE, WRONG, ask, floats_alone

X = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
BY_JAX = [name for name in rivals.RIVALS if name != "gradcheck"]
#: Those that can take a custom VJP.
ABLE = [
    *BY_JAX[1:],
    pytest.param("gradcheck", marks=pytest.mark.skipif("gradcheck" not in rivals.available(), reason="needs torch")),
]


def sine(slope, primal=jnp.sin):
    f = jax.custom_vjp(primal)
    f.defvjp(lambda x: (primal(x), x), lambda x, ct: (slope(x, ct),))
    return f


RIGHT_SINE = sine(lambda x, ct: ct * jnp.cos(x))
WRONG_SIGN = sine(lambda x, ct: -ct * jnp.cos(x))
FLAT = sine(lambda x, ct: (ct * jnp.cos(x)).reshape(-1))


@pytest.mark.parametrize("name", ABLE)
def test_a_wrong_sign_is_found_and_the_right_one_is_not_accused(name):
    found = ask(name, WRONG_SIGN, (X,))
    assert found.verdict == WRONG
    assert "Error: " in found.said
    assert ask(name, RIGHT_SINE, (X,)).verdict == RIGHT


def test_check_grads_with_its_defaults_cannot_take_a_custom_vjp():
    for f in (RIGHT_SINE, WRONG_SIGN):
        found = ask("check_grads", f, (X,))
        assert found.verdict == UNABLE
        assert "custom_vjp" in found.said
    assert ask("check_grads", jnp.sin, (X,)).verdict == RIGHT


@pytest.mark.parametrize("name", ABLE)
def test_what_jax_itself_cannot_differentiate_is_no_verdict(name):
    assert ask(name, FLAT, (X,)).verdict == RAISES


@pytest.mark.parametrize("name", ABLE)
def test_whole_numbers_are_closed_over(name):
    ids = np.array([2, 0, 2], np.int32)
    assert ask(name, lambda x, i, none: {"rows": x["table"][i], "i": i}, ({"table": X}, ids, None)).verdict == RIGHT


@pytest.mark.parametrize("name", ABLE)
def test_complex_gradients_follow_each_rivals_own_convention(name):
    z = (X + 1j * X[::-1]).astype(np.complex64)
    assert ask(name, lambda z: (2 + 1j) * z**2, (z,)).verdict == RIGHT


def test_floats_alone_are_widened():
    with jax.enable_x64(True):
        f, floats = floats_alone(lambda n, x: (n, x * n), (np.int32(3), X.astype(jnp.bfloat16)), wide=True)
        (y,) = f(*floats)
    assert y.dtype == floats[0].dtype == np.float64
    np.testing.assert_array_equal(y, 3 * floats[0])


def test_gradcheck_is_not_given_what_would_take_it_hours():
    pytest.importorskip("torch", reason="torch is an optional extra")
    found = ask("gradcheck", RIGHT_SINE, (np.zeros(10_000, np.float32),))
    assert (found.verdict, "40,000 calls" in found.said) == (UNABLE, True)
