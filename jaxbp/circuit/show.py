"""Numbers and arrays as short texts."""

from typing import Any

import numpy as np

from jaxbp.circuit.deviation import Error

#: So many entries of an array are shown.
SAMPLE = 3


def number(x: Any) -> str:
    """A number to four digits, as the notes write them."""
    if isinstance(x, bool | np.bool_):
        return str(bool(x))
    return f"{x + 0:.4g}"  # -0 is shown as 0.


def brief(x: np.ndarray | None, sample: int = SAMPLE) -> str:
    """A number, or an array's shape, norm and first entries.

    >>> brief(np.array(3.0)), brief(np.arange(4.0).reshape(2, 2))
    ('3', '[2,2] norm 3.742: 0 1 2 …')
    """
    if x is None:
        return "?"
    if not hasattr(x, "dtype") or not isinstance(x, np.ndarray):
        return "a key"
    if x.ndim == 0:
        return number(x[()])
    entries = " ".join(number(v) for v in x.reshape(-1)[:sample])
    shape = ",".join(map(str, x.shape))
    text = f"[{shape}]"
    if x.dtype.kind == "c" and x.size:
        text += f" norm {number(np.linalg.norm(x))}"
    elif x.dtype.kind not in "iub" and x.size:
        with np.errstate(all="ignore"):
            text += f" norm {number(np.sqrt(np.sum(np.square(x.astype(np.float64)))))}"
    return f"{text}: {entries}{' …' if x.size > sample else ''}" if x.size else text


def shape_of(aval: Any) -> str:
    """`float32[2,3]`."""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def ulp_text(error: Error | None) -> str:
    """An error in ULP; in a word where the digits went beyond the dtype's range."""
    if error is None:
        return ""
    return error.what or f"{error.ulp:.2g}"


def severity(error: Error | None) -> int:
    """0: some last bits; 1: a decimal digit or more; 2: less than half of the digits are right."""
    if error is None or error.lost < 10:
        return 0
    return 2 if error.lost >= error.worthless**0.5 else 1
