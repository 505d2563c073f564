"""The command line, typed in by tests."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest


class Result(NamedTuple):
    """What a command returned and printed."""

    code: Any
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A place of its own for the lock of measurements, which tests that run side by side would refuse each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("machine")))
        patch.setattr(tempfile, "tempdir", None)
        yield


def pytest_collection_finish() -> None:
    """To trace programs makes many objects that live; looking through all of them for garbage takes a while."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder for what was compiled, which all processes of this session share: tests meet the same programs again."""
    import jax

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    jax.config.update("jax_compilation_cache_dir", str(shared / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
