"""How much an op computes at a time: what pays on a processor's caches is too little to keep a GPU busy."""

import jax


def by_device(processor: int, gpu: int) -> int:
    """One of two sizes, by the device that JAX computes with unless told otherwise.

    Results are as right with either: who computes on another device than that pays in time or in memory.

    >>> by_device(1, 2) == (2 if jax.default_backend() == "gpu" else 1)
    True
    """
    return gpu if jax.default_backend() == "gpu" else processor
