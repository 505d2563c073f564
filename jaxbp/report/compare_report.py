"""A comparison for people: sentences, tables of what changed, and Markdown for a pull request."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from jaxbp.measure.limits import Limits
from jaxbp.measure.plan import ALL_MODES
from jaxbp.report.compare_errors import MORE, MORE_ULP
from jaxbp.report.compare_times import FALSE_DISCOVERY_RATE, LEAST_CELLS, is_ours, machine_speed
from jaxbp.report.markdown import table
from jaxbp.report.pairs import CELL, label, pair, same_autodiff, same_code, same_machine, timed
from jaxbp.report.run import Run, naming
from jaxbp.report.steadiness import was_busy
from jaxbp.report.tables import number, unique

#: Records of one machine in the same state differ by up to a tenth; one that shares its cores may have half of their
#: arithmetic.
PEAKS_APART = 1.3
#: A comment on a pull request holds 65,536 characters, so that tables end after so many rows.
MOST_ROWS = 40
#: The titles of what changed, in their order: verdicts, and whether they are about rules.
SECTIONS = {
    "Slower": (("slower",), True),
    "Less accurate": (("less accurate",), True),
    "Fails now": (("failed",), True),
    "Faster": (("faster",), True),
    "More accurate": (("more accurate",), True),
    "Works now": (("mended",), True),
    "Ratios that autodiff changed": (("autodiff slower", "autodiff faster"), True),
    "Other engines": (("slower", "faster", "less accurate", "more accurate", "failed", "mended"), False),
}


def about(run: Run) -> str:
    """A run in a line."""
    machine = run.machine
    facts = (machine["started"][:10], machine["level"], f"commit {machine['commit'] or 'unknown'}")
    jax = machine["versions"]["jax"]
    return ", ".join((label(run), *facts, *((f"JAX {jax}",) if jax else ())))


def sentences(base: Run, run: Run, changes: pd.DataFrame, margin: float) -> Iterator[str]:
    """What was compared, how, and how many changes there are."""
    both = pair(timed(base), timed(run), CELL)
    both = both[same_code(both)]
    if same_machine(base, run):
        speed, cells = machine_speed(both)
        yield (
            f"A call took {speed:.2f} times as long by the median of {cells} cells; times are divided by that."
            if cells >= LEAST_CELLS
            else f"Only {cells} cells tell how fast the machine was, so that times are compared as they are."
        )
    else:
        yield "These are two machines: ratios to autodiff are compared, and no times."
    if not same_autodiff(base, run):
        told = ", then ".join(r.machine["versions"]["jax"] or "unknown" for r in (base, run))
        yield f"JAX or its flags differ ({told}), so that autodiff may have changed too" + (
            ": a changed ratio is the rule's where the larger part of it is the rule's own time."
            if same_machine(base, run)
            else "."
        )
    for side in (base, run):
        if was_busy(side.machine, side.summary):
            yield f"The machine was BUSY in {label(side)}, which changes ratios too: only large changes can be stated."
    yield from _other_peaks(base, run)
    ours = changes[is_ours(changes)]
    times = ours[ours["measure"].isin(("ratio", "time")) & ((ours["mode"] != "") | (ours["engine"] == ""))]
    if len(times):
        known = times.loc[times["p"].notna(), ["change", "change_high"]]
        width = (known["change_high"] / known["change"] - 1).median()
        yield f"{len(times)} times: {counted(times)}." + (
            f" Half of them are known to {100 * width:.2g} % or better." if len(known) else ""
        )
    rules = ours[(ours["measure"] == "ratio") & (ours["mode"] == "")]
    if len(rules):
        yield f"{len(rules)} rules over all their cells: {counted(rules)}."
    for note, cells in times[times["note"] != ""].groupby("note"):
        yield f"{len(cells)} ratios were measured with {note}, and count as far as they stand out from each other."
    errors = ours[ours["measure"].isin(("ulp", "p99_ulp", "wrong"))]
    if len(errors):
        yield f"{len(errors)} errors of rules: {counted(errors)}."
    yield (
        f"Slower and faster: beyond {100 * margin:g} %, and beyond what runs of the same code scatter by; at most "
        f"{100 * FALSE_DISCOVERY_RATE:g} % of what is stated is chance. Less and more accurate: by over "
        f"{100 * (MORE - 1):g} % and {MORE_ULP:g} ULP."
    )


def _other_peaks(base: Run, run: Run) -> Iterator[str]:
    """What the machine did at best in each run, where that differs so much that ratios of many operations do too."""
    before, after = (
        {(f["device"], f["dtype"]): Limits(**f) for f in side.machine.get("limits", ())} for side in (base, run)
    )
    for device, dtype in filter(after.__contains__, before):
        sides = before[device, dtype], after[device, dtype]
        if any(side.reason for side in sides):
            continue
        for what, elementwise in (("products", False), ("polynomials of entries", True)):
            peaks = [side.peak(elementwise) / 1e9 for side in sides]
            if max(peaks) > PEAKS_APART * min(peaks):
                yield (
                    f"{device}, {dtype}: the {what} that were measured reached {number(peaks[0])}, then "
                    f"{number(peaks[1])} GFLOP/s: the machine was another, and a ratio of two functions of which one "
                    "computes more changes with it."
                )


def counted(changes: pd.DataFrame) -> str:
    """How many there are of each verdict."""
    counts = changes["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def sections(changes: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables of text: what changed, what is new or gone, and what was not compared."""
    ours = is_ours(changes)
    for title, (verdicts, of_rules) in SECTIONS.items():
        found = changes[changes["verdict"].isin(verdicts) & (ours == of_rules)]
        if len(found):
            yield f"{title}: {len(found)}", _listed(found)
    for verdict in ("new", "gone", "not compared"):
        found = changes[changes["verdict"] == verdict]
        if len(found):
            grouped = found.groupby(["op", "note"], sort=False).size().reset_index(name="cells")
            yield (
                f"{verdict.capitalize()}: {len(found)} cells",
                grouped.rename(columns={"note": "why"}).loc[:, lambda frame: (frame != "").any()],
            )


def _grouped(found: pd.DataFrame) -> pd.DataFrame:
    """How many cells there are of each op, and of which cases."""
    rows = [
        {"op": op, "cases": ", ".join(unique(cells["case"])), "cells": str(len(cells)), "why": note}
        for (op, note), cells in found.groupby(["op", "note"], sort=False)
    ]
    frame = pd.DataFrame(rows)
    return frame.loc[:, (frame != "").any()]


def _listed(found: pd.DataFrame) -> pd.DataFrame:
    """What changed most comes first, and each rule as a whole before its cells."""
    size = found["change"].where(found["change"] >= 1, 1 / found["change"]).fillna(float("inf"))
    found = found.assign(size=size, whole=found["mode"] + found["case"] == "")
    found = found.sort_values(["whole", "size"], ascending=False, kind="stable")
    rows = [
        {
            **{name: row[name] for name in ("op", "dtype")},
            "engine": str(row["engine"]).removeprefix("rule:"),
            "case": row["case"] or ("all" if row["engine"] else ""),
            "what": row["mode"] or row["quantity"] or ("all modes" if row["measure"] == "ratio" else ""),
            "measure": row["measure"],
            "before": number(row["before"]),
            "after": number(row["after"]),
            "change": changed(row),
            "verdict": row["verdict"],
            "why": row["note"],
        }
        for _, row in found.iterrows()
    ]
    frame = pd.DataFrame(rows)
    if len(set(frame["verdict"])) == 1:
        frame = frame.drop(columns="verdict")
    return frame.loc[:, (frame != "").any()]


def changed(row: pd.Series) -> str:
    """A change with its interval, if it has one.

    >>> changed(pd.Series({"change": 1.1, "change_low": 1.05, "change_high": 1.15}))
    '1.100 [1.050, 1.150]'
    """
    if pd.isna(row["change_low"]):
        return number(row["change"])
    return f"{row['change']:.3f} [{row['change_low']:.3f}, {row['change_high']:.3f}]"


def every_cell(changes: pd.DataFrame) -> pd.DataFrame:
    """The changes of the times of all rules with half their intervals in percent: a row per case, a column per mode."""
    cells = changes[is_ours(changes) & changes["measure"].isin(("ratio", "time"))]
    half = 100 * (cells["change_high"] / cells["change"] - 1)
    marks = cells["verdict"].map({"slower": " slower", "faster": " faster"}).fillna("")
    texts = [f"{c:.3f} ±{h:.2g} %{mark}" for c, h, mark in zip(cells["change"], half, marks, strict=True)]
    whole = (cells["mode"] == "") & (cells["engine"] != "")
    cells = cells.assign(text=texts, mode=cells["mode"].mask(whole, "all modes"), case=cells["case"].mask(whole, "all"))
    key = ["op", "case", "dtype", "engine"]
    modes = (*ALL_MODES, "split", "all modes", "time")
    rows = [
        dict.fromkeys(modes, "")
        | dict(zip(key, names, strict=True))
        | dict(zip(own["mode"].replace("", "time"), own["text"], strict=True))
        for names, own in cells.groupby(key, sort=False)
    ]
    frame = pd.DataFrame(rows, columns=[*key, *modes])
    return frame.loc[:, (frame != "").any()]


def write_comparison(path: Path, base: Run, compared: Sequence[tuple[Run, pd.DataFrame]], margin: float) -> Path:
    """Write what changed from the base to each of the runs as Markdown."""
    text = "\n".join(_markdown(base, compared, margin)) + "\n"
    with naming(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def _markdown(base: Run, compared: Sequence[tuple[Run, pd.DataFrame]], margin: float) -> Iterator[str]:
    for run, changes in compared:
        yield f"## {headline(changes)}\n"
        yield f"- Before: {about(base)}\n- After: {about(run)}"
        yield "\n".join(f"- {sentence}" for sentence in sentences(base, run, changes, margin)) + "\n"
        for title, frame in sections(changes):
            yield f"### {title}\n\n{table(frame[:MOST_ROWS])}\n"
            if len(frame) > MOST_ROWS:
                yield f"And {len(frame) - MOST_ROWS} more, which `jaxbp compare --json` lists.\n"
        cells = every_cell(changes)
        if len(cells):
            yield f"<details><summary>All times of rules: after over before</summary>\n\n{table(cells)}\n\n</details>\n"


def headline(changes: pd.DataFrame) -> str:
    """The outcome in a line.

    >>> headline(pd.DataFrame({"op": ["exp", "exp"], "verdict": ["slower", "same"], "regression": [True, False]}))
    'Regression: slower exp'
    """
    worse = changes[changes["regression"]]
    said = [f"{verdict} {_few(unique(cells['op']))}" for verdict, cells in worse.groupby("verdict", sort=False)]
    return f"Regression: {'; '.join(said)}" if said else "No regression found"


def _few(ops: list[str]) -> str:
    return ", ".join(ops[:5]) + f" and {len(ops) - 5} more" * (len(ops) > 5)
