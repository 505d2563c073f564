"""The README's tables come from the newest run, among records of other kinds."""

import json
from pathlib import Path

import pytest

from jaxbp.errors import ResultsError
from jaxbp.report.readme import measured, newest_run


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
    gpu = write(tmp_path / "c" / "5-standard", started="2026-05-01", level="standard", accelerators="NVIDIA H100")
    assert newest_run(tmp_path) == newest
    assert newest_run(tmp_path, accelerated=True) == gpu


def test_a_family_has_its_own_part_of_the_newest_run():
    results = Path(__file__).parents[2] / "results"
    header, _, *rows = measured(results, ["exp", "tanh"]).partition("\n\n")[0].splitlines()
    assert header.split() == measured(results).splitlines()[0].split()
    assert [row.split()[1] for row in rows] == ["exp", "tanh"]
    assert measured(results, ["no such op"]) == "The newest run has none of these ops."
