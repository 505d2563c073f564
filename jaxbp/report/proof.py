"""The record of the measurements' proof: every comparison, what was said of it, and whether that is good enough."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.measure.machine import computer, describe_machine, now
from jaxbp.measure.proof import SAME, Comparison, prove
from jaxbp.report import tables
from jaxbp.report.markdown import table
from jaxbp.report.run import naming, newest_record, write_machine
from jaxbp.report.selftest import Progress

Row = dict[str, Any]

FOLDER = "selftest-measure"
COMPARISONS = "comparisons.csv"
REPORT = "report.md"

#: What each column of `comparisons.csv` means.
COMPARISON_COLUMNS = {
    "planted": "what one side has more to do than the other",
    "op": "the op whose value and gradient are computed; for planted work in a loop",
    "n": "entries of each array",
    "run": "which repetition",
    "time_us": "median time of a call of the other side, microseconds",
    "ratio": "time of the one over that of the other, as in the sweep",
    "ratio_low": "lower end of its 95 % bootstrap interval",
    "ratio_high": "upper end of it",
    "verdict": "faster, same, slower or cannot say",
    "rounds": "samples taken of each side",
    "interrupted": "share of the rounds in which the process waited for a core, which are left out",
    "seconds": "what the comparison took, compile included",
}

#: What has to hold of the verdicts on each kind: which of them, and the least and the most of their share.
TARGETS = {
    SAME: ((("faster", "slower"), 0.0, 0.05), (("same",), 0.8, 1.0)),
    "a tenth more": ((("slower",), 0.95, 1.0),),
    "twice": ((("slower",), 0.95, 1.0),),
}
#: How far from 2 the ratio of twice the work may be, in every run.
TWICE = 0.05


def record_proof(results: Path, asked: Sequence[Comparison], progress: Progress) -> tuple[Path, pd.DataFrame]:
    """Compare, write table and report into the folder of this machine; the report's path and the comparisons."""
    machine = {**describe_machine(), "started": now()}
    folder = results / FOLDER / machine["name"]
    rows: list[Row] = []
    # First of all: a folder that cannot be written would cost half an hour of comparisons.
    write_machine(folder, machine)
    try:
        with progress(len(asked)) as advance:
            for row in prove(asked, progress=advance):
                rows.append(row)  # noqa: PERF402 - what was measured before an interruption is written, too
    finally:
        frame = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
        with naming(folder / COMPARISONS, "written"):
            frame.to_csv(folder / COMPARISONS, index=False, float_format="%.5g")
        with naming(folder / REPORT, "written"):
            (folder / REPORT).write_text(_report(machine, frame))
    return folder / REPORT, frame


def unmet(frame: pd.DataFrame) -> list[str]:
    """What has to hold and does not, as sentences.

    >>> unmet(pd.DataFrame({"planted": [SAME] * 5, "verdict": ["same"] * 4 + ["faster"], "ratio": [1.0] * 4 + [0.9]}))
    ['the same: faster, slower in 20 % of 5 comparisons, asked at most 5 %']
    """
    sentences = []
    for planted, own in frame.groupby("planted", sort=False):
        for verdicts, least, most in TARGETS[str(planted)]:
            share = own["verdict"].isin(verdicts).mean()
            if not least <= share <= most:
                asked = f"at least {least:.0%}" if share < least else f"at most {most:.0%}"
                found = f"{planted}: {', '.join(verdicts)} in {share:.0%} of {len(own)} comparisons, asked {asked}"
                sentences.append(found.replace("%", " %"))
        if planted == "twice" and not (off := own["ratio"] - 2).abs().max() <= 2 * TWICE:
            sentences.append(f"twice: the ratio is off by up to {off.abs().max():.2f}, asked {2 * TWICE:g}")
    return sentences


def overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per kind and size, as text."""
    rows = []
    for (planted, n), own in frame.groupby(["planted", "n"], sort=False):
        said = own["verdict"].value_counts()
        low, high = own["ratio"].quantile([0.05, 0.95])
        rows.append(
            {
                "planted": planted,
                "entries": f"{n:,}",
                "comparisons": len(own),
                **{verdict: int(said.get(verdict, 0)) for verdict in ("faster", "same", "slower", "cannot say")},
                "ratio, median and 90 % of them": f"{own['ratio'].median():.3f} [{low:.3f}, {high:.3f}]",
                "lowest and highest": f"{own['ratio'].min():.3f}, {own['ratio'].max():.3f}",
                "interrupted": f"{own['interrupted'].mean():.0%}",
                "seconds each": tables.number(own["seconds"].median()),
            }
        )
    return pd.DataFrame(rows)


def readme_proof(results: Path) -> str:
    """The table of the newest record on any machine, and where it comes from, as Markdown."""
    record = newest_record(results, FOLDER)
    if record is None:
        return "There is no record of the measurements' proof yet."
    folder, machine = record
    with naming(folder / COMPARISONS, "read"):
        frame = pd.read_csv(folder / COMPARISONS)
    return f"{table(overview(frame))}\n\n{_where(machine)}"


def _where(machine: Row) -> str:
    return (
        f"Measured {machine['started'][:10]} on {computer(machine)}, "
        f"jax {machine['versions'].get('jax')}, commit {machine['commit']}."
    )


def _report(machine: Row, frame: pd.DataFrame) -> str:
    missed = unmet(frame)
    sections = ["# Selftest of the measurements", _where(machine), table(overview(frame))]
    sections.append("\n".join(f"- Not met: {sentence}." for sentence in missed) or "All that is asked is met.")
    return "\n\n".join(sections) + "\n"
