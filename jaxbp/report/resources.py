"""The tables of what a gradient takes beside time: memory, and work against the physical limit."""

import collections
import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from jaxbp.measure.limits import Limits
from jaxbp.report.tables import UNKNOWN, by_engine, default_engine, largest_cells, number, percent, size, unique

RESIDENT = "peak resident set"


def memory(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """The default rule and autodiff of each op at its largest case: what they keep, and what fwd_bwd allocates."""
    rows = []
    for op, case, engine, modes in _rivals(summary, dtype):
        kept, both = modes("fwd_res"), modes("fwd_bwd")
        row = {"op": op, "case": case, "engine": engine}
        row |= {"kept": _known(kept, "residual_bytes", size), "arrays kept": _known(kept, "residuals", arrays)}
        row |= {"temporary": _known(both, "temp_bytes", size), "peak": _known(both, "peak_bytes", size)}
        rows.append({**row, RESIDENT: _known(both, "peak_rss_bytes", size)})
    frame = pd.DataFrame(rows)
    # It is measured on request, so that a column of it says something only where it was asked for.
    return frame if len(frame) and (frame[RESIDENT] != UNKNOWN).any() else frame.drop(columns=RESIDENT, errors="ignore")


def work(summary: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """The same engines' fwd_bwd: operations and bytes by the op's declaration, and XLA's counts beside them."""
    rows = []
    for op, case, engine, modes in _rivals(summary, dtype):
        both = modes("fwd_bwd")
        row = {"op": op, "case": case, "engine": engine}
        row |= {"operations": _known(both, "flops", number), "XLA's": _known(both, "xla_flops", number)}
        rows.append({**row, "bytes": _known(both, "bytes", size), "XLA's bytes": _known(both, "xla_bytes", size)})
    return pd.DataFrame(rows)


def engine_roofline(summary: pd.DataFrame, case: str, dtype: str) -> pd.DataFrame:
    """One row per op at one case, one column per engine: percent of the physical limit; empty if none is known."""
    cells = summary[
        (summary["case"] == case)
        & (summary["dtype"] == dtype)
        & (summary["mode"] == "fwd_bwd")
        & (summary["status"] == "ok")
    ]
    if cells["roofline"].isna().all():
        return pd.DataFrame()
    return by_engine(cells.assign(text=[percent(cell) for _, cell in cells.iterrows()]))


def arrays(residuals: str) -> str:
    """Where residuals come from, each place with the number of its arrays.

    >>> one = {"shape": [3], "dtype": "float32", "bytes": 12, "where": "output"}
    >>> arrays(json.dumps([one, {**one, "where": "f.py:7 (f)"}, {**one, "where": "f.py:7 (f)"}]))
    'output, 2 of f.py:7 (f)'
    >>> arrays("[]")
    'none'
    """
    places = collections.Counter(residual["where"] for residual in json.loads(residuals))
    return ", ".join(f"{count} of {where}" if count > 1 else where for where, count in places.items()) or "none"


def limit(found: Limits) -> str:
    """The measured limits for people.

    >>> limit(Limits("cpu", "float32", ((2**24, 40e9), (2**27, 12.3e9)), ((512, 180e9),), "", ((2**18, 90e9),)))
    'cpu: copies of 16 MiB 40 GB/s, 128 MiB 12.3 GB/s; float32 products 180 GFLOP/s, polynomials of entries 90 GFLOP/s'
    >>> limit(Limits("cpu", "float32", (), (), "MemoryError: no room"))
    'cpu, float32: n/a (MemoryError: no room)'
    """
    if found.reason:
        return f"{found.device}, {found.dtype}: {UNKNOWN} ({found.reason})"
    copies = ", ".join(f"{size(nbytes)} {rate / 1e9:.3g} GB/s" for nbytes, rate in found.copies)
    products = f"{found.device}: copies of {copies}; {found.dtype} products {found.peak() / 1e9:.3g} GFLOP/s"
    if not found.polynomials:
        return products
    return f"{products}, polynomials of entries {found.peak(elementwise=True) / 1e9:.3g} GFLOP/s"


def _known(cell: pd.Series | None, column: str, text: Callable[[Any], str]) -> str:
    return UNKNOWN if cell is None or pd.isna(cell[column]) else text(cell[column])


def _rivals(summary: pd.DataFrame, dtype: str) -> Iterator[tuple[str, str, str, Callable[[str], pd.Series | None]]]:
    """Op, case and engine of each default rule and of autodiff at each op's largest case, and its cell of a mode."""
    cells = largest_cells(summary, dtype)
    for op in unique(cells["op"]):
        own = cells[cells["op"] == op]
        for engine in (default_engine(op, own["engine"]), "autodiff"):
            rows = {row["mode"]: row for _, row in own[own["engine"] == engine].iterrows()}
            if rows:
                yield op, own["case"].iloc[0], engine, rows.get
