"""The record of a census, from the command line: written, resumed, and the same every time."""

import json

import pandas as pd
import pytest

from jaxbp.accuracy.census import plan_census, score_chunk
from jaxbp.errors import ResultsError
from jaxbp.measure.machine import describe_machine, now
from jaxbp.measure.plan import find_op
from jaxbp.measure.sweep import Journal, read_journal
from jaxbp.report.census import write_census
from jaxbp.report.readme import readme_census

FILES = ("census.json", "binades.csv", "census.md", "error.png")


def read(folder):
    return json.loads((folder / "census.json").read_text())["records"]


def test_a_census_is_written_resumed_and_repeated_alike(run, tmp_path):
    result = run("census", "tanh", "--dtype", "f16", "--rule", "stable", "--out", tmp_path)
    folder = tmp_path / "census" / "tanh-float16"
    assert result.code == 0
    assert str(folder / "census.md") in result.out
    assert all((folder / name).stat().st_size > 100 for name in FILES)
    first = read(folder)
    assert all(record["inputs"] == sum(record["histogram"]) + record["flushed"] == 2**16 for record in first)
    record = json.loads((folder / "census.json").read_text())
    assert 0 < max(record["yardstick"]["max_ulp"].values()) < 1e-6
    assert "within" in (folder / "census.md").read_text()
    assert {record["engine"] for record in first} >= {"rule:stable", "autodiff"}
    binades = pd.read_csv(folder / "binades.csv")
    assert 0 < len(binades) < 64 * len(first)
    assert (binades["max_ulp"] > 0.5).any()
    assert binades["max_ulp"].max() == pytest.approx(max(record["max_ulp"] for record in first), rel=1e-5)

    # Stopped after some chunks: the rest is swept, and nothing twice.
    journal = folder / Journal.NAME
    lines = journal.read_text().splitlines(keepends=True)
    (folder / "census.json").unlink()
    journal.write_text("".join(lines[:41]) + lines[41][:30])
    assert run("census", "tanh", "--dtype", "f16", "--rule", "stable", "--out", tmp_path).code == 0
    chunks = [row["chunk"] for row in read_journal(folder) if row["kind"] == "chunk"]
    assert sorted(chunks) == list(range(64))
    assert read(folder) == first

    # All was swept, but writing the record failed.
    before = journal.read_text()
    (folder / "census.json").unlink()
    assert run("census", "tanh", "--dtype", "f16", "--rule", "stable", "--out", tmp_path).code == 0
    assert journal.read_text() == before
    assert read(folder) == first


def test_bad_input_is_told(run, tmp_path):
    result = run("census", "sigmod", "--out", tmp_path)
    assert result.code == 2
    assert "did you mean 'sigmoid'" in result.err
    result = run("census", "matmul", "--out", tmp_path)
    assert result.code == 2
    assert "There is no census of matmul" in result.err
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    result = run("census", "exp", "--dtype", "f16", "--out", tmp_path / "file")
    assert result.code == 2
    assert f"{tmp_path / 'file'}" in result.err
    assert "cannot be written" in result.err


def test_a_sample_of_float64_is_written_without_a_warning(tmp_path):
    whole = plan_census(find_op("negative"), "float64")
    # One chunk of every magnitude, and the one of hard points: all of them take long.
    rows = [row for chunk in (0, whole.chunks - 1) for row in score_chunk(whole, chunk)]
    path = write_census(tmp_path, whole, {**describe_machine(), "started": now()}, rows, {})
    assert "a sample of float64" in path.read_text()
    assert all((tmp_path / name).is_file() for name in FILES)


def test_options_have_a_record_of_their_own(run, tmp_path):
    result = run("census", "gelu", "--dtype", "bf16", "--options", "approximate=False", "--out", tmp_path)
    assert result.code == 0
    record = json.loads((tmp_path / "census" / "gelu-approximate=False-bfloat16" / "census.json").read_text())
    assert record["options"] == {"approximate": False}
    result = run("census", "gelu", "--options", "approximate=no", "--out", tmp_path)
    assert result.code == 2
    assert "give name=value with a Python value" in result.err


def test_the_readme_table_reads_the_records_and_names_a_folder_without_any(run, tmp_path):
    with pytest.raises(ResultsError, match="There is no census of float16"):
        readme_census(tmp_path, "float16")
    assert run("census", "tanh", "--dtype", "f16", "--out", tmp_path).code == 0
    text = readme_census(tmp_path, "float16")
    assert "every float16" in text
    assert "| tanh" in text
    assert "jax.grad at" in text
    record = tmp_path / "census" / "tanh-float16" / "census.json"
    record.write_text("{}")
    with pytest.raises(ResultsError, match=str(record)):
        readme_census(tmp_path, "float16")
    record.write_text("{")
    with pytest.raises(ResultsError, match=str(record)):
        readme_census(tmp_path, "float16")
