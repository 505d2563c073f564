"""The record of the measurements' proof: shares by hand, what is not met as sentences, an interrupted run written."""

import contextlib
import json

import pandas as pd
import pytest

from jaxbp.cli import checks
from jaxbp.measure.proof import SAME, Comparison
from jaxbp.report import proof
from jaxbp.report.proof import COMPARISON_COLUMNS, overview, readme_proof, record_proof, unmet


def row(planted=SAME, verdict="same", ratio=1.0, n=1000):
    numbers = dict.fromkeys(("time_us", "rounds", "interrupted", "seconds"), 1.0)
    said = {"planted": planted, "op": "add", "n": n, "run": 0, "verdict": verdict, "ratio": ratio}
    return {name: {**numbers, **said, "ratio_low": 0.9, "ratio_high": 1.1}[name] for name in COMPARISON_COLUMNS}


def frame(*rows):
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


@contextlib.contextmanager
def silent(total):
    yield lambda name: None


def test_what_holds_is_no_sentence():
    same = [row() for _ in range(16)] + [row(verdict="cannot say") for _ in range(4)]
    slower = [row("a tenth more", "slower", 1.1) for _ in range(19)] + [row("a tenth more", "cannot say", 1.1)]
    twice = [row("twice", "slower", 2.05)]
    assert unmet(frame(*same, *slower, *twice)) == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [row()] * 9 + [row(verdict="slower")],
            "the same: faster, slower in 10 % of 10 comparisons, asked at most 5 %",
        ),
        (
            [row()] * 7 + [row(verdict="cannot say")] * 3,
            "the same: same in 70 % of 10 comparisons, asked at least 80 %",
        ),
        ([row("a tenth more", "same", 1.1)], "a tenth more: slower in 0 % of 1 comparisons, asked at least 95 %"),
        (
            [row("twice", "slower", 1.8), row("twice", "slower", 2.0)],
            "twice: the ratio is off by up to 0.20, asked 0.1",
        ),
        (
            [row("twice", "slower", float("nan"))],
            "twice: the ratio is off by up to nan, asked 0.1",
        ),
    ],
)
def test_what_does_not_hold_is_a_sentence(rows, sentence):
    assert unmet(frame(*rows)) == [sentence]


def test_the_table_counts_verdicts_by_kind_and_size():
    table = overview(frame(row(), row(verdict="cannot say"), row(n=10), row("twice", "slower", 2.0)))
    assert table[["planted", "entries", "comparisons", "same", "cannot say", "slower"]].values.tolist() == [
        [SAME, "1,000", 2, 1, 1, 0],
        [SAME, "10", 1, 1, 0, 0],
        ["twice", "1,000", 1, 0, 0, 1],
    ]


def test_the_record_holds_what_was_compared_before_an_interruption(tmp_path, monkeypatch):
    def stopped(asked, progress):
        yield row()
        raise KeyboardInterrupt

    assert readme_proof(tmp_path) == "There is no record of the measurements' proof yet."
    monkeypatch.setattr(proof, "prove", stopped)
    with pytest.raises(KeyboardInterrupt):
        record_proof(tmp_path, [Comparison(SAME, "add", 10, 0)] * 2, silent)
    (written,) = tmp_path.glob("selftest-measure/*/comparisons.csv")
    assert len(pd.read_csv(written)) == 1
    assert "the same" in readme_proof(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_sentence_before_anything_is_compared(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(proof, "prove", lambda comparisons, progress: iter(asked.append(comparisons) or [row()]))
    (tmp_path / "file").write_text("")
    result = run("selftest", "--measure", "--out", tmp_path / "file")
    assert result.code == 2
    assert "cannot be written" in result.err
    assert not asked


@pytest.mark.parametrize(("verdict", "code"), [("same", 0), ("faster", 1)])
def test_the_command(run, tmp_path, monkeypatch, verdict, code):
    monkeypatch.setattr(proof, "prove", lambda asked, progress: iter([row(verdict=verdict)]))
    monkeypatch.setattr(checks, "comparisons", lambda: [Comparison(SAME, "add", 10, 0)])
    result = run("selftest", "--measure", "--out", tmp_path, "--json")
    assert result.code == code, result.err
    found = json.loads(result.out)
    assert len(found["comparisons"]) == 1
    assert bool(found["unmet"]) == bool(code)
    assert run("selftest", "--measure", "--out", tmp_path).code == code
