"""The environment of processes that measure: how many cores there are, and what has to be set before they start."""

import contextlib
import os
from collections.abc import Iterator, Mapping

#: Allocations up to 32 MiB, the most that glibc allows here, come from memory that is kept: a fresh mapping would
#: be filled with zeros page by page, and a call that returns 16 MiB would measure that, not the arithmetic.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in this context inherit the variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
