"""What an op does otherwise by the device that JAX computes with unless told otherwise.

Results are as right either way: who computes on another device than that pays in time or in memory.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, TypeVar

import jax

T = TypeVar("T")

_COMPILED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar("compiled_for", default=None)


@contextlib.contextmanager
def compiled_for(platform: Literal["cpu", "gpu", "tpu"]) -> Iterator[None]:
    """Have ops do what they do where JAX computes with that, to compile them for one that is not here.

    What JAX has traced and keeps is dropped before and after, since it does not know of this.

    >>> with compiled_for("gpu"):
    ...     on_gpu()
    True
    """
    token = _COMPILED_FOR.set(platform)
    jax.clear_caches()
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)
        jax.clear_caches()


def _platform() -> str:
    return _COMPILED_FOR.get() or jax.default_backend()


def on_gpu() -> bool:
    """Whether that is a GPU, to which each step of a loop is a kernel to launch."""
    return _platform() == "gpu"


def on_processor() -> bool:
    """Whether that is the processor, for which XLA fuses less."""
    return _platform() == "cpu"


def by_device(processor: int, gpu: int) -> int:
    """How much is computed at a time: what pays on a processor's caches is too little to keep a GPU busy.

    >>> by_device(1, 2) == (2 if on_gpu() else 1)
    True
    """
    return gpu if on_gpu() else processor


def computed_again(kept: T) -> T:
    """What is kept, as arrays from which XLA computes anew what it has computed from them before.

    Value and gradient in one executable otherwise share that, and what is shared goes through memory.

    >>> computed_again(jax.numpy.arange(3)).tolist()
    [0, 1, 2]
    """
    return jax.lax.optimization_barrier(kept)
