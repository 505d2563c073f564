"""One measurement at a time: two on one machine would slow each other down."""

import contextlib
import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jaxbp.errors import UsageError


@contextlib.contextmanager
def alone(*, wait: bool = False) -> Iterator[None]:
    """Hold the machine for one measurement; a `UsageError` if this user's machine is measured already.

    With `wait` it waits until nobody does. The system gives the lock back when the process ends, however it ends.

    >>> with alone(), alone():
    ...     pass
    Traceback (most recent call last):
    ...
    jaxbp.errors.UsageError: Another measurement is under way on this machine (process ...); ...
    """
    path = Path(tempfile.gettempdir()) / f"jaxbp-{getpass.getuser()}.lock"
    holder = path.with_suffix(".pid")
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"Another measurement is under way on this machine (process {_read(holder)}); two at once slow each other "
            "down. Start this one when that has ended."
        ) from None
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _read(holder: Path) -> str:
    with contextlib.suppress(OSError):
        return holder.read_text()
    return "unknown"
