"""The tables of the field study: every finding, every function, and a report in Markdown."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.field.entry import JUDGEMENTS

FINDINGS, SUMMARY, REPORT = "findings.csv", "summary.csv", "report.md"
FINDING_COLUMNS = ("package", "version", "function", "dtype", "kind", "argument", "fault", "judgement", "why")
FINDING_COLUMNS += ("got", "expected", "confirmed_got", "confirmed_true", "text")
SUMMARY_COLUMNS = ("package", "version", "function", "dtype", "rules", "verdict", "findings", "verified", "lost_digits")
SUMMARY_COLUMNS += ("seconds", "commit")
#: What is told of a rule that is no fault.
NOTES = ("precision", "witness")
NOTES_ARE = (
    "Where a cotangent is as right as autodiff of the function's own code, but has lost digits that another formula "
    "could keep; and where that code's derivative is not the slope of its values."
)
MEANINGS = {**JUDGEMENTS, "not verified": "nobody has worked it out yet"}
#: By a section's heading, the judgements whose faults it lists.
SECTIONS = {
    "Wrong": ("wrong", "not verified"),
    "Imprecise": ("imprecise",),
    "By design": ("by design", "convention", "approximation"),
    "False alarms": ("false alarm",),
}
Row = dict[str, Any]


def key(row: Row) -> tuple[str, str, str]:
    """What a row is about."""
    return row["package"], row["function"], row["dtype"]


def judgement(finding: Row) -> str:
    """What a finding turned out to be."""
    return finding["judgement"] or "not verified"


def _worth_telling(finding: Row) -> bool:
    """Whether it is a note that is told: of lost digits, or one that turned out to be more."""
    return not finding["fault"] and (finding["kind"] in NOTES or bool(finding["judgement"]))


def write(rows: Sequence[Row], machine: Row, out: Path) -> None:
    """The three files."""
    _write_csv(out / FINDINGS, FINDING_COLUMNS, ({**row, **f} for row in rows for f in row["findings"]))
    _write_csv(out / SUMMARY, SUMMARY_COLUMNS, map(_summary, rows))
    (out / REPORT).write_text(report(rows, machine), encoding="utf-8")


def _summary(row: Row) -> Row:
    return {
        **row,
        "rules": "; ".join(row["rules"]),
        "findings": len(row["findings"]),
        "verified": "; ".join(dict.fromkeys(judgement(f) for f in row["findings"] if f["fault"])),
        "lost_digits": "; ".join(dict.fromkeys(f["argument"] for f in row["findings"] if f["kind"] == "precision")),
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(rows: Sequence[Row], machine: Row) -> str:
    """What was run; what is wrong, imprecise, by design; what could not be checked; every function."""
    unchecked = [row for row in rows if row["verdict"] not in ("right", "wrong")]
    parts = [_overview(rows, unchecked, machine)]
    for heading, judgements in SECTIONS.items():
        found = [(row, f) for row in rows for f in row["findings"] if f["fault"] and judgement(f) in judgements]
        meanings = [f"*{j}*: {MEANINGS[j]}" for j in judgements if j in {judgement(f) for _, f in found}]
        parts += [f"### {heading}", f"{'; '.join(meanings)}." if meanings else "None.", _faults(found)]
    notes = [(row, f) for row in rows for f in row["findings"] if _worth_telling(f)]
    parts += [
        "### Right, with a note",
        NOTES_ARE,
        _grouped(
            ("function", "dtype", "argument", "note", "by hand", "got", "true"),
            notes,
            lambda f: (
                _plain(_first_sentence(f["text"])),
                _plain(f"{f['judgement']}: {f['why']}" if f["judgement"] else ""),
                _number(f["confirmed_got"]),
                _number(f["confirmed_true"]),
            ),
        ),
        "### Could not be checked",
        _unchecked(unchecked),
        "### Every function",
        _table(("function", "dtype", "rule", "verdict", "digits are lost in", "seconds"), map(_line, rows)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(rows: Sequence[Row], unchecked: Sequence[Row], machine: Row) -> str:
    verdicts = [row["verdict"] for row in rows]
    functions = len({key(row)[:2] for row in rows})
    packages = dict.fromkeys(f"{row['package']} {row['version']}" for row in rows)
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return (
        f"`check_vjp` at level {machine['level']} looked at {functions} public functions with custom rules of "
        f"{len(packages)} packages, in {len(rows)} checks of at most {machine['limit']} s each. It calls "
        f"{verdicts.count('right')} right and {verdicts.count('wrong')} wrong; {len(unchecked)} could not be checked. "
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"commit {commits}; {', '.join(packages)}."
    )


def _faults(found: Sequence[tuple[Row, Row]]) -> str:
    columns = ("function", "dtype", "argument", "judgement", "why", "got", "true")
    return _grouped(
        columns,
        found,
        lambda f: (
            judgement(f),
            _plain(f["why"] or _first_sentence(f["text"])),
            _number(f["confirmed_got"]),
            _number(f["confirmed_true"]),
        ),
    )


def _unchecked(rows: Sequence[Row]) -> str:
    """By its reason what could not be checked."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        reason = _first_sentence(row["verdict"].removeprefix("cannot be checked: "))
        reasons.setdefault(reason, []).append(row)
    return _table(
        ("reason", "functions"),
        ((_plain(reason), ", ".join(dict.fromkeys(map(_name, group)))) for reason, group in reasons.items()),
    )


def _grouped(columns: Sequence[str], found: Sequence[tuple[Row, Row]], told: Callable[[Row], tuple[str, ...]]) -> str:
    """A table of findings, in which those of a function that are told alike share a line."""
    groups: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
    for row, finding in found:
        groups.setdefault((_name(row), *told(finding)), []).append((row, finding))
    lines = (
        (
            name,
            ", ".join(dict.fromkeys(row["dtype"] for row, _ in group)),
            ", ".join(dict.fromkeys(finding["argument"] for _, finding in group)),
            *texts,
        )
        for (name, *texts), group in groups.items()
    )
    return _table(columns, lines)


def _line(row: Row) -> tuple[str, ...]:
    rule = _code(row["rules"][0]) if row["rules"] else ""
    summary = _summary(row)
    verdict = row["verdict"] if row["verdict"] in ("right", "wrong") else "not checked"
    if summary["verified"]:
        verdict = f"differs: {summary['verified']}"
    return _name(row), row["dtype"], rule, verdict, summary["lost_digits"], f"{row['seconds']:.1f}"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in rows]
    return "\n".join([f"| {' | '.join(header)} |", "|" + " --- |" * len(header), *lines]) if lines else ""


def _name(row: Row) -> str:
    return _code(f"{row['package']}: {row['function']}")


def _code(plain: str) -> str:
    return "`" + plain.replace("|", "\\|") + "`"


def _first_sentence(text: str) -> str:
    """Without what follows: the inputs, the likeness, JAX's advice."""
    return re.split(r"(?<=[a-z)])\. | \(inputs | The error occurred", text)[0].removesuffix(".") + "."


def _plain(text: str) -> str:
    text = text.replace("`", "")
    for character in "\\*_<|[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.6g}"
