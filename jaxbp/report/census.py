"""The record of a census: its summary, a table per binade, Markdown and a picture of error against the argument."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxbp.accuracy.census import Census
from jaxbp.accuracy.score import CLASSES, COUNTS, Row
from jaxbp.errors import ResultsError
from jaxbp.measure.machine import computer
from jaxbp.measure.sweep import Journal, read_journal
from jaxbp.ops import OPS
from jaxbp.report import plots, tables
from jaxbp.report.markdown import table
from jaxbp.report.run import naming

RECORD = "census.json"
BINADES = "binades.csv"
REPORT = "census.md"
PICTURE = "error.png"


def stopped_census(folder: Path, head: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The chunks of a stopped census of the same op, machine and versions; none if it was recorded, or differs."""
    journal, record = folder / Journal.NAME, folder / RECORD
    if not journal.is_file() or (record.is_file() and record.stat().st_mtime >= journal.stat().st_mtime):
        return {}
    first, *rest = read_journal(folder) or [{}]
    return {row["chunk"]: row["rows"] for row in rest} if first == head else {}


def summarize_census(census: Census, rows: Iterable[Row]) -> list[Row]:
    """One record per engine and quantity over all chunks: counts added up, the worst of the worst.

    Those of the inputs `within` what a rule states its accuracy for come after all others.
    """
    records: dict[tuple[str, str, bool], Row] = {}
    for row in sorted(rows, key=lambda row: row["chunk"]):
        key = (row["engine"], row["quantity"], "within" in row)
        if key not in records:
            zeros = {"inputs": 0, "left_out": 0, "histogram": [0] * (len(CLASSES) + 1), **dict.fromkeys(COUNTS, 0)}
            about = {name: row[name] for name in ("engine", "quantity", "within") if name in row}
            records[key] = {**about, "max_ulp": -1.0, **zeros}
        record = records[key]
        record["inputs"] += sum(row["histogram"]) + row["flushed"]
        record["left_out"] += row["left_out"]
        record["histogram"] = [a + b for a, b in zip(record["histogram"], row["histogram"], strict=True)]
        for name in COUNTS:
            record[name] += row[name]
        if row["max_ulp"] > record["max_ulp"]:
            record |= {name: row[name] for name in ("max_ulp", "worst_args", "worst_actual", "worst_exact")}
    order = {engine: i for i, engine in enumerate(census.engines)}
    return sorted(records.values(), key=lambda record: ("within" in record, order[record["engine"]]))


def _innermost(rows: Iterable[Row]) -> list[Row]:
    """The rows within what a rule states its accuracy for, if it does so in part, in the order of their chunks."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    return [row for row in rows if "within" in row] or rows


def binades_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Per engine, quantity and chunk with a result that is not correctly rounded: where it begins, its largest error.

    Chunks are binades of the first argument where a dtype is swept whole. Of an accuracy that is stated in part it is
    the inputs of that part.
    """
    frame = pd.DataFrame(
        [
            {
                "engine": row["engine"],
                "quantity": row["quantity"],
                "binade_start": row["part_start"][0],
                "max_ulp": row["max_ulp"],
                "at": json.dumps(row["worst_args"]),
                **{name: row[name] for name in COUNTS},
            }
            for row in _innermost(rows)
            if row["max_ulp"] > CLASSES[0] or row["flushed"]
        ],
        columns=["engine", "quantity", "binade_start", "max_ulp", "at", *COUNTS],
    )
    return frame.sort_values(["engine", "quantity"], kind="stable")


def write_census(folder: Path, census: Census, machine: Row, rows: list[Row], yardstick: Row) -> Path:
    """Write record, table, picture and report into the folder; returns the report's path.

    `yardstick` is what `certify` said of the float64 reference; unused where results were held against certified
    values themselves.
    """
    records = summarize_census(census, rows)
    about = {**census.about(), "machine": machine, "yardstick": yardstick, "records": records}
    with naming(folder / RECORD, "written"):
        (folder / RECORD).write_text(json.dumps(about, indent=1) + "\n")
    with naming(folder / BINADES, "written"):
        binades_frame(rows).to_csv(folder / BINADES, index=False, float_format="%.6g")
    with naming(folder / PICTURE, "written"):
        plots.save(error_against_argument(census, rows), folder / PICTURE)
    with naming(folder / REPORT, "written"):
        (folder / REPORT).write_text(_report(census, machine, records, yardstick))
    return folder / REPORT


def read_record(path: Path) -> Row:
    """One record; what is none is an error."""
    with naming(path, "read"):
        record = json.loads(path.read_text())
    needed = {"op", "dtype", "options", "inputs", "yardstick", "records"}
    if not isinstance(record, dict) or not needed <= set(record) or record["op"] not in {op.name for op in OPS}:
        raise ResultsError(f"{path} is no record of a census that this version of jaxbp knows.")
    return record


def read_records(results: Path) -> list[Row]:
    """All records under a folder of results, in the order of the catalog; what is no record is an error."""
    order = {op.name: i for i, op in enumerate(OPS)}
    records = [read_record(path) for path in sorted(results.glob(f"census/*/{RECORD}"))]
    return sorted(records, key=lambda record: order[record["op"]])


def read_binades(folder: Path) -> pd.DataFrame:
    """The table of `binades_frame` in a record's folder, and in the column `x` where the first argument is worst."""
    path = folder / BINADES
    with naming(path, "read"):
        frame = pd.read_csv(path, dtype={"engine": str, "quantity": str, "at": str})
        missing = [name for name in ("engine", "quantity", "max_ulp", "at") if name not in frame.columns]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        return frame.assign(x=[float(json.loads(at)[0]) for at in frame["at"]], max_ulp=frame["max_ulp"].astype(float))


def comparison(records: Iterable[Row], dtype: str) -> pd.DataFrame:
    """One row per op, options and gradient at a dtype: worst ULP of default rule, jax.grad and torch, and where.

    Where the default rule states its accuracy for some inputs alone, a second one for these.
    """
    rows = []
    for about in records:
        if about["dtype"] != dtype:
            continue
        by_key = {(r["engine"], r["quantity"], "within" in r): r for r in about["records"]}
        op = next(op for op in OPS if op.name == about["op"])
        options = ", ".join(f"{name}={value}" for name, value in about["options"].items())
        name = op.name + (f"({options})" if options else "")
        for within in dict.fromkeys(part for *_, part in by_key):
            for argument in op.arguments:
                row = {"op": f"{name}, as stated" if within else name, "gradient": f"ct_{argument}"}
                engines = {f"rule:{op.default_rule.name}": "ours", "autodiff": "jax.grad", "torch": "torch"}
                for engine, heading in engines.items():
                    record = by_key.get((engine, f"ct_{argument}", within))
                    row[heading] = tables.number(record["max_ulp"]) if record else ""
                    row[f"{heading} at"] = ", ".join(f"{x:.6g}" for x in record["worst_args"]) if record else ""
                rows.append(row)
    return pd.DataFrame(rows)


def overview(records: Iterable[Row]) -> pd.DataFrame:
    """One row per engine and quantity, as text: worst error, where, and what is plainly wrong.

    If an accuracy is stated for some inputs alone, a column says whose errors a row has.
    """
    records = list(records)
    in_part = any("within" in record for record in records)
    return pd.DataFrame(
        [
            {
                "engine": record["engine"],
                "quantity": record["quantity"],
                **({"of": "as stated" if "within" in record else "all"} if in_part else {}),
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
    """One row per engine and quantity: the inputs in each class of error."""
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


def title(about: Row) -> str:
    """What was swept, in words."""
    options = "".join(f", {name}={value}" for name, value in about["options"].items())
    within = f", where {about['within']}" if "within" in about else ""
    return f"{about['op']}{options}, {about['inputs']} of {about['dtype']}{within}".replace("every float of", "every")


def error_against_argument(census: Census, rows: Iterable[Row]) -> Figure:
    """The largest error in each part of a chunk against the first argument, negative and positive side."""
    # The last chunk of a sample holds the hard points, which are no stretch of the axis.
    whole = census.chunks - (census.inputs == "a sample")
    rows = [row for row in _innermost(rows) if row["chunk"] < whole]
    quantities = tables.unique(row["quantity"] for row in rows)
    figure, axes = plt.subplots(
        len(quantities), 2, figsize=(11, 2.6 * len(quantities) + 0.6), squeeze=False, sharey=True, layout="constrained"
    )
    argument = census.declaration.arguments[0]
    for i, quantity in enumerate(quantities):
        for engine in reversed(census.engines):  # The default rule last, on top.
            own = [row for row in rows if (row["engine"], row["quantity"]) == (engine, quantity)]
            x, y = _curve(own)
            style = plots.STYLES[plots.style_of(census.op, engine)]
            for axis, side in ((axes[i, 0], x < 0), (axes[i, 1], x > 0)):
                shown = np.clip(y[side], plots.LEAST_ULP, plots.MOST_ULP)
                # matplotlib's own logarithmic axis overflows at the ends of float64.
                axis.plot(np.log10(np.abs(x[side])), shown, color=style[0], lw=1, label=engine)
        for axis, sign in ((axes[i, 0], "-"), (axes[i, 1], "")):
            # Infinite errors run along the top, inside the frame.
            axis.set(yscale="log", ylim=(plots.LEAST_ULP / 1.3, 3 * plots.MOST_ULP))
            axis.set_xlabel(f"|{argument}|, {argument} = {sign}|{argument}|")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
            axis.xaxis.set_major_formatter("1e{x:.0f}")
            axis.grid(alpha=0.25)
            axis.axhspan(plots.LEAST_ULP / 1.3, plots.FAIR_ULP, color="#009E73", alpha=0.08, linewidth=0)
        axes[i, 0].invert_xaxis()
        axes[i, 0].set_ylabel(f"{quantity}: worst ULP")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title(census.about()))
    return figure


def _curve(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Where each part of a chunk begins, in order, and its largest error; infinities and NaN have no place."""
    x = np.concatenate([row["part_start"] for row in rows])
    y = np.concatenate([row["part_max"] for row in rows])
    shown = np.isfinite(x) & (x != 0)
    order = np.argsort(x[shown], kind="stable")
    return x[shown][order], y[shown][order]


def _report(census: Census, machine: Row, records: list[Row], yardstick: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    left_out = records[0]["left_out"]
    where = (
        f"{records[0]['inputs']:,} inputs, cotangent 1. {_yardstick(census, yardstick)} "
        + (f"{left_out:,} inputs were left out, where the exact value could not be certified. " if left_out else "")
        + f"{computer(machine)}, {versions}, commit {machine['commit']}, {machine['started']}."
    )
    legend = (
        "*Flushed* entries are zero where the exact value is subnormal; they are in no other column. A *wrong zero* "
        "stands where the exact value is a normal number. XLA's CPU backend takes subnormal arguments for zero "
        "too: what follows from that counts as wrong."
    )
    everywhere, within = ([r for r in records if ("within" in r) is part] for part in (False, True))
    about = {name: fact for name, fact in census.about().items() if name != "within"}
    sections = [f"# Census: {title(about)}", where, table(overview(everywhere)), legend]
    if within:
        sections += [
            f"Of these the {within[0]['inputs']:,} where {within[0]['within']}:",
            table(overview(within).drop(columns="of")),
        ]
    sections += ["Inputs by error in ULP:", table(histogram(everywhere))]
    if within:
        sections += [f"Those where {within[0]['within']}, as in the picture:", table(histogram(within))]
    return "\n\n".join([*sections, f"![Error against the argument]({PICTURE})"]) + "\n"


def _yardstick(census: Census, yardstick: Row) -> str:
    if census.dtype == "float64":
        return "Each result is held against its value in ball arithmetic, certified to 2^-60."
    worst = max(yardstick["max_ulp"].values())
    return (
        f"Each result is held against the float64 reference, which is itself within {worst:.1e} ULP of "
        f"{census.dtype} of the certified value at {yardstick['points']:,} points."
    )
