"""The command line; it alone prints, with `terminal`."""

import importlib
import sys

from jaxbp.cli.root import app
from jaxbp.errors import MissingExtraError, ResultsError, UsageError
from jaxbp.terminal import err

#: By command, the module that adds it to the application.
COMMANDS = {
    **dict.fromkeys(("bench", "report"), "bench"),
    **dict.fromkeys(("ops", "machine", "census"), "catalog"),
    **dict.fromkeys(("check", "selftest"), "checks"),
    "compile": "ahead",
    "shard": "sharding",
    **{name: name for name in ("circuit", "compare", "train")},
}


def main() -> None:
    """Run the command line; errors a user can mend are one sentence and exit status 2."""
    # Tables and pictures take a second to import: of a command that is named, only what it needs.
    asked = COMMANDS.get(next(iter(sys.argv[1:]), ""))
    try:
        for module in [asked] if asked else dict.fromkeys(COMMANDS.values()):
            importlib.import_module(f"jaxbp.cli.{module}")
        app()
    except (UsageError, ResultsError, MissingExtraError) as error:
        err.print(f"jaxbp: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
