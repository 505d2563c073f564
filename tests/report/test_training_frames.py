"""The frames and tables of a training run, from rows made by hand."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from synthetic import MACHINE

from jaxbp.report import training_plots
from jaxbp.report.training import FILES, distance, read_training_frames, training_frames, write_training_frames
from jaxbp.report.training_tables import (
    agreement,
    chosen_kind,
    descent_table,
    distance_table,
    engine_table,
    growth_table,
    rate_table,
    recorded_training,
    search_table,
    write_training_report,
)
from jaxbp.training.descent import Setting
from jaxbp.training.plan import Task

SETTING = Setting(batch=128, schedule="cosine", steps=3, hidden=4)


def row(what, engines, *results, failed="", **changes):
    setting = dataclasses.replace(SETTING, **changes.pop("setting", {}))
    task = Task(what, "jax", engines, setting, "quick", **changes)
    return json.loads(json.dumps({"kind": "task", "task": task.to_json(), "rows": results, "failed": failed}))


def descent(engine, losses, correct, diverged_at=None, **setting):
    result = {"engine": engine, "losses": losses, "train_losses": [*losses, losses[-1] / 2], "correct": correct}
    result |= {"diverged": diverged_at is not None, "diverged_at": diverged_at}
    return row("descent", (engine,), result, setting=setting)


def timed(engine, microseconds, interleaved=True, weights=650):
    samples = [microseconds * f for f in (0.99, 1.0, 1.01, 1.0, 0.99, 1.0, 1.01)]
    return {
        "engine": engine,
        "mode": "fwd_bwd",
        "samples_us": samples,
        "cores": [1.0] * 7,
        "floor_us": 1.0,
        "compile_ms": 5.0,
        "interleaved": interleaved,
        "weights": weights,
        "evaluations": 1,
    }


def rates(scale, works):
    tried = {"rates": [0.1, 1.0, 10.0], "first": 2.0, "last": [1.5, 0.5, math.inf], "works": works}
    return {"engine": "rule", "scale": scale, "gradient_growth": [scale, scale], **tried}


def searched(method, dims, best, cost=1, per_axis=None):
    found = {"dims": dims, "method": method, "cost": cost, "best": best, "correct": 180, "per_axis": per_axis}
    return row("search", (), found, dims=dims, method=method)


ROWS = [
    row(
        "yardstick",
        (),
        {"name": "LogisticRegression", "correct": 345, "tests": 360, "objective": 0.2, "seconds": 0.1},
    ),
    descent("rule", [2.0, 1.0, 0.5], [36, 288, 324, 342]),
    descent("autodiff", [2.0, 1.0, 0.5000001], [36, 288, 324, 342]),
    descent("numpy", [2.0, math.inf], [36, 18, 18], diverged_at=1),
    row("descent", ("central_difference",), failed="The process that did it ended: it was killed"),
    row("step", ("rule", "autodiff"), timed("rule", 50.0), timed("autodiff", 100.0)),
    row("step", ("numpy",), timed("numpy", 400.0, interleaved=False)),
    row("growth", ("autodiff",), timed("autodiff", 10.0, weights=300), setting={"model": "two-layer"}),
    row(
        "growth",
        ("central_difference",),
        {**timed("central_difference", 5000.0, interleaved=False, weights=300), "evaluations": 601},
        setting={"model": "two-layer"},
    ),
    searched("grid", 2, [3.0, 2.0, 2.0], per_axis=1),
    searched("descent", 2, [3.0, 1.0], cost=3),
    row("rates", ("rule",), rates(1.0, [True, True, False]), rates(1000.0, [True, False, False])),
]


@pytest.fixture(scope="module")
def frames():
    return training_frames(ROWS)


def test_a_descent_is_a_row(frames):
    summary = frames["summary"].set_index("engine")
    assert list(summary.index) == ["rule", "autodiff", "numpy", "central_difference"]
    rule = summary.loc["rule"]
    assert (rule["batch"], rule["schedule"], rule["weights"], rule["steps"]) == ("128", "cosine", 650, 3)
    assert (rule["test_accuracy"], rule["yardstick_accuracy"], rule["yardstick"]) == (
        0.95,
        345 / 360,
        "LogisticRegression",
    )
    # 324 of 360 for the first time after 2 updates.
    assert rule["steps_to_90"] == 2
    assert rule["seconds_to_90"] == pytest.approx(2 * 50e-6)
    assert rule["train_loss"] == 0.25
    assert rule["ratio"] == pytest.approx(0.5, rel=0.03)
    assert rule["verdict"] == "faster"
    assert rule["distance"] == pytest.approx(2e-7, rel=0.01)
    assert summary.loc["autodiff", "distance"] == 0
    # NumPy was not timed in the same rounds.
    assert summary.loc["numpy", "ratio"] == pytest.approx(4, rel=0.03)
    assert summary.loc["numpy", "verdict"] == ""


def test_what_diverged_or_failed_says_so(frames):
    summary = frames["summary"].set_index("engine")
    assert list(summary["status"]) == ["ok", "ok", "diverged", "failed"]
    assert summary.loc["numpy", "reason"] == "not finite at step 1"
    assert "killed" in summary.loc["central_difference", "reason"]
    assert summary.loc["numpy", "distance"] == math.inf


def test_equal_infinities_are_no_distance():
    assert distance([1.0, math.inf], [1.0, math.inf, 3.0]) == 0
    assert distance([], []) == 0


def test_curves_end_with_the_last_weights(frames):
    own = frames["curves"][frames["curves"]["engine"] == "rule"]
    assert own["step"].tolist() == [0, 1, 2, 3]
    assert own["train_loss"].tolist() == [2.0, 1.0, 0.5, 0.25]
    assert own["batch_loss"].isna().tolist() == [False, False, False, True]
    assert own["test_accuracy"].tolist() == [0.1, 0.8, 0.9, 0.95]


def test_frames_are_read_back_as_they_were_written(frames, tmp_path):
    write_training_frames(tmp_path, frames)
    again = read_training_frames(tmp_path)
    assert again.keys() == frames.keys() == FILES.keys()
    for name, frame in frames.items():
        assert list(again[name].columns) == list(FILES[name])
        pd.testing.assert_frame_equal(again[name], frame.replace("", np.nan), check_dtype=False, rtol=1e-8)


def test_tables(frames):
    summary = frames["summary"]
    assert chosen_kind(summary) == ("128", "cosine")
    engines = engine_table(summary).set_index("engine")
    assert engines.loc["rule", "step"] == "50 µs"
    assert str(engines.loc["rule", "step / autodiff"]).endswith("faster")
    assert engines.loc["rule", "time to 90 %"] == "100 µs"
    assert engines.loc["numpy", "test accuracy"] == "5.0 % (diverged)"
    assert engines.loc["central_difference", "test accuracy"] == " (failed)"
    assert descent_table(summary)["scikit-learn's accuracy"].tolist() == ["95.8 % (LogisticRegression)"]
    assert distance_table(summary)["rule"].tolist() == ["2.0e-07, all 3: 2.0e-07"]
    assert growth_table(frames["growth"]).to_dict("records") == [
        {
            "weights": "300",
            "autodiff": "10 µs",
            "central_difference": "5 ms",
            "evaluations": "601",
            "/ autodiff": "500",
        }
    ]
    (searches,) = search_table(frames["search"]).to_dict("records")
    assert (searches["grid"], searches["descent"]) == ("2, 50.0 %", "1, 50.0 %")
    assert rate_table(frames["rates"])["largest rate that works"].tolist() == ["1", "0.1"]
    assert rate_table(frames["rates"])["gradient times"].tolist() == ["1", "1000"]
    assert "by rule within 2.0e-07 (linear, softmax, 128, cosine); by numpy within inf" in agreement(summary)
    assert agreement(summary[summary["engine"] == "rule"].assign(distance=np.nan)).startswith("No two exact")


def test_the_report_has_every_part_and_picture(frames, tmp_path, monkeypatch):
    folder = tmp_path / "training" / "test-2-core" / "run"
    assert recorded_training(tmp_path, "..") == "There is no record of a training run yet."
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text(json.dumps(MACHINE))
    write_training_frames(folder, frames)
    text = write_training_report(folder, {**MACHINE, "unfinished": 2}, frames).read_text()
    for part in (
        "Stopped early: 2 tasks",
        "## Failed: 1",
        "## Engines",
        "## Search against descent",
        "Inputs times 1000",
    ):
        assert part in text
    for name, _ in training_plots.figures(frames, chosen_kind(frames["summary"])):
        assert f"({name})" in text
        assert (folder / name).stat().st_size > 5000
    recorded = recorded_training(tmp_path, "..")
    assert "the machine was quiet, load 0.1 per core" in recorded
    assert "(../training/test-2-core/run/growth.png)" in recorded


def test_the_axis_of_times_has_numbers_where_they_span_less_than_a_decade(tmp_path):
    frame = pd.DataFrame({"engine": ["autodiff"] * 2, "weights": [300, 3000], "time_us": [43.0, 62.0]})
    figure = training_plots.growth(frame)
    figure.savefig(tmp_path / "growth.png")
    (axis,) = figure.axes
    ticks = [*axis.yaxis.get_majorticklabels(), *axis.yaxis.get_minorticklabels()]
    low, high = axis.get_ylim()
    assert any(tick.get_text() and low <= tick.get_position()[1] <= high for tick in ticks)
    assert "numerical" not in axis.get_title()
