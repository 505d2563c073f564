"""Right functions that others have written, and the ops: most of them have no rule but JAX's own."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import optax
from jax import lax

import jaxbp
from tests.mutants.operators import _domain, arguments
from tests.mutants.register import normal
from tests.mutants.right import Right

INF = np.inf


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _ops()
    yield from _plain()
    yield from _losses()
    yield from _arrays()
    yield from _linear_algebra()
    yield from _special()


def _ops() -> Iterator[Right]:
    """The default rules, in float32 and bfloat16, at the arguments of their cases."""
    for op in jaxbp.OPS:
        for dtype in (np.float32, jnp.bfloat16):
            args = op.convert(arguments(op), lambda x, dtype=dtype: x.astype(dtype))
            yield Right(f"{op.name}/{np.dtype(dtype).name}", op, args, _domain(op))


def _plain() -> Iterator[Right]:
    x = normal(6, 5)
    # One name a line would fill the page.
    for f in (
        jax.nn.relu, jax.nn.relu6, jax.nn.elu, jax.nn.selu, jax.nn.celu, jax.nn.gelu, jax.nn.silu, jax.nn.mish,
        jax.nn.softplus, jax.nn.soft_sign, jax.nn.log_sigmoid, jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.hard_swish,
        jax.nn.hard_sigmoid, jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp, jax.nn.standardize, jax.nn.glu,
        jax.nn.squareplus, jax.nn.sparse_plus, jnp.sinc, jnp.cumsum,
    ):  # fmt: skip
        name = getattr(f, "__name__", "f")
        argument = normal(6, 4) if name == "glu" else x
        yield Right(f"jax/{name}", f, (argument,))
    for f in (jax.nn.softmax, jax.nn.logsumexp, jax.nn.gelu, jax.nn.silu):
        yield Right(f"jax/{f.__name__}/bfloat16", f, (x.astype(jnp.bfloat16),))


def _losses() -> Iterator[Right]:
    x, y = normal(6, 5), normal(6, 5, seed=2)
    labels = np.array([0, 3, 1, 4, 2, 2], np.int32)
    yield Right("optax/softmax_cross_entropy", optax.softmax_cross_entropy_with_integer_labels, (3 * x, labels))
    yield Right("optax/sigmoid_cross_entropy", lambda x: optax.sigmoid_binary_cross_entropy(x, x > 0), (9 * x,))
    yield Right("optax/huber", lambda x, y: jnp.mean(optax.huber_loss(x, y)), (2 * x, y))
    yield Right("optax/log_cosh", optax.log_cosh, (x, y))
    yield Right("optax/cosine", optax.cosine_similarity, (x, y))
    yield Right("optax/hinge", optax.hinge_loss, (x, np.sign(y)))
    yield Right("optax/squared error", optax.squared_error, (x, y))
    yield Right(
        "optax/poly cross entropy", lambda x, y: optax.losses.poly_loss_cross_entropy(x, jax.nn.softmax(y)), (x, y)
    )
    yield Right("optax/KL", lambda x, y: optax.kl_divergence(jax.nn.log_softmax(x), jax.nn.softmax(y)), (x, y))


def _arrays() -> Iterator[Right]:
    x, y = normal(6, 5), normal(6, 5, seed=2)
    yield Right("numpy/logaddexp", jnp.logaddexp, (30 * x, 30 * y))
    yield Right("numpy/arctan2", jnp.arctan2, (x, y))
    yield Right("numpy/hypot", jnp.hypot, (x, y))
    yield Right("numpy/power", jnp.power, (np.abs(x) + 0.1, y), {"args[0]": (0.0, INF)})
    yield Right("numpy/norm", jnp.linalg.norm, (x,))
    yield Right("numpy/var", lambda x: jnp.var(x, 1), (x,))
    yield Right("numpy/prod", lambda x: jnp.prod(x, 1), (x,))
    yield Right("numpy/einsum", lambda a, b: jnp.einsum("ij,kj->ik", a, b), (x, y))
    yield Right("numpy/sort", jnp.sort, (x,))
    yield Right("numpy/cumprod", lambda x: jnp.cumprod(x, 1), (x,))
    yield Right("numpy/std with ddof", lambda x: jnp.std(x, 1, ddof=1), (x,))
    yield Right("numpy/average with weights", lambda x, w: jnp.average(x, 1, w), (x, np.abs(y) + 0.5))
    yield Right("numpy/outer", jnp.outer, (normal(4), normal(3, seed=2)))
    yield Right("numpy/kron", jnp.kron, (normal(2, 3), normal(3, 2, seed=2)))
    yield Right("numpy/convolve", jnp.convolve, (normal(9), normal(4, seed=2)))
    yield Right("numpy/tril", jnp.tril, (normal(5, 5),))
    yield Right("numpy/roll and flip", lambda x: jnp.flip(jnp.roll(x, 2, 0), 1), (x,))
    yield Right("numpy/repeat and tile", lambda x: jnp.tile(jnp.repeat(x, 2, 0), (1, 3)), (x,))
    yield Right("numpy/pad by reflection", lambda x: jnp.pad(x, ((0, 0), (1, 1)), mode="edge"), (x,))
    yield Right("numpy/interp", jnp.interp, (0.9 * normal(7), np.linspace(-2, 2, 9, dtype=np.float32), normal(9)))
    yield Right("numpy/max of an axis", lambda x: jnp.max(x, 0), (x,))
    yield Right("numpy/nan to num", jnp.nan_to_num, (x,))
    yield Right("lax/conv", lambda a, b: lax.conv(a, b, (1,), "SAME"), (normal(2, 3, 9), normal(4, 3, 3, seed=2)))
    yield Right("lax/strided conv", _strided, (normal(2, 3, 9), normal(4, 3, 3, seed=2)))
    yield Right("lax/average pool", _pool(lax.add, 0.0), (normal(2, 8),))
    yield Right("lax/max pool", _pool(lax.max, -INF), (normal(2, 8),))
    yield Right("lax/top k", lambda x: lax.top_k(x, min(1, x.shape[-1]))[0], (x,))
    yield Right("lax/cummax", lambda x: lax.cummax(x, 0), (x,))
    yield Right("lax/reduce precision", lambda x: lax.reduce_precision(x, 8, 10), (x.astype(jnp.bfloat16),))


def _strided(a: Any, b: Any) -> Any:
    return lax.conv_general_dilated(a, b, (2,), [(1, 2)], rhs_dilation=(2,))


def _pool(combine: Any, start: float) -> Any:
    return lambda x: lax.reduce_window(x, start, combine, (1, 3), (1, 2), "VALID")


def _linear_algebra() -> Iterator[Right]:
    """Errors here grow with the condition number, entry by entry more than each operation's rounding."""
    a, b = normal(4, 4) + 4 * np.eye(4, dtype=np.float32), normal(4, 2, seed=2)

    def positive(x: Any) -> Any:
        return x @ x.T + jnp.eye(x.shape[0], dtype=x.dtype)

    yield Right("linalg/solve", jnp.linalg.solve, (a, b))
    yield Right("linalg/inv", jnp.linalg.inv, (a,))
    yield Right("linalg/det", jnp.linalg.det, (a,))
    yield Right("linalg/slogdet", lambda a: jnp.linalg.slogdet(a)[1], (a,))
    yield Right("linalg/cholesky", lambda x: jnp.linalg.cholesky(positive(x)), (normal(4, 3),))
    yield Right("linalg/triangular solve", _triangular, (a, b))
    yield Right("linalg/eigenvalues", lambda x: jnp.linalg.eigvalsh(positive(x)), (normal(4, 3),))
    yield Right("linalg/singular values", lambda x: jnp.linalg.svd(x, compute_uv=False), (normal(4, 3),))
    yield Right("linalg/QR", lambda a: jnp.linalg.qr(a)[1], (a,))
    yield Right("linalg/matrix power", lambda a: jnp.linalg.matrix_power(a / 4, 5), (a,))
    yield Right("linalg/expm", lambda a: jsp.linalg.expm(a / 8), (a,))


def _triangular(a: Any, b: Any) -> Any:
    return jsp.linalg.solve_triangular(jnp.tril(a) + 4 * jnp.eye(a.shape[0], dtype=a.dtype), b, lower=True)


def _special() -> Iterator[Right]:
    x = normal(6, 5)
    positive = {"args[0]": (0.0, INF)}
    for f in (jsp.special.erf, jsp.special.erfc, jsp.special.i0e, jsp.special.i1e):
        yield Right(f"special/{f.__name__}", f, (x,))
    # JAX's rule cancels further out: at -100 it is off by 3e-4.
    yield Right("special/log_ndtr", jsp.special.log_ndtr, (x,), {"args[0]": (-8.0, 8.0)})
    for f in (jsp.special.gammaln, jsp.special.digamma):
        yield Right(f"special/{f.__name__}", f, (np.abs(x) + 0.5,), positive)
    yield Right("special/entr", jsp.special.entr, (np.abs(x) + 0.1,), positive)
    yield Right("special/xlogy", jsp.special.xlogy, (np.abs(x), np.abs(x) + 0.5), {"args[1]": (0.0, INF)} | positive)
    yield Right("special/ndtri", jsp.special.ndtri, (0.5 + 0.2 * np.tanh(x),), {"args[0]": (0.0, 1.0)})
