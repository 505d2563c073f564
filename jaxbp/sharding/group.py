"""Processes that share devices: one, or several joined over loopback as on several machines."""

import concurrent.futures
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxbp.measure.pool import owner_pool

#: How long the processes wait for each other, and until one that is gone ends the others too.
PATIENCE_SECONDS = 60


class Group:
    """All processes; what is submitted, each of them does."""

    def __init__(self, pools: list[concurrent.futures.ProcessPoolExecutor]) -> None:
        self._pools = pools

    def run(self, f: Callable[..., Any], *args: Any) -> Any:
        """What the first process returns.

        Raises:
            concurrent.futures.BrokenExecutor: a process is gone.
        """
        results = [pool.submit(f, *args) for pool in self._pools]
        first, *_ = [result.result() for result in results]
        return first


@contextlib.contextmanager
def group(devices: int, processes: int = 1) -> Iterator[Group]:
    """Processes with so many devices of the processor together."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices // processes)}
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(owner_pool("jax", environment)) for _ in range(processes)]
        if processes == 1:
            yield Group(pools)
            return
        address = f"localhost:{_free_port()}"
        joined = [pool.submit(_join, address, processes, i) for i, pool in enumerate(pools)]
        for future in joined:
            future.result()
        both = Group(pools)
        yield both
        # At once: each waits for the others.
        both.run(jax.distributed.shutdown)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _join(address: str, processes: int, i: int) -> None:
    # The collectives tell standard output whom they have met.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    jax.distributed.initialize(
        address,
        processes,
        i,
        initialization_timeout=PATIENCE_SECONDS,
        heartbeat_timeout_seconds=PATIENCE_SECONDS,
    )
