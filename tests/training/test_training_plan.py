"""What a training run is asked for: sentences for what makes no sense, and the tasks of what does."""

import dataclasses
import json

import pytest

from jaxbp.errors import UsageError
from jaxbp.training.descent import Setting
from jaxbp.training.gradients import ENGINES, NUMERICAL
from jaxbp.training.models import MODELS
from jaxbp.training.plan import LEVELS, Request, affordable_steps, plan, weights_of
from jaxbp.training.run import latest, remaining


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"engines": ("autodif",)}, "no engine of training called 'autodif'; did you mean 'autodiff'"),
        ({"losses": ("hinges",)}, "no loss called 'hinges'; did you mean 'hinge'"),
        ({"models": ("deep",)}, "no model called 'deep'; known: linear, two-layer"),
        ({"schedules": ()}, "Name at least one schedule: constant, cosine"),
        ({"optimizer": "sdg"}, "no optimizer called 'sdg'; did you mean 'sgd'"),
        ({"batches": (1438,)}, "A batch has 1 to 1437 images.*not 1438; --batch full"),
        ({"batches": (0,)}, "not 0"),
        ({"batches": ()}, "--batch names no size"),
        ({"rate": -0.1}, "The learning rate must be a positive number, not -0.1"),
        ({"rate": float("nan")}, "not nan"),
        ({"steps": 0}, "at least one step, not 0"),
        ({"strength": -1.0}, "not -1"),
        ({"hidden": 0}, "at least one hidden unit"),
        ({"seed": -1}, "The seed must be"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(asked, sentence):
    with pytest.raises(UsageError, match=sentence):
        Request(**asked)


def test_every_combination_is_a_descent_of_each_engine():
    request = Request(batches=(None, 32), rate=0.01, steps=7, seed=2)
    tasks = plan(request)
    descents = [task for task in tasks if task.what == "descent"]
    kinds = {(t.setting.model, t.setting.loss, t.setting.batch, t.setting.schedule, *t.engines) for t in descents}
    assert len(descents) == len(kinds) == 2 * 2 * 2 * 2 * len(ENGINES)
    assert {(task.setting.rate, task.setting.steps, task.setting.seed) for task in descents} == {(0.01, 7, 2)}
    assert {task.owner for task in descents if task.engines == ("numpy",)} == {"numpy"}
    # Engines of one owner are timed in one process, once for each size of batch.
    steps = [task for task in tasks if task.what == "step" and task.owner == "jax"]
    assert len(steps) == 2 * 2 * 2
    assert all(task.engines == ("rule", "autodiff", NUMERICAL) for task in steps)
    assert sum(task.what == "yardstick" for task in tasks) == 4
    assert len({json.dumps(task.to_json()) for task in tasks}) == len(tasks)


def test_without_engines_of_jax_there_is_no_task_for_them():
    tasks = plan(Request(engines=("numpy",), losses=("hinge",), models=("linear",)))
    assert {task.owner for task in tasks if task.what in ("descent", "step", "growth")} == {"numpy"}


def test_weights_are_counted():
    import numpy as np

    for name, model in MODELS.items():
        held = model.initial(np.random.default_rng(0), 7).values()
        assert weights_of(Setting(model=name, hidden=7)) == sum(w.size for w in held)


def test_the_numerical_engine_ends_where_its_budget_does():
    level = LEVELS["standard"]
    asked = Setting(batch=128, steps=10**6)
    steps = affordable_steps(asked, NUMERICAL, level)
    assert 0.9 * level.rows < steps * 128 * (1 + 2 * 650) <= level.rows
    assert affordable_steps(asked, "rule", level) == 10**6
    assert affordable_steps(dataclasses.replace(asked, steps=3), NUMERICAL, level) == 3


def test_a_request_comes_back_from_its_file_and_done_tasks_are_left_out():
    request = Request(level="quick", batches=(None, 16), rate=0.5)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    tasks = plan(request)
    rows = [json.loads(json.dumps({"task": task.to_json(), "rows": [], "failed": ""})) for task in tasks[:5]]
    assert remaining(tasks, rows) == tasks[5:]
    failed = {**rows[2], "failed": "It died."}
    assert remaining(tasks, [*rows[:2], failed, *rows[3:]]) == [tasks[2], *tasks[5:]]
    assert latest([failed, *rows]) == [rows[2], *rows[:2], *rows[3:]]
    assert remaining(tasks, []) == tasks
