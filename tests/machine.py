"""A machine that does not exist, for whatever tests need to know one."""

from typing import Any

MACHINE: dict[str, Any] = {
    "name": "test-2-core",
    "cpu": "Test CPU",
    "architecture": "x86_64",
    "cores": 2,
    "memory_bytes": 2**34,
    "system": "Linux",
    "python": "3.11.9",
    "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
    # All digits: a number to whoever does not know that it is text.
    "commit": "012345678901",
    "variables": {},
}
#: What a run adds.
RUN: dict[str, Any] = {
    "noise": {"load": 0.1, "spread": 0.02, "verdict": "quiet"},
    "started": "2024-11-23T00:00:00Z",
    "level": "quick",
}
