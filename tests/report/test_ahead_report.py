"""What a compiler said of a chip: the table of a rule beside autodiff, larger peaks, failures, and the record."""

import pandas as pd
import pytest

from jaxbp.report.ahead import ahead_frame, beside_times, larger_peaks, overview, report, write_ahead

MACHINE = {"versions": {"jax": "0.10.2", "libtpu": "0.0.42"}, "started": "2026-11-26T00:00:00Z", "commit": "abc"}


def row(engine="autodiff", mode="fwd_bwd", **changes):
    return {
        "op": "exp",
        "case": "memory",
        "dtype": "float32",
        "target": "v5e",
        "engine": engine,
        "mode": mode,
        "flops": 100.0,
        "bytes": 64.0,
        "kernels": None,
        "estimate_us": None,
        "residual_bytes": 32,
        "temp_bytes": 0,
        "peak_bytes": 64,
        "compile_ms": 1.0,
        "status": "ok",
        "reason": "",
        **changes,
    }


def rows(**rule):
    modes = ("fwd_bwd", "fwd_res", "bwd")
    return [row("rule:output", mode, **rule) for mode in modes] + [row(mode=mode) for mode in modes]


def test_the_rule_over_autodiff():
    (told,) = overview(ahead_frame(rows(bytes=32.0, residual_bytes=0))).to_dict("records")
    assert (told["bytes of fwd_bwd"], told["bytes of split"], told["operations"]) == ("0.50", "0.50", "1.00")
    assert (told["kept"], told["autodiff keeps"], told["peak of fwd_bwd"]) == ("0", "32 B", "1.00")
    assert "estimate of split" not in told  # The compiler has none.


def test_kernels_of_a_gpu_are_told():
    frame = ahead_frame([{**r, "target": "h100", "kernels": 2 + (r["engine"] == "autodiff")} for r in rows()])
    (told,) = overview(frame).to_dict("records")
    assert (told["kernels"], told["autodiff's kernels"]) == ("2", "3")
    assert "compiled for one NVIDIA H100" in report("h100", MACHINE, frame)[1]


def test_bytes_beside_times():
    """Of split the sums of both passes; what only one of the frames has is left out."""
    compiled = ahead_frame([*rows(bytes=32.0), row("rule:a", op="log", case="large"), row(op="log", case="large")])
    cell = {"op": "exp", "case": "memory", "dtype": "float32", "engine": "rule:output", "verdict": "faster"}
    summary = pd.DataFrame(
        [
            {**cell, "mode": "fwd_bwd", "ratio": 0.625},
            {**cell, "mode": "split", "ratio": 0.5},
            {**cell, "mode": "split", "case": "cache", "ratio": 0.9},
            {**cell, "mode": "fwd_bwd", "op": "tanh", "ratio": 0.9},
        ]
    )
    (told,) = beside_times(compiled, summary).to_dict("records")
    assert told == {
        "op": "exp",
        "bytes of fwd_bwd": "0.50",
        "time of fwd_bwd": "0.62 faster",
        "bytes of split": "0.50",
        "time of split": "0.50 faster",
    }


@pytest.mark.parametrize(("peak", "said"), [(64, []), (63, []), (96, ["exp (output) float32 in fwd_bwd, 1.50 times"])])
def test_a_larger_peak_is_told(peak, said):
    frame = ahead_frame([row("rule:output", peak_bytes=peak), row()])
    assert larger_peaks(frame) == said
    text = " ".join(
        report("v5e", MACHINE, ahead_frame([*rows(), row("rule:a", op="log", peak_bytes=peak), row(op="log")][:6]))
    )
    assert "No rule needs more memory" in text


def test_what_failed_says_why_and_the_other_rules_are_told():
    failed = row("rule:kernel", "", status="failed", reason="ValueError: no f64")
    output, kernel = overview(ahead_frame([*rows(), failed])).to_dict("records")
    assert kernel["note"] == "rule:kernel: ValueError: no f64"
    assert (output["rule"], output["operations"], output["note"]) == ("output", "1.00", "")


def test_a_crash_of_the_compiler_is_told():
    (told,) = overview(ahead_frame([row("", "", status="failed", reason="The compiler crashed.")])).to_dict("records")
    assert told["note"] == "The compiler crashed."


def test_the_record_is_written(tmp_path):
    path, frame = write_ahead(tmp_path, "v5e", MACHINE, rows())
    assert {file.name for file in tmp_path.iterdir()} == {"compiled.csv", "report.md"}
    assert "1 ops at case `memory`" in path.read_text()
    assert len(frame) == 6
