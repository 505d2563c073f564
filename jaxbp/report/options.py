"""The frame and the table of what an option of the compiler gains."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from jaxbp.report.frames import SUMMARY_COLUMNS
from jaxbp.report.tables import ratio

Row = dict[str, Any]

#: What each column of `options.csv` means, with its unit.
OPTION_COLUMNS = {
    **{name: SUMMARY_COLUMNS[name] for name in ("op", "op_version", "case", "shapes", "dtype", "engine", "device")},
    "option": "of the compiler, as jax.jit(f, compiler_options=...) takes it",
    "ratio": "time of value and gradient (fwd_bwd) with the option over that without, in the same rounds",
    "ratio_low": "lower end of its 95 % bootstrap interval",
    "ratio_high": "upper end of it",
    "verdict": "faster, same, slower or cannot say",
    "rounds": "samples taken of each side",
    "same_results": "yes or no: whether both give the same values and cotangents to the last bit",
    "status": "ok or failed",
    "reason": "why it failed",
}


def options_frame(rows: Iterable[Row], facts: Row) -> pd.DataFrame:
    """One row per op, case, dtype and option, with the columns of `OPTION_COLUMNS`."""
    found = [{**row, **facts} for row in rows if row["kind"] == "option"]
    return pd.DataFrame(found, columns=list(OPTION_COLUMNS))


def option_table(frame: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """A row per op, a column per option, as text; the last row is the geometric mean."""
    own = frame[(frame["dtype"] == dtype) & (frame["status"] == "ok")]
    rows = [
        {"op": op, "case": case, **{str(row["option"]): ratio(row) for _, row in cells.iterrows()}}
        for (op, case), cells in own.groupby(["op", "case"], sort=False)
    ]
    means = {
        str(option): f"{np.exp(np.log(cells['ratio'].astype(float)).mean()):.2f}"
        for option, cells in own.groupby("option", sort=False)
    }
    return pd.DataFrame([*rows, {"op": "geometric mean", "case": "", **means}] if rows else [])
