"""What became less or more accurate between two runs, what fails now, and what only one of them has."""

import numpy as np
import pandas as pd

from jaxbp.report.pairs import AFTER, CELL, ERROR, pair, same_code, timed
from jaxbp.report.run import Run
from jaxbp.report.tables import SUMS, largest_error

#: An error has changed when it is larger than the other by a quarter, and by half a unit in the last place. Inputs are
#: seeded: errors are the same to the last digit where nothing changed, but for what another processor or version of XLA
#: rounds elsewhere, and one more rounding of a result is half a unit.
MORE, MORE_ULP = 1.25, 0.5


def error_changes(base: Run, run: Run) -> pd.DataFrame:
    """Rows for each error that both runs know of the same code: largest, 99th percentile, and entries plainly wrong."""
    both = pair(_measured(base.accuracy), _measured(run.accuracy), ERROR)
    # Of a numerical gradient as many entries are sampled as there is time for: others have other errors.
    alike = both["count"].eq(both["count" + AFTER]) | both[["count", "count" + AFTER]].isna().any(axis=1)
    both = both[same_code(both) & alike].reset_index()
    found = pd.concat(
        [
            both[ERROR].assign(measure=name, before=both[name].astype(float), after=both[name + AFTER].astype(float))
            for name in ("ulp", "p99_ulp", "wrong")
        ],
        ignore_index=True,
    )
    # An entry of a sum that cancels has no error of its own that would mean anything.
    found = found[(found["measure"] != "p99_ulp") | ~found["op"].isin(SUMS)]
    before, after = found["before"], found["after"]
    says = np.select(
        [before.isna() | after.isna(), _larger(after, before), _larger(before, after)],
        ["cannot say", "less accurate", "more accurate"],
        "same",
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return found.assign(change=after / before, verdict=says)


def _measured(accuracy: pd.DataFrame) -> pd.DataFrame:
    wrong = accuracy[["wrong_zeros", "wrong_infinities", "wrong_nans"]].sum(axis=1)
    return accuracy.assign(ulp=largest_error(accuracy), wrong=wrong)


def _larger(error: pd.Series, other: pd.Series) -> pd.Series:
    return (error > MORE * other) & (error > other + MORE_ULP)


def status_changes(base: Run, run: Run) -> pd.DataFrame:
    """Rows for what fails now or no longer, for cells of one run alone, and for those that are not of the same code."""
    task = ["op", "case", "dtype", "engine"]
    failed = [r.summary.loc[r.summary["status"] == "failed", [*task, "reason"]] for r in (base, run)]
    works = [timed(r)[CELL].drop_duplicates() for r in (base, run)]
    fails = failed[1].merge(works[0][task].drop_duplicates(), on=task)
    mended = failed[0].merge(works[1][task].drop_duplicates(), on=task)
    sides = works[0].merge(works[1], on=CELL, how="outer", indicator="side")
    told = [
        fails.rename(columns={"reason": "note"}).assign(measure="status", verdict="failed"),
        mended[task].assign(measure="status", verdict="mended"),
        _without(sides[sides["side"] == "left_only"], fails, task).assign(measure="cell", verdict="gone"),
        _without(sides[sides["side"] == "right_only"], mended, task).assign(measure="cell", verdict="new"),
    ]
    both = pair(timed(base), timed(run), CELL)
    other = both[~same_code(both)]
    versions = other["op_version"] != other["op_version" + AFTER]
    named = np.where(versions, "op_version", "shapes")
    notes = [
        f"{name} {row[name]}, then {row[name + AFTER]}" for name, (_, row) in zip(named, other.iterrows(), strict=True)
    ]
    told.append(other.index.to_frame(index=False).assign(measure="cell", verdict="not compared", note=notes))
    return pd.concat([part for part in told if len(part)] or told[:1], ignore_index=True).drop(
        columns="side", errors="ignore"
    )


def _without(cells: pd.DataFrame, others: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    known = set(others[key].itertuples(index=False, name=None))
    return cells[[task not in known for task in cells[key].itertuples(index=False, name=None)]]
