"""Errors as sentences: unknown names with the closest known ones, and extras that are not installed."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UsageError(ValueError):
    """What was asked for makes no sense; its text says what would."""


class UnknownNameError(UsageError):
    """A name of an op, engine, dtype, case or option that does not exist; its text offers the closest ones."""


class MissingExtraError(ImportError):
    """A package that an optional part of jaxbp needs is not installed; its text names the extra to install."""


class ResultsError(OSError):
    """A results folder or file cannot be written or read; its text names the file and says what is wrong."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name.

    >>> str(unknown_name("op", "sigmod", ["sigmoid", "tanh"]))
    "There is no op called 'sigmod'; did you mean 'sigmoid'?"
    >>> str(unknown_name("dtype", "q7", ["float32", "bfloat16"]))
    "There is no dtype called 'q7'; known: float32, bfloat16."
    """
    names = list(known)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if close:
        offer = " or ".join(repr(name) for name in close)
        return UnknownNameError(f"There is no {kind} called {given!r}; did you mean {offer}?")
    return UnknownNameError(f"There is no {kind} called {given!r}; known: {', '.join(names)}.")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that only the named extra installs, or say how to install it.

    >>> import_extra("no_such_module", "bench")
    Traceback (most recent call last):
    jaxbp.errors.MissingExtraError: This needs the package no_such_module; install it with: pip install 'jaxbp[bench]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f"This needs the package {package}; install it with: pip install 'jaxbp[{extra}]'"
        ) from error
