"""The tables of a report, as frames of text made from a run's summary and accuracy."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxbp.measure.executables import Mode
from jaxbp.measure.verdict import CONFIDENCE, MARGIN
from jaxbp.ops import OPS

VALUE = "value"
#: What the star in `overview` means.
STAR = "\\* in ULP of the largest entry, since entries are sums that may cancel."
#: What stands where a backend says nothing, or nothing was measured.
UNKNOWN = "n/a"
T = TypeVar("T")

#: In which the default rule stands beside autodiff.
COMPARED: tuple[Mode, ...] = ("fwd_bwd", "split", "summed")
#: Ops whose gradients are sums over entries, which may cancel: an entry's own ULP would judge the data, not the rule.
SUMS = frozenset(op.name for op in OPS if not op.elementwise)


def worst_gradient(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Per op, case, dtype and engine, the row of the worst cotangent, with its error in the column `ulp`.

    It is the largest error in ULP of the entry; for the ops in `SUMS`, in ULP of the largest entry.
    """
    gradients = accuracy[accuracy["quantity"] != VALUE]
    ranked = gradients.assign(ulp=largest_error(gradients)).sort_values("ulp", ascending=False, kind="stable")
    return ranked.drop_duplicates(["op", "case", "dtype", "engine"])


def largest_error(accuracy: pd.DataFrame) -> pd.Series:
    """The largest error of each row in ULP of the entry; for the ops in `SUMS`, in ULP of the largest entry."""
    eps = accuracy["dtype"].map({name: float(jnp.finfo(name).eps) for name in unique(accuracy["dtype"])})
    of_largest = accuracy["norm_rel"] / eps.astype(float)
    return accuracy["max_ulp"].where(~accuracy["op"].isin(SUMS), of_largest)


def default_engine(op: str, engines: Iterable[str]) -> str:
    """The engine of an op's default rule among those of a run.

    A run of another version may not have it: then that of the first rule that it has, in the order of this version,
    where a new default comes before what it replaces. Of an op that this version does not have, any rule.
    """
    engines = list(engines)
    declared = [f"rule:{name}" for known in OPS if known.name == op for name in known.rules]
    rules = [engine for engine in engines if engine.startswith("rule:")]
    return next(iter([*(engine for engine in declared if engine in engines), *rules, *declared, "rule:"]))


def largest_cells(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """The timed cells of each op's largest measured case."""
    cells = summary[(summary["dtype"] == dtype) & (summary["status"] == "ok")]
    return cells[cells["n"] == cells.groupby("op")["n"].transform("max")]


#: Worst errors differ where one is this many times the other: by a bit. Up to `ROUNDED` both are rounded correctly.
ONE_BIT, ROUNDED = 2, 0.5


@dataclasses.dataclass(frozen=True)
class Standing:
    """An op's default rule against autodiff at the op's largest case.

    Attributes:
        op: its name.
        rule: the engine of its default rule.
        case: the case; empty where nothing has a time.
        cells: the timed cells of the case, by engine and mode.
        ulp: the worst gradient's error, as in `worst_gradient`, by engine.
        wrong: why the default rule failed at some case; empty if it did not.
    """

    op: str
    rule: str
    case: str
    cells: dict[tuple[str, str], pd.Series]
    ulp: dict[str, float]
    wrong: str

    def digits(self) -> str:
        """Whether the rule has `more`, the `same` or `fewer` digits right, by at least a bit; empty if not known."""
        if not {self.rule, "autodiff"} <= set(self.ulp):
            return ""
        ours, theirs = (max(self.ulp[engine], ROUNDED) for engine in (self.rule, "autodiff"))
        if math.isnan(ours) or math.isnan(theirs):
            return ""
        if ours == theirs:  # As two infinities are.
            return "same"
        return "more" if theirs >= ONE_BIT * ours else "fewer" if ours >= ONE_BIT * theirs else "same"

    def faster(self, mode: str) -> str:
        """The verdict on a mode's time; empty where there is none."""
        cell = self.cells.get((self.rule, mode))
        return "" if cell is None else str(cell["verdict"])

    def memory(self, engine: str) -> tuple[float, float]:
        """Bytes kept between the passes, and temporary bytes of fwd_bwd; NaN where not known."""
        kept, both = self.cells.get((engine, "fwd_res")), self.cells.get((engine, "fwd_bwd"))
        return (
            math.nan if kept is None else float(kept["residual_bytes"]),
            math.nan if both is None else float(both["temp_bytes"]),
        )

    def leaner(self) -> str:
        """Whether the rule keeps and allocates less: `leaner`, `same`, `heavier`, or `mixed`; empty if not known."""
        signs = set()
        for ours, theirs in zip(self.memory(self.rule), self.memory("autodiff"), strict=True):
            if not math.isnan(ours + theirs):
                apart = abs(ours - theirs) > MARGIN * max(ours, theirs)
                signs.add(("leaner" if ours < theirs else "heavier") if apart else "same")
        if len(signs) > 1:
            signs.discard("same")
        return "mixed" if len(signs) > 1 else "".join(signs)


def standings(summary: pd.DataFrame, accuracy: pd.DataFrame, dtype: str) -> Iterator[Standing]:
    """How each op of a run stands at a dtype, those without any time too."""
    # Of one dtype, objects: rows are then taken out many times as fast.
    cells = largest_cells(summary, dtype).astype(object)
    errors = worst_gradient(accuracy[accuracy["dtype"] == dtype])
    failed = failures(summary[summary["dtype"] == dtype])
    for op in unique(summary.loc[summary["dtype"] == dtype, "op"]):
        ours, own = default_engine(op, unique(summary.loc[summary["op"] == op, "engine"])), cells[cells["op"] == op]
        case = str(own["case"].iloc[0]) if len(own) else ""
        own = own[own["case"] == case]
        found = errors[(errors["op"] == op) & (errors["case"] == case)]
        broken = failed.loc[(failed["op"] == op) & (failed["engine"] == ours), "reason"]
        yield Standing(
            op,
            ours,
            case,
            {(str(cell["engine"]), str(cell["mode"])): cell for _, cell in own.iterrows()},
            {str(engine): float(ulp) for engine, ulp in zip(found["engine"], found["ulp"], strict=True)},
            str(broken.iloc[0]) if len(broken) else "",
        )


def overview(summary: pd.DataFrame, accuracy: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """One row per op at its largest case: the default rule against autodiff in digits, time and memory."""
    return _beside_autodiff((f, f.rule) for f in standings(summary, accuracy, dtype) if f.case)


def about_slower(ratios: int) -> str:
    """What `slower` shows, and how many of so many ratios may be there by chance.

    >>> about_slower(144).split(". ")[1]
    'Of times that are equal, one in 40 at most is called slower by chance, on average: 3.6 of 144'
    """
    one_in = round(2 / (1 - CONFIDENCE))
    return (
        "Where the default rule is slower than autodiff, for its digits or for what it does not keep, all rules of the "
        "op, and how near fwd_bwd comes to what the device can do. Of times that are equal, one in "
        f"{one_in} at most is called slower by chance, on average: {ratios / one_in:.2g} of {ratios}. What is slower "
        "in a second run, too, hardly is by chance."
    )


def slower(summary: pd.DataFrame, accuracy: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """Likewise all rules of the ops whose default rule is slower than autodiff, with the part of the physical limit."""
    rules = [
        (found, engine)
        for found in standings(summary, accuracy, dtype)
        if "slower" in map(found.faster, COMPARED)
        for engine in dict.fromkeys(engine for engine, _ in found.cells)
        if engine.startswith("rule:")
    ]
    frame = _beside_autodiff(rules)
    both = [found.cells.get((ours, "fwd_bwd")) for found, ours in rules]
    return frame.assign(limit=[UNKNOWN if cell is None else percent(cell) for cell in both])


def _beside_autodiff(rules: Iterable[tuple[Standing, str]]) -> pd.DataFrame:
    """One row for each rule of those ops."""
    rows = []
    for found, ours in rules:
        row = {"op": found.op, "rule": ours.removeprefix("rule:"), "case": found.case}
        for engine, label in ((ours, "worst ULP"), ("autodiff", "autodiff's")):
            row[label] = number(found.ulp[engine]) + " *" * (found.op in SUMS) if engine in found.ulp else ""
        for mode in COMPARED:
            row[f"{mode} / autodiff"] = ratio(found.cells[ours, mode]) if (ours, mode) in found.cells else ""
        for engine, label in ((ours, "kept"), ("autodiff", "autodiff keeps")):
            row[label] = size(found.memory(engine)[0])
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.loc[:, (frame != "").any()]


def engine_times(summary: pd.DataFrame, case: str, dtype: str, mode: str = "fwd_bwd") -> pd.DataFrame:
    """One row per op at one case, one column per engine: median time with the half width of its interval."""
    cells = summary[
        (summary["case"] == case)
        & (summary["dtype"] == dtype)
        & (summary["mode"] == mode)
        & (summary["status"] == "ok")
    ]
    cells = cells.assign(text=[duration(cell) for _, cell in cells.iterrows()])
    return by_engine(cells)


def engine_errors(accuracy: pd.DataFrame, case: str, dtype: str, column: str = "max_ulp") -> pd.DataFrame:
    """One row per op at one case, one column per engine: the worst error of its worst gradient."""
    errors = worst_gradient(accuracy[(accuracy["case"] == case) & (accuracy["dtype"] == dtype)])
    few = errors["count"] < errors.groupby("op")["count"].transform("max")
    texts = [
        f"{number(value)} (of {count} entries)" if sampled else number(value)
        for value, count, sampled in zip(errors[column], errors["count"], few, strict=True)
    ]
    return by_engine(errors.assign(text=texts).sort_index())


def growth(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """How the cost of a gradient grows with the entries, for the ops perturbed one entry at a time."""
    single = [op.name for op in OPS if not op.elementwise]
    cells = summary[
        summary["op"].isin(single)
        & (summary["dtype"] == dtype)
        & (summary["mode"] == "fwd_bwd")
        & (summary["status"] == "ok")
    ].sort_values(["op", "n"], key=lambda c: c.map(single.index) if c.name == "op" else c, kind="stable")
    cells = cells.assign(text=[duration(cell) for _, cell in cells.iterrows()])
    return by_engine(cells, index=["op", "case", "n"])


def failures(summary: pd.DataFrame) -> pd.DataFrame:
    """The failed cells with their reasons."""
    return summary.loc[summary["status"] == "failed", ["op", "case", "dtype", "engine", "reason"]]


def processes(summary: pd.DataFrame) -> str:
    """How many processes timed the rules, as `5`, or `5 to 20` where they are not equally many; empty where it was one.

    >>> processes(pd.DataFrame({"engine": ["rule:a", "rule:b", "numpy"], "processes": [5, 20, 1]}))
    '5 to 20'
    >>> processes(pd.DataFrame({"engine": ["rule:a", "numpy"], "processes": [float("nan"), 1]}))
    ''
    """
    counts = summary.loc[summary["engine"].str.startswith("rule:"), "processes"].dropna()
    if not counts.max() > 1:
        return ""
    return " to ".join(dict.fromkeys(f"{count:.0f}" for count in (counts.min(), counts.max())))


def unique(values: Iterable[T]) -> list[T]:
    """The distinct values in order of appearance."""
    return list(dict.fromkeys(values))


def number(value: float) -> str:
    """A number in three digits.

    >>> number(2.3456), number(16777215.0), number(math.inf), number(0.0), number(math.nan)
    ('2.35', '1.68e+07', 'inf', '0', '')
    """
    return "" if math.isnan(value) else f"{value:.3g}"


def plain(value: float, digits: int = 3) -> str:
    """A number to so many digits, never with an exponent.

    >>> plain(999.96), plain(112.3, 2), plain(0.0456, 2)
    ('1000', '110', '0.046')
    """
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def duration(cell: pd.Series) -> str:
    """A time with its interval in the unit that reads best; extrapolated ones are marked.

    >>> duration(pd.Series({"time_us": 1500.0, "time_us_low": 1400.0, "time_us_high": 1600.0, "extrapolated": 1.0}))
    '1.5 ms ±0.1'
    """
    scale, unit = _unit(cell["time_us"])
    text = f"{plain(cell['time_us'] / scale)} {unit}"
    half = max(cell["time_us_high"] - cell["time_us"], cell["time_us"] - cell["time_us_low"]) / scale
    if not math.isnan(half):
        text += f" ±{half:.2g}" if half < 99.5 else f" ±{half:.0f}"
    return text if cell["extrapolated"] == 1 else f"{text} (extrapolated)"


def amount(time_us: float) -> str:
    """A time in the unit that reads best.

    >>> amount(12.34), amount(130e3), amount(3.6e9 * 30)
    ('12 µs', '130 ms', '30 h')
    """
    scale, unit = _unit(time_us)
    value = time_us / scale
    return f"{value:.2g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"


def _unit(time_us: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "µs"), (1e3, "ms"), (1e6, "s")):
        if time_us < 1000 * scale:
            return scale, unit
    return 3.6e9, "h"


def ratio(cell: pd.Series) -> str:
    """A ratio with its interval and verdict.

    >>> ratio(pd.Series({"ratio": 0.8, "ratio_low": 0.75, "ratio_high": 0.84, "verdict": "faster"}))
    '0.80 [0.75, 0.84] faster'
    """
    if math.isnan(cell["ratio"]):
        return ""
    return f"{cell['ratio']:.2f} [{cell['ratio_low']:.2f}, {cell['ratio_high']:.2f}] {cell['verdict']}".strip()


def size(count: float) -> str:
    """Bytes in the unit that reads best.

    >>> size(0), size(4096), size(16777216)
    ('0', '4 KiB', '16 MiB')
    """
    if math.isnan(count):
        return ""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= scale:
            return f"{plain(count / scale)} {unit}"
    return f"{count:.0f}" + (" B" if count else "")


def percent(cell: pd.Series) -> str:
    """A percentage of the physical limit, and which limit it is.

    >>> percent(pd.Series({"roofline": 43.21, "bound": "memory"}))
    '43 % (memory)'
    >>> percent(pd.Series({"roofline": math.nan, "bound": ""}))
    'n/a'
    """
    return UNKNOWN if math.isnan(cell["roofline"]) else f"{plain(cell['roofline'], 2)} % ({cell['bound']})"


def by_engine(cells: pd.DataFrame, index: list[str] | None = None) -> pd.DataFrame:
    """The column `text` of cells, one row per op or other index, one column per engine."""
    index = index or ["op"]
    rows = cells.drop_duplicates([*index, "engine"])
    table = rows.set_index([*index, "engine"])["text"].unstack("engine")
    order = unique(tuple(row) for row in rows[index].itertuples(index=False))
    columns = _merge_rules(table.loc[[key if len(index) > 1 else key[0] for key in order]])
    return columns.reset_index()


def _merge_rules(table: pd.DataFrame) -> pd.DataFrame:
    """One column for the default rules and one for the second rules, whatever their names, then the engines."""
    rules = [name for name in table.columns if name.startswith("rule:")]
    merged: dict[str, list[str]] = {"default rule": [], "second rule": []}
    for key, row in table.iterrows():
        op = key[0] if isinstance(key, tuple) else key
        default = default_engine(str(op), [name for name in rules if isinstance(row[name], str)])
        others = [f"{row[r]} ({r[5:]})" for r in rules if r != default and isinstance(row[r], str)]
        first = row.get(default)
        merged["default rule"].append(first if isinstance(first, str) else "")
        merged["second rule"].append("; ".join(others))
    columns = {name: texts for name, texts in merged.items() if any(texts)}
    order = ("autodiff", "forward_difference", "central_difference", "numpy", "torch")
    rest = table[[name for name in order if name in table.columns]].fillna("")
    return pd.concat([pd.DataFrame(columns, index=table.index), rest], axis=1)
