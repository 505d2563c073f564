"""Plans: what is measured, in which order, and what is said about names that do not exist."""

import json

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp.errors import UnknownNameError
from jaxbp.measure.plan import ALL_MODES, DTYPES, LEVELS, find_dtype, find_op, numpy_dtype, plan


@pytest.mark.parametrize(
    ("request_", "offer"),
    [
        ({"ops": ["sigmod"]}, "There is no op called 'sigmod'; did you mean 'sigmoid' or 'log_sigmoid'"),
        ({"dtypes": ["bf61"]}, "There is no dtype called 'bf61'; did you mean 'bf16'"),
        ({"dtypes": ["float23"]}, "There is no dtype called 'float23'; did you mean 'float32'"),
        ({"cases": ["smal"]}, "There is no case called 'smal'; did you mean 'small'?"),
        # A case of other ops than the chosen ones measures nothing.
        ({"ops": ["exp"], "cases": ["digits"]}, "There is no case called 'digits'; known: cache, memory, small"),
        ({"allocator": "sytem"}, "There is no allocator called 'sytem'; did you mean 'system'?"),
        ({"ops": ["exp", "xyzzy"]}, "There is no op called 'xyzzy'; known: add, subtract"),
    ],
)
def test_unknown_names_are_sentences_with_the_closest(request_, offer):
    with pytest.raises(UnknownNameError) as error:
        plan(**request_)
    assert str(error.value).startswith(offer)


@pytest.mark.parametrize(("short", "full"), DTYPES.items())
def test_dtypes_have_short_and_full_names(short, full):
    assert find_dtype(short) == find_dtype(full) == full
    assert numpy_dtype(full).name == full
    assert isinstance(numpy_dtype(full), np.dtype)


def test_ops_are_found_by_name():
    assert find_op("tanh") is jaxbp.tanh


def cells(level: str) -> set[tuple[str, str, str]]:
    return {(task.op, task.case, engine) for task in plan(level=level) for engine in task.engines}


@pytest.mark.parametrize(("level", "least"), [("quick", 1), ("standard", 1), ("full", 3), ("growth", 6)])
def test_every_op_has_each_way_at_several_sizes(level, least):
    measured = cells(level)
    differences = {"central_difference"} - set(LEVELS[level].without)
    for op in jaxbp.OPS:
        for engine in (f"rule:{op.default_rule.name}", "autodiff", "numpy", *differences):
            sizes = {
                sum(np.prod(shape) for shape in op.case(case).shapes)
                for name, case, e in measured
                if (name, e) == (op.name, engine)
            }
            assert len(sizes) >= least, (op.name, engine)


def test_quick_measures_less():
    quick, standard, full = cells("quick"), cells("standard"), cells("full")
    assert quick | standard < full
    dropped = {engine for op, case, engine in full if op == "sigmoid"} - {engine for _, _, engine in quick}
    assert dropped >= {"rule:textbook", "forward_difference", "central_difference"}
    assert {engine for _, _, engine in full} - {engine for _, _, engine in standard} == {"forward_difference"}
    assert LEVELS["quick"].modes == ("fwd_bwd",)
    assert {task.case for task in plan(level="quick")} == {"cache"}
    assert {task.case for task in plan(level="quick", cases=["memory"])} == {"memory"}
    assert {task.case for task in plan(level="standard", cases=["small"])} == {"small"}
    assert set(ALL_MODES) == {"fwd", "fwd_res", "bwd", "fwd_bwd", "summed"}
    assert {case for _, case, _ in full} - {case for _, case, _ in standard} == {"small", "cache", "vocabulary"}


def test_each_task_has_the_engines_of_one_owner():
    for task in plan():
        owners = {name if name in ("numpy", "torch") else "jax" for name in task.engines}
        assert owners == {task.owner}
    cases = [(task.op, task.case) for task in plan()]
    # The owners of one case follow each other.
    assert len(set(cases)) == sum(1 for i, case in enumerate(cases) if i == 0 or case != cases[i - 1])


def test_what_was_asked_for_and_nothing_else():
    tasks = plan(ops=["exp", "matmul"], dtypes=["f32", "bfloat16"], cases=["digits", "small"], level="quick")
    assert {task.op for task in tasks} == {"exp", "matmul"}
    assert {task.dtype for task in tasks} == {"float32", "bfloat16"}
    assert {task.case for task in tasks if task.op == "exp"} == {"small"}
    assert {task.case for task in tasks if task.op == "matmul"} == {"digits", "small"}
    assert {task.level for task in tasks} == {"quick"}
    assert len(tasks) == len(set(tasks))


def test_empty_means_all():
    assert {task.op for task in plan()} == {op.name for op in jaxbp.OPS}
    everything = {(op.name, case.name) for op in jaxbp.OPS for case in op.cases}
    assert {(task.op, task.case) for task in plan(level="full")} == everything


def test_a_task_travels_as_json():
    task = plan(ops=["exp"])[0]
    assert type(task)(**json.loads(json.dumps(task.to_json()))).to_json() | {"engines": task.engines} == task.to_json()


def test_further_processes_time_rules_and_autodiff_after_all_else():
    asked = {"ops": ["exp", "matmul"], "cases": ["small"], "level": "full"}
    once, thrice = plan(**asked), plan(**asked, processes=3)
    assert thrice[: len(once)] == once
    assert [task.repetition for task in thrice[len(once) :]] == [1, 1, 2, 2]
    assert {task.owner for task in thrice[len(once) :]} == {"jax"}
    again = {engine.partition(":")[0] for task in thrice[len(once) :] for engine in task.engines}
    assert again == {"rule", "autodiff"}


def test_an_accelerator_has_larger_arrays_and_engines_that_know_it():
    tasks = plan(accelerated=True)
    assert {task.op for task in tasks} == {op.name for op in jaxbp.OPS}
    assert {task.case for task in tasks} & {"small", "cache", "memory", "large", "digits"} == {"large", "digits"}
    kinds = {engine.partition(":")[0] for task in tasks for engine in task.engines}
    assert kinds - {"torch"} == {"rule", "autodiff"}
    assert {task.case for task in plan(level="quick", accelerated=True)} == {"large"}
    assert {task.case for task in plan(level="growth", accelerated=True)} == set(LEVELS["growth"].cases)
    assert {task.case for task in plan(cases=["memory"], accelerated=True)} == {"memory"}
    assert not {task.case for task in plan(level="full")} & {"large"}


def test_kernels_are_timed_where_they_are_compiled():
    def rules(**settings):
        return {engine for task in plan(["attention", "rms_norm"], **settings) for engine in task.engines}

    assert "rule:kernel" in rules(accelerated=True)
    assert not any("rule:kernel" in rules(level=level) for level in LEVELS)


def test_a_large_case_has_more_of_what_there_may_be_more_of():
    shapes = {op.name: op.case("large").shapes for op in jaxbp.OPS}
    assert shapes["exp"] == ((2**25,),)
    assert shapes["matmul"] == ((65536, 512), (512, 512))
    assert shapes["attention"] == ((8, 4096, 1, 64),) * 3
    assert shapes["linear_cross_entropy"] == ((8192, 256), (256, 8192), (8192,))
    assert shapes["l2_penalty"] == ((2**25,), ())
    for op in (op for op in jaxbp.OPS if not op.integers):
        assert jax.eval_shape(op, *(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes[op.name])).size


def test_a_large_case_repeats_what_is_longer_and_nothing_else():
    case, dtype = jaxbp.linear.case("large"), np.dtype("float32")
    *others, w, _ = case.arguments(dtype)
    (x,) = others
    ct = case.cotangent(jaxbp.linear.output(case.arguments(dtype), {}).shape, dtype)
    for longer in (x, ct):
        parts = longer.reshape(8, -1)
        assert (parts == parts[0]).all()
        assert len(np.unique(parts[0])) > parts[0].size / 2  # What is repeated is drawn.
    assert len(np.unique(w)) > w.size / 2
