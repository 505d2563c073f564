"""The command line, typed in by tests."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Result(NamedTuple):
    """What a command returned and printed."""

    code: Any
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Type `jaxbp` and these words."""

    def type_in(*words: Any) -> Result:
        monkeypatch.setattr(sys, "argv", ["jaxbp", *map(str, words)])
        capsys.readouterr()
        from jaxbp import cli  # Not before a test asks for it: the command line brings in pandas and pictures.

        code: Any = None
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return Result(code or 0, printed.out, printed.err)

    return type_in
