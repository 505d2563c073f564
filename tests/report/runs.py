"""Whole runs as two benchmarks of the same machine leave them: common moods, own noise, and planted changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import MACHINE, accuracy_row, time_row

from jaxbp.measure import verdict
from jaxbp.report import frames
from jaxbp.report.frames import accuracy_frame, run_facts, summary_frame
from jaxbp.report.options import options_frame
from jaxbp.report.run import Run

OPS = ("exp", "tanh", "cos", "silu")
MODES = ("fwd_res", "bwd", "fwd_bwd")


def noisy_rows(
    seed: int,
    *,
    ops: Sequence[str] = OPS,
    slow: Mapping[str, float] | None = None,
    autodiff: Mapping[str, float] | None = None,
    ulp: Mapping[str, float] | None = None,
    speed: float = 1.0,
    noise: float = 0.04,
    shift: float = 0.0,
    rounds: int = 120,
    modes: Sequence[str] = MODES,
    **changes: Any,
) -> list[dict[str, Any]]:
    """The journal of a run.

    `slow` and `autodiff` are what the times of an op's rule and of autodiff are multiplied with, `speed` what all are;
    every round has a mood of its own, every sample a noise, and all of a cell are off by about `shift`, as on a busy
    machine; errors are 2 ULP where `ulp` says nothing else.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for op in ops:
        factors = {"rule:stable": (slow or {}).get(op, 1.0), "autodiff": (autodiff or {}).get(op, 1.0)}
        for mode in modes:
            mood = speed * 500 * np.exp(rng.normal(0, 0.15, rounds))
            for engine, factor in factors.items():
                samples = factor * mood * np.exp(rng.normal(0, noise, rounds) + rng.normal(0, shift))
                rows.append(time_row(mode, samples, **{"op": op, "engine": engine, **changes}))
        for engine in factors:
            error = (ulp or {}).get(op, 2.0) if engine != "autodiff" else 2.0
            rows += [accuracy_row(q, error, op=op, engine=engine, **changes) for q in ("value", "ct_x")]
    return rows


def as_run(rows: list[dict[str, Any]], folder: str, **machine: Any) -> Run:
    """Rows as a run, without files."""
    about = {**MACHINE, **machine}
    facts = run_facts(about)
    with pytest.MonkeyPatch.context() as patch:
        # An interval that is a little off is as good here, and cheap; what is not compared need not be computed.
        patch.setattr(verdict, "RESAMPLES", 200)
        patch.setattr(frames, "drift", lambda samples: 0.0)
        patch.setattr(frames, "outliers", lambda samples: 0.0)
        summary = summary_frame(rows, facts)
    return Run(Path(folder), about, summary, accuracy_frame(rows, facts), options_frame([], {}))


def noisy_run(folder: str, seed: int, machine: Mapping[str, Any] | None = None, **planted: Any) -> Run:
    """A run of `noisy_rows`, without files."""
    return as_run(noisy_rows(seed, **planted), folder, **(machine or {}))
