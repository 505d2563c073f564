"""The environment of processes that measure: how many cores there are, and what has to be set before they start."""

import contextlib
import os
from collections.abc import Iterator, Mapping

#: All allocations come from memory that is kept: a fresh mapping would be filled with zeros page by page, and a call
#: that returns 40 MB would measure that, not the arithmetic: it takes two to three times as long. glibc's threshold for
#: mappings cannot be above 32 MiB, so that there are none at all.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
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
