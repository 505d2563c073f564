"""Right functions of low precision, large and small numbers, saturated tails, long sums, masks of -inf."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right

INF = np.inf
NARROW = (jnp.bfloat16, jnp.float16)


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _narrow()
    yield from _long()
    yield from _scales()
    yield from _masks()
    yield from _wide()


def _layer_norm(x: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + jnp.asarray(1e-5, x.dtype))


def _narrow() -> Iterator[Right]:
    x = normal(6, 5)
    for dtype in NARROW:
        name, narrow = np.dtype(dtype).name, x.astype(dtype)
        weights = normal(5, 4, seed=2).astype(dtype)
        yield Right(f"scale/matmul/{name}", jnp.matmul, (narrow, weights))
        yield Right(f"scale/mean square/{name}", lambda x: jnp.mean(x**2), (narrow,))
        yield Right(f"scale/layer norm/{name}", _layer_norm, (narrow,))
        yield Right(f"scale/tanh/{name}", jnp.tanh, (narrow,))
        yield Right(f"scale/softmax/{name}", jax.nn.softmax, (3 * narrow,))
        yield Right(f"scale/logsumexp/{name}", jax.nn.logsumexp, (3 * narrow,))
        yield Right(f"scale/variance/{name}", lambda x: jnp.var(x, -1), (narrow,))
        yield Right(f"scale/mixed with float32/{name}", lambda a, b: a.astype(jnp.float32) @ b, (narrow, normal(5, 3)))
    half = normal(6, 5).astype(np.float16)
    yield Right("scale/exp up to float16's end", jnp.exp, (np.array([-17, -9, 0, 9, 11, 11.08], np.float16),))
    yield Right("scale/square past float16's end", jnp.square, (np.array([1, 100, 250, 255, 256, 300], np.float16),))
    yield Right("scale/float16 beside its end", lambda x: 600 * (100 * jnp.tanh(x)), (half,))
    yield Right("scale/float16 below its normals", lambda x: 1e-5 * x, (half,))
    yield Right("scale/sum of squares in float16", lambda x: jnp.sum((10 * x) ** 2), (normal(500).astype(np.float16),))


def _long() -> Iterator[Right]:
    long = normal(100_000)
    yield Right("scale/sum of 1e5", jnp.sum, (long,), level="quick")
    yield Right("scale/mean of 1e5 in bfloat16", jnp.mean, (long.astype(jnp.bfloat16),), level="quick")
    yield Right("scale/dot of 1e5", jnp.dot, (long, normal(100_000, seed=2)), level="quick")
    yield Right("scale/variance of 1e5", jnp.var, (long + 100,), level="quick")
    yield Right("scale/logsumexp of 1e5", jax.nn.logsumexp, (long,), level="quick")
    yield Right("scale/cumsum of 1e4", jnp.cumsum, (normal(10_000),), level="quick")
    yield Right("scale/cumsum of 1e5", jnp.cumsum, (long,), level="quick")
    yield Right("scale/softmax of 1e5", jax.nn.softmax, (long,), level="quick")
    yield Right("scale/norm of 1e5", jnp.linalg.norm, (long,), level="quick")
    yield Right("scale/mean of 1e6", jnp.mean, (normal(1_000_000),), level="quick")
    yield Right("scale/matrix of long rows", lambda a, b: a @ b, (normal(3, 20_000), normal(20_000, 2)), level="quick")
    yield Right("scale/sum by a scan", _summed_in_turn, (normal(2_000),), level="quick")


def _summed_in_turn(x: Any) -> Any:
    return lax.scan(lambda total, row: (total + jnp.sin(row), None), jnp.zeros((), x.dtype), x)[0]


def _scales() -> Iterator[Right]:
    x = normal(6, 5)
    for scale in (1e-30, 1e-5, 1e5, 1e30):
        yield Right(f"scale/sum of {scale:g}", lambda x: jnp.sum(x, 1), (np.float32(scale) * x,))
        yield Right(f"scale/tanh of {scale:g}", jnp.tanh, (np.float32(scale) * x,))
        yield Right(f"scale/softplus of {scale:g}", jax.nn.softplus, (np.float32(scale) * x,))
    yield Right("scale/sin of 1e5", jnp.sin, (1e5 * x,))
    yield Right("scale/x * 1e20 * 1e-20", lambda x: x * 1e20 * 1e-20, (x,))
    yield Right("scale/difference that cancels", lambda x: (1 + 1e-4 * x) - 1, (x,))
    yield Right("scale/softmax of 1e4", jax.nn.softmax, (1e4 * x,))
    yield Right("scale/layer norm of 1e5", _layer_norm, (1e5 * x,))
    yield Right("scale/layer norm of 1e-5", _layer_norm, (1e-5 * x,))
    yield Right("scale/layer norm of equal rows", _layer_norm, (np.ones((3, 5), np.float32),))
    yield Right("scale/layer norm beside a mean of 1e3", _layer_norm, (1e3 + x,))
    yield Right("scale/exp that overflows", jnp.exp, (60 * x,))
    yield Right("scale/log beside 0", jnp.log, (np.exp2(-np.arange(120, dtype=np.float32)),), {"args[0]": (0, INF)})
    yield Right("scale/gradients that cancel", lambda x: jnp.sin(x) ** 2 + jnp.cos(x) ** 2, (x,))
    yield Right("scale/difference of squares", lambda a, b: a**2 - b**2, (100 + x, 100 - x))
    yield Right(
        "scale/sigmoid where it rounds to 1", jax.nn.sigmoid, (np.array([-100, -90, -20, 20, 90, 100], np.float32),)
    )
    yield Right("scale/log of a sigmoid", lambda x: jnp.log(jax.nn.sigmoid(x)), (5 * x,))
    yield Right("scale/exp of minus squares", lambda x: jnp.exp(-(x**2)), (8 * x,))
    yield Right("scale/product of large and small", lambda a, b: a * b, (np.float32(1e30) * x, np.float32(1e-30) * x))


def _masks() -> Iterator[Right]:
    x = normal(6, 5)
    masked = np.where(normal(6, 5, seed=3) > 0.3, -INF, x).astype(np.float32)
    masked[:, 0] = 0
    yield Right("mask/softmax of -inf", jax.nn.softmax, (masked,))
    yield Right("mask/logsumexp of -inf", lambda x: jax.nn.logsumexp(x, -1), (masked,))
    yield Right("mask/log softmax of -1e9", jax.nn.log_softmax, (np.where(masked < -10, -1e9, masked),))
    yield Right("mask/softmax where", lambda x, m: jax.nn.softmax(x, where=m), (x, masked > -10))
    from_output = custom(jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, _softmax_back)
    yield Right("mask/softmax of -inf from its output", from_output, (masked,))
    keep = np.array(masked > -10)
    keep[2] = False
    yield Right("mask/logsumexp of rows without any", custom(_kept_lse, _kept_lse_fwd, _kept_lse_back), (x, keep))
    yield Right("mask/mean of the kept", _kept_mean, (x, keep))
    one = np.where(np.arange(5) == 3, x, -INF).astype(np.float32)
    yield Right("mask/softmax of one that is finite", jax.nn.softmax, (one,))
    yield Right(
        "mask/logaddexp with -inf",
        jnp.logaddexp,
        (np.array([-INF, 1, 2], np.float32), np.array([0, -INF, 1], np.float32)),
    )


def _softmax_back(y: Any, ct: Any) -> Any:
    return (y * (ct - jnp.sum(y * ct, -1, keepdims=True)),)


def _kept_mean(x: Any, keep: Any) -> Any:
    return jnp.sum(jnp.where(keep, x, 0), -1) / jnp.maximum(jnp.sum(keep, -1), 1).astype(x.dtype)


def _kept_lse(x: Any, keep: Any) -> Any:
    """The logsumexp of what is kept; 0 for a row of which nothing is."""
    top = lax.stop_gradient(jnp.max(jnp.where(keep, x, -INF), -1, keepdims=True, initial=-1e30))
    total = jnp.sum(jnp.where(keep, jnp.exp(jnp.where(keep, x - top, 0)), 0), -1)
    some = jnp.any(keep, -1)
    return jnp.where(some, jnp.log(jnp.where(some, total, 1)) + top[..., 0], 0)


def _kept_lse_fwd(x: Any, keep: Any) -> Any:
    y = _kept_lse(x, keep)
    return y, (x, keep, y)


def _kept_lse_back(res: Any, ct: Any) -> Any:
    x, keep, y = res
    return ct[..., None] * jnp.where(keep, jnp.exp(jnp.where(keep, x - y[..., None], 0)), 0), None


def _wide() -> Iterator[Right]:
    """Arguments of 64 bits."""
    x = normal(6, 5).astype(np.float64)
    from_output = custom(jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, _softmax_back)
    yield Right("float64/softmax from its output", from_output, (x,), x64=True)
    yield Right("float64/tanh", jnp.tanh, (x,), x64=True)
    yield Right("float64/logsumexp", jax.nn.logsumexp, (x,), x64=True)
    yield Right("float64/matmul", jnp.matmul, (x, normal(5, 4).astype(np.float64)), x64=True)
    yield Right("float64/layer norm", _layer_norm, (x,), x64=True)
    yield Right("float64/gather by int64", lambda t, i: t[i], (x, np.array([0, 4, 2, 2])), x64=True)
    yield Right("float64/product with float32", lambda a, b: a * b, (x, normal(6, 5)), x64=True)
