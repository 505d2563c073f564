"""What became slower or faster between two runs: beyond chance, a margin, and what two runs differ by anyway.

A rule is compared by its ratio to autodiff, sampled in the same rounds: it stays where the machine is slower on another
day. Other times are compared on one machine only, corrected for how fast that machine was.
"""

import numpy as np
import pandas as pd
import scipy

from jaxbp.measure.verdict import BLOCKS, CONFIDENCE, FLOOR_FACTOR, LEAST_ROUNDS, MARGIN, TRIMMED, Interval, verdict
from jaxbp.report.pairs import AFTER, CELL, pair, same_autodiff, same_code, same_machine, timed
from jaxbp.report.run import Run
from jaxbp.report.steadiness import was_busy

#: The share of chance among the cells that are stated to have changed, and among the rules. Where nothing changed, it
#: is the chance that any is stated.
FALSE_DISCOVERY_RATE = 0.025
#: By how much two runs of the same code differ beyond their intervals at least, as a standard deviation of logarithms.
BETWEEN_RUNS = 0.005
#: The same of times, of ratios from other rounds and of those on a busy machine, where too few cells tell how far they
#: scatter.
BETWEEN_TIMES = 0.05
#: So many cells tell how fast a machine was, and how far cells scatter.
LEAST_CELLS = 10
#: Degrees of freedom of Student's t: of a cell, whose time depends on where its arrays lie in memory, so that now and
#: then one process has it several percent slower than another; and where the load of the machine changes what is
#: measured, of a rule over all its cells, whose tails are lighter. Those that runs of the same code had. Times have the
#: second.
CELL_FREEDOM, HEAVY = 3.0, 5.0
#: With so many, Student's t is a normal distribution.
MOST_FREEDOM = 1e6

RULE = ["op", "dtype", "engine"]


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
    found["judged"] = _enough(both, "") & _enough(both, AFTER) & ~found["called"]
    found["note"] = _otherwise(both).where(found["measure"] == "ratio", "")
    alike = (found["measure"] == "ratio") & (found["note"] == "")
    found["variance"] += BETWEEN_RUNS**2
    for _, others in found[~alike].groupby("measure"):
        found.loc[others.index, "variance"] += _scatter(others)
    busy = was_busy(base.machine, base.summary) or was_busy(run.machine, run.summary)
    found["freedom"] = found["freedom"].clip(upper=np.where(alike | busy, CELL_FREEDOM, HEAVY))
    found, alike = found.reset_index(), alike.to_numpy()
    if busy and len(_of_several(found)) < LEAST_CELLS:
        found.loc[alike, "variance"] += _scatter(found[alike])
    found = _with_rules(found, HEAVY if busy else MOST_FREEDOM)
    judged = _judge(found, margin)
    if same_machine(base, run) and not same_autodiff(base, run):
        judged["verdict"] = _attributed(judged)
    return judged.drop(columns=["log", "variance", "common", "freedom", "own", "called", "judged"])


def machine_speed(both: pd.DataFrame) -> tuple[float, int]:
    """How many times as long a call took in the second run, by the median of so many cells; 1 where too few tell.

    They are those of autodiff and NumPy, which no change of a rule makes slower; else all.
    """
    controls = both[both.index.get_level_values("engine").isin(("autodiff", "numpy"))]
    controls = controls if len(controls) else both
    if len(controls) < LEAST_CELLS:
        return 1.0, len(controls)
    return float((controls["time_us" + AFTER] / controls["time_us"]).median()), len(controls)


def is_ours(frame: pd.DataFrame) -> pd.Series:
    """Whether a row is about a rule, or a benchmark of another project: what a regression may be of."""
    return frame["engine"].str.startswith("rule:") | (frame["engine"] == "")


def _changes(both: pd.DataFrame, column: str) -> pd.DataFrame:
    """The change of a column in logarithms, its variance by both sides, and Welch's degrees of freedom of that.

    `common` is as much of the variance as all cells of a process share.
    """
    found = pd.DataFrame({"before": both[column], "after": both[column + AFTER]})
    found["log"] = np.log(found["after"] / found["before"])
    before, after = _sides(both, column)
    variances = []
    for side, other in ((before, after), (after, before)):
        # One process knows nothing of how far another would be off; the processes of the other run do.
        told = other["between"].where(side["processes"] == 1).fillna(0)
        variance = side["variance"].clip(lower=told)
        known = side["known"].mask(told >= variance, other["known"])
        common = side["between"].fillna(0) / side["processes"] + told
        variances.append(pd.DataFrame({"variance": variance, "common": common, "weight": variance**2 / known}))
    total = variances[0] + variances[1]
    # Of no variance, all is known.
    freedom = (total["variance"] ** 2 / total["weight"].where(total["weight"] > 0)).mask(
        total["weight"] == 0, MOST_FREEDOM
    )
    return found.assign(variance=total["variance"], common=total["common"], freedom=freedom)


def _sides(both: pd.DataFrame, column: str) -> list[pd.DataFrame]:
    """Of the run before and the one after, what each knows of itself.

    The processes, the variance of the column's logarithm, the degrees of freedom of that, and the variance between one
    process and the next; NaN where there is but one.
    """
    found = []
    for side in ("", AFTER):
        processes = both[f"processes{side}"].fillna(1)
        several = processes > 1
        # Of the processes, if several; else of the rounds, or the blocks of them, that a trimmed mean keeps.
        rounds = ((1 - 2 * TRIMMED) * _quiet(both, side).clip(upper=BLOCKS) - 1).clip(lower=1)
        scale = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, (processes - 1).where(several, MOST_FREEDOM))
        variance = (np.log(both[f"{column}_high{side}"] / both[f"{column}_low{side}"]) / 2 / scale) ** 2
        between = (processes * variance).where(several)
        known = (processes - 1).where(several, rounds)
        found.append(pd.DataFrame({"processes": processes, "variance": variance, "between": between, "known": known}))
    return found


def _otherwise(both: pd.DataFrame) -> pd.Series:
    """In what way a ratio was measured otherwise on one side, if it was."""
    shared = (both["verdict"] != "") & (both["verdict" + AFTER] != "")
    same = both["environment"] == both["environment" + AFTER]
    return pd.Series(np.select([~shared, ~same], ["rounds of their own", "other settings"], ""), both.index)


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
    """The variance between runs, by the cells themselves, most of which did not change."""
    if len(found) < LEAST_CELLS:
        return BETWEEN_TIMES**2
    return max(0.0, _spread(found["log"] - found["log"].median()) - float(found["variance"].median()))


def _spread(deviations: pd.Series) -> float:
    """The variance of a normal distribution whose deviations have this median."""
    return float(deviations.abs().median() / scipy.stats.norm.ppf(0.75)) ** 2


def _of_several(found: pd.DataFrame) -> pd.DataFrame:
    """The judged cells, but for split, of those rules that have more than one."""
    cells = found[(found["measure"] == "ratio") & found["judged"] & (found["mode"] != "split")]
    return cells[cells.groupby(RULE)["op"].transform("size") > 1].copy()


def _with_rules(found: pd.DataFrame, most_freedom: float) -> pd.DataFrame:
    """The cells, and a row for each rule of several: the mean of their changes, weighted by how well they are known.

    The mean of many cells is known no better by what all of them share, such as the luck of a process.
    `split` is left out, as the sum of two others. Where the cells of one rule disagree by more than their intervals
    allow, as they do when other programs run, the variance of all cells is larger by that much; and that of a rule
    by how much its own disagree, if that is more.
    """
    cells = _of_several(found)
    if cells.empty:
        return found
    cells["share"] = 1 / cells["variance"]
    cells["share"] /= cells.groupby(RULE)["share"].transform("sum")
    rules = cells[RULE].assign(
        log=cells["share"] * cells["log"],
        own=cells["share"] * cells["own"],
        variance=cells["share"] ** 2 * (cells["variance"] - cells["common"]),
        common=cells["share"] * np.sqrt(cells["common"]),
        freedom=cells["freedom"],
        cells=1,
    )
    rules = rules.groupby(RULE, sort=False).sum(min_count=1)
    # Nor are there more degrees of freedom of that.
    apart, common = rules["variance"], rules["common"] ** 2
    weight = apart**2 / rules["freedom"] + common**2 / (rules["freedom"] / rules["cells"])
    rules["freedom"] = rules["freedom"].where(common == 0, (apart + common) ** 2 / weight.where(weight > 0))
    rules["variance"] = apart + common
    mean = (cells["share"] * cells["log"]).groupby([cells[name] for name in RULE]).transform("sum")
    cells["apart"] = (cells["log"] - mean) / np.sqrt(cells["variance"])
    overall = max(1.0, _spread(cells["apart"] / np.sqrt(1 - cells["share"]))) if len(cells) >= LEAST_CELLS else 1.0
    own = (cells["apart"] ** 2).groupby([cells[name] for name in RULE], sort=False).sum() / (rules["cells"] - 1)
    rules["variance"] *= own.clip(lower=overall)
    # What differs between two runs may be common to the cells of a rule; how much, the rules tell, most of which did
    # not change.
    between = max(BETWEEN_RUNS**2, _scatter(rules) if len(rules) >= LEAST_CELLS else 0.0)
    rules["variance"] += between
    alike = (found["measure"] == "ratio") & (found["note"] == "")
    found.loc[alike, "variance"] = overall * found.loc[alike, "variance"] + between - BETWEEN_RUNS**2
    if between > BETWEEN_RUNS**2:  # Scatter of that kind has heavy tails.
        most_freedom = min(most_freedom, HEAVY)
        found["freedom"] = found["freedom"].clip(upper=CELL_FREEDOM)
    rules["freedom"] = rules["freedom"].clip(upper=most_freedom)
    rules = rules.reset_index().assign(measure="ratio", case="", mode="", note="", called=False, judged=True)
    return pd.concat([found, rules.drop(columns="cells")], ignore_index=True)


def _judge(found: pd.DataFrame, margin: float) -> pd.DataFrame:
    """The rows with interval, p and verdict; rules, their cells, and what is no regression are families of tests."""
    within, error = np.log1p(margin), np.sqrt(found["variance"])
    student = scipy.stats.t(found["freedom"])
    half = student.ppf((1 + CONFIDENCE) / 2) * error
    # Of the hypotheses that the true change is within the margin, the nearest: one at the margin itself.
    p = student.sf((found["log"].abs() - within) / error) + student.sf((found["log"].abs() + within) / error)
    judged = found.assign(
        change=np.exp(found["log"]),
        change_low=np.exp(found["log"] - half),
        change_high=np.exp(found["log"] + half),
        p=np.where(found["judged"], p, np.nan),
    )
    for _, family in judged[judged["judged"]].groupby([is_ours(judged), judged["mode"] + judged["case"] == ""]):
        judged.loc[family.index, "p"] = scipy.stats.false_discovery_control(np.minimum(family["p"], 1), method="bh")
    judged["verdict"] = [_verdict(row, margin) for _, row in judged.iterrows()]
    return judged


def _verdict(row: pd.Series, margin: float) -> str:
    if row["called"]:
        return "dispatch"
    if row["p"] < FALSE_DISCOVERY_RATE:
        return "slower" if row["log"] > 0 else "faster"
    interval = Interval(row["change"], row["change_low"], row["change_high"])
    return "same" if row["judged"] and verdict(interval, margin=margin) == "same" else "cannot say"


def _attributed(judged: pd.DataFrame) -> pd.Series:
    """The verdicts; where the smaller part of a changed ratio is the rule's own time, the change is autodiff's."""
    changed = (judged["measure"] == "ratio") & judged["verdict"].isin(("slower", "faster"))
    theirs = changed & (judged["own"] / judged["log"] < 0.5)
    other = judged["verdict"].map({"slower": "autodiff faster", "faster": "autodiff slower"})
    return judged["verdict"].mask(theirs, other)
