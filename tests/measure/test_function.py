"""A user's function: what is right is timed in every mode, what is wrong gets no time, and both are told how well."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check.findings import CheckReport
from jaxbp.check.run import Checker
from jaxbp.errors import UsageError
from jaxbp.measure import function as function_module
from jaxbp.measure.function import STEPS, measure_function
from jaxbp.measure.function_task import FunctionTask, measure_target
from jaxbp.measure.plan import ALL_MODES
from jaxbp.measure.timer import Budget
from tests.mutants.mutant import custom

X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Three rounds are enough where the times do not matter."""
    monkeypatch.setattr(function_module, "BUDGETS", {"quick": Budget(0.0, 3, 3, 1e-4)})


def rule(fwd, bwd):
    """A function with a custom VJP, whose value is that of its forward pass."""
    return custom(lambda *args: fwd(*args)[0], fwd, bwd)


def sine(bwd):
    return rule(lambda x: (jnp.sin(x), x), bwd)


@jax.custom_vjp
def right(x):
    return jnp.sin(x)


right.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
wrong = sine(lambda x, ct: (ct * jnp.cos(x) * 1.001,))


def measured(f, *args, **options):
    """The rows by engine and mode."""
    rows = list(measure_function(f, args, level="quick", **options))
    assert [row["name"] for row in rows if row["kind"] == "step"] == list(STEPS)
    cells = {(row["engine"], row["mode"]): row for row in rows if row["kind"] != "step"}
    assert set(cells) == {(engine, mode) for engine in ("rule", "autodiff") for mode in ALL_MODES}
    assert json.loads(json.dumps(list(cells.values()))) == [dict(row) for row in cells.values()]
    return cells


def kinds(cells, engine):
    return {row["kind"] for (name, _), row in cells.items() if name == engine}


def test_what_is_right_is_timed_in_every_mode_and_measured():
    cells = measured(right, X)
    for (_, mode), row in cells.items():
        assert row["kind"] == "time"
        assert row["right"]
        assert len(row["samples_us"]) == 3
        assert min(row["samples_us"]) > 0
        assert min(row["lower_ms"], row["compile_ms"], row["first_call_us"]) > 0
        assert row["yardstick"] == "certified"
        assert row["max_ulp"] < 3
        assert set(json.loads(row["quantities"])) == {
            "fwd": {"value"},
            "fwd_res": {"value"},
            "bwd": {"ct_args[0]"},
            "summed": {"ct_args[0]"},
            "fwd_bwd": {"value", "ct_args[0]"},
        }.get(mode)
    assert json.loads(cells["rule", "fwd"]["arguments"]) == {"args[0]": "float32[7, 5]"}


def test_what_is_wrong_gets_no_time_but_says_why():
    cells = measured(wrong, X)
    assert kinds(cells, "rule") == {"failure"}
    assert kinds(cells, "autodiff") == {"time"}
    row = cells["rule", "bwd"]
    assert not row["right"]
    assert "The cotangent of args[0] is wrong in 35 of 35 entries" in row["reason"]
    assert row["median_ulp"] > 4000
    assert "samples_us" not in row


def test_an_executable_that_is_wrong_gets_no_time_whatever_the_check_says(monkeypatch):
    monkeypatch.setattr(Checker, "run", lambda self, seed: CheckReport("planted", (), {}, (), 0.0))
    cells = measured(wrong, X)
    assert kinds(cells, "rule") == {"failure"}
    assert "the executables fwd_bwd and fwd_bwd" in cells["rule", "fwd"]["reason"]


@pytest.mark.parametrize("mode", ["fwd", "fwd_res", "bwd"])
def test_an_executable_that_is_wrong_in_one_mode_is_found(monkeypatch, mode):
    compile_function = function_module.compile_function
    compile_passes = function_module.compile_passes

    def off(executable):
        return type(executable)(
            **{**vars(executable), "call": lambda: jax.tree.map(lambda x: x * 1.001, executable.call())}
        )

    def planted_passes(*args):
        found = compile_passes(*args)
        return {name: off(executable) if name == mode else executable for name, executable in found.items()}

    def planted_function(f, *args):
        executable = compile_function(f, *args)
        return off(executable) if mode == "fwd" and len(args) == 1 else executable

    monkeypatch.setattr(function_module, "compile_passes", planted_passes)
    monkeypatch.setattr(function_module, "compile_function", planted_function)
    cells = measured(right, X)
    assert kinds(cells, "rule") == kinds(cells, "autodiff") == {"failure"}
    assert mode in cells["rule", "fwd"]["reason"]
    assert "is wrong in 35 of 35 entries" in cells["rule", "fwd"]["reason"]


def test_residual_bytes_are_those_of_what_the_rule_keeps():
    # The value in float32 and a mask in bytes; the input and a constant are there anyway.
    constant = jnp.arange(5.0)
    f = rule(
        lambda x: (jnp.exp(x) * constant, (x, jnp.exp(x) * constant, x > 0, constant)),
        lambda res, ct: (ct * jnp.where(res[2], res[1], jnp.exp(res[0]) * res[3]),),
    )
    cells = measured(f, X)
    assert cells["rule", "fwd_res"]["residual_bytes"] == (4 + 1) * X.size
    assert cells["rule", "bwd"]["residual_bytes"] is None
    assert measured(right, X)["rule", "fwd_res"]["residual_bytes"] == 0


def test_temporary_bytes_are_those_that_the_compiler_plans(monkeypatch):
    cells = measured(rule(lambda x: (x @ x.T @ x, x), lambda x, ct: jax.vjp(lambda y: y @ y.T @ y, x)[1](ct)), X)
    assert cells["rule", "fwd"]["temp_bytes"] >= 4 * 7 * 7


def tree_bwd(res, ct):
    p, n = res
    zero = np.zeros(n.shape, jax.dtypes.float0)
    return {"w": jnp.outer(ct["y"], p["x"]), "x": p["w"].T @ ct["y"]}, zero


FORMS = {
    "pytrees and integers": (
        rule(lambda p, n: ({"y": p["w"] @ p["x"], "n": n * 2}, (p, n)), tree_bwd),
        ({"w": X, "x": X[0]}, np.arange(3)),
        {"value['y']", "ct_args[0]['w']", "ct_args[0]['x']"},
    ),
    "a flag": (lambda x, on: jnp.where(on, right(x), x), (X, True), {"value", "ct_args[0]"}),
    "complex": (
        rule(lambda z: (z * z, z), lambda z, ct: (2 * z * ct,)),
        ((X[0] + 1j * X[1]).astype(np.complex64),),
        {"value.real", "value.imag", "ct_args[0].real", "ct_args[0].imag"},
    ),
    "a random key": (
        lambda key, x: right(x) * jax.random.bernoulli(key, 0.5, x.shape),
        (jax.random.key(0), X),
        {"value", "ct_args[1]"},
    ),
    "bfloat16": (right, (X.astype(jnp.bfloat16),), {"value", "ct_args[0]"}),
    "a number": (right, (0.5,), {"value", "ct_args[0]"}),
    "no entries": (right, (X[:0],), set()),
}


@pytest.mark.parametrize("form", FORMS)
def test_arguments_are_as_check_vjp_takes_them(form):
    f, args, quantities = FORMS[form]
    cells = measured(f, *args)
    assert kinds(cells, "rule") == kinds(cells, "autodiff") == {"time"}
    assert set(json.loads(cells["rule", "fwd_bwd"].get("quantities", "{}"))) == quantities


def test_the_sign_of_an_imaginary_cotangent_counts():
    cells = measured(rule(lambda z: (z * z, z), lambda z, ct: (2 * jnp.conj(z) * ct,)), np.complex64(1 + 2j))
    assert kinds(cells, "rule") == {"failure"}


def test_stock_is_what_autodiff_differentiates():
    def longhand(x):
        return jnp.exp(jnp.exp(x))

    f = rule(lambda x: (longhand(x), x), lambda x, ct: (ct * jnp.exp(x + jnp.exp(x)),))
    assert measured(f, X)["autodiff", "fwd_res"]["residual_bytes"] == 8 * X.size
    cells = measured(f, X, stock=jax.checkpoint(longhand))
    assert cells["autodiff", "fwd_res"]["residual_bytes"] == 0
    assert kinds(cells, "autodiff") == {"time"}


def test_a_stock_that_is_less_precise_is_still_the_same_function():
    far = np.array([20.0, 30.0], np.float32)
    f = rule(
        lambda x: (jax.nn.sigmoid(x), x),
        lambda x, ct: (ct * jnp.exp(-x) / (1 + jnp.exp(-x)) ** 2,),
    )
    cells = measured(f, far, stock=jax.nn.sigmoid)
    assert kinds(cells, "rule") == kinds(cells, "autodiff") == {"time"}
    assert cells["rule", "bwd"]["max_ulp"] < 4
    assert cells["autodiff", "bwd"]["max_ulp"] > 1e6


def test_what_autodiff_cannot_differentiate_costs_its_rows_alone():
    def iterated(x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]

    def slope(x, ct):
        y = jnp.sin(x)
        return (ct * jnp.cos(x) * jnp.cos(y) * jnp.cos(jnp.sin(y)),)

    cells = measured(rule(lambda x: (iterated(x), x), slope), X)
    assert kinds(cells, "rule") == {"time"}
    assert kinds(cells, "autodiff") == {"failure"}
    assert "Reverse-mode differentiation does not work" in cells["autodiff", "bwd"]["reason"]


def test_a_rule_that_raises_costs_its_rows_alone():
    cells = measured(sine(lambda x, ct: (ct[:3],)), X)
    assert kinds(cells, "autodiff") == {"time"}
    assert {row["reason"][:15] for (engine, _), row in cells.items() if engine == "rule"} == {"The rule raises"}


def test_a_failure_while_timing_is_told(monkeypatch):
    def full(*args):
        raise MemoryError("planted")

    monkeypatch.setattr(function_module, "interleave", full)
    cells = measured(right, X)
    assert {row["reason"] for row in cells.values()} == {"MemoryError: planted"}
    assert all(row["right"] for row in cells.values())


@pytest.mark.parametrize(
    ("args", "options", "sentence"),
    [
        ((X,), {"level": "quik"}, "There is no level of a benchmark called 'quik'; did you mean 'quick'?"),
        ((X, X), {}, "The function cannot be called with args[0] float32[7, 5], args[1] float32[7, 5]"),
        ((np.arange(3),), {}, "No argument has a floating dtype"),
        (
            (X,),
            {"stock": jnp.cos},
            "stock must be another way to compute what right does, but its value y at flat entry",
        ),
        ((X,), {"stock": jnp.sum}, "stock must return what right does, y float32[7, 5], but it returns y float32[]."),
        ((X,), {"stock": jnp.add}, "right cannot be compared with this stock. The function cannot be called with"),
    ],
    ids=["level", "arguments", "integers", "another value", "another shape", "another signature"],
)
def test_what_makes_no_sense_is_a_sentence(args, options, sentence):
    with pytest.raises(UsageError) as error:
        list(measure_function(right, args, **{"level": "quick", **options}))
    assert sentence in str(error.value)


def test_a_worker_hands_refusals_over_as_rows(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text("import jax.numpy as jnp\nsine = jnp.sin\n")
    asked = {"stock": None, "domain": {}, "level": "quick", "seed": 0}
    rows = list(measure_target(FunctionTask(f"{path}:sin", ("f32[3]",), **asked)))
    assert rows == [{"kind": "refusal", "reason": f"There is no function in {path} called 'sin'; did you mean 'sine'?"}]
    rows = list(
        measure_target(FunctionTask(f"{path}:sine", ("f32[3]",), **{**asked, "domain": {"args[0]": [1.0, 2.0]}}))
    )
    assert {row["kind"] for row in rows} == {"step", "time"}
    assert 1 < next(abs(row["worst_actual"]) for row in rows if row.get("mode") == "fwd") * 2 < 2


def test_a_result_kept_from_an_earlier_call_is_found_after_the_timing():
    checker = Checker(jnp.tanh, np.linspace(-1, 1, 64, dtype=np.float32), level="quick")
    problem = function_module.pose(checker, None, 0)
    verifier = function_module.Verifier(checker.reference, checker.subject, problem.parts)
    rule = function_module.Contestant("rule", problem.stock, verifier)
    executables, _, fault = function_module._prepare(problem, rule)
    assert fault == ""
    assert function_module._dishonesty(problem, rule, executables) == ""
    for mode, executable in executables.items():
        kept = executable.call()
        cheat = dataclasses.replace(executable, apply=lambda *_, kept=kept: kept)
        assert "other than those it was timed with" in function_module._dishonesty(
            problem, rule, {**executables, mode: cheat}
        )
