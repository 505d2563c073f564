"""The commands, from what is typed to what is printed, written and returned."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxbp
from jaxbp.cli import bench, runs
from jaxbp.measure.limits import Limits
from jaxbp.measure.machine import describe_machine
from jaxbp.measure.plan import ALL_MODES
from jaxbp.measure.sweep import read_journal
from jaxbp.report import resources
from tests.report.synthetic import time_row


def only_run(out: Path) -> Path:
    (folder,) = out.glob("*/*")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of one real run, in real workers, and what the command printed."""
    out = tmp_path_factory.mktemp("results")
    words = ["bench", "--quick", "--ops", "sigmoid", "--cases", "small", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "jaxbp.cli", *words], capture_output=True, text=True, timeout=120)
    return only_run(out), done


def test_bench_ends_with_a_report(finished):
    folder, result = finished
    assert result.returncode == 0, result.stderr
    assert f"Report: {folder / 'report.md'}" in result.stdout
    assert "sigmoid" in result.stdout
    assert "0/2 sigmoid small float32" in result.stderr
    machine = json.loads((folder / "machine.json").read_text())
    assert folder.parent.name == machine["name"]
    assert machine["level"] == "quick"
    assert {path.name for path in folder.iterdir()} >= {"summary.csv", "accuracy.csv", "samples.parquet", "report.md"}
    assert "| sigmoid" in (folder / "report.md").read_text()
    assert f"Report: {folder / 'report.html'}" in result.stdout
    assert '<a href="#sigmoid-float32">sigmoid</a>' in (folder / "report.html").read_text()


def test_bench_measured_every_engine(finished):
    summary = pd.read_csv(finished[0] / "summary.csv")
    assert sorted(summary["engine"]) == ["autodiff", "numpy", "rule:stable"]
    assert set(summary["status"]) == {"ok"}
    assert (summary["time_us"] > 0).all()
    assert (summary["time_us"] < 1e5).all()
    assert len(pd.read_parquet(finished[0] / "samples.parquet")) == summary["rounds"].sum()
    # NumPy ran in a process of its own, which says so.
    environments = summary.set_index("engine")["environment"].map(json.loads)
    assert "OPENBLAS_NUM_THREADS" in environments["autodiff"]
    assert "OPENBLAS_NUM_THREADS" not in environments["numpy"]


def test_bench_measures_the_physical_limit(finished):
    folder, _ = finished
    machine = json.loads((folder / "machine.json").read_text())
    (limits,) = machine["limits"]
    assert (limits["device"], limits["dtype"], limits["reason"]) == ("cpu", "float32", "")
    assert all(rate > 0 for _, rate in limits["copies"] + limits["products"])
    assert f"Physical limit: {resources.limit(Limits(**limits))}" in (folder / "report.md").read_text()


def test_the_peak_resident_set_is_measured_on_request(run, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(bench, "run_tasks", lambda *args, peak_rss, **options: told.append(peak_rss))
    words = ("bench", "--quick", "--ops", "exp", "--cases", "small", "--out")
    assert run(*words, tmp_path / "plain").code == 0
    assert run(*words, tmp_path / "peak", "--peak-rss").code == 0
    # A resumed run goes on with what was asked for, and one of an earlier version was not asked.
    assert run("bench", "--resume", only_run(tmp_path / "peak")).code == 0
    path = only_run(tmp_path / "plain") / "machine.json"
    machine = json.loads(path.read_text())
    del machine["request"]["peak_rss"]
    path.write_text(json.dumps(machine))
    assert run("bench", "--resume", path.parent).code == 0
    assert told == [False, True, True, False]


def test_a_resumed_run_tries_again_what_failed(run, tmp_path, finished):
    folder = tmp_path / "failed"
    shutil.copytree(finished[0], folder)
    rows = read_journal(folder)
    planted = {"engine": "numpy", "kind": "failure", "reason": "planted"}
    failed = [row for row in rows if row.get("owner") == "numpy" and row["kind"] in ("task", "done")]
    about = [{**failed[0], **planted}, {**failed[1], "failed": True}]
    kept = [row for row in rows if row.get("owner") != "numpy" and row.get("engine") != "numpy"]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*kept, failed[0], *about]))
    result = run("bench", "--resume", folder)
    assert result.code == 0, result.err
    assert "0/1 sigmoid small float32 numpy" in result.err
    assert set(pd.read_csv(folder / "summary.csv")["status"]) == {"ok"}
    # And nothing is left to be tried again.
    assert "0/1" not in run("bench", "--resume", folder).err


@pytest.mark.parametrize(
    ("part", "held"),
    [
        ("request", [1]),
        ("request", {"ops": ["sigmoid"], "sizes": 3}),
        ("request", {"ops": 5}),
        ("versions", "0.10.2"),
        ("variables", 7),
    ],
)
def test_a_run_whose_machine_was_changed_by_hand_is_not_resumed(run, tmp_path, finished, part, held):
    machine = json.loads((finished[0] / "machine.json").read_text())
    (tmp_path / "machine.json").write_text(json.dumps({**machine, part: held}))
    result = run("bench", "--resume", tmp_path)
    assert result.code == 2
    said = " ".join(result.err.split())
    assert f"{tmp_path / 'machine.json'} is not as jaxbp bench wrote it" in said
    assert "start a new one." in said


def test_a_run_is_not_resumed_on_another_machine(run, tmp_path, finished):
    """Its rows would be compared with each other as if one machine had measured them."""
    machine = json.loads((finished[0] / "machine.json").read_text())
    versions = {**machine["versions"], "jax": "0.9.9"}
    other = {"cpu": "Another CPU", "versions": versions, "variables": {"OMP_NUM_THREADS": "3"}}
    (tmp_path / "machine.json").write_text(json.dumps({**machine, **other}))
    result = run("bench", "--resume", tmp_path)
    assert result.code == 2
    sentence = (
        f"{tmp_path} was begun with cpu Another CPU, jax 0.9.9, OMP_NUM_THREADS 3, and would go on with cpu "
        f"{machine['cpu']}, jax {machine['versions']['jax']}, OMP_NUM_THREADS none"
    )
    assert sentence in " ".join(result.err.split())
    assert not (tmp_path / "journal.jsonl").exists()


def test_bench_shows_what_autodiff_gets_wrong(finished):
    accuracy = pd.read_csv(finished[0] / "accuracy.csv").set_index(["engine", "quantity"])["max_ulp"]
    assert accuracy["rule:stable", "ct_x"] < 4
    assert accuracy["rule:stable", "value"] < 4
    assert accuracy["autodiff", "ct_x"] > 1e6


def test_a_report_is_written_again_from_the_tables_alone(finished, run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    before = [(folder / name).read_text() for name in ("report.md", "report.html")]
    for path in folder.iterdir():
        if path.name not in ("machine.json", "summary.csv", "accuracy.csv"):
            path.unlink()
    result = run("report", folder)
    assert result.code == 0
    assert f"Report: {folder / 'report.md'}" in result.out
    after = [(folder / name).read_text() for name in ("report.md", "report.html")]
    # The page says which run it is of: this one is a copy.
    assert after == [before[0], before[1].replace("/".join(finished[0].parts[-2:]), "/".join(folder.parts[-2:]))]
    assert list(folder.glob("*.png"))


def test_a_report_goes_where_it_is_told(finished, run, tmp_path):
    path = tmp_path / "elsewhere" / "name.md"
    assert run("report", finished[0], "--markdown", path).code == 0
    assert path.read_text() == (finished[0] / "report.md").read_text().replace("(report-", "(name-")


def test_several_runs_go_into_one_page_where_it_is_told(finished, run, tmp_path):
    copies = [tmp_path / name for name in ("one", "two")]
    for folder in copies:
        shutil.copytree(finished[0], folder)
        (folder / "report.md").unlink()
    page = tmp_path / "elsewhere" / "page.html"
    result = run("report", *copies, tmp_path / "none", "--html", page)
    assert result.code == 2
    assert result.out.splitlines()[-1] == f"Report: {page}"
    text = page.read_text()
    assert '<a href="#2-sigmoid-float32">' in text
    # What could not be taken is said on the page too; nothing else is written.
    assert f"{tmp_path / 'none' / 'machine.json'} cannot be read" in text
    assert not list(tmp_path.glob("*/report.md"))
    assert run("report", tmp_path / "none", "--html", tmp_path / "nothing.html").code == 2
    assert not (tmp_path / "nothing.html").exists()


def test_a_broken_run_does_not_stop_the_report_of_the_next(finished, run, tmp_path):
    good, broken = tmp_path / "good", tmp_path / "broken"
    for folder in (good, broken):
        shutil.copytree(finished[0], folder)
    (good / "report.md").unlink()
    table = broken / "accuracy.csv"
    table.write_text(table.read_text()[:-20])
    result = run("report", broken, good, tmp_path / "none")
    assert result.code == 2
    assert (good / "report.md").exists()
    assert result.err.splitlines() == [
        f"jaxbp: {table} cannot be read: it is broken (its last line is cut off).",
        f"jaxbp: {tmp_path / 'none' / 'machine.json'} cannot be read: No such file or directory.",
    ]


def test_ops_lists_every_op(run):
    result = run("ops")
    assert result.code == 0
    for op in jaxbp.OPS:
        assert op.name in result.out
        assert ", ".join(op.rules) in result.out


def test_ops_as_json(run):
    rows = json.loads(run("ops", "--json").out)
    assert [row["op"] for row in rows] == [op.name for op in jaxbp.OPS]
    sigmoid = next(row for row in rows if row["op"] == "sigmoid")
    assert sigmoid["rules"] == "stable, precise, textbook"
    assert sigmoid["accuracy"]["stable"].keys() == {"float32", "float64", "narrow"}
    assert sigmoid["accuracy"]["textbook"] is None
    assert sigmoid["arguments"] == "x"
    assert sigmoid["cases"] == "small, cache, memory"


def test_ops_marks_an_accuracy_that_is_stated_in_part(run):
    stated = jaxbp.swiglu.default_rule.rule.accuracy
    assert stated is not None
    (line,) = (line for line in run("ops").out.splitlines() if line.startswith("swiglu"))
    value, gradient = stated.float32
    assert f"{value:g}/{gradient:g}*, {value:g}/{gradient:g}, none" in line
    row = next(row for row in json.loads(run("ops", "--json").out) if row["op"] == "swiglu")
    assert row["accuracy"]["normal_range"]["where"] == stated.note
    assert "where" not in row["accuracy"]["stable"]


def test_machine(run):
    facts = json.loads(run("machine", "--json").out)
    assert facts.keys() >= {"name", "cpu", "cores", "versions", "noise"}
    assert facts["noise"]["verdict"] in ("quiet", "noisy", "busy")
    assert facts["noise"]["spread"] > 0
    text = run("machine").out
    for fact in (facts["name"], f"jax {facts['versions']['jax']}", "GiB", "a fixed computation varies by"):
        assert fact in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ops", "sigmod"], "There is no op called 'sigmod'; did you mean 'sigmoid' or 'log_sigmoid'"),
        (["--ops", "exp,sigmoid,tahn"], "There is no op called 'tahn'; did you mean 'tanh' or 'arctan'"),
        (["--dtypes", "f23"], "There is no dtype called 'f23'; did you mean 'f32'"),
        (["--cases", "smal"], "There is no case called 'smal'; did you mean 'small'?"),
        (["--quick", "--full"], "--quick and --full exclude each other"),
        (["--resume", "nowhere"], "nowhere/machine.json cannot be read: No such file or directory."),
        (["--resume", "nowhere", "--peak-rss"], "--resume goes on with what the run was asked for"),
        (["--resume", "nowhere", "--quick"], "--resume goes on with what the run was asked for"),
        (["--ops", "exp", "--out", "file"], "cannot be written: Not a directory."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_a_sentence(run, monkeypatch, tmp_path, words, sentence):
    monkeypatch.setattr(bench, "run_tasks", lambda *args, **options: pytest.fail("measured all the same"))
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = run("bench", *words)
    assert result.code == 2
    assert result.err.startswith("jaxbp: ")
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("words", [["bnech"], ["bench", "--qick"], ["report"]])
def test_what_is_no_command_is_a_usage_error(run, words):
    result = run(*words)
    assert result.code == 2
    assert "Usage" in result.err


def test_one_file_is_no_place_for_two_reports(run, tmp_path):
    result = run("report", "a", "b", "--markdown", tmp_path / "x.md")
    assert result.code == 2
    assert "--markdown names one file" in result.err


def test_a_package_that_is_missing_is_named_with_its_extra(run, monkeypatch):
    monkeypatch.setattr(runs, "describe_machine", describe_machine.__wrapped__)  # Not what is cached.
    monkeypatch.setitem(sys.modules, "psutil", None)
    result = run("machine")
    assert result.code == 2
    assert result.err == "jaxbp: This needs the package psutil; install it with: pip install 'jaxbp[bench]'\n"


def test_a_failed_cell_is_told_by_the_exit_status(run, tmp_path, monkeypatch):
    def fail(tasks, journal, *, progress, peak_rss):
        for task in (task for task in tasks if task.owner == "jax"):
            journal.append({**task.to_json(), "engine": "autodiff", "kind": "failure", "reason": "Planted: it broke."})

    monkeypatch.setattr("jaxbp.cli.bench.run_tasks", fail)
    result = run("bench", "--quick", "--ops", "exp,exp", "--cases", "small", "--out", tmp_path)
    assert result.code == 1
    assert result.err.count("Planted: it broke.") == 1


def test_several_processes_are_asked_for_and_resumed(run, tmp_path, monkeypatch):
    asked = []

    def collect(tasks, journal, *, progress, peak_rss):
        asked.append([(task.owner, task.repetition) for task in tasks])

    monkeypatch.setattr("jaxbp.cli.bench.run_tasks", collect)
    run("bench", "--quick", "--ops", "exp", "--cases", "small", "--processes", 3, "--out", tmp_path)
    run("bench", "--resume", only_run(tmp_path))
    assert asked == [[("jax", 0), ("numpy", 0), ("jax", 1), ("jax", 2)]] * 2
    assert run("bench", "--processes", 0).code == 2


def test_what_is_undecided_goes_on_in_further_processes_and_is_resumed(run, tmp_path, monkeypatch):
    """By default rule exp is faster in one process and slower in the next; log is faster in all. One process fails."""
    asked, stops, failing = [], [4], [3]

    def measured(tasks, journal, *, progress, peak_rss):
        asked.append([(task.op, task.repetition) for task in tasks if task.owner == "jax"])
        for task in tasks:
            progress(task)
            if task.repetition in stops:
                raise KeyboardInterrupt
            journal.append({**task.to_json(), "kind": "task"})
            failed = task.repetition in failing
            ratio = 0.5 if task.op == "log" else 0.9 + 0.2 * (task.repetition % 2)
            for engine in () if failed else task.engines:
                samples = 1000 * np.linspace(0.999, 1.001, 9) * (1.0 if engine == "autodiff" else ratio)
                about = {"op": task.op, "case": task.case, "repetition": task.repetition, "engine": engine}
                journal.append(time_row(samples_us=samples, **about))
            journal.append({**task.to_json(), "kind": "done", "failed": failed})

    monkeypatch.setattr("jaxbp.cli.bench.run_tasks", measured)
    command = ("bench", "--quick", "--ops", "exp,log", "--processes", 2, "--most-processes", 6, "--out", tmp_path)
    result = run(*command)
    assert result.code == 130
    assert "0/1 exp cache float32 jax, process 3\n" in result.err
    assert asked == [[("exp", 0), ("log", 0), ("exp", 1), ("log", 1)], [("exp", 2)], [("exp", 3)], [("exp", 4)]]
    folder = only_run(tmp_path)
    assert json.loads((folder / "machine.json").read_text())["unfinished"] == 1
    stops.clear()
    failing.clear()
    asked.clear()
    assert run("bench", "--resume", folder).code == 0
    assert asked == [[("exp", 3)], [("exp", 4)], [("exp", 5)]]
    summary = pd.read_csv(folder / "summary.csv")
    assert summary.groupby("op")["processes"].max().to_dict() == {"exp": 6, "log": 2}
    assert json.loads((folder / "machine.json").read_text())["unfinished"] == 0


def test_fewer_processes_at_most_than_at_least_are_refused(run):
    result = run("bench", "--processes", 5, "--most-processes", 3)
    assert result.code == 2
    assert "--most-processes is 3, and --processes asks for 5 of every case; give as many or more." in result.err


def test_a_run_with_the_systems_allocator_is_one_of_a_machine_of_its_own(run, tmp_path, monkeypatch):
    asked = []

    def collect(tasks, journal, *, progress, peak_rss):
        asked.append({task.allocator for task in tasks})

    monkeypatch.setattr("jaxbp.cli.bench.run_tasks", collect)
    command = ("bench", "--quick", "--ops", "exp", "--cases", "small", "--out", tmp_path)
    run(*command)
    run(*command, "--allocator", "system")
    assert asked == [{"kept"}, {"system"}]
    usual, system = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert system == f"{usual}-system-allocator"
    (folder,) = (tmp_path / system).iterdir()
    run("bench", "--resume", folder)
    assert asked[-1] == {"system"}
    assert "- Allocator: the C library's own" in (folder / "report.md").read_text()
    wrong = run(*command, "--allocator", "mine")
    assert (wrong.code, "There is no allocator called 'mine'" in wrong.err) == (2, True)


def test_no_dtype_at_all_is_told(run, tmp_path):
    result = run("bench", "--dtypes", ",", "--out", tmp_path)
    assert result.code == 2
    assert "--dtypes names no dtype" in result.err


def test_the_version_names_what_results_depend_on(run):
    result = run("--version")
    assert result.code == 0
    assert result.out.startswith("jaxbp ")
    assert "jax " in result.out


RULES = """
import jax
import jax.numpy as jnp


def rule(factor):
    f = jax.custom_vjp(jnp.log)
    f.defvjp(lambda x: (jnp.log(x), x), lambda x, ct: (factor * ct / x,))
    return f


right, wrong = rule(1), rule(2)


def longhand(x):
    return -jnp.log(1 / x)


def twice(x):
    return 2 * jnp.log(x)
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    return path


def test_a_function_is_checked_against_what_is_meant(run, rules):
    asked = ("f32[10]", "--domain", "0=1:2", "--level", "quick", "--stock")
    assert run("check", f"{rules}:right", *asked, f"{rules}:longhand").code == 0
    assert run("check", f"{rules}:right", *asked, f"{rules}:twice").code == 1
    unknown = run("check", f"{rules}:right", *asked, f"{rules}:longhnad")
    assert (unknown.code, "did you mean 'longhand'" in unknown.err) == (2, True)


def test_a_function_is_measured_in_a_fresh_process(run, rules):
    result = run("bench", f"{rules}:right", "f32[100]", "--domain", "0=1:2", "--stock", f"{rules}:longhand", "--quick")
    assert result.code == 0, result.err
    for line in (
        "right?    yes",
        "digits?   ",
        "leaner?   keeps 0 between the passes, autodiff 800 B",
        "fwd_res",
        "split",
    ):
        assert line in result.out
    assert f"against autodiff of {rules}:longhand" in result.out
    assert result.err.splitlines()[0] == "0/4 checking the rule"


def test_a_wrong_function_gets_no_time_and_exit_status_1(run, rules):
    result = run("bench", f"{rules}:wrong", "f64[100]", "--domain", "0=1:2", "--seed", "3", "--quick", "--json")
    assert result.code == 1, result.err
    rows = json.loads(result.out)
    assert [(row["engine"], row["mode"]) for row in rows] == [
        (engine, mode) for engine in ("rule", "autodiff") for mode in (*ALL_MODES, "split")
    ]
    for row in rows:
        assert row["right"] == (row["engine"] == "autodiff")
        assert (row["time_us"] is None) == (row["engine"] == "rule")
        assert json.loads(row["arguments"]) == {"args[0]": "float64[100]"}
        assert row["process"] == "worker"
        assert row["async_dispatch"] == "off"
        assert json.loads(row["environment"])["MALLOC_TRIM_THRESHOLD_"]
    assert "2 times what it should be" in rows[0]["reason"]


def test_a_function_that_cannot_be_measured_is_a_sentence(run, rules):
    result = run("bench", f"{rules}:right", "f32[3]", "--stock", f"{rules}:longhnad")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        f"jaxbp: There is no function in {rules} called 'longhnad'; did you mean 'longhand'?"
    )
    (rules.parent / "dies.py").write_text("import os\nos._exit(7)\n")
    result = run("bench", f"{rules.parent / 'dies.py'}:f", "f32[3]")
    assert result.code == 2
    assert "could not be measured. The worker ended with exit status 7" in result.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["rules.py:f", "f32[3]", "--ops", "exp"],
            "are for the ops, and 'rules.py:f' would be a function. Lists take commas, as --ops sigmoid,tanh.",
        ),
        (
            ["rules.py:f", "f32[3]", "--full"],
            "--full, --growth, --ops, --dtypes, --cases, --processes, --most-processes, --allocator, ",
        ),
        (["rules.py:f"], "rules.py:f has no arguments to be measured with; give them, such as 'f32[64,128]' or 0.5."),
        (["tanh", "--ops", "sigmoid"], "Lists take commas, as --ops sigmoid,tanh."),
        (["--resume", "one", "two"], "--resume takes the folder of one run, and 'two' would be a function"),
        (["rules.py:f", "f32[3]", "--domain", "x"], "--domain says 'x'; give ARGUMENT=LOW:HIGH"),
        (["--stock", "rules.py:f"], "are for a function; give FILE.py:NAME and its arguments."),
        (["--json"], "--stock, --domain, --seed and --json are for a function"),
    ],
)
def test_options_of_the_ops_and_of_a_function_do_not_mix(run, monkeypatch, words, sentence):
    for name in ("run_tasks", "measure_in_worker"):
        monkeypatch.setattr(bench, name, lambda *args, **options: pytest.fail("measured all the same"))
    result = run("bench", *words)
    assert result.code == 2
    assert sentence in result.err
    assert len(result.err.splitlines()) == 1
