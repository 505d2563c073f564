"""How many digits a product of matrices keeps of its factors: many accelerators round them unless told otherwise."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.engines import Owner, torch_device
from jaxbp.errors import import_extra

#: Bits of a float32's significand, the leading one among them.
FLOAT32_BITS = 24
#: Rows of the square matrices that are multiplied: enough that the units for matrices do it.
ROWS = 256


@functools.cache
def product_bits(owner: Owner) -> int:
    """Bits that are kept of the entries of float32 matrices where the engines of this owner multiply them.

    24 are all of them; TF32, which JAX takes on NVIDIA's GPUs, keeps 11 and bfloat16, which it takes on TPUs, 8.
    """
    if owner == "jax":
        return kept_bits(jax.jit(jnp.matmul))
    if owner == "torch":
        torch, device = import_extra("torch", "torch"), torch_device()
        return kept_bits(lambda a, b: (torch.from_numpy(a).to(device) @ torch.from_numpy(b).to(device)).cpu())
    return kept_bits(np.matmul)


def kept_bits(multiply: Callable[[np.ndarray, np.ndarray], object]) -> int:
    """The bits that a product of float32 matrices keeps of its left factor.

    >>> kept_bits(np.matmul)
    24
    >>> kept_bits(lambda a, b: a.astype(np.float16) @ b.astype(np.float16))
    11
    """
    lowest = 1 + np.arange(ROWS) % (FLOAT32_BITS - 1)
    a = np.diag(1 + np.exp2(-lowest.astype(np.float32))).astype(np.float32)
    kept = np.diag(np.asarray(multiply(a, np.eye(ROWS, dtype=np.float32)))) == np.diag(a)
    return 1 + int(max(lowest[kept], default=0))


def multiply_as_jax() -> None:
    """Let torch multiply float32 matrices on a GPU as JAX does by default, in TF32; its own default is float32."""
    torch = import_extra("torch", "torch")
    as_jax = jax.config.values["jax_default_matmul_precision"] is None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = as_jax


def product_unit(owner: Owner, dtype: np.dtype) -> float:
    """The unit roundoff of products of matrices of this dtype where the engines of this owner compute them."""
    unit = float(jnp.finfo(dtype).eps) / 2
    return max(unit, 2.0 ** -product_bits(owner)) if dtype == np.float32 else unit
