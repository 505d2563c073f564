"""The record of a selftest: what each checker said of each function, per group and in all, as CSV and Markdown."""

import contextlib
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.check.rivals import RAISES, RIVALS, UNABLE, WRONG
from jaxbp.check.selftest import OURS, Examine, Item, Row, Task, corpora, plan, run_selftest, sources
from jaxbp.measure.machine import computer, describe_machine, now
from jaxbp.measure.sweep import Journal, read_journal
from jaxbp.report import tables
from jaxbp.report.markdown import table
from jaxbp.report.run import naming, newest_record, write_machine

OUTCOMES = "outcomes.csv"
SUMMARY = "summary.csv"
REPORT = "report.md"
MUTANTS, RIGHTS, ALL = "mutants", "rights", "all"
#: Of longer texts, the table keeps the beginning; the journal has more.
SAID = 120

#: What each column of `outcomes.csv` means.
OUTCOME_COLUMNS = {
    "corpus": f"{MUTANTS}, wrong rules, or {RIGHTS}, right functions that are hard to check",
    "group": "a mutant's operator, or the kind of a right function",
    "item": "the function",
    "checker": "what judged it",
    "seeds": "how many seeds it was judged with",
    "flagged": "how many times it was called wrong",
    "named": "how many times what was said names the bug; of ours alone, and of mutants",
    "jax_raises": "how many times JAX itself could not differentiate the function",
    "cannot_run": "how many times the checker could not be run on it",
    "seconds": "of the first seed, compile included, in a process that has run other checks; empty without a verdict",
    "further_seconds": "median of the other seeds, which use what is compiled",
    "said": "where it was mistaken or could not be run, what was said the first time",
}

#: What each column of `summary.csv` means.
SUMMARY_COLUMNS = {
    **{name: OUTCOME_COLUMNS[name] for name in ("corpus", "group", "checker")},
    "group": f"the group of functions; {ALL} for the whole corpus",
    "items": "how many functions",
    "flagged": "how many of them were called wrong: of mutants under every seed, of right functions under any",
    "jax_raises": "how many JAX itself cannot differentiate, under any seed",
    "cannot_run": "how many the checker could not be run on, under any seed",
    "checks": "functions times seeds",
    "named": "in how many of the checks the bug was named; of ours alone, and of mutants",
    "seeds": "seeds per function",
    "seconds": "median time of a check, compile included",
    "further_seconds": "median time of a check with a further seed",
}

#: A bar for so many steps, which is told of each one's name.
Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]


def record_selftest(
    results: Path,
    items: Sequence[Item],
    examine: Mapping[str, Examine],
    *,
    seeds: int,
    every: int = 1,
    workers: int,
    progress: Progress,
    load: Callable[[], list[Item]] = corpora,
) -> tuple[Path, pd.DataFrame]:
    """Run what this machine's folder does not hold yet and write tables and report; the report's path, the outcomes.

    Each worker loads the functions by `load`, since few can be handed to another process. Rows are journalled as they
    come. Those of other sources or versions are thrown away.
    """
    machine = describe_machine()
    folder = results / "selftest" / machine["name"]
    head = {"kind": "selftest", "sources": sources(), **{k: machine[k] for k in ("name", "python", "versions")}}
    rows = _held(folder, head)
    tasks = plan(items, examine, seeds, every, rows)
    with contextlib.closing(Journal(folder, anew=not rows)) as journal, progress(len(tasks)) as advance:
        if not rows:
            journal.append(head)

        def tell(task: Task) -> None:
            advance(f"{task.item}, {task.checker}")

        for row in run_selftest(tasks, examine, workers=workers, load=load, progress=tell):
            journal.append(row)
            rows.append(row)
    outcomes = outcomes_frame(items, examine, seeds, rows)
    machine = {**machine, "started": now(), "sources": head["sources"], "seeds": seeds, "checkers": list(examine)}
    return write_selftest(folder, machine, outcomes), outcomes


def _held(folder: Path, head: Row) -> list[Row]:
    """The rows of a journal that begins with this head."""
    if not (folder / Journal.NAME).is_file():
        return []
    first, *rows = read_journal(folder) or [{}]
    return rows if first == head else []


def outcomes_frame(
    items: Iterable[Item], names: Collection[str], seeds: int, rows: Iterable[Mapping[str, Any]]
) -> pd.DataFrame:
    """One row per function and checker, of the rows of a journal that these seeds ask for."""
    by_key: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if row["seed"] < seeds:
            by_key.setdefault((row["item"], row["checker"]), {})[row["seed"]] = row
    found = [
        _outcome(item, name, list(by_key[item.name, name].values()))
        for item in items
        for name in names
        if (item.name, name) in by_key
    ]
    return pd.DataFrame(found, columns=list(OUTCOME_COLUMNS))


def _outcome(item: Item, checker: str, rows: list[Mapping[str, Any]]) -> Row:
    mistaken = [
        row["said"]
        for row in rows
        if row["verdict"] in (RAISES, UNABLE) or (row["verdict"] == WRONG) != item.wrong or row["named"] is False
    ]
    judged = {row["seed"]: row["seconds"] for row in rows if row["verdict"] not in (RAISES, UNABLE)}
    first = judged.pop(0, None)
    return {
        "corpus": MUTANTS if item.wrong else RIGHTS,
        "group": item.group,
        "item": item.name,
        "checker": checker,
        "seeds": len(rows),
        "flagged": sum(row["verdict"] == WRONG for row in rows),
        "named": sum(bool(row["named"]) for row in rows) if checker == OURS and item.wrong else None,
        "jax_raises": sum(row["verdict"] == RAISES for row in rows),
        "cannot_run": sum(row["verdict"] == UNABLE for row in rows),
        "seconds": first,
        "further_seconds": statistics.median(judged.values()) if judged else None,
        "said": " ".join(mistaken[0].split())[:SAID] if mistaken else "",
    }


def summary_frame(outcomes: pd.DataFrame) -> pd.DataFrame:
    """One row per corpus, group and checker, each corpus as a whole first."""
    whole = outcomes.assign(group=ALL)
    rows = []
    for key, own in pd.concat([whole, outcomes]).groupby(["corpus", "group", "checker"], sort=False):
        corpus, group, checker = tuple(key)
        flagged = own["flagged"] == own["seeds"] if corpus == MUTANTS else own["flagged"] > 0
        rows.append(
            {
                "corpus": corpus,
                "group": group,
                "checker": checker,
                "items": len(own),
                "flagged": int(flagged.sum()),
                "jax_raises": int((own["jax_raises"] > 0).sum()),
                "cannot_run": int((own["cannot_run"] > 0).sum()),
                "checks": int(own["seeds"].sum()),
                "named": own["named"].sum() if own["named"].notna().any() else None,
                "seeds": int(own["seeds"].max()),
                "seconds": own["seconds"].median(),
                "further_seconds": own["further_seconds"].median(),
            }
        )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def mistakes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What our own checker missed, accused wrongly or could not be run on."""
    own = outcomes[outcomes["checker"] == OURS]
    right = own["flagged"].where(own["corpus"] == RIGHTS, own["seeds"] - own["flagged"]) == 0
    return own[~right | (own["cannot_run"] > 0)]


def overview(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per checker, as text: what it detected, what it accused wrongly, what it could not be run on."""
    whole = {(cell["corpus"], cell["checker"]): cell for cell in _records(summary) if cell["group"] == ALL}
    rows = []
    for checker in tables.unique(summary["checker"]):
        row = {"checker": checker}
        named, seconds, seeds = "", [], 0
        for corpus, what, heading in ((MUTANTS, "wrong", "rules detected"), (RIGHTS, "right", "functions accused")):
            if (corpus, checker) not in whole:
                continue
            own = whole[corpus, checker]
            without = {"JAX raises": own["jax_raises"], "cannot be run": own["cannot_run"]}
            row[f"{what} {heading}"] = f"{own['flagged']:,} of {own['items']:,}"
            row[f"{what} ones without verdict"] = ", ".join(f"{n:,} {why}" for why, n in without.items() if n)
            if pd.notna(own["named"]):
                named = f"{own['named'] / own['checks']:.0%} of checks"
            if pd.notna(own["seconds"]):
                seconds.append(f"{tables.number(own['seconds'])} {what}")
            seeds = max(seeds, own["seeds"])
        rows.append({**row, "bugs named": named, "seeds": str(seeds), "seconds a check": ", ".join(seconds)})
    frame = pd.DataFrame(rows).fillna("")
    return frame.loc[:, (frame != "").any()]


def by_group(summary: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """One row per group of a corpus, one column per checker: how many were called wrong, and had no verdict."""
    rows: dict[str, Row] = {}
    for cell in _records(summary):
        if cell["corpus"] == corpus and cell["group"] != ALL:
            row = rows.setdefault(cell["group"], {"group": cell["group"]})
            without = cell["jax_raises"] + cell["cannot_run"]
            none = f", {without:,} none" if without else ""
            row[cell["checker"]] = f"{cell['flagged']:,} of {cell['items']:,}{none}"
    return pd.DataFrame(list(rows.values())).fillna("")


def _records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame, by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def write_selftest(folder: Path, machine: Row, outcomes: pd.DataFrame) -> Path:
    """Write machine, tables and report into the folder; returns the report's path."""
    write_machine(folder, machine)
    summary = summary_frame(outcomes)
    for name, frame in ((OUTCOMES, outcomes), (SUMMARY, summary)):
        with naming(folder / name, "written"):
            frame.to_csv(folder / name, index=False, float_format="%.4g")
    with naming(folder / REPORT, "written"):
        (folder / REPORT).write_text(_report(machine, outcomes, summary))
    return folder / REPORT


def readme_selftest(results: Path) -> str:
    """The table of the newest record on any machine, and where it comes from, as Markdown."""
    record = newest_record(results, "selftest")
    if record is None:
        return "There is no record of a selftest yet."
    folder, machine = record
    with naming(folder / SUMMARY, "read"):
        summary = pd.read_csv(folder / SUMMARY)
    where = f"{_where(machine)} By class of bug: `{results.name}/selftest/{folder.name}/{REPORT}`."
    return "\n\n".join((table(overview(summary)), _legend(machine["checkers"]), where))


def _where(machine: Row) -> str:
    versions = ", ".join(f"{name} {machine['versions'].get(name, 'absent')}" for name in ("jax", "torch"))
    return f"Measured {machine['started'][:10]} on {computer(machine)}, {versions}, commit {machine['commit']}."


def _legend(checkers: Collection[str]) -> str:
    """What the checkers are, and what the columns mean."""
    lines = [f"- **{OURS}**: `jaxbp.check_vjp`. A wrong rule counts as detected if it is found under every seed."]
    lines += [f"- **{name}**: {rival.about}." for name, rival in RIVALS.items() if name in checkers]
    absent = [name for name in RIVALS if name not in checkers]
    if absent:
        lines.append(f"- Not run: {', '.join(absent)}.")
    lines.append(
        "- *JAX raises*: JAX itself cannot differentiate the function, so that its author learns of the bug from any "
        "call; *cannot be run*: the checker cannot take the function. Neither is counted as detected or as passed. "
        "The others have no seeds. They are given the floats alone: integers are closed over."
    )
    return "\n".join(lines)


def _report(machine: Row, outcomes: pd.DataFrame, summary: pd.DataFrame) -> str:
    sections = ["# Selftest: what the checkers find", _where(machine), table(overview(summary))]
    sections.append(_legend(machine["checkers"]))
    own = mistakes(outcomes)
    sections.append(f"## Where {OURS} is mistaken: {len(own)}")
    if len(own):
        columns = ["corpus", "item", "seeds", "flagged", "cannot_run", "said"]
        sections.append(table(own[columns]))
    for corpus, heading in (
        (MUTANTS, "Wrong rules detected, by operator"),
        (RIGHTS, "Right functions accused, by kind"),
    ):
        if (summary["corpus"] == corpus).any():
            sections += [f"## {heading}", table(by_group(summary, corpus))]
    return "\n\n".join(sections) + "\n"
