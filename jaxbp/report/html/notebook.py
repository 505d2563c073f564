"""A run as a notebook shows it: what it is, and of each dtype the overview and the report's picture of errors."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from jaxbp.report import tables
from jaxbp.report.html.templating import fill, markdown
from jaxbp.report.markdown import REPORT, error_picture

if TYPE_CHECKING:
    from jaxbp.report.run import Run


def run_html(run: "Run") -> str:
    """The run in a sentence, the facts of its header, and of each dtype the overview, with the picture if it is there.

    To draw the picture would take seconds; `jaxbp report` writes it.
    """
    parts = []
    for dtype in tables.unique(run.summary["dtype"]):
        table = tables.overview(run.summary, run.accuracy, dtype).to_html(index=False, border=0)
        path = error_picture(run.folder, Path(REPORT).stem, dtype)
        picture = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
        parts.append({"dtype": dtype, "table": Markup(table), "picture": picture})
    return fill("run.html", sentence=str(run), facts=run.facts(), parts=parts, star=markdown(tables.STAR))
