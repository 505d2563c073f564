"""What a compiler said of a chip that is not here: the frame, the table of rules beside autodiff, and their record."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from jaxbp.measure.ahead import TARGETS
from jaxbp.report import tables
from jaxbp.report.markdown import table
from jaxbp.report.run import Run, naming

Row = dict[str, Any]

FOLDER = "ahead"
COMPILED = "compiled.csv"
REPORT = "report.md"

#: What each column of `compiled.csv` means.
AHEAD_COLUMNS = {
    "op": "the op",
    "case": "the named argument set",
    "dtype": "dtype of arguments and cotangent",
    "target": "the chip it was compiled for",
    "engine": "the default rule, one that is a kernel, or autodiff",
    "mode": "fwd_bwd, fwd_res or bwd",
    "flops": "the compiler's count of operations, those on the bits of a float among them; empty where it has none, "
    "and for programs with loops, of which it counts one pass",
    "bytes": "its count of bytes accessed, likewise; for a GPU, of which it counts nothing, those that the kernels of "
    "its program read and write, each pass of a loop counted, empty where their number is not known",
    "kernels": "how many kernels a call launches, for a GPU, likewise",
    "estimate_us": "what it estimates a call to take, microseconds, likewise",
    "residual_bytes": "bytes kept between forward and backward pass beyond the inputs",
    "temp_bytes": "bytes that it plans beside arguments and outputs",
    "peak_bytes": "bytes of arguments, outputs and temporary memory together",
    "compile_ms": "time to trace, lower and compile, milliseconds",
    "status": "ok or failed",
    "reason": "why it failed",
}
#: A plan of memory that is larger by less than this, relatively, is one of alignment.
NEGLIGIBLE = 0.001


def ahead_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per op, dtype, engine and mode, with the columns of `AHEAD_COLUMNS`."""
    return pd.DataFrame(list(rows), columns=list(AHEAD_COLUMNS))


def overview(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per op, dtype and rule: what the rule needs over what autodiff needs."""
    found = []
    for (op, dtype), own in frame.groupby(["op", "dtype"], sort=False):
        engines = {str(name): side.set_index("mode") for name, side in own.groupby("engine", sort=False)}
        for name in (name for name in engines if name != "autodiff"):
            row = {"op": str(op), "dtype": str(dtype), "rule": name.partition(":")[2]}
            failed = own[(own["status"] == "failed") & own["engine"].isin([name, "autodiff"])]
            why = "; ".join(
                f"{r['engine']}: {r['reason']}" if r["engine"] else r["reason"] for _, r in failed.iterrows()
            )
            found.append(row | ({"note": why} if why else _beside(engines[name], engines["autodiff"])))
    shown = pd.DataFrame(found).fillna("")
    # A column of which the compiler says nothing tells nothing.
    return shown[[name for name in shown.columns if (shown[name] != "").any()]]


def _beside(rule: pd.DataFrame, autodiff: pd.DataFrame) -> Row:
    """A rule beside autodiff, both with their modes as index."""
    ours, theirs = (side.to_dict("index") for side in (rule, autodiff))
    both = [side.loc[["fwd_res", "bwd"]] for side in (rule, autodiff)]

    def fused(column: str) -> str:
        return _over(ours["fwd_bwd"][column], theirs["fwd_bwd"][column])

    def passes(column: str) -> str:
        return _over(*(side[column].sum(min_count=2) for side in both))

    return {
        "peak of fwd_bwd": fused("peak_bytes"),
        "peak of split": _over(*(side["peak_bytes"].max() for side in both)),
        "temporary": tables.size(ours["fwd_bwd"]["temp_bytes"]),
        "autodiff's": tables.size(theirs["fwd_bwd"]["temp_bytes"]),
        "kept": tables.size(ours["fwd_res"]["residual_bytes"]),
        "autodiff keeps": tables.size(theirs["fwd_res"]["residual_bytes"]),
        "bytes of fwd_bwd": fused("bytes"),
        "bytes of split": passes("bytes"),
        "kernels": _number(ours["fwd_bwd"]["kernels"]),
        "autodiff's kernels": _number(theirs["fwd_bwd"]["kernels"]),
        "operations": fused("flops"),
        "estimate of fwd_bwd": fused("estimate_us"),
        "estimate of split": passes("estimate_us"),
        "note": "",
    }


def beside_times(compiled: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row per op of both frames: the default rule's bytes over autodiff's as compiled, and its time as measured.

    A ratio of times of mode split is that of the sums of both passes, and so is that of bytes.
    """
    passes = compiled.assign(mode=compiled["mode"].replace({"fwd_res": "split", "bwd": "split"}))
    moved = passes.groupby(["op", "case", "dtype", "engine", "mode"])["bytes"].sum(min_count=1)
    rows = []
    for op, own in summary.groupby("op", sort=False):
        engine, found = tables.default_engine(str(op), own["engine"]), {}
        for mode in ("fwd_bwd", "split"):
            for _, cell in own[(own["engine"] == engine) & (own["mode"] == mode) & own["ratio"].notna()].iterrows():
                key = [(cell["op"], cell["case"], cell["dtype"], side, mode) for side in (engine, "autodiff")]
                if all(k in moved.index for k in key):
                    found[f"bytes of {mode}"] = _over(*(moved[k] for k in key))
                    found[f"time of {mode}"] = f"{cell['ratio']:.2f} {cell['verdict']}"
        if found:
            rows.append({"op": str(op), **found})
    return pd.DataFrame(rows).fillna("")


def larger_peaks(frame: pd.DataFrame) -> list[str]:
    """The ops whose rule needs more memory at its peak than autodiff in some mode, by mode and how much."""
    done = frame[frame["status"] == "ok"]
    key = ["op", "dtype", "mode"]
    ours, theirs = (done[(done["engine"] == "autodiff") == is_autodiff] for is_autodiff in (False, True))
    both = ours.merge(theirs, on=key, suffixes=("", "_of_autodiff"))
    both = both[both["peak_bytes"] > (1 + NEGLIGIBLE) * both["peak_bytes_of_autodiff"]]
    return [
        f"{row['op']} ({row['engine'].partition(':')[2]}) {row['dtype']} in {row['mode']}, "
        f"{row['peak_bytes'] / row['peak_bytes_of_autodiff']:.2f} times"
        for _, row in both.iterrows()
    ]


def _number(count: float) -> str:
    return "" if pd.isna(count) else f"{count:.0f}"


def _over(a: float, b: float) -> str:
    return "" if pd.isna(a) or pd.isna(b) or b == 0 else f"{a / b:.2f}"


def write_ahead(folder: Path, target: str, machine: Row, rows: Iterable[Row]) -> tuple[Path, pd.DataFrame]:
    """Write frame and report of a chip into the folder of its record; the report's path, and the frame."""
    frame = ahead_frame(rows)
    with naming(folder / COMPILED, "written"):
        frame.to_csv(folder / COMPILED, index=False, float_format="%.6g")
    with naming(folder / REPORT, "written"):
        (folder / REPORT).write_text("\n\n".join(report(target, machine, frame)) + "\n")
    return folder / REPORT, frame


def report(target: str, machine: Row, frame: pd.DataFrame) -> list[str]:
    """The paragraphs of the report."""
    chip = TARGETS[target]
    known = ("jax", "libtpu") if chip.kind == "tpu" else ("jax", "jax-cuda13-plugin")
    versions = ", ".join(f"{k} {machine['versions'][k]}" for k in known if k in machine["versions"])
    larger, done = larger_peaks(frame), frame.loc[frame["status"] == "ok", "op"].nunique()
    what = (
        f"The default rules of {done} ops at case `{chip.case}`, those that are kernels, and autodiff of their stock "
        f"functions, compiled for one {chip.name} with {versions}, {machine['started'][:10]}, commit "
        f"{machine['commit']}. Nothing ran: these are plans, counts and estimates. Ratios are the rule's over "
        "autodiff's."
    )
    peaks = (
        f"Rules that need more memory at their peak than autodiff: {'; '.join(larger)}. Where that is `bwd` alone, the "
        "rule reads an argument in it where autodiff reads what it has kept: the argument is alive in either case, and "
        "counts here as an argument of this executable."
        if larger
        else "No rule needs more memory at its peak than autodiff."
    )
    return [f"# Compiled for {target}, without one", what, peaks, table(overview(frame))]


def recorded_beside_times(results: Path, target: str, run: Run) -> str:
    """`beside_times` of the record of a chip and a run on one, as Markdown."""
    path = results / FOLDER / target / COMPILED
    with naming(path, "read"):
        compiled = pd.read_csv(path)
    return table(beside_times(compiled, run.summary))


def recorded_ahead(results: Path, target: str) -> str:
    """The recorded report of a chip without its heading, as Markdown."""
    with naming(results / FOLDER / target / REPORT, "read"):
        return (results / FOLDER / target / REPORT).read_text().partition("\n\n")[2]
