"""Processes that share devices: one, or several joined over loopback as on several machines."""

import concurrent.futures
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxbp.measure.pool import owner_pool

#: Of XLA, for each device of one of several processes.
THREADS = 8
#: How long the processes wait for each other, and until one that is gone ends the others too.
PATIENCE_SECONDS = 60
#: How long what they are asked for may take: devices that wait for each other in vain would do so for ever.
TASK_SECONDS = 120


class Group:
    """All processes; what is submitted, each of them does."""

    def __init__(self, pools: list[concurrent.futures.ProcessPoolExecutor]) -> None:
        self._pools = pools
        self._pids = [pool.submit(os.getpid).result() for pool in pools]

    def run(self, f: Callable[..., Any], *args: Any) -> Any:
        """What the first process returns.

        Raises:
            concurrent.futures.BrokenExecutor: a process is gone, or took too long; none of them is left then.
        """
        results = [pool.submit(f, *args) for pool in self._pools]
        when = concurrent.futures.FIRST_EXCEPTION
        done, waiting = concurrent.futures.wait(results, TASK_SECONDS, when)
        errors = [error for result in done if (error := result.exception())]
        if waiting:
            # The others may wait for one that will not come.
            for pid in self._pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if waiting and not errors:
            raise concurrent.futures.BrokenExecutor(f"It took longer than {TASK_SECONDS} s, and was stopped.")
        if errors:
            raise errors[0]
        return results[0].result()


@contextlib.contextmanager
def group(devices: int, processes: int = 1) -> Iterator[Group]:
    """Processes with so many devices of the processor together."""
    own = devices // processes
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(own)}
    if processes > 1:
        # Threads of XLA: a device waits in one for each collective, and must have one for that which others wait for.
        environment["NPROC"] = str(THREADS * own)
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
