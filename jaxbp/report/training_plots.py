"""The pictures of a training run: engines, descents, growth, searches, learning rates."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxbp.report.plots import STYLES
from jaxbp.report.training import Frames
from jaxbp.training.experiment import BASELINE
from jaxbp.training.gradients import NUMERICAL

#: Engines by the key of their style, and how wide their line is: curves that coincide show beside each other.
ENGINES = {
    "autodiff": ("autodiff", 5.0),
    "rule": ("default rule", 2.6),
    "central_difference": ("central_difference", 1.6),
    "numpy": ("numpy", 0.9),
}
#: NumPy's grey would vanish on top of the other lines.
DARK = {"numpy": "#000000"}
METHOD_COLOURS = {"grid": "#CC79A7", "random": "#E69F00", "descent": "#0072B2"}
KIND_STYLES = {"constant": "-", "cosine": "--"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#332288")


def figures(frames: Frames, kind: tuple[str, str]) -> Iterator[tuple[str, Figure]]:
    """Each picture with its file name; `kind` are the batch and schedule at which engines are compared."""
    curves = frames["curves"]
    if len(curves):
        batch, schedule = kind
        chosen = curves[(curves["batch"] == batch) & (curves["schedule"] == schedule)]
        if len(chosen):
            yield "engines.png", engines(chosen)
        yield "descents.png", descents(curves[curves["engine"] == curves["engine"].iloc[0]])
    for name, draw in (("growth", growth), ("search", search), ("rates", rates)):
        if len(frames[name]):
            yield f"{name}.png", draw(frames[name])


def engines(curves: pd.DataFrame) -> Figure:
    """Above, the objective on each step's examples by every engine; below, its distance from autodiff's."""
    problems = list(curves.groupby(["model", "loss"], sort=False))
    names = set(curves["engine"])
    compared = BASELINE in names and len(names) > 1
    figure, axes = plt.subplots(
        1 + compared,
        len(problems),
        figsize=(max(6, 3.2 * len(problems)), 3.2 + 2 * compared),
        squeeze=False,
        sharex="col",
        sharey="row",
        height_ratios=(3, 2)[: 1 + compared],
        layout="constrained",
    )
    for (problem, own), above, below in zip(problems, axes[0], axes[-1], strict=True):
        by_engine = {str(name): _finite(c.set_index("step")["batch_loss"]) for name, c in own.groupby("engine")}
        for name, losses in ((name, by_engine[name]) for name in ENGINES if name in by_engine):
            style, width = ENGINES[name]
            colour = DARK.get(name, STYLES[style][0])
            above.plot(losses.index + 1, losses, color=colour, linewidth=width, label=_words(name))
            if compared and name != BASELINE:
                base = by_engine[BASELINE].reindex(losses.index)
                apart = ((losses - base).abs() / base.abs()).replace(0, np.nan)
                below.plot(losses.index + 1, apart, "o", color=colour, markersize=2.5 if width < 2 else 4)
        above.set_title(", ".join(map(str, problem)), fontsize=10)
        above.set(xscale="log", yscale="log")
        below.set(xscale="log", yscale="log", xlabel="step")
    _span(axes[0], _finite(curves["batch_loss"]))
    axes[0][0].set_ylabel("objective of the batch")
    if compared:
        axes[1][0].set_ylabel("distance from autodiff,\nrelative")
    batch, schedule = curves["batch"].iloc[0], curves["schedule"].iloc[0]
    _finish(figure, axes, f"The same descent with the gradient of each engine: batch {batch}, {schedule} rate")
    return figure


def descents(curves: pd.DataFrame) -> Figure:
    """The objective on all images for training, a line per batch and schedule."""
    problems = list(curves.groupby(["model", "loss"], sort=False))
    size = (max(6, 3.2 * len(problems)), 5.2)
    figure, axes = plt.subplots(2, len(problems), figsize=size, squeeze=False, sharex=True, layout="constrained")
    batches = list(dict.fromkeys(curves["batch"]))
    for (problem, own), above, below in zip(problems, axes[0], axes[1], strict=True):
        for (batch, schedule), line in own.groupby(["batch", "schedule"], sort=False):
            colour = COLOURS[batches.index(str(batch)) % len(COLOURS)]
            label = f"batch {batch}, {schedule}"
            style = KIND_STYLES[str(schedule)]
            shown = line[np.isfinite(line["train_loss"])]
            above.plot(shown["step"] + 1, shown["train_loss"], style, color=colour, linewidth=1.4, label=label)
            below.plot(line["step"] + 1, 100 * (1 - line["test_accuracy"]), style, color=colour, linewidth=1.4)
        above.set_title(", ".join(map(str, problem)), fontsize=10)
        above.set(xscale="log", yscale="log")
        below.set(xscale="log", yscale="log", xlabel="step")
        below.set_yticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        below.minorticks_off()
        below.axhline(10, color="#999999", linewidth=0.8, linestyle=":")
    _span(axes[0], _finite(curves["train_loss"]))
    axes[0][0].set_ylabel("objective, all images")
    axes[1][0].set_ylabel("test errors, %")
    _finish(figure, axes, f"Descent with the gradient by {_words(curves['engine'].iloc[0])}")
    return figure


def growth(frame: pd.DataFrame) -> Figure:
    """Time of a gradient against the number of weights, a line per engine."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in frame.sort_values("weights").groupby("engine", sort=False):
        colour, marker = STYLES[ENGINES[str(name)][0]]
        axis.plot(points["weights"], points["time_us"] / 1e3, color=colour, marker=marker, label=_words(str(name)))
    axis.set(xscale="log", yscale="log", xlabel="weights of the network", ylabel="time of value and gradient, ms")
    weights = sorted(frame["weights"].unique())
    axis.set_xticks(weights, [f"{w:,}" for w in weights])
    # Not those of the other axis: where the times span less than a decade they alone have numbers.
    axis.xaxis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, frameon=False)
    numerical = (frame["engine"] == NUMERICAL).any()
    title = "A numerical gradient costs two evaluations a weight" if numerical else "Time of value and gradient"
    axis.set_title(title, fontsize=11)
    return figure


def search(frame: pd.DataFrame) -> Figure:
    """The best objective so far against evaluations: a row per loss, a column per space."""
    losses, spaces = list(dict.fromkeys(frame["loss"])), list(dict.fromkeys(frame["dims"]))
    size = (2.9 * len(spaces) + 0.4, 2.5 * len(losses) + 0.9)
    figure, axes = plt.subplots(
        len(losses), len(spaces), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    for (loss, dims), own in frame.groupby(["loss", "dims"], sort=False):
        axis = axes[losses.index(loss)][spaces.index(dims)]
        for method, line in own.groupby("method", sort=False):
            single = len(line) == 1
            axis.plot(
                line["evaluations"],
                line["best_loss"],
                color=METHOD_COLOURS[str(method)],
                marker="o" if single else None,
                drawstyle="steps-post",
                label=method,
            )
        axis.set(xscale="log", yscale="log")
        if axis in axes[0]:
            what = "coordinate" if dims == 1 else "coordinates"
            axis.set_title(f"{dims} {what}" if dims != max(spaces) else f"all {dims} weights", fontsize=10)
    for axis, loss in zip(axes[:, 0], losses, strict=True):
        axis.set_ylabel(f"{loss} objective, best so far")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations of the loss")
    _finish(figure, axes, "Search against descent")
    return figure


def rates(frame: pd.DataFrame) -> Figure:
    """The objective after the last step against the learning rate, a line per scale of the inputs."""
    losses = list(dict.fromkeys(frame["loss"]))
    figure, axes = plt.subplots(
        1, len(losses), figsize=(max(6, 4.4 * len(losses)), 3.6), squeeze=False, layout="constrained"
    )
    for axis, loss in zip(axes[0], losses, strict=True):
        own = frame[frame["loss"] == loss]
        top = 10 * own["first_loss"].max()
        for colour, (scale, line) in zip(COLOURS, own.groupby("scale", sort=False), strict=False):
            line = line.sort_values("rate")
            works = line["works"].astype(bool)
            shown = line["last_loss"].clip(upper=top)
            axis.plot(line["rate"], shown, color=colour, linewidth=1, label=f"pixels times {scale:g}")
            axis.plot(line["rate"][works], shown[works], "o", color=colour, markersize=5)
            axis.plot(line["rate"][~works], shown[~works], "o", color=colour, markersize=5, markerfacecolor="white")
        axis.axhline(own["first_loss"].iloc[0], color="#999999", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="learning rate")
        axis.set_title(f"{loss}: hollow marks rose above the start", fontsize=10)
    axes[0][0].set_ylabel("objective after the last step")
    _finish(figure, axes, "Inputs times 1000: the learning rate has to fall by 1000 squared")
    return figure


def _finite(values: pd.Series) -> pd.Series:
    return values[np.isfinite(values)]


def _span(axes: np.ndarray, values: pd.Series) -> None:
    """All values, and a bit more: a logarithmic axis of one value alone has no ends."""
    for axis in axes if len(values) else ():
        axis.set_ylim(values.min() / 1.2, values.max() * 1.2)


def _finish(figure: Figure, axes: np.ndarray, title: str) -> None:
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    handles: dict[str, Artist] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(_legend(axis)), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False
    )
    figure.suptitle(title, fontsize=11)


def _legend(axis: Axes) -> tuple[list[Artist], list[str]]:
    lines, labels = axis.get_legend_handles_labels()
    return list(lines), list(labels)


def _words(engine: str) -> str:
    return engine.replace("_", " ")
