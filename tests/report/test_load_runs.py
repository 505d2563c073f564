"""Loading runs: one long frame from folders, folders of runs and JSON; what is broken is named, the rest is loaded."""

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import small_run

import jaxbp
from jaxbp.errors import ResultsError
from jaxbp.report.compare import compare_runs
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS
from jaxbp.report.load import CELL_METRICS, ERROR_METRICS, LONG_COLUMNS, find_runs, read_whatever
from jaxbp.report.run import TEXT

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two runs of one machine, and a record of another kind, which is none."""
    for name in ("first", "second"):
        small_run(tmp_path / "results" / "machine" / name)
    record = tmp_path / "results" / "selftest" / "machine"
    record.mkdir(parents=True)
    (record / "machine.json").write_text("{}")
    (record / "summary.csv").write_text("checker,missed\nours,0\n")
    return tmp_path / "results"


def test_the_columns_and_dtypes_are_the_documented_ones(folder):
    frame = jaxbp.load_runs(folder)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        name: str(pd.Series(dtype=dtype).dtype) for name, (dtype, _) in LONG_COLUMNS.items()
    }
    assert frame["value"].notna().all()
    assert set(frame["run"]) == {"first", "second"}


def test_every_number_of_the_tables_is_a_metric():
    numbers = {name for name in [*SUMMARY_COLUMNS, *ACCURACY_COLUMNS] if name not in TEXT}
    assert {*CELL_METRICS, *ERROR_METRICS} == numbers - {"op_version", "n"} - {
        f"{name}_{end}" for name in ("time_us", "ratio") for end in ("low", "high")
    }


def test_the_numbers_are_those_of_the_tables(folder):
    run, _ = read_whatever(folder / "machine" / "first")
    frame = jaxbp.load_runs(folder / "machine" / "first")
    cells = frame[frame["metric"] == "ratio"].set_index(["op", "case", "engine", "mode"])
    table = run.summary.set_index(["op", "case", "engine", "mode"])
    assert len(cells) == len(table)
    for column, source in {"value": "ratio", "low": "ratio_low", "high": "ratio_high", "verdict": "verdict"}.items():
        pd.testing.assert_series_equal(cells[column], table[source], check_names=False, check_dtype=False)
    errors = frame.query("metric == 'max_ulp' and quantity == 'ct_x' and engine == 'numpy'")
    assert errors["value"].tolist() == [8.0] * 4
    assert set(errors["mode"]) == {""}
    assert set(frame["started"].dt.year) == {2024}
    # No number, no row.
    assert "peak_rss_bytes" not in set(frame["metric"])


def test_the_committed_runs_load_older_ones_too():
    frame = jaxbp.load_runs(RESULTS)
    assert frame["run"].nunique() == len([*RESULTS.glob("*/*-standard"), *RESULTS.glob("*/*-full")])
    assert frame.groupby("run")["metric"].nunique().min() > 20


def test_runs_are_found_by_machine_and_time_and_records_are_not(folder):
    assert find_runs(folder) == [folder / "machine" / "first", folder / "machine" / "second"]
    assert find_runs(folder / "machine" / "first") == [folder / "machine" / "first"]


def test_the_journal_of_a_training_is_not_that_of_a_run(folder):
    training = folder / "training" / "machine" / "run"
    training.mkdir(parents=True)
    (training / "machine.json").write_text('{"training": {"level": "standard"}}')
    (training / "journal.jsonl").write_text("")
    assert training not in find_runs(folder)


def test_what_cannot_be_read_is_a_warning_and_the_rest_is_loaded(folder):
    (folder / "machine" / "first" / "machine.json").write_text("{")
    table = folder / "machine" / "second" / "accuracy.csv"
    table.write_text(table.read_text()[:-9])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = jaxbp.load_runs(folder)
    told = [str(warning.message) for warning in caught]
    assert [sentence.split(" cannot be read")[0] for sentence in told] == [
        str(folder / "machine" / "first" / "machine.json"),
        str(table),
    ]
    assert set(frame["run"]) == {"second"}
    assert "time_us" in set(frame["metric"])
    assert "max_ulp" not in set(frame["metric"])


@pytest.mark.parametrize("name", ["machine.json", "summary.csv", "accuracy.csv"])
def test_a_run_that_has_lost_a_file_is_told(name, folder):
    lost = folder / "machine" / "first" / name
    lost.unlink()
    with pytest.warns(UserWarning, match=f"{lost} cannot be read"):
        jaxbp.load_runs(folder)


def test_where_nothing_can_be_read_it_is_an_error(tmp_path):
    with pytest.raises(ResultsError, match="none does not exist"):
        jaxbp.load_runs(tmp_path / "none")
    with pytest.raises(ResultsError, match="holds no run"):
        jaxbp.load_runs(tmp_path)
    with pytest.raises(ResultsError, match="given no path"):
        jaxbp.load_runs()
    run = tmp_path / "run"
    small_run(run)
    for name in ("summary.csv", "accuracy.csv"):
        (run / name).unlink()
    with pytest.raises(ResultsError, match=r"summary\.csv cannot be read"):
        jaxbp.load_runs(run)


def benchmark(name: str, median: float, *, data: bool = True, **extra: Any) -> dict[str, Any]:
    """An entry of a JSON of pytest-benchmark; its samples spread by 2 % around the median."""
    samples = [median * (1 + 0.02 * (i / 20 - 1)) for i in range(41)]
    stats = {"min": samples[0], "median": median, "iqr": 0.02 * median, "rounds": 41, "iterations": 3}
    return {"fullname": name, "extra_info": extra, "stats": {**stats, **({"data": samples} if data else {})}}


def stored(path: Path, benchmarks: list[dict[str, Any]], commit: str = "0123456789abcdef") -> Path:
    """A JSON of another project."""
    about = {
        "machine": "x86_64",
        "python_version": "3.12.1",
        "cpu": {"brand_raw": "Some CPU", "family": 6, "model": 9, "count": 4},
    }
    whole = {
        "machine_info": about,
        "commit_info": {"id": commit, "dirty": True},
        "datetime": "2026-01-02T03:04:05+00:00",
    }
    path.write_text(json.dumps({**whole, "benchmarks": benchmarks}))
    return path


@pytest.mark.parametrize("data", [True, False])
def test_benchmarks_of_other_projects_have_their_names(tmp_path, data):
    path = stored(tmp_path / "cells.json", [benchmark("tests/test_sort.py::test_sort", 0.001, data=data)])
    (time,) = jaxbp.load_runs(path).query("metric == 'time_us'").to_dict("records")
    assert (time["op"], time["engine"], time["mode"]) == ("tests/test_sort.py::test_sort", "", "")
    assert time["machine"] == "some-cpu-family-6-model-9-4-core"
    assert (time["commit"], time["run"]) == ("0123456789ab+", "cells.json")
    assert time["value"] == pytest.approx(1000)
    assert 980 <= time["low"] < 1000 < time["high"] <= 1020


def test_a_benchmark_outside_of_version_control_has_no_commit(tmp_path):
    run, _ = read_whatever(stored(tmp_path / "cells.json", [benchmark("a", 0.001)], commit="unversioned"))
    assert run.machine["commit"] is None


def test_a_slower_benchmark_of_another_project_is_found(tmp_path):
    names = [f"tests/test_sort.py::test_sort[{i}]" for i in range(20)]
    before = stored(tmp_path / "before.json", [benchmark(name, 0.001) for name in names])
    # All take 30 % longer, one of them 15 % more than that.
    slower = [benchmark(name, 0.001 * 1.3 * (1.15 if i == 3 else 1)) for i, name in enumerate(names)]
    runs = [read_whatever(path)[0] for path in (before, stored(tmp_path / "after.json", slower))]
    changes = compare_runs(*runs)
    assert changes.loc[changes["regression"], "op"].tolist() == [names[3]]
    assert set(changes["measure"]) == {"time"}
    assert not compare_runs(runs[0], runs[0])["regression"].any()


def test_cells_of_this_project_are_what_they_say(tmp_path):
    cell = {"op": "exp", "case": "cache", "dtype": "float32", "mode": "bwd", "op_version": 1, "shapes": "[[3]]"}
    error = {**cell, "quantity": "ct_x", "max_ulp": 3.0, "engine": "rule:stable"}
    benchmarks = [
        benchmark("a", 0.002, engine="rule:stable", errors=[error], **cell),
        benchmark("b", 0.001, engine="autodiff", **cell),
    ]
    frame: Any = jaxbp.load_runs(stored(tmp_path / "cells.json", benchmarks)).set_index(["engine", "metric"])
    ratio = frame.loc[("rule:stable", "ratio")]
    assert ratio["value"] == pytest.approx(2)
    assert ratio["low"] < 1.99 < 2.01 < ratio["high"] < 2.1
    assert ratio["verdict"] == ""
    assert frame.loc[("autodiff", "ratio"), "low"] == 1
    assert frame.loc[("rule:stable", "max_ulp"), "value"] == 3
    assert frame.loc[("rule:stable", "ratio"), "op_version"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read: it is broken"),
        ("{", "cannot be read: it is broken"),
        ("[]", "is not a JSON of pytest-benchmark"),
        ("{}", "is not a JSON of pytest-benchmark: it lacks 'machine_info'"),
    ],
)
def test_a_file_that_is_none_of_pytest_benchmark_is_named(tmp_path, content, reason):
    path = tmp_path / "cells.json"
    path.write_text(content)
    with pytest.raises(ResultsError) as error:
        jaxbp.load_runs(path)
    assert str(error.value).startswith(f"{path} {reason}")


def test_a_benchmark_without_a_median_is_named(tmp_path):
    spoilt = benchmark("a", 0.1)
    del spoilt["stats"]["rounds"]
    with pytest.raises(ResultsError, match="it lacks 'rounds'"):
        jaxbp.load_runs(stored(tmp_path / "cells.json", [spoilt]))
