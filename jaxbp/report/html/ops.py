"""What opens from an op of the page's table: the numbers of its pictures, and of the table of its engines."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxbp.errors import ResultsError
from jaxbp.ops import OPS
from jaxbp.report import census, growth, tables
from jaxbp.report.frames import shapes_text
from jaxbp.report.html.frames import numbers
from jaxbp.report.plots import LEAST_ULP, MOST_ULP, style_of
from jaxbp.report.run import Run
from jaxbp.report.tables import Standing

Row = dict[str, Any]

#: Points that a fitted curve is drawn through.
CURVE = 24


def details(run: Run, dtype: str, records: dict[str, list[Row]]) -> Iterator[tuple[Standing, Row]]:
    """How each op stands at a dtype, and what opens from it; `records` are the pictures of censuses, by op."""
    # Of one dtype, objects: rows are then taken out many times as fast.
    summary = run.summary[(run.summary["dtype"] == dtype) & (run.summary["status"] == "ok")].astype(object)
    cells = {str(op): own for op, own in summary.groupby("op", sort=False)}
    sized = {str(op): own for op, own in growth.sized_cells(summary, dtype).groupby("op", sort=False)}
    fits = growth.exponents(run.summary, dtype)
    gains = run.options[(run.options["dtype"] == dtype) & (run.options["status"] == "ok")]
    formulas = {op.name: op.formula for op in OPS}
    errors = tables.worst_gradient(run.accuracy[run.accuracy["dtype"] == dtype])
    keys = zip(errors["op"], errors["case"], errors["engine"], strict=True)
    ulp = dict(zip(keys, errors["ulp"].astype(float), strict=True))
    for found in tables.standings(run.summary, run.accuracy, dtype):
        op = found.op
        own = cells.get(op, summary.iloc[:0])
        yield (
            found,
            {
                "op": op,
                "dtype": dtype,
                "formula": formulas.get(op, ""),
                "case": found.case,
                "unit": "ULP of the largest entry" if op in tables.SUMS else "ULP",
                "cases": [_case(op, str(case), at, ulp) for case, at in own.groupby("case", sort=False)],
                "growth": _growth(op, sized.get(op, own.iloc[:0]), fits[fits["op"] == op]),
                "census": records.get(op, []),
                "options": [
                    {"option": gain["option"], "case": gain["case"], "time with / without": tables.ratio(gain)}
                    for _, gain in gains[gains["op"] == op].iterrows()
                ],
            },
        )


def _case(op: str, name: str, cells: pd.DataFrame, ulp: dict[tuple[str, str, str], float]) -> Row:
    """The engines at one case."""
    engines: dict[str, dict[str, pd.Series]] = {}
    for _, cell in cells.iterrows():
        engines.setdefault(str(cell["engine"]), {})[str(cell["mode"])] = cell
    rows = [_engine(op, engine, modes, ulp.get((op, name, engine), math.nan)) for engine, modes in engines.items()]
    points = [row for row in rows if row["time"] is not None and row["ulp"] is not None]
    for row in points:
        row["front"] = not any(
            other["time"] <= row["time"]
            and other["ulp"] <= row["ulp"]
            and (other["time"], other["ulp"]) != (row["time"], row["ulp"])
            for other in points
        )
    return {"name": name, "shapes": shapes_text(str(cells["shapes"].iloc[0])), "engines": rows}


def _engine(op: str, engine: str, modes: dict[str, pd.Series], ulp: float) -> Row:
    both, kept = modes.get("fwd_bwd"), modes.get("fwd_res")
    nothing = pd.Series(dtype=float)
    time, low, high, temporary, limit = numbers(
        (nothing if both is None else both).get(name, math.nan)
        for name in ("time_us", "time_us_low", "time_us_high", "temp_bytes", "roofline")
    )
    residual = math.nan if kept is None else float(kept["residual_bytes"])
    return {
        "engine": engine,
        "style": style_of(op, engine),
        "time": time,
        "low": low,
        "high": high,
        "ulp": shown_ulp(ulp),
        "front": False,
        "sampled": both is not None and both["extrapolated"] != 1,
        "kept": numbers([residual])[0],
        "temporary": temporary,
        "limit": limit,
        "bound": "" if both is None else both["bound"],
        "text": {
            "time": "" if both is None else tables.duration(both),
            "worst gradient": tables.number(ulp),
            **{f"{mode} / autodiff": tables.ratio(modes[mode]) if mode in modes else "" for mode in tables.COMPARED},
            "kept": tables.size(residual),
            "temporary": "" if both is None else tables.size(both["temp_bytes"]),
            "physical limit": "" if both is None else tables.percent(both),
        },
    }


def shown_ulp(ulp: float) -> float | None:
    """Where an error is drawn: within the plane, infinite ones at its top; None if it is not known.

    >>> shown_ulp(0.0), shown_ulp(3.5), shown_ulp(math.inf), shown_ulp(math.nan)
    (0.25, 3.5, 1000000000.0, None)
    """
    return None if math.isnan(ulp) else min(max(ulp, LEAST_ULP), MOST_ULP)


def _growth(op: str, cells: pd.DataFrame, fits: pd.DataFrame) -> Row | None:
    """Time against entries of each engine, and the curves fitted to it; None of an op measured at one size."""
    if cells["n"].nunique() < 2:
        return None
    points, curves = [], []
    for engine, own in cells.sort_values("n").groupby("engine", sort=False):
        points += [
            {
                "engine": engine,
                "style": style_of(op, str(engine)),
                "n": int(cell["n"]),
                "time": float(cell["time_us"]),
                "sampled": cell["extrapolated"] != 1,
                "text": tables.duration(cell),
            }
            for _, cell in own.iterrows()
        ]
        for _, fit in fits[(fits["engine"] == engine) & fits["exponent"].notna()].iterrows():
            n = np.geomspace(own["n"].min(), own["n"].max(), CURVE)
            time = own["floor_us"].median() + fit["factor"] * n ** fit["exponent"]
            text = f"entries^{fit['exponent']:.2f} ±{fit['half']:.2f}"
            curves.append({"engine": engine, "text": text, "points": np.column_stack([n, time]).tolist()})
    return {"points": points, "curves": curves}


def read_censuses(results: Path, dtype: str) -> tuple[dict[str, list[Row]], list[str]]:
    """The pictures of the censuses of a dtype under a folder of results, by op; and what is wrong with its files."""
    pictures: dict[str, list[Row]] = {}
    wrong = []
    for path in sorted(results.glob(f"census/*/{census.RECORD}")):
        try:
            record = census.read_record(path)
            if record["dtype"] == dtype:
                picture = _picture(record, census.read_binades(path.parent))
                pictures.setdefault(record["op"], []).append(picture)
        except ResultsError as error:
            wrong.append(str(error))
    return pictures, wrong


def _picture(record: Row, frame: pd.DataFrame) -> Row:
    """The worst error of each binade where it is; what is correctly rounded throughout has none."""
    frame = frame[np.isfinite(frame["x"]) & (frame["x"] != 0)]
    names = {column: tables.unique(frame[column]) for column in ("engine", "quantity")}
    names["engine"].sort(key=[*record.get("engines", []), *names["engine"]].index)
    return {
        "title": census.title(record),
        "engines": [{"engine": engine, "style": style_of(record["op"], engine)} for engine in names["engine"]],
        "quantities": names["quantity"],
        "points": [
            # As long as a picture shows.
            [names["engine"].index(engine), names["quantity"].index(quantity), float(f"{x:.4g}"), float(f"{y:.4g}")]
            for engine, quantity, x, ulp in zip(
                frame["engine"], frame["quantity"], frame["x"], frame["max_ulp"], strict=True
            )
            if (y := shown_ulp(ulp)) is not None
        ],
    }
