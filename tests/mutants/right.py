"""What a right function of the corpus is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tests.mutants.mutant import custom


@dataclasses.dataclass(frozen=True)
class Right:
    """A right function: right at every shape and in every dtype that it admits, with x64 on and off.

    Attributes:
        name: its own.
        f: the function.
        args: an admissible input.
        domain: by argument, as `args[0]`, the open interval that it has to lie in.
        level: the level that it is checked at.
        x64: whether x64 has to be on while it is checked, for arguments of 64 bits.
    """

    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    domain: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    level: str = "standard"
    x64: bool = False


def slope(f: Callable[..., Any], derivative: Callable[[Any], Any]) -> Callable[..., Any]:
    """An elementwise function with its derivative for a rule."""
    return custom(f, lambda x: (f(x), x), lambda x, ct: (ct * derivative(x).astype(x.dtype),))
