"""Two runs compared cell by cell as a frame: times, errors, and what is new, gone or fails."""

import pandas as pd

from jaxbp.report.compare_errors import error_changes, status_changes
from jaxbp.report.compare_times import MARGIN, is_ours, time_changes
from jaxbp.report.pairs import label
from jaxbp.report.run import Run, as_text

#: What each column of the frame of `compare_runs` means.
CHANGE_COLUMNS = {
    "base": "the run that the other is compared with",
    "run": "the run that is compared with it",
    "op": "the op, or the full name of another project's benchmark",
    "case": "the case; empty where the row is about all cases and modes of a rule together",
    "dtype": "dtype of arguments and cotangent",
    "engine": "the way to the gradient; empty for another project's benchmark",
    "mode": "what was timed; empty for errors, and for all cases and modes of a rule together",
    "quantity": "of errors, value or ct_<argument>",
    "measure": "ratio, time over that of autodiff; time; ulp, the largest error; p99_ulp; wrong, the number of wrong "
    "zeros, infinities and NaNs; status; cell",
    "before": "the number in the base: ratio, microseconds, ULP or entries",
    "after": "the number in the run",
    "change": "after over before; of time, divided by how many times as slow the machine was",
    "change_low": "lower end of its 95 % interval, with what two runs differ by anyway",
    "change_high": "upper end of it",
    "p": "the chance of such a change if the true one were within the margin, adjusted for how many are compared "
    "(Benjamini and Hochberg)",
    "verdict": "slower, faster, same, cannot say or dispatch; less accurate, more accurate or same; failed or mended; "
    "new or gone; not compared; autodiff slower or autodiff faster, where that is what changed a ratio",
    "regression": "whether it makes the exit status 1: slower, less accurate or failed, of a rule or of another "
    "project's benchmark",
    "note": "why it failed, or was not compared; in what way it was measured otherwise on one side",
}
#: The verdicts that are a regression, and those on what only one run has or what is not the same.
WORSE = ("slower", "less accurate", "failed")
NOT_COMPARED = ("new", "gone", "not compared")


def compare_runs(base: Run, run: Run, *, margin: float = MARGIN) -> pd.DataFrame:
    """What changed from one run to another, a row for each cell, error and rule; `CHANGE_COLUMNS` says what they hold.

    `margin` is the relative change of a time or ratio that counts as none.
    """
    parts = [time_changes(base, run, margin), error_changes(base, run), status_changes(base, run)]
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    found = found.assign(base=label(base), run=label(run)).reindex(columns=list(CHANGE_COLUMNS))
    for name in ("op", "case", "engine", "mode", "quantity", "verdict", "note"):
        found[name] = as_text(found[name])
    found["regression"] = is_ours(found) & found["verdict"].isin(WORSE)
    return found
