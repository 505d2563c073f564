"""The README's tables come from the newest run, among records of other kinds."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from synthetic import small_run, time_row

from jaxbp.errors import ResultsError
from jaxbp.report import readme
from jaxbp.report.readme import (
    measured,
    newest_at_level,
    newest_of_case,
    newest_run,
    newest_with_accelerators,
    reached,
    where,
)


def write(folder, **facts):
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text(json.dumps(facts))
    return folder


def test_the_newest_run_is_found_beside_records_of_other_kinds(tmp_path):
    write(tmp_path / "selftest" / "a", started="2026-12-31", seeds=20)
    with pytest.raises(ResultsError, match="no run of all ops at level standard"):
        newest_run(tmp_path)
    write(tmp_path / "a" / "1-standard", started="2026-01-01", level="standard")
    newest = write(tmp_path / "b" / "2-standard", started="2026-02-01", level="standard")
    write(tmp_path / "a" / "3-quick", started="2026-03-01", level="quick")
    write(tmp_path / "b" / "4-standard", started="2026-04-01", level="standard", request={"ops": ["exp"]})
    write(tmp_path / "c" / "5-standard", started="2026-05-01", level="standard", accelerators="NVIDIA H100")
    with pytest.raises(ResultsError, match=r"no run of case tall of exp, log .*--cases tall --ops exp,log makes one"):
        newest_of_case(tmp_path, "tall", ["exp", "log"])
    asked = {"cases": ["tall"], "ops": ["log", "exp"]}
    tall = write(tmp_path / "b" / "6-standard", started="2026-06-01", level="standard", request=asked)
    write(tmp_path / "b" / "9-standard", started="2026-09-01", level="standard", request={**asked, "ops": ["exp"]})
    asked = {"cases": ["tall"], "ops": [], "allocator": "system"}
    system = write(tmp_path / "d" / "7-standard", started="2026-07-01", level="standard", request=asked)
    write(tmp_path / "d" / "8-standard", started="2026-08-01", level="standard", request={"allocator": "system"})
    assert newest_of_case(tmp_path, "tall", ["exp", "log"], "system") == system
    assert newest_run(tmp_path) == newest
    assert newest_of_case(tmp_path, "tall", ["exp", "log"]) == tall


def test_of_each_op_the_newest_run_with_an_accelerator_counts(tmp_path, monkeypatch):
    with pytest.raises(ResultsError, match="no run with an accelerator"):
        newest_with_accelerators(tmp_path)
    held = {"1": ["exp", "log"], "2": ["log", "tanh"], "3": ["sin"], "4": ["log"]}
    for name, accelerators in (("1", "H100"), ("2", "H100"), ("3", ""), ("4", "H100")):
        write(tmp_path / "c" / name, started=f"2026-0{name}-01", level="standard", accelerators=accelerators)
    summaries = {name: pd.DataFrame({"op": ops}) for name, ops in held.items()}
    monkeypatch.setattr(readme, "read_run", lambda folder: SimpleNamespace(summary=summaries[folder.name]))
    found = {folder.name: ops for folder, ops in newest_with_accelerators(tmp_path).items()}
    assert list(found.items()) == [("4", ["log"]), ("2", ["tanh"]), ("1", ["exp"])]


def test_of_each_op_the_newest_run_at_a_level_counts(tmp_path, monkeypatch):
    with pytest.raises(ResultsError, match=r"no run at level full .*--full makes one"):
        newest_at_level(tmp_path, "full")
    held = {"1": ["exp", "log"], "2": ["log"], "3": ["exp"], "4": ["exp"]}
    for name, facts in (("1", {}), ("2", {}), ("3", {"level": "standard"}), ("4", {"accelerators": "H100"})):
        write(tmp_path / "c" / name, **{"started": f"2026-0{name}-01", "level": "full", **facts})
    summaries = {name: pd.DataFrame({"op": ops}) for name, ops in held.items()}
    monkeypatch.setattr(readme, "read_run", lambda folder: SimpleNamespace(summary=summaries[folder.name]))
    found = {folder.name: ops for folder, ops in newest_at_level(tmp_path, "full").items()}
    assert list(found.items()) == [("2", ["log"]), ("1", ["exp"])]


def test_a_family_has_its_own_part_of_the_newest_run():
    results = Path(__file__).parents[2] / "results"
    folder = newest_run(results)
    header, _, *rows = measured(folder, ["exp", "tanh"]).partition("\n\n")[0].splitlines()
    assert header.split() == measured(folder).splitlines()[0].split()
    assert [row.split()[1] for row in rows] == ["exp", "tanh"]
    assert measured(folder, ["no such op"]) == "The run has none of these ops."


def test_the_physical_limit_stands_beside_what_is_reached_of_it():
    results = Path(__file__).parents[2] / "results"
    text = reached(newest_run(results), ["matmul", "linear"], "memory")
    assert re.match(r"Percent of the physical limit .* The limit: cpu: copies of .* float32 products \d+ GFLOP/s", text)
    _, _, matmul, linear = text.partition("\n\n")[2].splitlines()
    assert (matmul.split()[1], linear.split()[1]) == ("matmul", "linear")
    assert "% (compute)" in matmul


def test_where_the_numbers_are_from_says_how_many_processes_timed_them(tmp_path):
    """As was measured, and not as was asked for: a run may have been stopped."""
    assert "processes" not in where(small_run(tmp_path / "one").folder)
    again = [time_row(op="sigmoid", case="memory", engine="rule:stable", repetition=i) for i in (1, 2)]
    stopped = small_run(tmp_path / "three", *again)
    assert "Rules and autodiff were timed in 1 to 3 processes, one after the other." in where(stopped.folder)
