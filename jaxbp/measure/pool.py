"""A process of one owner's thread pool, which measures what it is handed."""

import concurrent.futures
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax

from jaxbp.engines import Owner
from jaxbp.environment import inherited
from jaxbp.measure.sweep import environment_of


@contextlib.contextmanager
def owner_pool(
    owner: Owner, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """An executor with one process, started in the environment in which that owner's engines are measured.

    `environment` adds to it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, initializer=_set_up) as pool:
        with inherited({**environment_of(owner), **environment}):
            pool.submit(int).result()  # It is started now.
        yield pool


def _set_up() -> None:
    # Ctrl-C ends it at once, without a word: its parent has one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # No hop to another thread per call.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
