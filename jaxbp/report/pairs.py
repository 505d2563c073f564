"""Two runs side by side: what both have of the same code, and whether their times can be compared."""

import pandas as pd

from jaxbp.report.run import Run

#: What tells the cells of a run apart, and its errors. Not the device: what ran elsewhere is the same cell.
CELL = ["op", "case", "dtype", "engine", "mode"]
ERROR = ["op", "case", "dtype", "engine", "quantity"]
AFTER = "_after"


def label(run: Run) -> str:
    """How tables call a run: machine and folder."""
    return f"{run.machine['name']}/{run.folder.name}"


def timed(run: Run) -> pd.DataFrame:
    """The cells that did not fail."""
    return run.summary[run.summary["status"] == "ok"]


def pair(before: pd.DataFrame, after: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The rows that both have, by key: the columns of the first as they are, of the second with `AFTER`."""
    sides = [frame.drop_duplicates(key).set_index(key) for frame in (before, after)]
    return sides[0].join(sides[1].add_suffix(AFTER), how="inner")


def same_code(both: pd.DataFrame) -> pd.Series:
    """Whether version and shapes of the op are the same on both sides; where one does not know, they are."""
    same = pd.Series(True, both.index)
    for name in ("op_version", "shapes"):
        sides = both[[name, name + AFTER]].replace("", None)
        same &= sides.isna().any(axis=1) | (sides[name] == sides[name + AFTER])
    return same


def same_machine(base: Run, run: Run) -> bool:
    """Whether both ran on machines of the same name: the same model of processor and number of cores."""
    return base.machine["name"] == run.machine["name"]


def same_autodiff(base: Run, run: Run) -> bool:
    """Whether both compiled autodiff with the same versions and flags, so that it cannot have become faster."""
    told = [
        (*(run.machine["versions"].get(name) for name in ("jax", "jaxlib")), run.machine.get("variables", {}))
        for run in (base, run)
    ]
    return told[0] == told[1]
