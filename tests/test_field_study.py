"""Tests of the field study: its catalog is well formed, its tables say what its rows do, and a rule of jax passes."""

import csv
import math
from pathlib import Path

import jax
import pytest

from bench import field_study
from bench.field import report
from bench.field.entry import JUDGEMENTS, Entry, Verified, values

#: The catalog is of the versions in bench/field-requirements.txt; newer ones deprecate some of it.
pytestmark = pytest.mark.filterwarnings("ignore:jax.experimental.pallas:DeprecationWarning")

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "field"
with (RESULTS / "summary.csv").open() as rows:
    STUDIED = next(row["version"] for row in csv.DictReader(rows) if row["package"] == "jax")
MACHINE = {"cpu": "AMD EPYC", "cores": 2, "python": "3.12", "date": "2026-01-02", "level": "quick", "limit": 60}


def finding(kind, fault, text, judgement="", why="", got=None, true=None):
    return {
        "kind": kind,
        "argument": "args[0]",
        "fault": fault,
        "text": text,
        "judgement": judgement,
        "why": why,
        "got": None,
        "expected": None,
        "confirmed_got": got,
        "confirmed_true": true,
    }


def row(verdict, *findings, dtype="float32", function="f|g"):
    return {
        "package": "jax",
        "version": "1.0",
        "function": function,
        "dtype": dtype,
        "commit": "abc",
        "rules": ["f jax/f.py:1"],
        "verdict": verdict,
        "seconds": 1.25,
        "findings": list(findings),
    }


LOST = finding(
    "precision", False, "The cotangent of args[0] has lost digits: 0 of 24 bits are right (inputs as given)."
)
KINK = finding("kink", False, "A kink.")
WRONG = finding("gradient", True, "It is 2.", "wrong", "No *.", 2.0, 1.0)
MEANT = finding("gradient", True, "It is 2.", "by design", "As documented.")
SLOW = "no answer within 60 s"


@pytest.mark.parametrize("module", field_study.MODULES)
def test_catalog_is_well_formed(module):
    try:
        entries = field_study.catalog(module)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed here")
    names = [(entry.package, entry.name) for entry in entries]
    assert len(set(names)) == len(names)
    for entry in entries:
        assert entry.why, entry.name
        assert entry.dtypes, entry.name
        said = [(v.kind, v.argument) for v in entry.verified]
        assert len(set(said)) == len(said), entry.name


def test_jax_relu_is_right_and_its_rule_is_named():
    entry = next(entry for entry in field_study.catalog("of_jax") if entry.name == "jax.nn.relu")
    row = field_study.examine(entry, "float32", "quick")
    assert row["verdict"] == "right"
    assert row["rules"][0].startswith("relu jax/_src/nn/functions.py:")


@pytest.mark.skipif(jax.__version__ != STUDIED, reason=f"the study is of jax {STUDIED}: a newer one has mended some")
def test_confirmations_of_jax_show_the_error():
    said = [
        v for entry in field_study.catalog("of_jax") for v in entry.verified if v.judgement in ("wrong", "imprecise")
    ]
    assert said
    for v in said:
        assert v.confirm, v.why
        got, expected = v.confirm()
        assert not math.isclose(got, expected, rel_tol=1e-4), v.why


def test_findings_are_judged_by_kind_and_argument():
    said = (
        Verified("gradient", "args[1]", "by design", "Another argument."),
        Verified("gradient", "args[0]", "wrong", "Twice.", lambda: (2.0, 1.0)),
    )
    entry = Entry("jax", "f", abs, (values(1),), "a test", verified=said)
    (found, note) = field_study.judged(entry, row("wrong", WRONG, KINK))["findings"]
    assert (found["judgement"], found["why"]) == ("wrong", "Twice.")
    assert (found["confirmed_got"], found["confirmed_true"]) == (2.0, 1.0)
    assert (note["judgement"], note["confirmed_got"]) == ("", None)


def sections(text):
    """A report's sections by heading; what comes first is under no heading."""
    return {part.partition("\n")[0]: part for part in ("\n" + text).split("\n### ")}


def test_report_says_what_was_run():
    text = report.report([row("right"), row("right", dtype="bfloat16"), row("wrong", WRONG, function="h")], MACHINE)
    assert text.startswith("`check_vjp` at level quick looked at 2 public functions with custom rules of 1 packages, ")
    assert "in 3 checks of at most 60 s each. It calls 2 right and 1 wrong; 0 could not be checked." in text
    assert "2026-01-02, AMD EPYC, 2 cores, Python 3.12, commit abc; jax 1.0." in text


def test_report_tells_faults_by_judgement_and_escapes_markdown():
    found = sections(report.report([row("wrong", WRONG, MEANT, KINK), row("wrong", WRONG, dtype="bfloat16")], MACHINE))
    line = "| `jax: f\\|g` | float32, bfloat16 | args[0] | wrong | No \\*. | 2 | 1 |"
    assert line in found["Wrong"]
    assert "As documented." in found["By design"]
    assert "As documented." not in found["Wrong"]
    assert "None." in found["Imprecise"]
    assert "None." in found["False alarms"]
    assert not [heading for heading, part in found.items() if "A kink" in part]


def test_report_tells_where_digits_are_lost_and_what_could_not_be_checked():
    found = sections(report.report([row("right", LOST, KINK), row(SLOW)], MACHINE))
    assert "0 of 24 bits are right. |" in found["Right, with a note"]
    assert f"{SLOW}." in found["Could not be checked"]
    assert "| right | args[0] | 1.2 |" in found["Every function"]
    assert "| not checked |" in found["Every function"]


def test_tables_have_a_row_a_check_and_a_row_a_finding(tmp_path):
    report.write([row("wrong", WRONG, KINK)], MACHINE, tmp_path)
    findings = list(csv.DictReader((tmp_path / report.FINDINGS).read_text().splitlines()))
    summary = list(csv.DictReader((tmp_path / report.SUMMARY).read_text().splitlines()))
    assert [f["kind"] for f in findings] == ["gradient", "kink"]
    assert [(s["verdict"], s["verified"], s["findings"]) for s in summary] == [("wrong", "wrong", "2")]


@pytest.fixture(scope="module")
def recorded_faults():
    with (RESULTS / report.FINDINGS).open(encoding="utf-8") as file:
        return [found for found in csv.DictReader(file) if found["fault"] == "True"]


def test_every_recorded_fault_is_verified_and_none_is_a_false_alarm(recorded_faults):
    assert recorded_faults
    told = {judgement for judgement in JUDGEMENTS if judgement != "false alarm"}
    assert not [found["function"] for found in recorded_faults if found["judgement"] not in told]


def test_every_recorded_wrong_rule_is_confirmed_by_numbers(recorded_faults):
    wrong = [found for found in recorded_faults if found["judgement"] == "wrong"]
    assert wrong
    for found in wrong:
        got, true = float(found["confirmed_got"]), float(found["confirmed_true"])
        assert not math.isclose(got, true, rel_tol=1e-2), found["function"]
