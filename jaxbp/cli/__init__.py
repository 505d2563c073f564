"""The command line; it alone prints, with `terminal`."""

import sys

from jaxbp.cli import bench, catalog, checks, circuit, compare, train  # noqa: F401 - each adds its commands
from jaxbp.cli.root import app
from jaxbp.errors import MissingExtraError, ResultsError, UsageError
from jaxbp.terminal import err


def main() -> None:
    """Run the command line; errors a user can mend are one sentence and exit status 2."""
    try:
        app()
    except (UsageError, ResultsError, MissingExtraError) as error:
        err.print(f"jaxbp: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
