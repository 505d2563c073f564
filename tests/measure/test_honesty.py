"""Cheats that are planted get no time, and a sentence that says what they do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.declaration import Rule
from jaxbp.engines import make_engine
from jaxbp.measure import honesty
from jaxbp.measure import task as task_module
from jaxbp.measure.executables import Executable, compile_function
from jaxbp.measure.honesty import DishonestError
from jaxbp.measure.plan import Task, find_op
from jaxbp.measure.task import check_after, check_before, measure, pose, prepare

RIGHT = jaxbp.multiply.default_rule


def task(engine="rule:planted"):
    return Task("multiply", "small", "float32", "numpy" if engine == "numpy" else "jax", (engine,), "standard")


@pytest.fixture
def plant(monkeypatch):
    """The multiplication with this first rule, or with these attributes changed, where tasks look for it."""

    def planted(fwd=RIGHT.fwd, bwd=RIGHT.bwd, **changes):
        op = jaxbp.multiply.replace(rules=(Rule("planted", fwd, bwd),), **changes)
        monkeypatch.setattr(task_module, "find_op", lambda name: op)

    return planted


def reason_of(asked):
    """Why there is no time; empty if there is one."""
    rows = list(measure(asked))
    reasons = [row["reason"] for row in rows if row["kind"] == "failure"]
    assert bool(reasons) != any(row["kind"] == "time" for row in rows)
    return " ".join(reasons)


def test_what_is_honest_gets_its_time(plant):
    plant()
    assert reason_of(task()) == ""
    assert reason_of(task("numpy")) == ""


def test_a_gradient_that_is_not_computed(plant):
    plant(bwd=lambda res, ct: (RIGHT.bwd(res, ct)[0], jnp.zeros_like(ct)))
    assert "The cotangent of y is wrong in mode fwd_bwd" in reason_of(task())


def test_one_entry_that_is_wrong(plant):
    plant(bwd=lambda res, ct: (RIGHT.bwd(res, ct)[0].at[777].add(1), RIGHT.bwd(res, ct)[1]))
    assert "flat entry 777" in reason_of(task())


def test_imprecision_is_no_cheat(plant):
    plant(bwd=lambda res, ct: tuple(x * (1 + 1e-5) for x in RIGHT.bwd(res, ct)))
    assert reason_of(task()) == ""


def test_a_result_kept_from_an_earlier_call(plant):
    kept = {}

    def product(x, y):
        if "result" not in kept:
            kept["result"] = np.multiply(x, y)
        return kept["result"]

    def fwd(x, y):
        return jax.pure_callback(product, jax.ShapeDtypeStruct(x.shape, x.dtype), x, y), (x, y)

    plant(fwd=fwd)
    reason = reason_of(task())
    assert "For inputs other than those it was timed with: The value is wrong" in reason


def test_inputs_that_are_folded_into_constants(plant):
    x, y = pose(task()).args
    plant(fwd=lambda a, b: (jnp.asarray(x * y), (a, b)))
    assert "For inputs other than those it was timed with: The value is wrong" in reason_of(task())


def test_inputs_that_are_changed(plant):
    def product(x, y):
        result = x * y
        x += 1
        return result

    plant(reference=product)
    # The yardstick computes on copies, in float64; NumPy as an engine on the arrays that it is given.
    assert "A call changes its inputs" in reason_of(task("numpy"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("n", [0, 1, 7, 100_003])
def test_any_entry_that_is_changed_changes_the_checksum(dtype, n):
    engine = make_engine(find_op("exp"), "numpy")
    x = np.arange(n).astype(jnp.dtype(dtype))
    before = honesty.checksums(engine, (x,), x)
    assert before == honesty.checksums(engine, (x.copy(),), x)
    for i in {0, n // 3, n - 1} if n else ():
        changed = x.copy()
        changed[i] = -7
        assert honesty.checksums(engine, (changed,), x) != before
    # The sum is the same; the order is not.
    if n > 1:
        assert honesty.checksums(engine, (x[::-1],), x) != before


def test_inputs_that_are_deleted():
    x = jnp.ones(3)
    engine = prepare(pose(task("autodiff")), "autodiff").engine
    x.delete()
    with pytest.raises(DishonestError, match="A call deletes its inputs"):
        honesty.checksums(engine, (x,), x)


def subject_of(executable):
    problem = pose(task("autodiff"))
    prepared = dataclasses.replace(prepare(problem, "autodiff"), executables={"fwd": executable})
    return task_module.subject_of(problem, prepared)


def test_work_that_is_not_waited_for():
    def work(x):
        return jax.lax.fori_loop(0, 20, lambda _, y: jnp.tanh(y @ x), x)

    x = jnp.full((500, 500), 0.01)
    waited = compile_function(work, x)
    not_waited = dataclasses.replace(waited, call=lambda: waited.apply(x))
    problem = pose(task("autodiff"))
    for executable, honest in ((waited, True), (not_waited, False)):
        subject = subject_of(executable)
        if honest:
            honesty._require_settled(subject, "fwd", executable)
        else:
            with pytest.raises(DishonestError, match="returns before its results are there"):
                honesty.require_honest(subject, problem.moved)


def test_an_array_that_is_filled_after_the_call(monkeypatch):
    result = np.zeros(3, np.float32)
    monkeypatch.setattr(honesty.time, "sleep", lambda seconds: result.__setitem__(0, 1))
    late = Executable(lambda: result, lambda: result)
    with pytest.raises(DishonestError, match="returns before its results are there"):
        honesty._require_settled(subject_of(late), "fwd", late)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("fwd", "The value is wrong"),
        ("bwd", "The cotangent of x is wrong"),
        ("summed", "The cotangent of x is wrong"),
    ],
)
def test_a_mode_that_differs_from_the_others(plant, mode, text):
    plant()
    problem = pose(task())
    prepared = prepare(problem, "rule:planted")
    check_before(problem, prepared)
    check_after(problem, prepared)
    right = prepared.executables[mode]
    wrong = dataclasses.replace(right, apply=lambda *args: jax.tree.map(jnp.zeros_like, right.apply(*args)))
    spoilt = dataclasses.replace(prepared, executables={**prepared.executables, mode: wrong})
    with pytest.raises(DishonestError, match=f"{text} in mode {mode}"):
        check_after(problem, spoilt)
    spoilt = dataclasses.replace(prepared, outputs={mode: jax.tree.map(jnp.zeros_like, right.call())})
    with pytest.raises(DishonestError, match=f"{text} in mode {mode}"):
        check_before(problem, spoilt)


def test_a_mode_whose_result_has_another_shape(plant):
    plant()
    problem = pose(task())
    prepared = prepare(problem, "rule:planted")
    spoilt = dataclasses.replace(prepared, outputs={"fwd": jnp.zeros(3)})
    with pytest.raises(DishonestError, match=r"The value has shape \[3\] in mode fwd"):
        check_before(problem, spoilt)


def test_declared_faults_are_excused_and_others_are_not(monkeypatch):
    asked = Task("maximum", "small", "float32", "jax", ("rule:textbook",), "quick")
    problem = pose(asked)
    x, y = (a.copy() for a in problem.args)
    y[::2] = x[::2]
    tied = dataclasses.replace(problem, args=(x, y))
    check_before(tied, prepare(tied, "rule:textbook"))
    textbook = jaxbp.maximum.rules["textbook"].rule
    undeclared = jaxbp.maximum.replace(rules=(dataclasses.replace(textbook, faults=()),))
    tied = dataclasses.replace(tied, op=undeclared)
    with pytest.raises(DishonestError, match="wrong in mode fwd_bwd"):
        check_before(tied, prepare(tied, "rule:textbook"))


def test_numerical_differences_claim_nothing(plant):
    plant()
    problem = pose(task("central_difference"))
    prepared = prepare(problem, "central_difference")
    check_before(problem, prepared)
    check_after(problem, prepared)


def test_engines_are_given_the_same_arrays():
    problem = pose(Task("multiply", "small", "float32", "jax", ("rule:swap", "autodiff"), "standard"))
    assert prepare(problem, "rule:swap").given is prepare(problem, "autodiff").given


def test_what_an_engine_has_spoilt_the_others_are_not_given(monkeypatch):
    def spoilt(problem, prepared):
        if prepared.engine.name == "rule:swap":
            prepared.given.ct.delete()
            raise DishonestError("planted")

    monkeypatch.setattr(task_module, "check_before", spoilt)
    rows = list(measure(Task("multiply", "small", "float32", "jax", ("rule:swap", "autodiff"), "quick")))
    assert {row["engine"] for row in rows if row["kind"] == "failure"} == {"rule:swap"}
    assert {row["engine"] for row in rows if row["kind"] == "time"} == {"autodiff"}
