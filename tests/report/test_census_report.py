"""The record of a census, from the command line: written, resumed, and the same every time."""

import json

import pandas as pd
import pytest

from jaxbp.measure.sweep import Journal, read_journal

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
    assert {record["engine"] for record in first} >= {"rule:stable", "autodiff"}
    binades = pd.read_csv(folder / "binades.csv")
    assert len(binades) == 64 * len(first)
    assert binades["max_ulp"].max() == pytest.approx(max(record["max_ulp"] for record in first), rel=1e-5)

    # Stopped after some chunks: the rest is swept, and nothing twice.
    journal = folder / Journal.NAME
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:41]) + lines[41][:30])
    assert run("census", "tanh", "--dtype", "f16", "--rule", "stable", "--out", tmp_path).code == 0
    chunks = [row["chunk"] for row in read_journal(folder) if row["kind"] == "chunk"]
    assert sorted(chunks) == list(range(64))
    assert read(folder) == first


def test_bad_input_is_told(run, tmp_path):
    result = run("census", "sigmod", "--out", tmp_path)
    assert result.code == 2
    assert "did you mean 'sigmoid'" in result.err
    result = run("census", "matmul", "--out", tmp_path)
    assert result.code == 2
    assert "A census of matmul in float32 would not end" in result.err
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    result = run("census", "exp", "--dtype", "f16", "--out", tmp_path / "file")
    assert result.code == 2
    assert f"{tmp_path / 'file'}" in result.err
    assert "cannot be written" in result.err
