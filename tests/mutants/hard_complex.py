"""Right functions of complex numbers, inside and as arguments, under JAX's convention: no conjugate is taken.

The cotangent of z = x + iy is that of x minus i times that of y, so that holomorphic rules read as real ones do.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _inside()
    yield from _arguments()
    yield from _rules()


def _complex(*shape: int, seed: int = 1) -> np.ndarray:
    return (normal(*shape, seed=seed) + 1j * normal(*shape, seed=seed + 1)).astype(np.complex64)


def _inside() -> Iterator[Right]:
    """From reals to reals."""
    x, y = normal(6, 5), normal(6, 5, seed=2)
    yield Right("complex/size of a pair", lambda x, y: jnp.abs(lax.complex(x, y)), (x, y))
    yield Right("complex/angle of a pair", lambda x, y: jnp.angle(lax.complex(x, y)), (x, y))
    yield Right("complex/real part of exp", lambda x: jnp.real(jnp.exp(1j * x)), (x,))
    yield Right("complex/power spectrum", lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, (x,))
    yield Right(
        "complex/real transform and back", lambda x: jnp.fft.irfft(jnp.fft.rfft(x), x.shape[-1]), (normal(3, 8),)
    )
    yield Right("complex/product of transforms", _convolved, (normal(8), normal(8, seed=2)))
    yield Right("complex/transform of rows and columns", lambda x: jnp.fft.fft2(x).real, (x,))
    yield Right("complex/rotation", lambda x, y: jnp.real(lax.complex(x, y) * (0.6 + 0.8j)), (x, y))


def _convolved(x: Any, y: Any) -> Any:
    return jnp.real(jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(y)))


def _arguments() -> Iterator[Right]:
    z, w = _complex(6, 5), _complex(6, 5, seed=3)
    for name in ("abs", "real", "imag", "conj", "exp", "square", "sin", "angle"):
        yield Right(f"complex/{name}", getattr(jnp, name), (z,))
    yield Right("complex/product", lambda z, w: z * w, (z, w))
    yield Right("complex/matmul", lambda z, w: z @ w.T, (z, w))
    yield Right("complex/squared size", lambda z: jnp.real(z * jnp.conj(z)), (z,))
    yield Right("complex/inner product", jnp.vdot, (_complex(7), _complex(7, seed=3)))
    yield Right("complex/transform", jnp.fft.fft, (z,))
    yield Right("complex/times a real", lambda z, x: z * x, (z, normal(6, 5)))


def _rules() -> Iterator[Right]:
    z, w = _complex(6, 5), _complex(6, 5, seed=3)
    f = custom(jnp.abs, lambda z: (jnp.abs(z), z), _abs_back)
    yield Right("complex/rule of abs", f, (z,))
    f = custom(lambda z, w: z * w, lambda z, w: (z * w, (z, w)), lambda res, ct: (ct * res[1], ct * res[0]))
    yield Right("complex/rule of a product", f, (z, w))
    f = custom(jnp.conj, lambda z: (jnp.conj(z), None), lambda _, ct: (jnp.conj(ct),))
    yield Right("complex/rule of the conjugate", f, (z,))
    f = custom(jnp.exp, lambda z: (jnp.exp(z),) * 2, lambda y, ct: (ct * y,))
    yield Right("complex/rule of exp from its output", f, (z,))
    f = custom(_squared_size, lambda z: (_squared_size(z), z), _squared_size_back)
    yield Right("complex/rule of the squared size", f, (z,))
    f = custom(lax.complex, lambda x, y: (lax.complex(x, y), None), lambda _, ct: (jnp.real(ct), -jnp.imag(ct)))
    yield Right("complex/rule of a pair", f, (normal(6, 5), normal(6, 5, seed=2)))
    f = custom(_spectrum, lambda x: (_spectrum(x), x), _spectrum_back)
    yield Right("complex/rule of the power spectrum", f, (normal(6, 5),))
    f = custom(_spectrum, lambda x: (_spectrum(x), jnp.fft.fft(x)), _spectrum_back_from_transform)
    yield Right("complex/rule that keeps complex numbers", f, (normal(6, 5),))


def _abs_back(z: Any, ct: Any) -> Any:
    size = jnp.abs(z)
    return (jnp.where(size == 0, 0, ct * jnp.conj(z) / jnp.where(size == 0, 1, size)).astype(z.dtype),)


def _squared_size(z: Any) -> Any:
    return jnp.real(z) ** 2 + jnp.imag(z) ** 2


def _squared_size_back(z: Any, ct: Any) -> Any:
    # By its parts: a real number times a complex one that is infinite would be 0 times infinity in the other part.
    return (lax.complex(2 * ct * jnp.real(z), -2 * ct * jnp.imag(z)),)


def _spectrum(x: Any) -> Any:
    return jnp.abs(jnp.fft.fft(x)) ** 2


def _spectrum_back(x: Any, ct: Any) -> Any:
    return _spectrum_back_from_transform(jnp.fft.fft(x), ct)


def _spectrum_back_from_transform(transform: Any, ct: Any) -> Any:
    # d|F_k|^2 = 2 Re(conj(F_k) dF_k), and the transform is symmetric.
    return (jnp.real(jnp.fft.fft(2 * ct * jnp.conj(transform))),)
