"""The environment of processes that measure: the cores and accelerators, and what is set before they start."""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

#: All allocations come from memory that is kept: a fresh mapping would be filled with zeros page by page, and a call
#: that returns 40 MB would measure that, not the arithmetic: it takes two to three times as long. glibc's threshold for
#: mappings cannot be above 32 MiB, so that there are none at all.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}

#: By name, how memory is allocated where times are measured: kept, or as the C library does it unless told otherwise.
#: Then each call that allocates hundreds of megabytes pays for their pages again, as it does in a user's program.
ALLOCATORS: dict[str, dict[str, str]] = {"kept": ALLOCATOR, "system": {}}


#: What `mallopt` calls the settings of `ALLOCATOR`, by malloc.h of glibc.
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_MAX_": -4}


def keep_memory() -> dict[str, str]:
    """Keep freed memory in this process, which runs already, as `ALLOCATOR` in the environment does from the start.

    Calls that return or need large arrays no longer pay for their pages. At most 2 GiB are kept for certain: the
    function takes 32 bits. Returns what is set, which is nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return {}
    settings = {name: min(int(value), 2**31 - 1) for name, value in ALLOCATOR.items()}
    return {name: str(value) for name, value in settings.items() if mallopt(_MALLOPT[name], value)}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Prints the names of the accelerators that JAX computes with unless told otherwise.
FIND = "import jax, json; print(json.dumps([d.device_kind for d in jax.devices() if d.platform != 'cpu']))"


@functools.cache
def accelerators() -> tuple[str, ...]:
    """The names of the devices that JAX computes with, where these are not the processor's cores.

    It is a process of its own that looks, since JAX takes a device's memory when it first looks for devices. Where no
    plugin for accelerators is installed there are none to look for.
    """
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins and not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        return ()
    found = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True)
    return tuple(json.loads(found.stdout.splitlines()[-1])) if found.returncode == 0 else ()


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
