"""A run as a notebook shows it: what it is, and its first table and picture of each dtype."""

import base64
import io
from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib import pyplot as plt

from jaxbp.report import plots, tables
from jaxbp.report.html.templates import fill, markdown

if TYPE_CHECKING:
    from jaxbp.report.run import Run


def run_html(run: "Run") -> str:
    """The run in a sentence, the facts of its header, and of each dtype the overview and the picture of errors."""
    parts = []
    for dtype in tables.unique(run.summary["dtype"]):
        table = tables.overview(run.summary, run.accuracy, dtype).to_html(index=False, border=0)
        parts.append({"dtype": dtype, "table": Markup(table), "picture": _picture(run, dtype)})
    return fill("run.html", sentence=str(run), facts=run.facts(), parts=parts, star=markdown(tables.STAR))


def _picture(run: "Run", dtype: str) -> str:
    figure = plots.error_against_time(run.summary, run.accuracy, dtype)
    with io.BytesIO() as png:
        figure.savefig(png, dpi=80)
        plt.close(figure)
        return base64.b64encode(png.getvalue()).decode()
