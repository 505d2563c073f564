"""The report: its cells hold whatever they are given, its failures are listed, its pictures are there."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic import MACHINE, Row, accuracy_row, failure_row, limits_row, small_run, time_row

from jaxbp.errors import ResultsError
from jaxbp.report.markdown import table, write_report
from jaxbp.report.run import LATER, read_run, write_frames, write_machine

NASTY = "a | b \\| c <script>alert(1)</script>\nnext\rline &lt; 5"


def cells(line: str) -> list[str]:
    """A row of a Markdown table as GitHub splits it: a bar ends a cell unless a backslash is before it."""
    # Both readings of two backslashes and a bar must agree, as Markdown parsers do not.
    strict = re.findall(r"((?:\\.|[^|\\])*)\|", line)
    naive = re.split(r"(?<!\\)\|", line)
    assert len(strict) == len(naive) - 1
    return [cell.strip() for cell in strict[1:]]


def test_a_cell_stays_in_its_cell():
    frame = pd.DataFrame({"one": [NASTY, "plain"], "two": ["x", "ends in \\"], "three": ["1", "2"]})
    header, rule, first, second = table(frame).split("\n")
    assert cells(header) == ["one", "two", "three"]
    assert set(rule) <= set("|:-")
    assert len(cells(first)) == 3
    assert cells(first)[1:] == ["x", "1"]
    assert "<" not in first
    assert "\r" not in first
    # What the reader sees is what was meant, as entities show the character.
    assert cells(first)[0].replace("&#124;", "|").replace("&lt;", "<").replace("&amp;", "&") == (
        "a | b \\| c <script>alert(1)</script> next line &lt; 5"
    )
    assert cells(second)[0] == "plain"


def test_numbers_in_text_stay_as_they_are():
    assert cells(table(pd.DataFrame({"ulp": ["1.68e+07", "0.10", "inf", ""]})).split("\n")[2]) == ["1.68e+07"]


def pictures(report: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report)


def test_a_report_says_when_several_processes_timed_the_rules(tmp_path):
    one = write_report(small_run(tmp_path / "one")).read_text()
    again = time_row(op="sigmoid", case="memory", engine="rule:stable", repetition=1)
    two = write_report(small_run(tmp_path / "two", again)).read_text()
    assert "- Processes: 1 to 2, one after the other, timed rules and autodiff" in two
    assert "- Processes" not in one


def test_a_report_says_that_what_was_undecided_went_on(tmp_path):
    run = small_run(tmp_path, time_row(op="sigmoid", case="memory", engine="rule:stable", repetition=1))
    asked = {"request": {"processes": 1, "most_processes": 2}}
    text = write_report(dataclasses.replace(run, machine={**run.machine, **asked})).read_text()
    assert (
        "; where 1 left a default rule undecided, more did, 2 at most, until its interval reached no further than 2%"
        in text
    )
    assert "undecided" not in write_report(run).read_text()


def test_a_report_counts_the_intervals_that_hold_1_where_the_ratio_is_1_for_certain(tmp_path):
    def header(folder, program):
        rows = [
            time_row(mode, samples, op="add", engine=engine, program=program(engine))
            for mode, rule in (("fwd", (50.0, 50.5, 51.0, 51.5, 52.0)), ("fwd_res", (99.0, 99.5, 100.0, 100.5, 101.0)))
            for engine, samples in (("autodiff", (50.0, 50.6, 51.1, 51.4, 51.9)), ("rule:distribute", rule))
        ]
        return write_report(small_run(tmp_path / folder, *rows)).read_text()

    same = header("same", lambda engine: "a")
    assert (
        "- Intervals: in 2 cells a rule and autodiff are one program, so that the ratio is 1: 1 of the intervals"
        in same
    )
    assert "hold it, 50 %, where 95 % should" in same
    assert "- Intervals" not in header("other", lambda engine: engine)


def test_the_report_of_a_run(tmp_path):
    run = small_run(tmp_path)
    path = write_report(run)
    assert path == tmp_path / "report.md"
    report = path.read_text()
    for fact in (
        "Test CPU, 2 cores, 16 GiB",
        "jax 0.10.2",
        "Commit: 012345678901",
        "quiet",
        "JAX 1.0 µs, NumPy 1.0 µs",
    ):
        assert fact in report
    assert "Failed" not in report
    # Times, errors and verdicts of the synthetic run: the rule takes half of autodiff's time.
    assert "0.50 [0.50, 0.50] faster" in report
    assert "| sigmoid" in report
    assert "| matmul" in report
    assert len(pictures(report)) == 2
    for name in pictures(report):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_limits_are_in_the_header_and_beside_the_times(tmp_path):
    run = small_run(tmp_path, limits_row(products=[[512, 1e6]]))
    report = write_report(run).read_text()
    assert "- Physical limit: n/a: not measured in this run\n" in report  # As machine.json says nothing of it.
    assert report.count("Percent of the physical limit (fwd_bwd):\n") == 2
    assert "% (compute)" in report
    limits = {"device": "cpu", "dtype": "float32", "copies": [[2**27, 12e9]], "products": [[512, 2e11]], "reason": ""}
    write_machine(tmp_path, {**MACHINE, "limits": [limits]})
    report = write_report(read_run(tmp_path)).read_text()
    assert "- Physical limit: cpu: copies of 128 MiB 12 GB/s; float32 products 200 GFLOP/s\n" in report


def test_a_run_of_an_earlier_version_says_what_it_did_not_measure(tmp_path):
    small_run(tmp_path)
    path = tmp_path / "summary.csv"
    pd.read_csv(path).drop(columns=list(LATER)).to_csv(path, index=False)
    report = write_report(read_run(tmp_path)).read_text()
    assert report.count("Percent of the physical limit (fwd_bwd): n/a\n") == 2
    memory = report[report.index("### float32: memory") : report.index("### float32: operations")]
    assert [cells(line)[2:] for line in memory.split("\n") if line.startswith("| sigmoid")] == [
        [engine, "n/a", "n/a", "n/a", "n/a"] for engine in ("rule:stable", "autodiff")
    ]


def test_tables_have_as_many_cells_as_columns(tmp_path):
    report = write_report(small_run(tmp_path, failure_row(NASTY, op="exp"))).read_text()
    lines = report.split("\n")
    tables = 0
    for above, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|") and above.startswith("|"):
            assert len(cells(line)) == len(cells(above)), line
        tables += line.startswith("|") and not above.startswith("|")
    assert tables >= 9


def test_failures_are_listed_first(tmp_path):
    failures = [failure_row(f"reason {i} " + NASTY, op=op) for i, op in enumerate(("exp", "tanh"))]
    report = write_report(small_run(tmp_path, *failures)).read_text()
    section = report[report.index("## Failed: 2") : report.index("## How to read this")]
    rows = [cells(line) for line in section.split("\n") if line.startswith("| ")][1:]
    assert [row[:4] for row in rows] == [[op, "small", "float32", "autodiff"] for op in ("exp", "tanh")]
    assert [row[4].startswith(f"reason {i} a &#124; b") for i, row in enumerate(rows)] == [True, True]


def test_a_run_that_failed_throughout_has_a_report(tmp_path):
    write_machine(tmp_path, MACHINE)
    run = write_frames(tmp_path, [failure_row("no", op=op) for op in ("sigmoid", "matmul")])
    report = write_report(run).read_text()
    assert "## Failed: 2" in report
    assert all((tmp_path / name).exists() for name in pictures(report))


def test_a_run_that_measured_nothing_has_a_report(tmp_path):
    write_machine(tmp_path, MACHINE)
    report = write_report(write_frames(tmp_path, [])).read_text()
    assert report.startswith("# Hand-written gradients")
    assert pictures(report) == []


def test_accuracy_without_times_has_a_report(tmp_path):
    """As after an interrupt within the first task."""
    write_machine(tmp_path, MACHINE)
    write_report(write_frames(tmp_path, [accuracy_row("value"), accuracy_row("ct_x")]))


def test_each_dtype_has_its_sections_and_pictures(tmp_path):
    other: Row = {"op": "sigmoid", "engine": "rule:stable", "dtype": "bfloat16"}
    report = write_report(small_run(tmp_path, time_row(**other), accuracy_row(**other))).read_text()
    assert sum(line.startswith("## bfloat16") for line in report.split("\n")) >= 2
    names = pictures(report)
    assert len(names) == len(set(names)) == 3
    assert all((tmp_path / name).exists() for name in names)


def test_a_report_elsewhere_has_its_pictures_beside_it(tmp_path):
    run = small_run(tmp_path / "run")
    path = write_report(run, tmp_path / "new" / "folder" / "name.md")
    assert path == tmp_path / "new" / "folder" / "name.md"
    names = pictures(path.read_text())
    assert names
    assert all(name.startswith("name-") and (path.parent / name).exists() for name in names)
    assert not (tmp_path / "run" / "report.md").exists()


@pytest.mark.parametrize("blocked", ["report.md", "report-float32-error-against-time.png"])
def test_a_report_that_cannot_be_written_is_a_sentence(tmp_path: Path, blocked: str):
    run = small_run(tmp_path)
    (tmp_path / blocked).mkdir()
    with pytest.raises(ResultsError) as error:
        write_report(run)
    assert str(error.value) == f"{tmp_path / blocked} cannot be written: Is a directory."
