"""Frames as JSON for the page: a list a column, texts as numbers of a list of the distinct ones."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

Row = dict[str, Any]


def encode(frame: pd.DataFrame, meanings: Mapping[str, str]) -> list[Row]:
    """A column of numbers has `numbers`; one of text `texts`, the distinct ones, and `codes`, which of them each is.

    Empty cells are None, infinities texts: JSON has neither.

    >>> encode(pd.DataFrame({"op": ["exp", "exp", "log"], "n": [1.0, math.inf, math.nan]}), {"op": "the op"})
    [{'name': 'op', 'meaning': 'the op', 'texts': ['exp', 'log'], 'codes': [0, 0, 1]},
     {'name': 'n', 'meaning': '', 'numbers': [1, 'inf', None]}]
    """
    columns = []
    for name in map(str, frame.columns):
        column: Row = {"name": name, "meaning": meanings.get(name, "")}
        if pd.api.types.is_numeric_dtype(frame[name]):
            columns.append({**column, "numbers": numbers(frame[name])})
        else:
            codes, texts = pd.factorize(frame[name].fillna("").astype(str))
            columns.append({**column, "texts": list(texts), "codes": codes.tolist()})
    return columns


def numbers(values: Iterable[float]) -> list[int | float | str | None]:
    """Numbers as JSON can hold them, whole ones without a fraction.

    >>> numbers([2.0, 0.5, math.nan, -math.inf])
    [2, 0.5, None, '-inf']
    """
    return [_number(float(value)) for value in values]


def _number(value: float) -> int | float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return str(value)
    # Beyond 2^53 the digits of a whole number would be more than are known.
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
