"""The history of runs: the right case, version and verdict in the table, a picture per machine and dtype."""

from contextlib import nullcontext
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from runs import as_run, noisy_rows, noisy_run

from jaxbp.report.history import HISTORY_COLUMNS, errors, history, ratios, trend, write_history
from jaxbp.report.run import Run


def dated(folder: str, seed: int, day: int, name: str = "test-2-core", **planted: Any) -> Run:
    """A run of two ops whose default rule is called `stable`."""
    machine = {"started": f"2026-01-{day:02}T00:00:00Z", "commit": f"{day:012}", "name": name}
    return noisy_run(folder, seed, machine, ops=("sigmoid", "expm1"), **planted)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Three runs of one machine, not in order, the last of them slower in sigmoid; and one of another."""
    return [
        dated("second", 2, 2),
        dated("first", 1, 1),
        dated("third", 3, 3, slow={"sigmoid": 1.3}, ulp={"sigmoid": 50.0}),
        dated("elsewhere", 4, 4, name="other"),
    ]


def test_a_row_for_each_run_and_mode(runs):
    found = history(runs)
    assert list(found.columns) == list(HISTORY_COLUMNS)
    own = found[(found["op"] == "sigmoid") & (found["machine"] == "test-2-core") & (found["mode"] == "split")]
    assert own["commit"].tolist() == ["000000000001", "000000000002", "000000000003"]
    assert own["ratio"].round(1).tolist() == [1.0, 1.0, 1.3]
    assert own["ulp"].tolist() == [2.0, 2.0, 50.0]


def test_a_run_from_before_an_op_had_its_default_rule_has_its_place():
    """Of swiglu, whose default is `normal_range` now, and was `stable`."""
    machine = {"started": "2026-01-01T00:00:00Z", "commit": "1" * 12, "name": "test-2-core"}
    before = noisy_run("before", 1, machine, ops=("swiglu",))
    assert set(before.summary["engine"]) == {"rule:stable", "autodiff"}
    assert set(history([before])["op"]) == {"swiglu"}
    table: Any = trend(history([before]), [before, before]).set_index("op")
    assert table.loc["swiglu", "last change"] != "-"


def test_the_trend_says_what_changed_last(runs):
    found = history(runs)
    table: Any = trend(found[found["machine"] == "test-2-core"], [runs[1], runs[0], runs[2]]).set_index("op")
    assert list(table.columns) == ["2026-01-01 0000000", "2026-01-02 0000000", "2026-01-03 0000000", "last change"]
    assert table.loc["sigmoid", "last change"] == "slower, less accurate"
    assert table.loc["expm1", "last change"] in ("same", "cannot say")
    assert table.loc["sigmoid", "2026-01-03 0000000"].startswith("1.3")
    assert table.loc["sigmoid", "2026-01-03 0000000"].endswith("50 ULP")


def test_another_version_is_marked_and_not_compared(runs):
    rows = [{**row, "op_version": 2} for row in noisy_rows(5, ops=("sigmoid",))]
    newer = as_run(rows, "newer", started="2026-01-05T00:00:00Z", commit="5" * 12)
    found = history([runs[1], newer])
    table: Any = trend(found, [runs[1], newer]).set_index("op")
    assert table.loc["sigmoid", "2026-01-01 0000000"].endswith(" v1")
    assert table.loc["sigmoid", "2026-01-05 5555555"].endswith(" ULP")
    assert table.loc["sigmoid", "last change"] == "-"
    # One dotted line between the two, in the panel of sigmoid alone.
    for figure in (ratios(found), errors(found)):
        dotted = {
            axis.get_title(): [line for line in axis.lines if line.get_linestyle() == ":"] for axis in figure.axes
        }
        assert [len(dotted[op]) for op in ("sigmoid", "expm1")] == [1, 0]
        assert list(np.ravel(dotted["sigmoid"][0].get_xdata())) == [0.5, 0.5]
        plt.close(figure)


def test_the_case_is_the_largest_that_most_runs_have(runs):
    large = noisy_rows(6, ops=("sigmoid",), case="memory", n=2**22)
    odd = as_run(large + noisy_rows(6, ops=("sigmoid",)), "odd", started="2026-01-06T00:00:00Z")
    assert set(history([*runs, odd])["case"]) == {"small"}
    assert set(history([odd])["case"]) == {"memory"}


def test_ratios_of_other_rounds_are_left_out(runs):
    rows = [{**row, "interleaved": False} for row in noisy_rows(7)]
    apart = as_run(rows, "pytest", started="2026-01-07T00:00:00Z")
    assert "2026-01-07T00:00:00Z" not in set(history([*runs, apart])["started"])


def test_tables_and_pictures_stand_beside_each_other(runs, tmp_path):
    path = write_history(runs, tmp_path / "deep" / "history.md", lambda total: nullcontext(lambda name: None))
    text = path.read_text()
    assert text.startswith("# History of 4 runs\n")
    for machine in ("test-2-core", "other"):
        assert f"## {machine}, float32" in text
        for column in ("ratio", "ulp"):
            picture = path.parent / f"history-{machine}-float32-{column}.png"
            assert f"({picture.name})" in text
            assert np.std(plt.imread(picture)[..., :3]) > 0.05
    assert not plt.get_fignums()
