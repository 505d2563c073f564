"""What the command line names is found or the reason is a sentence, and `jaxbp check` says right, wrong, or cannot."""

import json
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check.load import load_function, make_argument, make_arguments
from jaxbp.errors import UsageError

RNG = np.random.default_rng(0)

RULES = """
import jax, jax.numpy as jnp

def make(slope):
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * slope(x),))
    return f

right = make(jnp.cos)
wrong = make(jnp.sin)
number = 3
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(textwrap.dedent(RULES))
    return path


def test_functions_are_found_in_files_and_modules(rules):
    assert load_function(f"{rules}:right")(0.0) == 0
    assert load_function("jax.nn:relu")(-1.0) == 0
    assert load_function("jax:nn.relu")(-1.0) == 0


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("rules.py", "names no function; give FILE.py:NAME"),
        ("nowhere.py:f", "There is no file nowhere.py"),
        ("no.such.module:f", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("jax.nn:rleu", "There is no function in jax.nn called 'rleu'; did you mean 'relu'"),
    ],
)
def test_what_is_not_there_is_told(target, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_function(target)


def test_what_is_no_function_or_does_not_run_is_told(rules, tmp_path):
    with pytest.raises(UsageError, match="of type int, not a function"):
        load_function(f"{rules}:number")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(UsageError, match="cannot be imported: ZeroDivisionError"):
        load_function(f"{broken}:f")


def test_arguments_are_made_as_their_specs_say():
    x = make_argument("bf16[3,5]", RNG)
    assert (x.shape, x.dtype) == ((3, 5), jnp.bfloat16)
    labels = make_argument("i32[1000]<10", RNG)
    assert labels.dtype == np.int32
    assert (labels.min(), labels.max()) == (0, 9)
    assert make_argument("bool[4]", RNG).dtype == bool
    assert make_argument("f32[]", RNG).shape == ()
    assert (make_argument("3", RNG), make_argument("-0.5", RNG), make_argument("true", RNG)) == (3, -0.5, True)
    assert make_argument("none", RNG) is None


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("f32[3", "is no argument"),
        ("f31[3]", "no dtype called 'f31'"),
        ("f32[3]<4", "use --domain"),
        ("x", "is no argument"),
        ("f32[64 128]", "is no argument"),
        ("f32[64,,128]", "is no argument"),
        ("i32[64]<0", "leaves no whole number"),
        ("i32[64]<99999999999999999999", "cannot be drawn here"),
        ("bool[64]<2", "for whole numbers"),
        ("f32[9999999,9999999]", "cannot be drawn here"),
    ],
)
def test_specs_that_make_no_sense_are_told(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_argument(spec, RNG)


@pytest.mark.parametrize("domain", ["0=5:1", "0=1:1", "0=nan:2"])
def test_a_domain_without_numbers_is_told(domain, run, rules):
    for command in ("check", "bench"):
        result = run(command, f"{rules}:right", "f32[4,3]", "--domain", domain)
        assert result.code == 2
        assert "holds no number" in result.err


def test_a_seed_below_0_is_told(run, rules):
    for command in ("check", "bench", "circuit"):
        result = run(command, f"{rules}:right", "f32[4,3]", "--seed", -1)
        assert result.code == 2
        assert "--seed" in result.err


def test_the_command_says_right_wrong_or_cannot(run, rules):
    result = run("check", f"{rules}:right", "f32[4,3]", "--level", "quick")
    assert result.code == 0
    assert "right (" in result.out
    result = run("check", f"{rules}:wrong", "f32[4,3]", "--level", "quick", "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert report["passed"] is False
    assert report["findings"][0]["kind"] == "gradient"
    for words in (
        (f"{rules}:wrong", "f32[4"),
        (f"{rules}:none", "f32[4]"),
        (f"{rules}:right", "i32[4]"),
        (f"{rules}:right", "f32[4]", "--level", "quik"),
        (f"{rules}:right", "f32[4]", "--domain", "0"),
    ):
        result = run("check", *words)
        assert result.code == 2
        assert result.err.startswith("jaxbp: ")


def test_arguments_are_drawn_where_an_op_is_defined(run):
    specs = ("f32[200]", "f32[200]")
    for domain, most in ({}, 1), ({"args[1]": (2.0, 3.0)}, 3):
        anomaly, eccentricity = make_arguments(jaxbp.kepler, specs, 0, domain)
        assert np.abs(anomaly).max() <= np.float32(np.pi)
        assert most - 1 < np.abs(eccentricity).max() <= most
    result = run("check", "jaxbp:kepler", *specs, "--level", "quick")
    assert result.code == 0, result.out


def test_the_command_takes_domains_and_float64(run):
    result = run("check", "jax.numpy:log", "f64[16]", "--domain", "0=0.1:5", "--level", "quick")
    assert result.code == 0, result.out
