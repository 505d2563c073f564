"""The history of the default rules over many runs: `history.md` with a table and pictures per machine and dtype."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxbp.report import plots, tables
from jaxbp.report.compare import compare_runs
from jaxbp.report.markdown import table
from jaxbp.report.run import Run, naming
from jaxbp.report.selftest import Progress

HISTORY = "history.md"
#: Runs that a table has columns for, and a picture points; the newest count.
MOST_COLUMNS, MOST_POINTS = 6, 40
COLUMNS = 6
#: Colour (Okabe and Ito's) and marker of each mode.
MODES = {"split": ("#0072B2", "o"), "fwd_bwd": ("#E69F00", "s")}
#: What each column of the frame of `history` holds.
HISTORY_COLUMNS = {
    "machine": "the machine's name",
    "dtype": "dtype of arguments and cotangent",
    "op": "the op, under its default rule",
    "case": "its largest case among those that most runs have",
    "started": "when the run started",
    "commit": "the commit that it measured",
    "jax": "version of JAX",
    "op_version": "version of the op's declaration",
    "mode": "split or fwd_bwd",
    "ratio": "time over that of autodiff",
    "ratio_low": "lower end of its 95 % interval",
    "ratio_high": "upper end of it",
    "ulp": "error of the worst gradient in ULP; of ops whose entries are sums, of the largest entry",
}
HOW_TO_READ = """\
The default rule of each op at the largest case that most runs have: time over that of autodiff, in mode split (forward
pass with residuals plus backward pass; fwd_bwd where a run has no split), with half its 95 % interval, and the worst
ULP of its gradient. v2 marks an earlier version of an op's declaration. **Last change** is what `jaxbp compare` says of
the last two runs about this cell: slower and faster beyond chance and a margin. A dash says that the two do not have
the same code."""


def history(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run, op, dtype and mode that it has, with `HISTORY_COLUMNS`, by time."""
    parts = [_points(run) for run in sorted(runs, key=lambda run: run.machine["started"])]
    found = pd.concat(parts, ignore_index=True)
    # The case that most runs have, of these the largest.
    group = ["machine", "dtype", "op"]
    found["runs"] = found.groupby([*group, "case"])["started"].transform("nunique")
    ranked = found.sort_values(["runs", "n"], ascending=False, kind="stable").drop_duplicates(group)
    return found.merge(ranked[[*group, "case"]], on=[*group, "case"])[list(HISTORY_COLUMNS)]


def _points(run: Run) -> pd.DataFrame:
    # What was not sampled in the same rounds as autodiff has no verdict, and scatters too much for a trend.
    cells = run.summary[(run.summary["verdict"] != "") & run.summary["mode"].isin(list(MODES))]
    defaults = {op: tables.default_engine(str(op), own["engine"]) for op, own in cells.groupby("op")}
    cells = cells[cells["engine"] == cells["op"].map(defaults)]
    key = ["op", "case", "dtype", "engine"]
    found = cells.merge(tables.worst_gradient(run.accuracy)[[*key, "ulp"]], on=key, how="left")
    return found.assign(started=run.machine["started"], machine=run.machine["name"], commit=run.machine["commit"] or "")


def write_history(runs: Sequence[Run], path: Path, progress: Progress) -> Path:
    """Write tables and pictures of the history of these runs beside each other."""
    with naming(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    parts = dict(list(history(runs).groupby(["machine", "dtype"], sort=False)))
    with progress(2 * len(parts)) as advance:
        text = "\n".join(_sections(runs, parts, path, advance)) + "\n"
    with naming(path, "written"):
        path.write_text(text)
    return path


def _sections(
    runs: Sequence[Run], parts: dict[Any, pd.DataFrame], path: Path, advance: Callable[[str], None]
) -> Iterator[str]:
    yield f"# History of {len(runs)} runs\n\n{HOW_TO_READ}\n"
    for (machine, dtype), points in parts.items():
        own = [
            run for run in runs if run.machine["name"] == machine and run.machine["started"] in set(points["started"])
        ]
        own.sort(key=lambda run: run.machine["started"])
        yield f"## {machine}, {dtype}\n\n{table(trend(points, own))}\n\n{tables.STAR}\n"
        for column, picture in (("ratio", ratios), ("ulp", errors)):
            file = path.parent / f"{path.stem}-{machine}-{dtype}-{column}.png"
            advance(file.name)
            with naming(file, "written"):
                plots.save(picture(points), file)
            yield f"![{column} over runs]({file.name})\n"


def trend(points: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """A row per op, a column for each of the newest runs, and what changed from the last but one run to the last."""
    points = points.sort_values("mode", key=lambda mode: mode != "split", kind="stable")
    points = points.drop_duplicates(["op", "started"]).sort_values("started", kind="stable")
    newest = sorted(points["started"].unique())[-MOST_COLUMNS:]
    latest = points.groupby("op", sort=False)["op_version"].last()
    texts = [
        _shown(row) + (f" v{row['op_version']:g}" if row["op_version"] != latest[row["op"]] else "")
        for _, row in points.iterrows()
    ]
    names = points.set_index("started").apply(lambda row: f"{row.name[:10]} {row['commit'][:7]}", axis=1)
    wide = points.assign(text=texts).pivot(index="op", columns="started", values="text")
    wide = wide.reindex(index=tables.unique(points["op"]), columns=newest).fillna("")
    wide.columns = [names[names.index == started].iloc[0] for started in newest]
    said = _last_change(runs, points) if len(runs) > 1 else {}
    wide["last change"] = [said.get(str(op), "-") for op in wide.index]
    return wide.reset_index()


def _shown(row: pd.Series) -> str:
    half = (row["ratio_high"] - row["ratio_low"]) / 2
    star = " *" * (row["op"] in tables.SUMS)
    return f"{row['ratio']:.2f} ±{half:.2f}, {tables.number(row['ulp'])} ULP{star}"


def _last_change(runs: Sequence[Run], shown: pd.DataFrame) -> dict[str, str]:
    """Of each op what the last two runs say of the cell that is shown, and of its errors."""
    changes = compare_runs(*runs[-2:])
    said = {}
    for _, point in shown.drop_duplicates("op", keep="last").iterrows():
        op = str(point["op"])
        own = changes[(changes["op"] == op) & (changes["case"] == point["case"]) & (changes["dtype"] == point["dtype"])]
        own = own[own["engine"] == tables.default_engine(op, own["engine"])]
        times = own.loc[own["measure"].isin(("ratio", "time")) & (own["mode"] == point["mode"]), "verdict"]
        errors = own.loc[own["measure"].isin(("ulp", "p99_ulp", "wrong")) & (own["verdict"] != "same"), "verdict"]
        said[op] = ", ".join(tables.unique([*times, *errors])) or "-"
    return said


def ratios(points: pd.DataFrame) -> Figure:
    """A panel per op: the ratio to autodiff over runs, with its interval, a line per mode."""

    def draw(axis: Axes, own: pd.DataFrame, x: pd.Series) -> None:
        axis.axhline(1, color="#999999", linewidth=0.8)
        for mode, (colour, marker) in MODES.items():
            cells = own[own["mode"] == mode]
            bars = [(cells["ratio"] - cells["ratio_low"]).clip(0), (cells["ratio_high"] - cells["ratio"]).clip(0)]
            axis.errorbar(
                x[cells.index],
                cells["ratio"],
                bars,
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1,
                elinewidth=1,
            )
        low, high = min(0.9, own["ratio_low"].min()), max(1.1, own["ratio_high"].max())
        axis.set(yscale="log", ylim=(low / 1.05, high * 1.05))
        # The ends, unless they would stand on 1.
        ends = [end for end in (low, high) if abs(math.log(end)) > math.log(high / low) / 5]
        axis.set_yticks([1.0, *ends], ["1", *(f"{end:.2g}" for end in ends)])

    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1, label=mode) for mode, (colour, marker) in MODES.items()
    ]
    return _panels(points, "Time over that of autodiff; below 1 is faster", draw, handles)


def errors(points: pd.DataFrame) -> Figure:
    """A panel per op: the worst ULP of the gradient over runs."""

    def draw(axis: Axes, own: pd.DataFrame, x: pd.Series) -> None:
        cells = own.drop_duplicates("started")
        ulp = cells["ulp"].clip(plots.LEAST_ULP, plots.MOST_ULP)
        axis.plot(x[cells.index], ulp, "o-", color="#0072B2", markersize=4, linewidth=1)
        axis.axhspan(plots.LEAST_ULP / 2, plots.FAIR_ULP, color="#009E73", alpha=0.08, linewidth=0)
        axis.set(yscale="log", ylim=(plots.LEAST_ULP / 2, max(32.0, 4 * float(ulp.max()))))

    title = f"Worst ULP of the gradient; the green band ends at {plots.FAIR_ULP}"
    return _panels(points, title, draw, [])


def _panels(
    points: pd.DataFrame, title: str, draw: Callable[[Axes, pd.DataFrame, pd.Series], None], handles: list[Line2D]
) -> Figure:
    ops, times = tables.unique(points["op"]), sorted(points["started"].unique())[-MOST_POINTS:]
    points = points[points["started"].isin(times)]
    places = {started: place for place, started in enumerate(times)}
    columns = min(COLUMNS, len(ops))
    rows = math.ceil(len(ops) / columns)
    width, height = max(7.0, 2.3 * columns), 1.5 * rows + 1.1
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    # In inches, since to fit a layout to so many panels takes long.
    edges = {"left": 0.5 / width, "right": 1 - 0.1 / width, "bottom": 0.7 / height, "top": 1 - 0.65 / height}
    figure.subplots_adjust(**edges, wspace=0.32, hspace=0.5)
    for axis in axes.flat[len(ops) :]:
        axis.set_axis_off()
    for axis, op in zip(axes.flat, ops, strict=False):
        own = points[points["op"] == op].sort_values("started", kind="stable")
        x = own["started"].map(places)
        draw(axis, own, x)
        for place in x[own["op_version"] != own["op_version"].shift().fillna(own["op_version"])]:
            axis.axvline(place - 0.5, color="#D55E00", linestyle=":", linewidth=1)
        axis.set_title(op, fontsize=9)
        axis.minorticks_off()
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    shown = sorted({round(place) for place in np.linspace(0, len(times) - 1, min(len(times), 4))})
    for axis in axes.flat:
        axis.set_xlim(-0.5, len(times) - 0.5)
        axis.set_xticks(shown, [times[place][5:10] for place in shown])
    # Dates stand below the panels that have none under them.
    for axis in axes.flat[: max(0, len(ops) - columns)]:
        axis.tick_params(labelbottom=False)
    handles = [*handles, Line2D([], [], color="#D55E00", linestyle=":", label="another version of the op")]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=9, frameon=False)
    figure.suptitle(
        f"{title} ({points['machine'].iloc[0]}, {points['dtype'].iloc[0]})", fontsize=11, y=1 - 0.15 / height
    )
    return figure
