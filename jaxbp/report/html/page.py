"""`report.html`: the page of one or several runs, in one file."""

import base64
import hashlib
import os.path
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from jaxbp.report import plots, tables
from jaxbp.report.frames import ACCURACY_COLUMNS, SUMMARY_COLUMNS
from jaxbp.report.html.answers import HOW_TO_ANSWER, QUESTIONS, answers
from jaxbp.report.html.frames import encode
from jaxbp.report.html.ops import details, read_censuses
from jaxbp.report.html.roofline import roofline
from jaxbp.report.html.templating import asset, fill, markdown
from jaxbp.report.markdown import HOW_TO_READ
from jaxbp.report.options import OPTION_COLUMNS
from jaxbp.report.run import ACCURACY, OPTIONS, SUMMARY, Run, naming

Row = dict[str, Any]

PAGE = "report.html"
#: What runs on the page, in the order in which it has to: libraries (`vendor/README.md`), then our own.
SCRIPTS = (
    "vendor/d3.min.js",
    "vendor/plot.umd.min.js",
    "vendor/dataTables.min.js",
    "vendor/dataTables.buttons.min.js",
    "static/charts.js",
    "static/page.js",
)
#: The markers of `plots.STYLES` by the names that the page's plots have for them.
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "p": "hexagon",
    "D": "diamond",
    "v": "wye",
    "^": "triangle",
    "P": "cross",
    "X": "star",
}
#: Raw tables by the stem of their file, and what their columns mean.
RAW = {
    Path(SUMMARY).stem: SUMMARY_COLUMNS,
    Path(ACCURACY).stem: ACCURACY_COLUMNS,
    Path(OPTIONS).stem: OPTION_COLUMNS,
}


def write_page(runs: Sequence[Run], path: Path, wrong: Iterable[str] = ()) -> Path:
    """Write the page of runs; it says at its top what is `wrong` with files that it could not take."""
    page = render(runs, wrong)
    with naming(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    return path


def render(runs: Sequence[Run], wrong: Iterable[str] = ()) -> str:
    """The page as text."""
    rows, rooflines, wrong = [], [], list(wrong)
    for i, run in enumerate(runs):
        # Not resolved: what it says of files is for whoever named the run.
        results = Path(os.path.normpath(run.folder / ".." / ".."))
        for dtype in tables.unique(run.summary["dtype"]):
            records, broken = read_censuses(results, dtype)
            wrong += broken
            opened = []
            for found, detail in details(run, dtype, records):
                # The address of what opens, and the identity of its data.
                key = "-".join((*([str(i + 1)] if len(runs) > 1 else ()), found.op, dtype))
                about = {"key": key, "anchor": quote(key), "run": _name(run), "dtype": dtype}
                row = {**about, "op": found.op, "answers": answers(found)}
                rows.append({**row, "detail": {**detail, "run": _name(run), "answers": row["answers"]}})
                opened.append((found, about["anchor"]))
            if drawn := roofline(run, dtype, opened):
                rooflines.append({**drawn, "run": _name(run) if len(runs) > 1 else ""})
    least, most = plots.LEAST_ULP, plots.MOST_ULP
    scripts = [asset(name) for name in SCRIPTS]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    styles = {name: {"color": color, "symbol": SYMBOLS[marker]} for name, (color, marker) in plots.STYLES.items()}
    return fill(
        "report.html",
        runs=[{"name": _name(run), "sentence": str(run), "facts": run.facts()} for run in runs],
        failures=[row for run in runs for row in _failures(run)],
        wrong=tables.unique(wrong),
        rows=rows,
        rooflines=rooflines,
        questions=QUESTIONS,
        choices=_choices(rows),
        star=markdown(tables.STAR),
        how_to_read=[markdown(HOW_TO_ANSWER), markdown(HOW_TO_READ)],
        style=Markup(asset("static/page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=hashes,
        settings={"styles": styles, "questions": QUESTIONS, "least": least, "fair": plots.FAIR_ULP, "most": most},
        raw={name: encode(_raw(runs, name), {"run": "the run", **meanings}) for name, meanings in RAW.items()},
    )


def _name(run: Run) -> str:
    """What a run is called: its folder, in that of its machine."""
    folder = run.folder.resolve()
    return f"{folder.parent.name}/{folder.name}"


def _failures(run: Run) -> list[Row]:
    failed = tables.failures(run.summary).fillna("")
    return [{"run": _name(run), **dict(zip(failed.columns, row, strict=True))} for row in failed.to_numpy()]


def _raw(runs: Sequence[Run], name: str) -> pd.DataFrame:
    """One raw table of all runs, with the run's name where there are several."""
    frames = [getattr(run, name) for run in runs]
    if len(runs) > 1:
        frames = [frame.assign(run=_name(run))[["run", *frame]] for run, frame in zip(runs, frames, strict=True)]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1]) if frames else pd.DataFrame()


def _choices(rows: list[Row]) -> dict[str, list[str]]:
    """What each column of the table can be filtered by: the words in it, of runs and dtypes where there are several."""
    found = {name: tables.unique(row[name] for row in rows) for name in ("run", "dtype")}
    choices = {name: names for name, names in found.items() if len(names) > 1}
    return choices | {name: sorted({row["answers"][name]["word"] for row in rows} - {""}) for name in QUESTIONS}
