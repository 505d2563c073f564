"""The pictures: every measured point is in them, and no number that a run may hold stops them."""

import math
import struct
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from synthetic import FACTS, accuracy_row, failure_row, small_run, time_row

from jaxbp.report import growth, plots
from jaxbp.report.frames import accuracy_frame, summary_frame


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


def frames(*rows: Any):
    return summary_frame(rows, FACTS), accuracy_frame(rows, FACTS)


def points(axis: Axes) -> list[tuple[float, float]]:
    """What the single markers of a panel show."""
    lines = [line for line in axis.lines if len(np.atleast_1d(line.get_xdata())) == 1]
    return [(float(np.ravel(line.get_xdata())[0]), float(np.ravel(line.get_ydata())[0])) for line in lines]


def panels(figure: Figure) -> dict[str, Axes]:
    return {axis.get_title(): axis for axis in figure.axes if axis.get_title()}


def saved(figure: Figure, path: Path) -> tuple[int, int]:
    """Width and height of the picture that `save` writes."""
    plots.save(figure, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 5000
    # It is not one colour: axes, text and markers are there.
    assert np.std(plt.imread(path)[..., :3]) > 0.05
    return struct.unpack(">II", content[16:24])


def test_each_engine_is_a_point_at_its_time_and_error(tmp_path):
    run = small_run(tmp_path)
    figure = plots.error_against_time(run.summary, run.accuracy, "float32")
    shown = panels(figure)
    assert set(shown) == {"sigmoid", "matmul *"}
    # The largest case: 2^22 entries at factor x 1.04 us each; the errors are 2, 4, 6, 8.
    expected = [(factor * 2**22 * 1.04 / 1e3, 2.0 * factor) for factor in (1, 2, 3, 4)]
    for axis in shown.values():
        np.testing.assert_allclose(sorted(points(axis)), expected, rtol=1e-5)
    width, height = saved(figure, tmp_path / "a.png")
    assert width > 600
    assert height > 200


@pytest.mark.parametrize("engines", [1, 3, len(plots.STYLES)])
@pytest.mark.parametrize("columns", [3, plots.COLUMNS])
def test_the_legend_is_within_the_picture_and_below_the_panels(columns, engines):
    figure, _ = plt.subplots(1, columns, figsize=(2.3 * columns, 2.65), layout="constrained")
    plots.draw_legend(figure, list(plots.STYLES)[:engines])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    extents = [extent for axis in figure.axes if (extent := axis.get_tightbbox())]
    assert len(extents) == columns
    assert figure.bbox.y0 <= box.y0 < box.y1 <= min(extent.y0 for extent in extents)


def test_growth_connects_the_sizes_of_each_engine_and_marks_extrapolations(tmp_path):
    rows = []
    for case, n in (("small", 256), ("memory", 2**20)):
        for engine in ("autodiff", "central_difference"):
            scale = 1000.0 if (engine, case) == ("central_difference", "memory") else 1.0
            rows.append(time_row(op="matmul", case=case, n=n, engine=engine, samples_us=[n * 1.0], extrapolated=scale))
    rows.append(time_row(op="matmul", case="digits", n=5, engine="autodiff"))
    figure = growth.figure(frames(*rows)[0], "float32")
    axis = panels(figure)["matmul"]
    assert sorted(set(points(axis))) == [(256, 256e-6), (2**20, pytest.approx(2**20 * 1e-6))]
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "none"]
    assert len(hollow) == 1
    assert float(np.ravel(hollow[0].get_xdata())[0]) == 2**20
    lines = [line for line in axis.lines if len(np.atleast_1d(line.get_xdata())) == 2]
    assert len(lines) == 2
    saved(figure, tmp_path / "growth.png")


@pytest.mark.parametrize(
    ("error", "drawn"),
    [(math.inf, plots.MOST_ULP), (1e30, plots.MOST_ULP), (0.0, plots.LEAST_ULP), (100.0, 100.0), (math.nan, None)],
)
def test_errors_that_have_no_place_are_at_the_edge(tmp_path, error, drawn):
    rows = [time_row(), time_row(engine="numpy", samples_us=[7.0, 7.0])]
    rows += [accuracy_row(max_ulp=error), accuracy_row(engine="numpy", max_ulp=2.0)]
    figure = plots.error_against_time(*frames(*rows), "float32")
    errors = [y for _, y in points(panels(figure)["multiply"]) if not math.isnan(y)]
    assert sorted(errors) == sorted([2.0] + ([] if drawn is None else [drawn]))
    saved(figure, tmp_path / "a.png")


def test_one_engine_alone_is_drawn(tmp_path):
    """Its time is the fastest and the slowest."""
    figure = plots.error_against_time(*frames(time_row(), accuracy_row()), "float32")
    axis = panels(figure)["multiply"]
    low, high = axis.get_xlim()
    assert low < points(axis)[0][0] < high
    saved(figure, tmp_path / "a.png")


def test_what_failed_is_not_drawn(tmp_path):
    rows = [time_row(), accuracy_row(), failure_row("no", op="exp"), accuracy_row(op="exp")]
    figure = plots.error_against_time(*frames(*rows), "float32")
    assert set(panels(figure)) == {"multiply"}


def test_nothing_to_draw_is_an_empty_picture(tmp_path):
    summary, accuracy = frames(failure_row("no", op="matmul"))
    for figure in (plots.error_against_time(summary, accuracy, "float32"), growth.figure(summary, "float32")):
        plots.save(figure, tmp_path / "empty.png")
        assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_saving_frees_the_figure(tmp_path):
    before = len(plt.get_fignums())
    figure = plots.error_against_time(*frames(time_row(), accuracy_row()), "float32")
    assert len(plt.get_fignums()) == before + 1
    plots.save(figure, tmp_path / "a.png")
    assert len(plt.get_fignums()) == before


def test_every_engine_has_a_style_of_its_own():
    names = ("rule:stable", "rule:textbook", "autodiff", "forward_difference", "central_difference", "numpy", "torch")
    styles = [plots.STYLES[plots.style_of("sigmoid", name)] for name in names]
    assert len(set(styles)) == len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 7
