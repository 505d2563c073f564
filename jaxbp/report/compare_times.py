"""What became slower or faster between two runs: beyond chance, a margin, and what two runs differ by anyway.

A rule is compared by its ratio to autodiff, sampled in the same rounds: it stays where the machine is slower on another
day. Other times are compared on one machine only, corrected for how fast that machine was.
"""

import numpy as np
import pandas as pd
from scipy import stats

from jaxbp.measure.verdict import BLOCKS, CONFIDENCE, FLOOR_FACTOR, LEAST_ROUNDS, TRIMMED, Interval, verdict
from jaxbp.report.pairs import AFTER, CELL, pair, same_autodiff, same_code, same_machine, timed
from jaxbp.report.run import Run

#: A change by less counts as none.
MARGIN = 0.02
#: The share of chance among the changes that are stated; where nothing changed, the chance that any is stated.
FALSE_DISCOVERY_RATE = 0.05
#: By how much two runs of the same code differ beyond their intervals, as a standard deviation of logarithms: ratios to
#: autodiff of the same rounds, and all other times.
BETWEEN_RATIOS, BETWEEN_TIMES = 0.01, 0.05
#: So many cells tell how fast a machine was, and how far times scatter.
LEAST_CELLS = 10
#: With more degrees of freedom Student's t is a normal distribution.
MOST_FREEDOM = 1e6


def time_changes(base: Run, run: Run, margin: float = MARGIN) -> pd.DataFrame:
    """A row for each cell that both runs timed of the same code, and one for each rule, over all its cells."""
    both = pair(timed(base), timed(run), CELL)
    both = both[same_code(both)]
    if both.empty:
        return pd.DataFrame()
    slower, _ = machine_speed(both)
    ratios, times = _changes(both, "ratio"), _changes(both, "time_us")
    times["log"] -= np.log(slower)
    rules = np.asarray(both.index.get_level_values("engine").str.startswith("rule:"), bool)
    compared = ratios.notna().all(axis=1) & rules
    # Of times of other machines there is nothing to say.
    times = times if same_machine(base, run) else times[:0]
    found = pd.concat(
        [
            ratios[compared].assign(measure="ratio"),
            times[~compared.reindex(times.index, fill_value=False)].dropna().assign(measure="time"),
        ]
    )
    both = both[both.index.isin(found.index)]
    found = found.loc[both.index]
    found["own"] = times["log"].reindex(found.index)
    found["called"] = _called(both)
    found["known"] = _enough(both, "") & _enough(both, AFTER)
    found["note"] = _otherwise(both).where(found["measure"] == "ratio", "")
    found["between"] = BETWEEN_RATIOS
    for _, others in found[(found["measure"] == "time") | (found["note"] != "")].groupby("measure"):
        found.loc[others.index, "between"] = _scatter(others)
    found = found.reset_index()
    found = pd.concat([found, *_rules(found[found["known"] & ~found["called"]])], ignore_index=True)
    judged = _judge(found, margin)
    if same_machine(base, run) and not same_autodiff(base, run):
        judged["verdict"] = _attributed(judged)
    return judged.drop(columns=["log", "variance", "weight", "own", "called", "known", "between"])


def machine_speed(both: pd.DataFrame) -> tuple[float, int]:
    """How many times as long a call took in the second run, by the median of so many cells; 1 where too few tell.

    They are those of autodiff and NumPy, which no change of a rule makes slower; else all.
    """
    controls = both[both.index.get_level_values("engine").isin(("autodiff", "numpy"))]
    controls = controls if len(controls) else both
    if len(controls) < LEAST_CELLS:
        return 1.0, len(controls)
    return float((controls["time_us" + AFTER] / controls["time_us"]).median()), len(controls)


def _otherwise(both: pd.DataFrame) -> pd.Series:
    """In what way a ratio was measured otherwise on one side, if it was."""
    shared = (both["verdict"] != "") & (both["verdict" + AFTER] != "")
    same = both["environment"] == both["environment" + AFTER]
    return pd.Series(np.select([~shared, ~same], ["rounds of their own", "other settings"], ""), both.index)


def _changes(both: pd.DataFrame, column: str) -> pd.DataFrame:
    """The change of a column in logarithms, its variance by both intervals, and what its degrees of freedom come from.

    These are by Welch and Satterthwaite: (variance + what is known exactly)^2 / weight.
    """
    found = pd.DataFrame({"before": both[column], "after": both[column + AFTER]})
    found["log"] = np.log(found["after"] / found["before"])
    found["variance"] = found["weight"] = 0.0
    for side in ("", AFTER):
        width = np.log(both[f"{column}_high{side}"] / both[f"{column}_low{side}"])
        variance = (width / 2 / stats.norm.ppf((1 + CONFIDENCE) / 2)) ** 2
        # Of the rounds, or the blocks of them, that a trimmed mean keeps.
        freedom = ((1 - 2 * TRIMMED) * _quiet(both, side).clip(upper=BLOCKS) - 1).clip(lower=1)
        found["variance"] += variance
        found["weight"] += variance**2 / freedom
    return found


def _quiet(both: pd.DataFrame, side: str) -> pd.Series:
    """The rounds that were not interrupted."""
    return both[f"rounds{side}"] * (1 - both[f"interrupted{side}"].fillna(0))


def _enough(both: pd.DataFrame, side: str) -> pd.Series:
    # A share times the rounds need not be whole.
    return _quiet(both, side) > LEAST_ROUNDS - 0.5


def _called(both: pd.DataFrame) -> pd.Series:
    """Whether a time is about the call, on either side."""
    calls = np.where(both.index.get_level_values("mode") == "split", 2, 1)
    near = [both[f"time_us{side}"] < FLOOR_FACTOR * calls * both[f"floor_us{side}"] for side in ("", AFTER)]
    return near[0] | near[1]


def _scatter(found: pd.DataFrame) -> float:
    """The standard deviation between runs, by the cells themselves, most of which did not change."""
    if len(found) < LEAST_CELLS:
        return BETWEEN_TIMES
    # As the standard deviation of a normal distribution that has this median deviation.
    spread = float(stats.median_abs_deviation(found["log"])) / stats.norm.ppf(0.75)
    return max(BETWEEN_TIMES, float(np.sqrt(max(0.0, spread**2 - found["variance"].median()))))


def _rules(found: pd.DataFrame) -> list[pd.DataFrame]:
    """A row for each rule of several cells: the mean of their changes, weighted by how well they are known.

    `split` is left out, as the sum of two others. What differs between the runs may be common to the cells of a rule,
    and does not shrink with their number.
    """
    cells = found[(found["measure"] == "ratio") & (found["mode"] != "split")].copy()
    cells["share"] = 1 / (cells["variance"] + cells["between"] ** 2)
    key = ["op", "dtype", "engine"]
    cells["share"] /= cells.groupby(key)["share"].transform("sum")
    cells = cells[cells.groupby(key)["op"].transform("size") > 1]
    if cells.empty:
        return []
    weighted = cells[key].assign(
        log=cells["share"] * cells["log"],
        own=cells["share"] * cells["own"],
        variance=cells["share"] ** 2 * cells["variance"],
        weight=cells["share"] ** 4 * cells["weight"],
    )
    rules = weighted.groupby(key, sort=False).sum(min_count=1)
    rules["between"] = cells.groupby(key, sort=False)["between"].max()
    return [rules.reset_index().assign(measure="ratio", case="", mode="", called=False, known=True)]


def _judge(found: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The rows with interval, p and verdict; what may be a regression is a family of tests of its own."""
    within = np.log1p(margin)
    variance = found["variance"] + found["between"] ** 2
    error, freedom = np.sqrt(variance), variance**2 / found["weight"].replace(0, np.nan)
    student = stats.t(freedom.fillna(MOST_FREEDOM).clip(upper=MOST_FREEDOM))
    half = student.ppf((1 + CONFIDENCE) / 2) * error
    # Of the hypotheses that the true change is within the margin, the nearest: one at the margin itself.
    p = student.sf((found["log"].abs() - within) / error) + student.sf((found["log"].abs() + within) / error)
    judged = found.assign(
        change=np.exp(found["log"]),
        change_low=np.exp(found["log"] - half),
        change_high=np.exp(found["log"] + half),
        p=np.where(found["known"] & ~found["called"], p, np.nan),
    )
    for _, family in judged[judged["p"].notna()].groupby(is_ours(judged)):
        judged.loc[family.index, "p"] = stats.false_discovery_control(np.minimum(family["p"], 1), method="bh")
    judged["verdict"] = [_verdict(row, margin) for _, row in judged.iterrows()]
    return judged


def is_ours(frame: pd.DataFrame) -> pd.Series:
    """Whether a row is about a rule, or a benchmark of another project: what a regression may be of."""
    return frame["engine"].str.startswith("rule:") | (frame["engine"] == "")


def _verdict(row: pd.Series, margin: float) -> str:
    if row["called"]:
        return "dispatch"
    if row["p"] < FALSE_DISCOVERY_RATE:
        return "slower" if row["log"] > 0 else "faster"
    interval = Interval(row["change"], row["change_low"], row["change_high"])
    return "same" if row["known"] and verdict(interval, margin=margin) == "same" else "cannot say"


def _attributed(judged: pd.DataFrame) -> pd.Series:
    """The verdicts; where the smaller part of a changed ratio is the rule's own time, the change is autodiff's."""
    changed = (judged["measure"] == "ratio") & judged["verdict"].isin(("slower", "faster"))
    theirs = changed & (judged["own"] / judged["log"] < 0.5)
    other = judged["verdict"].map({"slower": "autodiff faster", "faster": "autodiff slower"})
    return judged["verdict"].mask(theirs, other)
