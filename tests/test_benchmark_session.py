"""`pytest --benchmark`: the same cells under pytest-benchmark, and plain `pytest` without them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import jaxbp
from jaxbp.environment import ALLOCATOR
from jaxbp.report.compare import compare_runs
from jaxbp.report.load import read_whatever

ROOT = Path(__file__).parents[1]
RULE, AUTODIFF = "rule:stable", "autodiff"


def run_pytest(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    # Told that it is one of several workers, pytest-benchmark would measure nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that one benchmark session wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("session")
    selected = "tanh and memory and fwd_bwd"
    return folder, run_pytest(
        "--benchmark", "-k", selected, "--benchmark-json", str(folder / "out.json"), f"--out={folder / 'results'}"
    )


@pytest.fixture(scope="module")
def benchmarks(session) -> dict[str, dict[str, Any]]:
    """By engine, what pytest-benchmark wrote."""
    written = json.loads((session[0] / "out.json").read_text())["benchmarks"]
    assert len(written) == len({row["extra_info"]["engine"] for row in written})
    return {row["extra_info"]["engine"]: row for row in written}


def test_it_runs_the_selected_cells_and_no_test(session, benchmarks):
    done = session[1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\b{len(benchmarks)} passed", done.stdout)
    assert "test_" not in done.stdout
    assert set(benchmarks) - {"torch"} == {RULE, "rule:textbook", AUTODIFF, "central_difference", "numpy"}


def test_errors_stand_beside_the_times(benchmarks):
    errors = {engine: row["extra_info"]["gradient_max_ulp"] for engine, row in benchmarks.items()}
    assert errors[RULE] < 4
    assert errors[AUTODIFF] > 1e6
    for row in benchmarks.values():
        assert row["extra_info"].keys() >= {"value_max_ulp", "gradient_median_ulp", "gradient_norm_rel"}
        assert row["stats"]["rounds"] >= 5
        assert 1e-8 < row["stats"]["median"] < 0.1


def test_the_engines_of_a_case_are_one_group(benchmarks):
    assert {row["group"] for row in benchmarks.values()} == {"tanh memory float32 fwd_bwd"}


def test_it_writes_the_report_of_a_run(session, benchmarks):
    folder, done = session
    (run,) = (folder / "results").glob("*/*")
    assert f"Report: {run / 'report.md'}" in done.stdout
    assert {path.name for path in run.iterdir()} >= {
        "machine.json",
        "accuracy.csv",
        "samples.parquet",
        "report.md",
        "report.html",
    }
    summary = pd.read_csv(run / "summary.csv").set_index("engine")
    assert {row for text in summary["environment"] for row in json.loads(text)} <= set(ALLOCATOR)
    assert set(summary.index) == set(benchmarks)
    assert set(summary["status"]) == {"ok"}
    # Microseconds here, seconds there; no verdict, as pytest-benchmark does not interleave.
    for engine, row in benchmarks.items():
        assert summary["time_us"].to_dict()[engine] == pytest.approx(1e6 * row["stats"]["median"], rel=1e-4)
        assert summary["rounds"].to_dict()[engine] == row["stats"]["rounds"]
        assert summary["inner"].to_dict()[engine] == row["stats"]["iterations"]
    assert summary["verdict"].isna().all()
    accuracy = pd.read_csv(run / "accuracy.csv").set_index(["engine", "quantity"])["max_ulp"].to_dict()
    for engine, row in benchmarks.items():
        assert accuracy[engine, "ct_x"] == pytest.approx(row["extra_info"]["gradient_max_ulp"], rel=1e-4)


def test_its_json_is_a_run_of_the_same_cells_as_the_folder(session, benchmarks):
    folder = session[0]
    (run,) = (folder / "results").glob("*/*")
    sides = [jaxbp.load_runs(path) for path in (run, folder / "out.json")]
    assert sides[0]["machine"].unique() == sides[1]["machine"].unique()
    key = ["op", "op_version", "case", "shapes", "dtype", "engine", "device", "quantity", "metric"]
    for metric in ("time_us", "ratio", "max_ulp", "floor_us"):
        table, told = (side[side["metric"] == metric].set_index(key)["value"].sort_index() for side in sides)
        assert len(table) >= len(benchmarks)
        # The folder's table has six digits.
        pd.testing.assert_series_equal(table, told, rtol=1e-4)
    assert not compare_runs(*(read_whatever(path)[0] for path in (run, folder / "out.json")))["regression"].any()


def test_plain_pytest_collects_no_benchmark(request):
    # Where it looks, and of this session itself what it found. That benchmarks would be found if they were looked for
    # is what the one above shows.
    paths = [ROOT / name for name in request.config.getini("testpaths")]
    assert ROOT / "tests" in paths
    assert not any((ROOT / "bench").is_relative_to(path) for path in paths)
    names = [item.nodeid for item in request.session.items]
    assert request.node.nodeid in names
    assert not [name for name in names if "bench_gradient" in name or name.startswith("bench/")]
