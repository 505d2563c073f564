"""Tasks whose times are compared: samples of every engine, and how often the numerical one evaluates the objective."""

import numpy as np
import pytest

from jaxbp.report.training import training_frames
from jaxbp.training.descent import Setting
from jaxbp.training.experiment import carry_out
from jaxbp.training.plan import Task


@pytest.fixture(scope="module")
def rows():
    setting = Setting("two-layer", batch=8, hidden=8)
    return carry_out(Task("growth", "jax", ("autodiff", "central_difference"), setting, "quick"))


def test_engines_are_timed_apart_and_together(rows):
    autodiff, numerical = rows
    assert [row["engine"] for row in rows] == ["autodiff", "central_difference"]
    assert autodiff["interleaved"]
    # It is timed after the others, so that it has no verdict.
    assert not numerical["interleaved"]
    assert all(row["compile_ms"] > 0 and min(row["samples_us"]) > 0 for row in rows)
    assert (autodiff["weights"], autodiff["evaluations"], numerical["evaluations"]) == (600, 1, 1201)
    assert np.median(numerical["samples_us"]) > 3 * np.median(autodiff["samples_us"])


def test_the_frame_has_their_ratio(rows):
    task = Task("growth", "jax", (), Setting(), "quick").to_json()
    frame = training_frames([{"task": task, "rows": rows, "failed": ""}])["growth"].set_index("engine")
    assert frame["ratio"].loc["central_difference"] > 3
    assert frame.loc["autodiff", "ratio"] == 1
