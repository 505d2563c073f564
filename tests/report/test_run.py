"""A run's folder: what is written is read back, and what is broken is a sentence that names the file."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from synthetic import MACHINE, about, accuracy_row, failure_row, small_run, time_row

from jaxbp.errors import ResultsError
from jaxbp.measure.sweep import Journal
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS
from jaxbp.report.run import LATER, read_machine, read_run, write_frames, write_machine


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    written = small_run(tmp_path, failure_row("no | way", op="exp"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "machine.json",
        "summary.csv",
        "accuracy.csv",
        "samples.parquet",
    }
    run = read_run(tmp_path)
    assert run.folder == tmp_path
    assert run.machine == MACHINE
    pd.testing.assert_frame_equal(run.summary, written.summary)
    pd.testing.assert_frame_equal(run.accuracy, written.accuracy)
    assert list(run.summary.columns) == list(SUMMARY_COLUMNS)
    assert list(run.accuracy.columns) == list(ACCURACY_COLUMNS)
    cell = run.summary.query("op == 'matmul' and case == 'memory' and engine == 'autodiff'").iloc[0]
    assert cell["time_us"] == pytest.approx(2 * 2**22 * 1.04, rel=1e-5)
    assert cell["machine"] == "test-2-core"
    failed = run.summary[run.summary["status"] == "failed"].iloc[0]
    assert (failed["reason"], failed["verdict"]) == ("no | way", "")


def test_samples_are_in_the_parquet(tmp_path):
    run = small_run(tmp_path)
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    assert len(samples) == run.summary["rounds"].sum() == 2 * 2 * 4 * 9
    medians = samples.groupby(["op", "case", "engine"])["time_us"].median()
    cells = run.summary.set_index(["op", "case", "engine"])["time_us"]
    assert medians.to_dict() == pytest.approx(cells.to_dict(), rel=1e-5)


def test_text_stays_text_and_infinities_stay_infinite(tmp_path):
    write_machine(tmp_path, MACHINE)
    run = write_frames(
        tmp_path,
        [
            time_row(case="123"),
            accuracy_row(case="123", max_ulp=math.inf, worst_actual=math.nan, worst_exact=-math.inf),
            accuracy_row("value", case="123", max_ulp=math.nan),
        ],
    )
    # All its digits, and no number.
    assert run.summary["commit"].tolist() == ["012345678901"]
    assert run.summary["case"].tolist() == ["123"]
    # A column that is empty throughout.
    assert run.summary["reason"].tolist() == [""]
    error, value = (row for _, row in run.accuracy.iterrows())
    assert error["max_ulp"] == math.inf
    assert error["worst_exact"] == -math.inf
    assert math.isnan(error["worst_actual"])
    assert math.isnan(value["max_ulp"])


def test_frames_come_from_the_journal_and_count_a_repeated_task_once(tmp_path):
    write_machine(tmp_path, MACHINE)
    journal = Journal(tmp_path)
    begun = {**about(), "kind": "task", "engines": ["autodiff"]}
    for row in (begun, time_row(samples_us=[9.0]), accuracy_row(), begun, time_row(samples_us=[5.0]), accuracy_row()):
        journal.append(row)
    journal.close()
    run = write_frames(tmp_path)
    assert run.summary["time_us"].tolist() == [5.0]
    assert len(run.accuracy) == 1


def test_a_run_of_an_earlier_version_can_be_read(tmp_path):
    small_run(tmp_path)
    path = tmp_path / "summary.csv"
    pd.read_csv(path).drop(columns=list(LATER)).to_csv(path, index=False)
    run = read_run(tmp_path)
    assert set(LATER) <= set(SUMMARY_COLUMNS)
    assert run.summary[[name for name in LATER if name != "bound"]].isna().all(axis=None)
    assert set(run.summary["bound"]) == {""}
    assert not set(LATER) & set(run.accuracy.columns)


def test_a_run_without_rows_can_be_read(tmp_path):
    write_machine(tmp_path, MACHINE)
    run = write_frames(tmp_path, [])
    assert (len(run.summary), len(run.accuracy)) == (0, 0)


@pytest.mark.parametrize("name", ["machine.json", "summary.csv", "accuracy.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    small_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ResultsError) as error:
        read_run(tmp_path)
    assert str(error.value) == f"{tmp_path / name} cannot be read: No such file or directory."


def cut(text: str, part: float) -> str:
    return text[: int(len(text) * part)]


@pytest.mark.parametrize("name", ["summary.csv", "accuracy.csv"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: cut(text, 0.7),
        lambda text: text[:-1],
        lambda text: text[:-9],
        # Within a quoted cell.
        lambda text: text[: text.rindex('"')],
        lambda text: text + "one,too,short\n" + text[-300:-1],
        lambda text: text + "," * 100 + "\n",
        lambda text: "a,b\n1,2\n",
        lambda text: text.replace("op_version", "version", 1),
        lambda text: text.replace(",1024,", ",many,", 1),
        lambda text: "\udcff\udcfe" + text,
    ],
    ids=[
        *("empty", "truncated", "no-end", "in-the-last-line", "in-quotes", "short-line", "long-line"),
        *("foreign", "no-column", "text-for-number", "binary"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, spoil):
    small_run(tmp_path)
    path = tmp_path / name
    path.write_text(spoil(path.read_text()), errors="surrogateescape")
    with pytest.raises(ResultsError) as error:
        read_run(tmp_path)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", json.dumps({**MACHINE, "noise": None})[:-20], "\x00"])
def test_a_broken_machine_is_named(tmp_path, text):
    small_run(tmp_path)
    (tmp_path / "machine.json").write_text(text)
    for read in (read_run, read_machine, write_frames):
        with pytest.raises(ResultsError) as error:
            read(tmp_path) if read is not write_frames else write_frames(tmp_path, [])
        assert str(error.value).startswith(f"{tmp_path / 'machine.json'} cannot be read: it is broken (")


def test_a_machine_that_lacks_a_fact_says_which(tmp_path):
    write_machine(tmp_path, {name: fact for name, fact in MACHINE.items() if name != "versions"})
    with pytest.raises(ResultsError, match=r"it lacks versions"):
        read_machine(tmp_path)


@pytest.mark.parametrize("name", ["summary.csv", "accuracy.csv", "samples.parquet"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    write_machine(tmp_path, MACHINE)
    (tmp_path / name).mkdir()
    with pytest.raises(ResultsError) as error:
        write_frames(tmp_path, [time_row()])
    assert str(error.value).startswith(f"{tmp_path / name} cannot be written: ")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with pytest.raises(ResultsError) as error:
        write_machine(folder, MACHINE)
    assert str(error.value) == f"{folder / 'machine.json'} cannot be written: Not a directory."
