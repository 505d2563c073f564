"""Where to look: arguments of every magnitude, and those where rules break first."""

import jax.numpy as jnp
import numpy as np

from jaxbp.op import Op

#: How many floats on either side of a hard point are hard too.
NEIGHBOURS = 8
#: The exponents of magnitudes between which most functions do what they are known for.
USUAL_EXPONENTS = (-30, 10)


def argument_points(op: Op, dtype: str, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Arguments of an op of one or two arguments: all hard points, or pairs of some, and `count` random ones."""
    if len(op.arguments) == 1:
        return (np.concatenate([hard_points(op, dtype), random_points(dtype, count, seed)]),)
    hard = hard_points(op, dtype, neighbours=1)
    pairs = np.repeat(hard, hard.size), np.tile(hard, hard.size)
    random = (random_points(dtype, count, [seed, i]) for i in range(2))
    return tuple(np.concatenate(both) for both in zip(pairs, random, strict=True))


def hard_points(op: Op, dtype: str, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Arguments at which rules break first, each with its neighbours.

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
    keys = _key(centres)[:, None] + np.arange(-neighbours, neighbours + 1)
    around = _float(np.clip(keys, _key(-_infinity(dtype)), _key(_infinity(dtype))).ravel(), dtype)
    return np.unique(np.concatenate([around, -_infinity(dtype), _infinity(dtype), np.array([np.nan], around.dtype)]))


def random_points(dtype: str, count: int, seed: int | list[int] = 0) -> np.ndarray:
    """Numbers of every magnitude: sign and bits uniform, so that each binade is met equally often.

    Half of them have a magnitude between 2^-30 and 2^10, where most functions do what they are known for.
    """
    half = count // 2
    return np.concatenate(
        [slice_of_all(dtype, 0, 1, count - half, seed), slice_of_usual(dtype, 0, 1, half, _then(seed))]
    )


def slice_of_all(dtype: str, index: int, slices: int, count: int, seed: int | list[int] = 0) -> np.ndarray:
    """Random floats whose bits lie in one of equal slices of all bits: binades in a row, of one sign."""
    bits = 8 * jnp.dtype(dtype).itemsize
    low, high = (2**bits * i // slices for i in (index, index + 1))
    drawn = np.random.default_rng(seed).integers(low, high - 1, count, dtype=f"uint{bits}", endpoint=True)
    return drawn.view(jnp.dtype(dtype))


def slice_of_usual(dtype: str, index: int, slices: int, count: int, seed: int | list[int] = 0) -> np.ndarray:
    """Random numbers in one of equal slices of -2^10 to -2^-30 and 2^-30 to 2^10, uniform in the exponent."""
    rng = np.random.default_rng(seed)
    low, high = USUAL_EXPONENTS
    # From -2^10 by way of the small numbers to 2^10.
    place = (index + rng.random(count)) / slices * 2 - 1
    magnitude = np.exp2(low + (high - low) * np.abs(place))
    return np.copysign(magnitude, place).astype(jnp.dtype(dtype))


def _then(seed: int | list[int]) -> list[int]:
    return [*(seed if isinstance(seed, list) else [seed]), 1]


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
