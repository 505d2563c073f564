"""The picture of error against time per op, and what pictures share."""

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxbp.ops import OPS
from jaxbp.report.tables import SUMS, amount, largest_cells, unique, worst_gradient

#: Colour (Okabe and Ito's, told apart by colour-blind readers) and marker of each kind of engine.
STYLES = {
    "default rule": ("#0072B2", "o"),
    "second rule": ("#56B4E9", "s"),
    "third rule": ("#332288", "p"),
    "autodiff": ("#D55E00", "D"),
    "forward_difference": ("#CC79A7", "v"),
    "central_difference": ("#009E73", "^"),
    "numpy": ("#999999", "P"),
    "torch": ("#E69F00", "X"),
}
COLUMNS = 6
#: Inches that an entry of a legend takes, at most.
LEGEND_ENTRY = 1.7
#: Errors below this, correctly rounded results, are drawn at the bottom.
LEAST_ULP = 0.25
#: Gradients within this many ULP are in the green band.
FAIR_ULP = 4
#: Errors above this are drawn at the top: wrong whatever the number.
MOST_ULP = 1e9


def style_of(op: str, engine: str) -> str:
    """The key of `STYLES` of an engine of an op."""
    if not engine.startswith("rule:"):
        return engine
    rules = [f"rule:{name}" for known in OPS if known.name == op for name in known.rules]
    if engine in rules[:1]:
        return "default rule"
    return "third rule" if engine in rules[2:] else "second rule"


def error_against_time(summary: pd.DataFrame, accuracy: pd.DataFrame, dtype: str) -> Figure:
    """One panel per op at its largest case: time of value and gradient on x, the gradient's worst ULP on y."""
    cells = largest_cells(summary, dtype)
    cells = cells[cells["mode"] == "fwd_bwd"]
    errors = worst_gradient(accuracy)[["op", "case", "dtype", "engine", "ulp"]]
    points = cells.merge(errors, on=["op", "case", "dtype", "engine"])
    ops = unique(points["op"])
    columns = min(COLUMNS, max(3, len(ops)))
    rows = max(1, math.ceil(len(ops) / columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.3 * columns, 1.75 * rows + 0.9), squeeze=False, sharey=True, layout="constrained"
    )
    for axis in axes.flat[len(ops) :]:
        axis.set_axis_off()
    for axis, op in zip(axes.flat, ops, strict=False):
        _panel(axis, op, points[points["op"] == op])
    for axis in axes[:, 0]:
        axis.set_ylabel("worst ULP", fontsize=8)
    draw_legend(figure, [style_of(op, e) for op, e in zip(points["op"], points["engine"], strict=True)])
    figure.suptitle(f"Gradient error against time of value and gradient: {dtype}, each op's largest case", fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and free it."""
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Axes, op: str, points: pd.DataFrame) -> None:
    # The default rule last: it must not hide behind an engine that does as well.
    for _, point in points.iloc[::-1].iterrows():
        colour, marker = STYLES[style_of(op, point["engine"])]
        error = min(max(point["ulp"], LEAST_ULP), MOST_ULP)
        face = colour if point["extrapolated"] == 1 else "none"
        axis.plot(point["time_us"] / 1e3, error, marker, color=colour, mfc=face, markersize=6, alpha=0.9, clip_on=False)
    axis.set(xscale="log", yscale="log", ylim=(LEAST_ULP / 3, MOST_ULP * 5))
    axis.set_title(f"{op} *" if op in SUMS else op, fontsize=9)
    axis.axhspan(LEAST_ULP / 3, FAIR_ULP, color="#009E73", alpha=0.08, linewidth=0)
    # The fastest and the slowest engine: decades would say nothing within one, and run into each other over many.
    low, high = points["time_us"].min(), points["time_us"].max()
    margin = max((high / low) ** 0.2, 1.1)
    axis.set_xlim(low / 1e3 / margin, high / 1e3 * margin)
    axis.set_xticks([low / 1e3, high / 1e3], [amount(low), amount(high)])
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def draw_legend(figure: Figure, used: list[str]) -> None:
    """The engines that a figure shows, below it."""
    handles = list(_handles(used))
    figure.legend(
        handles=handles,
        loc="outside lower center" if figure.get_layout_engine() else "lower center",
        ncols=min(len(handles), int(figure.get_figwidth() / LEGEND_ENTRY)),
        fontsize=9,
        frameon=False,
    )


def _handles(used: list[str]) -> Iterator[Line2D]:
    for name, (colour, marker) in STYLES.items():
        if name in used:
            yield Line2D([], [], color=colour, marker=marker, linestyle="none", label=name.replace("_", " "))
