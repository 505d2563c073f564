"""Wrong rules as people write them: each has a bug of a class met in public projects, told in a few lines."""

from collections.abc import Iterator

from tests.mutants import handwritten_layers, handwritten_rows, register
from tests.mutants.mutant import Mutant

#: Where they are written down.
MODULES = (handwritten_rows, handwritten_layers)


def mutants() -> Iterator[Mutant]:
    """All of them."""
    yield from register.MADE
