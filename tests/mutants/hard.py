"""Right functions that are hard to check: whatever the checker says against one of these is a false alarm."""

from collections.abc import Iterator

from tests.mutants import (
    hard_complex,
    hard_features,
    hard_kinks,
    hard_library,
    hard_programs,
    hard_rules,
    hard_scales,
    hard_shapes,
)
from tests.mutants.right import Right as Right

#: Where they are written down.
MODULES = (
    hard_library,
    hard_kinks,
    hard_scales,
    hard_shapes,
    hard_programs,
    hard_rules,
    hard_features,
    hard_complex,
)


def rights() -> Iterator[Right]:
    """All of them."""
    for module in MODULES:
        yield from module.rights()
