"""How an op's cost grows with its size: fitted exponents, and times against entries as pictures."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy
from matplotlib.figure import Figure

from jaxbp.cases import ELEMENTWISE_SIZES, GROWTH
from jaxbp.measure.verdict import CONFIDENCE, FLOOR_FACTOR
from jaxbp.report import tables
from jaxbp.report.plots import STYLES, draw_legend, style_of

#: Sizes that an exponent is fitted to at least; so many of them above the dispatch floor.
LEAST_SIZES, LEAST_FITTED = 5, 3
COLUMNS = 5


def has_sizes(summary: pd.DataFrame, dtype: str) -> bool:
    """Whether a run measured some op at enough sizes for an exponent."""
    cells = sized_cells(summary, dtype)
    return bool((cells.groupby(["op", "engine"])["n"].nunique() >= LEAST_SIZES).any())


def exponents(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """Per op and engine the exponent p of time = floor + factor entries^p, its interval, and that of the operations.

    A line through the logarithms of entries of the largest array and of the time of value and gradient beyond the
    dispatch floor, at the sizes that take at least twice the floor; NaN where these are fewer than `LEAST_FITTED`.
    """
    rows = []
    for (op, engine), sizes in sized_cells(summary, dtype).groupby(["op", "engine"], sort=False):
        if sizes["n"].nunique() < LEAST_SIZES:
            continue
        fitted = sizes[sizes["time_us"] >= FLOOR_FACTOR * sizes["floor_us"]]
        slope, half, factor = _slope(fitted["n"], fitted["time_us"] - fitted["floor_us"])
        declared, _, _ = _slope(sizes["n"], sizes["flops"])
        found = {"exponent": slope, "half": half, "factor": factor, "declared": declared}
        rows.append({"op": op, "engine": engine, **found})
    return pd.DataFrame(rows, columns=["op", "engine", "exponent", "half", "factor", "declared"])


def exponent_table(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """`exponents` as text: one row per op, one column per engine."""
    found = exponents(summary, dtype)
    texts = [
        f"{e:.2f} ±{h:.2f}" if math.isfinite(e) else "n/a"
        for e, h in zip(found["exponent"], found["half"], strict=True)
    ]
    table = tables.by_engine(found.assign(text=texts))
    declared = found.drop_duplicates("op").set_index("op")["declared"]
    table.insert(1, "operations", [f"{declared[op]:.2f}" for op in table["op"]])
    return table


def figure(summary: pd.DataFrame, dtype: str) -> Figure:
    """A panel per op: time of value and gradient against entries, a line per engine; hollow marks are extrapolated."""
    cells = sized_cells(summary, dtype)
    ops = tables.unique(cells["op"])
    columns = min(COLUMNS, max(1, len(ops)))
    rows = max(1, math.ceil(len(ops) / columns))
    size = (max(8, 2.9 * columns), 2.3 * rows + 1)
    found, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis in axes.flat[len(ops) :]:
        axis.set_axis_off()
    for axis, op in zip(axes.flat, ops, strict=False):
        for engine, points in cells[cells["op"] == op].sort_values("n").groupby("engine", sort=False):
            colour, marker = STYLES[style_of(op, str(engine))]
            axis.plot(points["n"], points["time_us"] / 1e6, color=colour, linewidth=1)
            for _, point in points.iterrows():
                face = colour if point["extrapolated"] == 1 else "none"
                axis.plot(
                    point["n"], point["time_us"] / 1e6, marker, color=colour, markerfacecolor=face, markersize=4.5
                )
        axis.set(xscale="log", yscale="log")
        axis.set_title(op, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("seconds", fontsize=9)
    draw_legend(found, [style_of(op, e) for op, e in zip(cells["op"], cells["engine"], strict=True)])
    found.suptitle(f"Time of value and gradient against entries of the largest array: {dtype}", fontsize=11)
    return found


def sized_cells(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """The timed fwd_bwd cells of the cases that differ in size alone."""
    return summary[
        (summary["dtype"] == dtype)
        & (summary["mode"] == "fwd_bwd")
        & (summary["status"] == "ok")
        & summary["case"].isin([*ELEMENTWISE_SIZES, *GROWTH])
    ]


def _slope(n: pd.Series, cost: pd.Series) -> tuple[float, float, float]:
    """The slope of the logarithms, the half width of its interval, and the cost at 1."""
    if len(n) < LEAST_FITTED:
        return math.nan, math.nan, math.nan
    slope, intercept, _, _, error = map(float, scipy.stats.linregress(np.log(n), np.log(cost)))
    return slope, float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(n) - 2) * error), math.exp(intercept)
