"""Where to look: arguments of every magnitude, and those where rules break first."""

import jax.numpy as jnp
import numpy as np

from jaxbp.op import Op

#: How many floats on either side of a hard point are hard too.
NEIGHBOURS = 8


def hard_points(op: Op, dtype: str) -> np.ndarray:
    """Arguments at which rules break first, each with its neighbours; for ops of one argument.

    Zeros, ones, the ends of the subnormal and of the normal numbers and their roots, infinities and NaN; and what the
    op declares: kinks, the edges of its domain, and `Op.hard`.
    """
    finfo = jnp.finfo(dtype)
    tiny, least, most = (float(x) for x in (finfo.tiny, finfo.smallest_subnormal, finfo.max))
    usual = [0.0, least, tiny, tiny / 2, 1 / most, 1 / tiny, tiny**0.5, most**0.5, 1.0, 2.0, 0.5, most]
    declared = [*op.hard, *(at for kink in op.kinks for at in kink.at)]
    declared += [edge for domain in op.domain.values() for edge in domain.edges]
    with np.errstate(over="ignore"):
        centres = np.array([*usual, *declared, *(-x for x in usual)]).astype(jnp.dtype(dtype))
    keys = _key(centres)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    around = _float(np.clip(keys, _key(-_infinity(dtype)), _key(_infinity(dtype))).ravel(), dtype)
    return np.unique(np.concatenate([around, -_infinity(dtype), _infinity(dtype), np.array([np.nan], around.dtype)]))


def random_points(dtype: str, count: int, seed: int = 0) -> np.ndarray:
    """Numbers of every magnitude: sign and bits uniform, so that each binade is met equally often.

    Half of them have a magnitude between 2^-30 and 2^10, where most functions do what they are known for.
    """
    rng = np.random.default_rng(seed)
    kind = jnp.dtype(dtype)
    bits = 8 * kind.itemsize
    anywhere = rng.integers(0, 2**bits - 1, count - count // 2, dtype=f"uint{bits}", endpoint=True).view(kind)
    usual = np.exp2(rng.uniform(-30, 10, count // 2)) * rng.choice([-1.0, 1.0], count // 2)
    return np.concatenate([anywhere, usual.astype(kind)])


def _infinity(dtype: str) -> np.ndarray:
    return np.array([np.inf], jnp.dtype(dtype))


def _key(x: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats, neighbours one apart."""
    bits = x.view(f"int{8 * x.dtype.itemsize}").astype(np.int64)
    return np.where(bits < 0, -(bits & np.iinfo(f"int{8 * x.dtype.itemsize}").max), bits)


def _float(key: np.ndarray, dtype: str) -> np.ndarray:
    kind = jnp.dtype(dtype)
    whole = f"int{8 * kind.itemsize}"
    return np.where(key < 0, np.iinfo(whole).min - key, key).astype(whole).view(kind)
