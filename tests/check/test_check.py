"""The checker passes what is right, says what is wrong and what it looks like, and refuses what it cannot check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check.findings import CheckFailedError
from jaxbp.errors import UsageError
from tests.mutants.mutant import custom

X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)


def rule(fwd, bwd):
    """A function with a custom VJP, whose value is that of its forward pass."""
    return custom(lambda *args: fwd(*args)[0], fwd, bwd)


def sine(bwd):
    return rule(lambda x: (jnp.sin(x), x), bwd)


RIGHT = {
    "our sigmoid": (jaxbp.sigmoid, X),
    "stock sigmoid, saturated": (jax.nn.sigmoid, 20 * X),
    "softmax": (jax.nn.softmax, X),
    "ties": (jaxbp.maximum, X, X.copy()),
    "bfloat16": (jax.nn.gelu, X.astype(jnp.bfloat16)),
    "cross entropy": (
        lambda logits, labels: -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(),
        X,
        np.array([0, 1, 2, 3, 4, 0, 1]),
    ),
    "pytree": (lambda p: {"y": p["w"] @ p["x"], "z": p["n"] * 2}, {"w": X, "x": X[0], "n": np.arange(3)}),
    "scan": (lambda x: jax.lax.scan(lambda c, r: (jnp.tanh(c + r), c * r), x[0], x)[0], X),
    "a sum of 10^5": (jnp.sum, np.random.default_rng(0).normal(size=10**5).astype(np.float32)),
}


#: The others at the quick level, which takes a third of the time.
AT_STANDARD = {"our sigmoid", "ties", "pytree", "scan"}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    f, *args = RIGHT[name]
    report = jaxbp.check_vjp(f, *args, level="standard" if name in AT_STANDARD else "quick")
    assert report.passed, str(report)
    assert report.raise_if_failed() is report
    assert report.checked["entries"] > 0


WRONG = {
    "zero": (sine(lambda x, ct: (jnp.zeros_like(x),)), "zero"),
    "sign": (sine(lambda x, ct: (-ct * jnp.cos(x),)), "sign flipped"),
    "factor": (sine(lambda x, ct: (ct * jnp.cos(x) * 1.5,)), "1.5 times"),
    "one entry in 35": (sine(lambda x, ct: ((ct * jnp.cos(x)).at[3, 2].multiply(1.1),)), ""),
    "averaged": (rule(lambda x: (x.sum(), x), lambda x, ct: (jnp.full_like(x, ct / x.size),)), "averaged over 35"),
    "beyond": (sine(lambda x, ct: (jnp.where(jnp.abs(x) > 1.5, 0, ct * jnp.cos(x)),)), "wrong beyond |x| >"),
    "1e-5 off": (sine(lambda x, ct: (ct * jnp.cos(x) * (1 + 1e-5),)), ""),
    "cotangent ignored": (sine(lambda x, ct: (jnp.cos(x),)), "cotangent is ignored"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_named(name):
    f, likeness = WRONG[name]
    report = jaxbp.check_vjp(f, X, level="quick")
    assert not report.passed
    finding = report.faults[0]
    assert finding.kind == "gradient"
    assert finding.argument == "args[0]"
    assert likeness in finding.looks_like
    assert finding.expected is not None
    assert finding.error is not None
    assert finding.error > 1
    assert len(report.to_frame()) == len(report.findings)
    with pytest.raises(CheckFailedError, match=r"The cotangent of args\[0\] is wrong"):
        report.raise_if_failed()


def test_arguments_that_are_swapped_are_named():
    report = jaxbp.check_vjp(rule(lambda a, b: (a * b, (a, b)), lambda r, ct: (ct * r[0], ct * r[1])), X, X + 1)
    assert {f.looks_like for f in report.faults} == {"swapped with that of args[0]", "swapped with that of args[1]"}


def test_a_value_that_is_off_in_the_forward_pass_is_found():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x) * 1.001, x), lambda x, ct: (ct * jnp.cos(x),))
    report = jaxbp.check_vjp(f, X)
    assert [finding.kind for finding in report.faults] == ["value"]


def test_a_forward_pass_of_another_dtype_breaks_the_contract():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x).astype(jnp.float16), x), lambda x, ct: (ct.astype(x.dtype) * jnp.cos(x),))
    report = jaxbp.check_vjp(f, X, level="quick")
    assert not report.passed
    assert report.faults[0].kind == "contract"


def test_a_forward_pass_that_is_weakly_typed_alone_is_a_note():
    f = jax.custom_vjp(lambda x: jnp.zeros((), jnp.float32) * x)
    f.defvjp(lambda x: (jnp.asarray(0.0), ()), lambda res, ct: (jnp.zeros(()),))
    report = jaxbp.check_vjp(f, np.float32(1), level="quick")
    assert report.passed
    assert "weakly typed" in report.findings[0].text


def test_a_rule_that_raises_is_a_finding_and_no_traceback():
    report = jaxbp.check_vjp(sine(lambda x, ct: (ct[:3],)), X)
    assert report.faults[0].kind == "contract"
    assert "The rule raises" in report.faults[0].text


def test_a_rule_right_at_first_order_only_is_found():
    f = sine(lambda x, ct: (ct * jnp.cos(jax.lax.stop_gradient(x)),))
    (fault,) = jaxbp.check_vjp(f, X).faults
    assert fault.looks_like == "right at first order only"
    assert jaxbp.check_vjp(f, X, level="quick").passed


def test_kinks_are_reported_and_on_demand_are_faults():
    def ours(at_zero):
        def slope(x):
            return jnp.where(x == 0, at_zero, jnp.sign(x))

        return rule(lambda x: (jnp.abs(x), x), lambda x, ct: (ct * slope(x),))

    x = np.array([-1.0, 0.0, 2.0], np.float32)
    report = jaxbp.check_vjp(ours(0.0), x)
    assert report.passed
    assert report.findings[0].kind == "kink"
    assert not jaxbp.check_vjp(ours(0.0), x, kinks="error").passed
    assert not jaxbp.check_vjp(ours(3.0), x).passed


def test_domains_keep_inputs_where_the_function_is_meant():
    f = rule(lambda x: (jnp.log(x), x), lambda x, ct: (jnp.where(x > 0, ct / x, 7.0),))
    x = np.abs(X) + 0.1
    assert jaxbp.check_vjp(f, x, domain={"args[0]": (0.0, np.inf)}).passed


def test_residuals_are_listed_with_their_bytes():
    assert jaxbp.check_vjp(jaxbp.sigmoid, X, level="quick").residuals == ()
    kept = jaxbp.check_vjp(jaxbp.sigmoid.rules["textbook"], X, level="quick").residuals
    assert kept == (("float32[7, 5]", 140),)


@pytest.mark.parametrize(
    ("f", "args", "options", "sentence"),
    [
        (jnp.sin, ("hello",), {}, r"args\[0\] must be an array or a number, got str"),
        (jnp.sin, (3,), {}, "No argument has a floating dtype"),
        (jnp.argmax, (X,), {}, "No output has a floating dtype"),
        (jnp.matmul, (X, X), {}, r"cannot be called with args\[0\] float32\[7, 5\]"),
        (jnp.sin, (X,), {"level": "quik"}, "did you mean 'quick'"),
        (jnp.sin, (X,), {"domain": {"args[1]": (0, 1)}}, r"There is no argument called 'args\[1\]'"),
        (jnp.sin, (X,), {"inputs": [(X[:3],)]}, r"inputs\[0\] must have the structure"),
        (lambda x: jax.lax.bitcast_convert_type(x, jnp.int32) * x, (X,), {}, "looks at the bits of its floats"),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_checked_is_a_sentence(f, args, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        jaxbp.check_vjp(f, *args, **options)


def test_a_wrong_gradient_is_not_told_to_have_lost_digits_as_well():
    @jax.custom_vjp
    def mean_square(x):
        return jnp.mean(x * x)

    mean_square.defvjp(lambda x: (mean_square(x), x), lambda x, ct: (2 * ct * x,))
    report = jaxbp.check_vjp(mean_square, X)
    assert not report.passed
    assert not any(finding.kind == "precision" for finding in report.findings)
