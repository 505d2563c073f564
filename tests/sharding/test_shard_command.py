"""`jaxbp shard`: its record and its exit status; what it says of times and bytes."""

import concurrent.futures
import contextlib
import json

import pytest

from jaxbp.cli import sharding
from jaxbp.report.sharding import agreement_frame, communication, layouts_overview, scaling_frame, times_overview
from jaxbp.sharding.scaling import AUTODIFF, RULE, STRONG


class Here:
    """Stands for processes with many devices: what is asked of them is answered by the test."""

    def __init__(self, answers):
        self.answers = answers

    def run(self, f, *args):
        return self.answers(f.__name__, *args)


def row(what, **changes):
    about = {"op": what.op, "way": what.way, "devices": what.devices, "processes": what.processes, "quantity": "value"}
    return {**about, "status": "ok", "differing": 0, "sent_bytes": 8.0, "autodiff_sent_bytes": 8.0, **changes}


@pytest.fixture
def answered(monkeypatch):
    """Have many devices answer so."""
    opened = []

    def by(answers):
        @contextlib.contextmanager
        def group(devices, processes=1):
            opened.append((devices, processes))
            yield Here(answers)

        monkeypatch.setattr(sharding, "group", group)

    by(lambda name, task: [row(task)])
    return by, opened


def test_it_writes_the_record(run, answered, tmp_path):
    result = run("shard", "--ops", "exp,log", "--devices", "2,4", "--processes", "1,2", "--out", tmp_path)
    assert result.code == 0
    (folder,) = (tmp_path / "sharding").iterdir()
    assert f"Report: {folder / 'report.md'}" in result.out
    assert {(2, 1), (4, 1), (2, 2), (4, 2)} <= set(answered[1])
    assert len((folder / "agreement.csv").read_text().splitlines()) == 1 + 2 * 5 * 4
    assert "Nowhere." in (folder / "report.md").read_text()
    assert json.loads((folder / "machine.json").read_text())["versions"]["jax"]


def test_what_is_wrong_makes_the_exit_status_and_is_named(run, answered, tmp_path):
    answered[0](
        lambda name, task: [row(task, status="wrong", reason="the error is 9")] if task.op == "log" else [row(task)]
    )
    result = run("shard", "--ops", "exp,log", "--out", tmp_path)
    assert result.code == 1
    assert "log value: the error is 9" in result.out


def test_what_is_compared_again_takes_the_place_of_what_was(run, answered, tmp_path):
    answered[0](lambda name, task: [row(task, status="wrong", reason="bad luck")])
    assert run("shard", "--ops", "exp,log", "--devices", "2,8", "--out", tmp_path).code == 1
    answered[0](lambda name, task: [row(task)])
    words = ("shard", "--ops", "log", "--devices", "8", "--update", "--out", tmp_path)
    result = run(*words)
    assert result.code == 1
    (path,) = tmp_path.rglob("agreement.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert len(rows) == 2 * 5 * 2
    assert {(line[0], line[2]) for line in rows if "wrong" in line} == {("exp", "2"), ("exp", "8"), ("log", "2")}
    assert run(*words, "--devices", "2").code == 1
    assert run("shard", "--ops", "exp", "--devices", "2,8", "--update", "--out", tmp_path).code == 0
    path.write_text(path.read_text().replace("judged_by", "judge"))
    spoilt = run(*words)
    assert spoilt.code == 2
    assert "agreement.csv cannot be read: it is broken (it has no column 'judged_by')" in spoilt.err


def test_a_process_that_crashes_costs_what_it_was_at(run, answered, tmp_path):
    def answers(name, task):
        if (task.op, task.way) == ("exp", "vmap"):
            raise concurrent.futures.BrokenExecutor
        return [row(task)]

    answered[0](answers)
    result = run("shard", "--ops", "exp,log", "--out", tmp_path)
    assert result.code == 1
    assert result.out.count("A process crashed") == 1
    (folder,) = (tmp_path / "sharding").iterdir()
    assert len((folder / "agreement.csv").read_text().splitlines()) == 1 + 2 * 5


def test_a_folder_that_cannot_be_written_is_found_out_first(run, answered, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("shard", "--ops", "exp", "--out", tmp_path / "file")
    assert (result.code, answered[1]) == (2, [])
    assert "cannot be written" in result.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--devices", "two"], "--devices takes whole numbers"),
        (["--devices", ","], "--devices names no number"),
        (["--devices", "3"], "1, 2, 4 or 8 devices, not for 3"),
        (["--processes", "3"], "8 devices cannot belong to 3 processes"),
        (["--ops", "sigmod"], "did you mean 'sigmoid'"),
    ],
)
def test_bad_requests_are_sentences(run, answered, tmp_path, words, sentence):
    result = run("shard", *words, "--out", tmp_path)
    assert result.code == 2
    assert sentence in result.err


def timed(devices, engine, us, **changes):
    about = {"layout": "a layer", "scaling": STRONG, "case": "memory", "devices": devices, "engine": engine}
    held = {"flops": 1e9, "collectives": "1 all-reduce", "sent_bytes": 8.0, "kept_bytes": 0.0, "temp_bytes": 4}
    return {**about, **held, "samples_us": [us] * 20, "cores": [1.0] * 20, **changes}


def test_times_are_those_of_shared_rounds():
    rows = [timed(n, engine, us) for n, us in ((1, 100.0), (8, 50.0)) for engine in (RULE, AUTODIFF)]
    rows[2]["samples_us"] = [25.0] * 20
    frame = scaling_frame(rows)
    fast = frame[(frame["devices"] == 8) & (frame["engine"] == RULE)].iloc[0]
    assert (fast["ratio"], fast["verdict"], fast["over_one"]) == (0.5, "faster", 0.25)
    assert frame[frame["engine"] == AUTODIFF]["ratio"].isna().all()
    assert times_overview(frame).to_dict("records") == [{"layer": "a layer", "scaling": STRONG, "8 devices": "0.25"}]
    assert layouts_overview(frame)["time / autodiff"].tolist() == ["0.50 [0.50, 0.50] faster"]


def test_unequal_bytes_are_listed_once_a_call():
    rows = [
        {
            "op": op,
            "way": "first",
            "devices": 8,
            "processes": 1,
            "quantity": q,
            "sent_bytes": sent,
            "autodiff_sent_bytes": 8,
        }
        for op, sent in (("exp", 8), ("log", 16))
        for q in ("value", "ct_x")
    ]
    assert communication(agreement_frame(rows))["op"].tolist() == ["log"]
