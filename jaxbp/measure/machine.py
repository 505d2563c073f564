"""What machine this is: hardware, versions, flags, and how noisy it is now."""

import collections
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.environment import accelerators, cores
from jaxbp.errors import import_extra

#: Packages whose versions a result depends on.
PACKAGES = (
    *("jaxbp", "jax", "jaxlib", "numpy", "scipy", "pandas", "optax", "scikit-learn", "torch"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu"),
)

#: Environment variables that change what is measured; recorded where set.
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "OMP_NUM_THREADS")


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Name, hardware and versions, as written to `machine.json`; takes about a second the first time.

    The name is processor, cores and accelerators: the folder of this machine's runs. Nothing here is personal: no host,
    no user, no path.
    """
    psutil = import_extra("psutil", "bench")
    cpu = processor(import_extra("cpuinfo", "bench").get_cpu_info())
    return {
        "name": machine_name(cpu, cores(), accelerators()),
        "cpu": cpu,
        "architecture": platform.machine(),
        "cores": cores(),
        **({"accelerators": ", ".join(accelerators())} if accelerators() else {}),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": git_commit(),
        "variables": {name: _without_paths(os.environ[name]) for name in VARIABLES if name in os.environ},
    }


def processor(cpu: Mapping[str, Any]) -> str:
    """The processor that py-cpuinfo describes: its brand, and the family and model that its maker numbers it by.

    A virtual machine often tells a brand alone, under which processors differ: of two that were called AMD EPYC, one
    multiplied matrices twice as fast as the other. ARM has no such numbers.

    >>> processor({"brand_raw": "AMD EPYC", "family": 25, "model": 17})
    'AMD EPYC family 25 model 17'
    >>> processor({"brand_raw": "Apple M1"})
    'Apple M1'
    """
    brand = cpu.get("brand_raw") or platform.processor() or "unknown"
    return " ".join([brand, *(f"{name} {cpu[name]}" for name in ("family", "model") if name in cpu)])


def machine_name(cpu: str, cores: int, accelerators: Sequence[str] = ()) -> str:
    """The name of a machine, and of the folder of its runs.

    >>> machine_name("AMD EPYC (R) 7B13 family 25 model 1", 8)
    'amd-epyc-r-7b13-family-25-model-1-8-core'
    >>> machine_name("Intel Xeon", 16, ["NVIDIA H200"] * 2)
    'intel-xeon-16-core-2-nvidia-h200'
    """
    counts = collections.Counter(accelerators)
    beside = "".join(f" {count if count > 1 else ''} {name}" for name, count in counts.items())
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu} {cores}-core{beside}".lower()).strip("-")


def computer(machine: Mapping[str, Any]) -> str:
    """What computed, for a sentence: the accelerators, or the processor and how many cores of it.

    >>> computer({"cpu": "AMD EPYC", "cores": 2})
    'AMD EPYC, 2 cores'
    """
    return machine.get("accelerators") or f"{machine['cpu']}, {machine['cores']} cores"


def allocator_of(machine: Mapping[str, Any]) -> str:
    """How memory was allocated in a run, a key of `ALLOCATORS`.

    >>> allocator_of({"request": {"level": "standard"}})
    'kept'
    """
    return machine.get("request", {}).get("allocator", "kept")


def now() -> str:
    """The current time in UTC, to the second, as in `machine.json` and run names."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git_commit() -> str | None:
    """The commit of the source tree jaxbp runs from, `+` appended if it has uncommitted changes; None outside git."""
    package = Path(__file__).resolve().parents[1]
    try:
        if Path(_git(package, "rev-parse", "--show-toplevel")) != package.parent:
            return None  # Installed into somebody else's repository.
        commit = _git(package, "rev-parse", "--short=12", "HEAD")
        dirty = _git(package, "status", "--porcelain", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")


@dataclasses.dataclass(frozen=True)
class Noise:
    """How quiet the machine is now.

    Attributes:
        load: runnable processes per core over the last minute.
        spread: (p95 - p5) / median of one fixed computation repeated for half a second.
    """

    load: float
    spread: float

    @property
    def verdict(self) -> str:
        """`quiet`, `noisy` (differences below 10 % will often stay undecided) or `busy` (others compute here)."""
        if self.load > 1.5:
            return "busy"
        return "noisy" if self.spread > 0.1 else "quiet"


def measure_noise(seconds: float = 0.5) -> Noise:
    """Repeat one computation that fits the cache and see how much its time varies."""
    x = np.random.default_rng(0).normal(size=2**14)
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(10):
            np.exp(x)
        samples.append(time.perf_counter() - start)
    low, middle, high = np.quantile(samples, [0.05, 0.5, 0.95])
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else float("nan")
    return Noise(load, float((high - low) / middle))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _without_paths(text: str) -> str:
    """A variable's value without its absolute paths, which name folders of whoever measures.

    >>> _without_paths("--xla_dump_to=/home/someone/dump --xla_cpu_enable_fast_math=true")
    '--xla_dump_to=<path> --xla_cpu_enable_fast_math=true'
    """
    return re.sub(r"(?<![^\s=:,])[/~][^\s:,]+", "<path>", text)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
