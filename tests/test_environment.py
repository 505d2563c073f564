"""What is set for processes that measure, seen in their page faults."""

import os
import platform
import subprocess
import sys

import pytest

from jaxbp.environment import ALLOCATOR

#: Prints how many pages of 4 KiB a result of 64 MiB took from the system, the median of 25: the first few must, and so
#: must one now and then that comes before an earlier one was freed, which is not in the thread that waits.
FAULTS = """
import resource
import statistics
import jax
import jax.numpy as jnp
from jaxbp.environment import keep_memory

if {keeps}:
    assert len(keep_memory()) == 3
jax.config.update("jax_cpu_enable_async_dispatch", False)
f, x = jax.jit(lambda x: x + 1), jnp.ones(2**24, jnp.float32)
taken = []
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(f(x))
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(taken))
"""


def faults(*, keeps: bool, **environment: str) -> int:
    plain = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    words = [sys.executable, "-c", FAULTS.format(keeps=keeps)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**plain, **environment})
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Other C libraries have no such settings.")
def test_memory_is_kept_from_the_start_or_from_the_call_on():
    assert faults(keeps=False) > 1000
    assert faults(keeps=False, **ALLOCATOR) < 100
    assert faults(keeps=True) < 100
