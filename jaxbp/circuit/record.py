"""A circuit for other programs: every wire with its numbers, as JSON."""

import math
from typing import Any

import jax
import numpy as np

from jaxbp.circuit.table import walk
from jaxbp.circuit.tape import Signal
from jaxbp.circuit.truth import Truth
from jaxbp.circuit.wiring import Gate, Scope, Wire

#: Arrays of more entries are given by shape and norm alone.
ENTRIES = 1000


def records_of(scope: Scope, truth: Truth, folded: bool) -> list[dict[str, Any]]:
    """A record for each wire, in the order of the table."""
    return [_record(wire, gate, depth, truth) for wire, gate, depth in walk(scope, folded)]


def _record(wire: Wire, gate: Gate | None, depth: int, truth: Truth) -> dict[str, Any]:
    return {
        "name": wire.name,
        "depth": depth,
        "gate": gate.title if gate else wire.kind,
        "of": [w.name for w in gate.inputs] if gate else [],
        "source": gate.text if gate else "",
        "line": gate.place if gate else "",
        "dtype": str(wire.aval.dtype),
        "shape": list(wire.aval.shape),
        "value": _numbers(wire.value),
        "gradient": _numbers(wire.gradient) if wire.gradient else None,
        "value_error": _error(truth.errors.get(wire.value)),
        "own_error": _error(truth.own.get(wire.value)) if gate else None,
        "gradient_error": _error(truth.errors.get(wire.gradient)) if wire.gradient else None,
    }


def _numbers(signal: Signal) -> dict[str, Any] | None:
    """The norm, and the entries of an array that is not too large; None for what is no array of real numbers."""
    x = signal.number
    if not isinstance(x, np.ndarray) or x.dtype.kind == "c":
        return None
    wide = x if x.dtype.kind in "iub" else x.astype(np.float64)
    with np.errstate(all="ignore"):
        norm = float(np.sqrt(np.sum(np.square(wide.astype(np.float64)))))
    return {"norm": _plain(norm), "entries": jax.tree.map(_plain, wide.tolist()) if x.size <= ENTRIES else None}


def _error(error: Any) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"ulp": _plain(error.ulp), "what": error.what, "index": list(error.index), "exact": _plain(error.exact)}


def _plain(x: Any) -> Any:
    """A number as JSON has it; infinities and NaN, which it has not, as their names."""
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x
