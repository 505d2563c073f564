"""Rows as workers write them, with times and errors that a test chooses."""

import json
from pathlib import Path
from typing import Any

from jaxbp.report.run import Run, write_frames, write_machine
from tests import machine

Row = dict[str, Any]

FACTS: Row = {"machine": "test-2-core", "commit": "0123456789ab", "jax": "0.10.2"}
MACHINE: Row = {**machine.MACHINE, **machine.RUN}


RESIDUAL: Row = {"shape": [1024], "dtype": "float32", "bytes": 4096, "where": "output"}


def about(op: str = "multiply", case: str = "small", engine: str = "autodiff", **changes: Any) -> Row:
    """The columns that all rows of an op at one case share; two float32 vectors of 1024 entries by default."""
    return {
        "op": op,
        "op_version": 1,
        "case": case,
        "n": 1024,
        "shapes": json.dumps([[1024], [1024]]),
        "dtype": "float32",
        "repetition": 0,
        "flops_fwd": 1024,
        "flops_bwd": 2048,
        "input_bytes": 8192,
        "output_bytes": 4096,
        "elementwise": False,
        "engine": engine,
        "device": "cpu",
        "floor_us": 1.0,
        "product_bits": 24,
        "precision": "default",
        "async_dispatch": "off",
        "environment": '{"MALLOC_TOP_PAD_": "1"}',
        "level": "quick",
        **changes,
    }


def time_row(mode: str = "fwd_bwd", samples_us: Any = (100.0, 101.0, 102.0, 103.0, 104.0), **changes: Any) -> Row:
    """A timed cell."""
    timed = {
        "kind": "time",
        "mode": mode,
        "samples_us": list(samples_us),
        "cores": [1.0] * len(samples_us),
        "inner": 4,
        "interleaved": True,
        "lower_ms": 1.0,
        "compile_ms": 2.0,
        "first_call_us": 300.0,
        "residual_bytes": 4096 if mode == "fwd_res" else None,
        "residuals": json.dumps([RESIDUAL]) if mode == "fwd_res" else None,
        "temp_bytes": 1024,
        "peak_bytes": 2**14,
        "xla_flops": 2048.0,
        "xla_bytes": 12288.0,
        "extrapolated": 1.0,
    }
    return about(**{**timed, **changes})


def limits_row(**changes: Any) -> Row:
    """The limits of a device: 16 MiB and less at 1 GB/s, products at 10 GFLOP/s, polynomials at 5."""
    found = {"copies": [[2**24, 1e9]], "products": [[512, 1e10]], "polynomials": [[64, 5e9]], "reason": ""}
    return {"kind": "limits", "device": "cpu", "dtype": "float32", **found, **changes}


def accuracy_row(quantity: str = "ct_x", max_ulp: float = 1.5, **changes: Any) -> Row:
    """The errors of a value or of one cotangent."""
    errors: Row = dict.fromkeys(("wrong_zeros", "wrong_infinities", "wrong_nans", "flushed"), 0)
    for unit in ("ulp", "rel"):
        errors |= {f"{statistic}_{unit}": max_ulp for statistic in ("max", "median", "p99")}
    worst = {"count": 1024, "norm_rel": 1e-7, "worst_index": "[3]", "worst_actual": 1.0, "worst_exact": 2.0}
    return about(**{"kind": "accuracy", "quantity": quantity, **errors, **worst, **changes})


def failure_row(reason: str, **changes: Any) -> Row:
    """A failure as the parent of a dead worker writes it: without most columns."""
    names = ("op", "case", "dtype", "repetition", "engine", "level")
    return {**{name: about(**changes)[name] for name in names}, "kind": "failure", "reason": reason}


def small_run(folder: Path, *more: Row) -> Run:
    """A run of one elementwise op and one matrix product, and whatever rows are added."""
    rows = []
    for op, rule in (("sigmoid", "rule:stable"), ("matmul", "rule:transpose")):
        for case, n in (("small", 1024), ("memory", 2**22)):
            for factor, engine in enumerate((rule, "autodiff", "central_difference", "numpy"), 1):
                at = {"op": op, "case": case, "n": n, "engine": engine}
                rows.append(accuracy_row("value", 0.5, **at))
                rows.append(accuracy_row("ct_x", 2.0 * factor, norm_rel=2.0 * factor * 2.0**-23, **at))
                rows.append(time_row(samples_us=[factor * n * (1 + i / 100) for i in range(9)], **at))
    write_machine(folder, MACHINE)
    return write_frames(folder, [*rows, *more])
