"""How quiet a run was, in a sentence: rounds that waited for a core, outliers, drift, and the noise after it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from jaxbp.measure.verdict import MARGIN
from jaxbp.report.tables import UNKNOWN

#: The share of interrupted rounds from which on a machine counts as busy.
BUSY = 0.1


def was_busy(machine: Mapping[str, Any], summary: pd.DataFrame) -> bool:
    """Whether other programs computed during a run, by the noise before and after it and by interrupted rounds."""
    noise = [machine.get(name) or {} for name in ("noise", "noise_after")]
    cells = summary[(summary["status"] == "ok") & summary["interrupted"].notna()]
    waited = (cells["interrupted"] * cells["rounds"]).sum() > BUSY * cells["rounds"].sum()
    return bool(waited) or any(told.get("verdict") == "busy" for told in noise)


def sentence(summary: pd.DataFrame, noise_after: Mapping[str, Any] | None) -> str:
    """What there is to say of the timed cells.

    >>> cells = {"status": ["ok"] * 4, "rounds": [10] * 4, "interrupted": [0.5, 0, 0, 0], "drift": [0.1, 0, 0, -0.01],
    ...          "outliers": [0.0, 0.1, 0.0, 0.0]}
    >>> sentence(pd.DataFrame(cells), {"verdict": "noisy", "spread": 0.2})
    'the machine was BUSY: 12 % of the rounds waited for a core (left out); 1 of 4 cells drifted by more than 2 %; 2.5 %
    of the samples lie far from the others; after the run noisy, spread 20 %'
    """
    cells = summary[(summary["status"] == "ok") & summary["drift"].notna()]
    if cells.empty:
        return UNKNOWN
    weights = cells["rounds"] / cells["rounds"].sum()
    waited = float((cells["interrupted"].fillna(0) * weights).sum())
    drifted = int((cells["drift"].abs() > MARGIN).sum())
    far = float((cells["outliers"] * weights).sum())
    said = [
        f"{'the machine was BUSY: ' * (waited > BUSY)}{100 * waited:.2g} % of the rounds waited for a core (left out)",
        f"{drifted} of {len(cells)} cells drifted by more than {100 * MARGIN:.0f} %",
        f"{100 * far:.2g} % of the samples lie far from the others",
    ]
    if noise_after:
        said.append(f"after the run {noise_after['verdict']}, spread {100 * noise_after['spread']:.0f} %")
    return "; ".join(said)
