"""The record of a census: its summary, a table per binade, Markdown and a picture of error against the argument."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from jaxbp.accuracy.census import CLASSES, COUNTS, MANTISSA_BITS, Census, chunk_arguments
from jaxbp.report import plots, tables
from jaxbp.report.markdown import table
from jaxbp.report.run import naming

RECORD = "census.json"
BINADES = "binades.csv"
REPORT = "census.md"
PICTURE = "error.png"

Row = dict[str, Any]


def summarize_census(census: Census, rows: Iterable[Row]) -> list[Row]:
    """One record per engine and quantity over all chunks: counts added up, the worst of the worst."""
    records: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row["chunk"]):
        key = (row["engine"], row["quantity"])
        if key not in records:
            zeros = {"inputs": 0, "histogram": [0] * (len(CLASSES) + 1), **dict.fromkeys(COUNTS, 0)}
            records[key] = {"engine": key[0], "quantity": key[1], "max_ulp": -1.0, **zeros}
        record = records[key]
        record["inputs"] += sum(row["histogram"]) + row["flushed"]
        record["histogram"] = [a + b for a, b in zip(record["histogram"], row["histogram"], strict=True)]
        for name in COUNTS:
            record[name] += row[name]
        if row["max_ulp"] > record["max_ulp"]:
            record |= {name: row[name] for name in ("max_ulp", "worst_args", "worst_actual", "worst_exact")}
    order = {engine: i for i, engine in enumerate(census.engines)}
    return sorted(records.values(), key=lambda record: order[record["engine"]])


def binades_frame(census: Census, rows: Iterable[Row]) -> pd.DataFrame:
    """Per engine, quantity and binade of the first argument: where it begins, and its largest error."""
    frame = pd.DataFrame(
        [
            {
                "engine": row["engine"],
                "quantity": row["quantity"],
                "binade_start": float(chunk_arguments(census, row["chunk"], 1)[0][0]),
                "max_ulp": row["max_ulp"],
                "at": json.dumps(row["worst_args"]),
                **{name: row[name] for name in COUNTS},
            }
            for row in sorted(rows, key=lambda row: row["chunk"])
        ]
    )
    return frame.sort_values(["engine", "quantity"], kind="stable")


def write_census(folder: Path, census: Census, machine: Row, rows: list[Row]) -> Path:
    """Write record, table, picture and report into the folder; returns the report's path."""
    records = summarize_census(census, rows)
    with naming(folder / RECORD, "written"):
        text = json.dumps({**census.about(), "machine": machine, "records": records}, indent=1)
        (folder / RECORD).write_text(text + "\n")
    with naming(folder / BINADES, "written"):
        binades_frame(census, rows).to_csv(folder / BINADES, index=False, float_format="%.6g")
    with naming(folder / PICTURE, "written"):
        plots.save(error_against_argument(census, rows), folder / PICTURE)
    with naming(folder / REPORT, "written"):
        (folder / REPORT).write_text(_report(census, machine, records))
    return folder / REPORT


def overview(records: Iterable[Row]) -> pd.DataFrame:
    """One row per engine and quantity, as text: worst error, where, and what is plainly wrong."""
    return pd.DataFrame(
        [
            {
                "engine": record["engine"],
                "quantity": record["quantity"],
                "worst ULP": tables.number(record["max_ulp"]),
                "at": ", ".join(f"{x:.9g}" for x in record["worst_args"]),
                "got": f"{record['worst_actual']:.9g}",
                "exact": f"{record['worst_exact']:.9g}",
                **{name.replace("_", " "): f"{record[name]:,}" for name in COUNTS},
            }
            for record in records
        ]
    )


def histogram(records: Iterable[Row]) -> pd.DataFrame:
    """One row per engine and quantity: the share of inputs in each class of error."""
    labels = ["correctly rounded", *(f"≤ {end:g}" for end in CLASSES[1:]), f"> {CLASSES[-1]:g}"]
    return pd.DataFrame(
        [
            {
                "engine": record["engine"],
                "quantity": record["quantity"],
                **{
                    label: "" if count == 0 else f"{count:,}"
                    for label, count in zip(labels, record["histogram"], strict=True)
                },
            }
            for record in records
        ]
    )


def error_against_argument(census: Census, rows: Iterable[Row]) -> Figure:
    """The largest error in each eighth of a binade against the first argument, negative and positive side."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    quantities = tables.unique(row["quantity"] for row in rows)
    figure, axes = plt.subplots(
        len(quantities), 2, figsize=(11, 2.6 * len(quantities) + 0.6), squeeze=False, sharey=True, layout="constrained"
    )
    half = census.chunks // 2
    for i, quantity in enumerate(quantities):
        for engine in reversed(census.engines):  # The default rule last, on top.
            own = [row for row in rows if (row["engine"], row["quantity"]) == (engine, quantity)]
            for axis, side in ((axes[i, 0], 1), (axes[i, 1], 0)):
                shown = [row for row in own if row["chunk"] // half == side]
                x, y = _curve(census, shown)
                style = plots.STYLES[plots.style_of(census.op, engine)]
                axis.plot(np.abs(x), np.clip(y, plots.LEAST_ULP, plots.MOST_ULP), color=style[0], lw=1, label=engine)
        for axis, sign in ((axes[i, 0], "-"), (axes[i, 1], "")):
            axis.set(xscale="log", yscale="log", ylim=(plots.LEAST_ULP, plots.MOST_ULP), xlabel=f"|x|, x = {sign}|x|")
            axis.grid(alpha=0.25)
            axis.axhspan(plots.LEAST_ULP, plots.FAIR_ULP, color="#009E73", alpha=0.08, linewidth=0)
        axes[i, 0].invert_xaxis()
        axes[i, 0].set_ylabel(f"{quantity}: worst ULP")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{census.op}, every {census.dtype}")
    return figure


def _curve(census: Census, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Where each part of a binade begins, and its largest error; infinities and NaN have no place on the axis."""
    step = 2 ** MANTISSA_BITS[census.dtype]
    starts, errors = [], []
    for row in rows:
        first = chunk_arguments(census, row["chunk"], 1)[0]
        parts = row["part_max"]
        with np.errstate(invalid="ignore"):  # Signaling NaNs.
            starts.extend(first[:: step // len(parts)].astype(np.float64)[: len(parts)])
        errors.extend(parts)
    x, y = np.array(starts), np.array(errors)
    shown = np.isfinite(x) & (x != 0)
    return x[shown], y[shown]


def _report(census: Census, machine: Row, records: list[Row]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = (
        f"{records[0]['inputs']:,} inputs, cotangent 1, each result against the float64 reference. "
        f"{machine['cpu']}, {versions}, commit {machine['commit']}, {machine['started']}."
    )
    legend = (
        "*Flushed* entries are zero where the exact value is subnormal; they are in no other column. A *wrong zero* "
        "stands where the exact value rounds to a normal number. XLA's CPU backend takes subnormal arguments for zero "
        "too: what follows from that counts as wrong."
    )
    sections = (
        f"# Census: {census.op}, every {census.dtype}",
        where,
        table(overview(records)),
        legend,
        "Inputs by error in ULP:",
        table(histogram(records)),
        f"![Error against the argument]({PICTURE})",
    )
    return "\n\n".join(sections) + "\n"
