"""Wrong rules as people write them: each has a bug of a class met in public projects, told in a few lines."""

from collections.abc import Iterator

from tests.mutants import (
    handwritten_attention,
    handwritten_blocks,
    handwritten_layers,
    handwritten_losses,
    handwritten_points,
    handwritten_rows,
    handwritten_solvers,
    register,
)
from tests.mutants.mutant import Mutant

#: Where they are written down.
MODULES = (
    handwritten_rows,
    handwritten_layers,
    handwritten_losses,
    handwritten_attention,
    handwritten_blocks,
    handwritten_points,
    handwritten_solvers,
)


def mutants() -> Iterator[Mutant]:
    """All of them."""
    yield from register.MADE.values()
