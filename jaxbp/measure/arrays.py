"""What checks look at of an engine's arrays: some entries, and a checksum; no more is copied from a device."""

import sys
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.engines import Engine

#: Entries that are looked at of each array.
LOOKED_AT = 2**14


def some(size: int) -> np.ndarray:
    """Indices spread evenly over all entries, the last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, LOOKED_AT)).astype(np.int64))


def looked_at(engine: Engine, x: Any) -> np.ndarray:
    """Some entries of one of the engine's arrays, the same each time."""
    return entries_of(engine, x, some(x.numel() if hasattr(x, "numel") else x.size))


def entries_of(engine: Engine, x: Any, entries: np.ndarray | None) -> np.ndarray:
    """These flat entries of one of the engine's arrays, all if None, as NumPy."""
    if not _on_device(x):
        flat = np.asarray(engine.finish(x)).reshape(-1)
        return flat if entries is None else flat[entries]
    flat = x.reshape(-1)
    if entries is not None:
        at = jnp.asarray(entries) if isinstance(x, jax.Array) else _torch().from_numpy(entries).to(x.device)
        flat = flat[at]
    return np.asarray(engine.finish(flat))


def checksum(engine: Engine, x: Any) -> int:
    """Of all bytes the sum, in words of them, and of some entries a checksum, which tells their order too.

    A checksum of all would take longer than many a gradient.
    """
    if not _on_device(x):
        octets = np.ascontiguousarray(engine.finish(x)).reshape(-1).view(np.uint8)
        whole = octets.size - octets.size % 8
        total = int(np.sum(octets[:whole].view(np.uint64))) + int(np.sum(octets[whole:]))
    elif isinstance(x, jax.Array):
        total = int(_sum_of_words(x))
    else:
        torch = _torch()
        total = int(x.reshape(-1).view(torch.uint8 if x.element_size() < 4 else torch.int32).sum())
    return zlib.crc32(looked_at(engine, x).tobytes(), total & 0xFFFFFFFF) + total


@jax.jit
def _sum_of_words(x: jax.Array) -> jax.Array:
    octets = x.astype(jnp.uint8) if x.dtype == bool else x
    words = {1: jnp.uint8, 2: jnp.uint16}.get(octets.dtype.itemsize, jnp.uint32)
    return jnp.sum(jax.lax.bitcast_convert_type(octets, words), dtype=jnp.uint32)


def _on_device(x: Any) -> bool:
    """Whether an array lies on a device beside the processor."""
    if isinstance(x, jax.Array):
        return any(device.platform != "cpu" for device in x.devices())
    return getattr(x, "is_cuda", False)


def _torch() -> Any:
    # Whoever has its arrays has imported it.
    return sys.modules["torch"]
