"""The roofline of a run: operations a second of each op against operations a byte, below what the device can do."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from jaxbp.measure.limits import Limits
from jaxbp.report import resources, tables
from jaxbp.report.run import Run
from jaxbp.report.tables import Standing

Row = dict[str, Any]


def roofline(run: Run, dtype: str, opened: Iterable[tuple[Standing, str]]) -> Row | None:
    """The limits of what measured a dtype and, by op, its default rule and autodiff; None where no limit is known.

    `opened` are how the ops stand, each with the address of what opens from it on the page.
    """
    known = [Limits(**found) for found in run.machine.get("limits", ()) if found["dtype"] == dtype]
    limits = next((found for found in known if not found.reason), None)
    if limits is None:
        return None
    points = [
        point
        for found, anchor in opened
        for engine in (found.rule, "autodiff")
        if (cell := found.cells.get((engine, "fwd_bwd"))) is not None
        and cell["device"] == limits.device
        and (point := _point(found, engine, cell, anchor)) is not None
    ]
    if not points:
        return None
    # Bytes of 10^9 a second, of arrays that no cache holds; 10^9 operations a second.
    (_, bandwidth) = limits.copies[-1]
    return {
        "dtype": dtype,
        "text": resources.limit(limits),
        "peak": limits.peak() / 1e9,
        "elementwise": limits.peak(elementwise=True) / 1e9,
        "bandwidth": bandwidth / 1e9,
        "points": points,
    }


def _point(found: Standing, engine: str, cell: pd.Series, anchor: str) -> Row | None:
    flops, moved, rate = (float(cell[name]) for name in ("flops", "bytes", "gflops"))
    if not min(flops, moved, rate) > 0:  # What only moves data has no place on a scale of logarithms.
        return None
    return {
        "op": found.op,
        "engine": engine,
        "kind": "autodiff" if engine == "autodiff" else "default rule",
        "anchor": anchor,
        "intensity": float(f"{flops / moved:.4g}"),
        "rate": float(f"{rate:.4g}"),
        "text": tables.percent(cell),
    }
