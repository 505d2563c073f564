"""Arguments of every kind are taken apart into real arrays and put together again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check.subject import make_subject
from jaxbp.errors import UsageError

X = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
Z = (X + 1j * X[::-1]).astype(np.complex64)


def test_pytrees_complex_numbers_and_keys_come_back_as_they_were():
    args = ({"z": Z, "n": None, "flag": True}, [X, 3], jax.random.key(5))
    subject = make_subject(lambda d, xs, key: (d["z"] * xs[0], xs[1]), args)
    first = ("args[0]['flag']", "args[0]['z'].real", "args[0]['z'].imag")
    assert subject.names == (*first, "args[1][0]", "args[1][1]", "args[2]")
    assert subject.out_names == ("y[0].real", "y[0].imag", "y[1]")
    back = subject.arguments(subject.leaves)
    assert back[0]["n"] is None
    np.testing.assert_array_equal(back[0]["z"], Z)
    assert back[2] == args[2]


def square(bwd):
    f = jax.custom_vjp(lambda z: z * z)
    f.defvjp(lambda z: (z * z, z), bwd)
    return f


def test_complex_rules_are_checked():
    assert jaxbp.check_vjp(square(lambda z, ct: (2 * z * ct,)), Z, level="quick").passed
    # JAX's convention has no conjugate there.
    report = jaxbp.check_vjp(square(lambda z, ct: (2 * jnp.conj(z) * ct,)), Z, level="quick")
    assert not report.passed
    assert {f.argument for f in report.faults} >= {"args[0].imag"}


def test_random_numbers_inside_are_the_same_for_the_truth():
    def dropout(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)

    for key, level in ((jax.random.key(0), "standard"), (jax.random.PRNGKey(0), "quick")):
        report = jaxbp.check_vjp(dropout, X, key, level=level)
        assert report.passed, str(report)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [(("a",), "got str"), ((np.array(["a"]),), "got dtype <U1"), ((np.array([None]),), "got dtype object")],
)
def test_what_is_no_number_is_a_sentence(args, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_subject(jnp.sin, args)
