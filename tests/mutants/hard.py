"""Right functions that are hard to check: whatever the checker says against one of these is a false alarm."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import jaxbp
from tests.mutants.mutant import custom
from tests.mutants.operators import _domain, arguments

INF = np.inf
NARROW = (jnp.bfloat16, jnp.float16)


@dataclasses.dataclass(frozen=True)
class Right:
    """A right function.

    Attributes:
        name: its own.
        f: the function.
        args: an admissible input.
        domain: by argument, as `args[0]`, the open interval that it has to lie in.
        level: the level that it is checked at.
    """

    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    domain: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    level: str = "standard"


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _ops()
    yield from _plain()
    yield from _conventions()
    yield from _scales()
    yield from _shapes()
    yield from _programs()
    yield from _own_rules()


def _normal(*shape: int, seed: int = 1, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _ops() -> Iterator[Right]:
    """The default rules, in float32 and bfloat16, at the arguments of their cases."""
    for op in jaxbp.OPS:
        for dtype in (np.float32, jnp.bfloat16):
            args = tuple(x.astype(dtype) for x in arguments(op))
            yield Right(f"{op.name}/{np.dtype(dtype).name}", op, args, _domain(op))


def _plain() -> Iterator[Right]:
    """What others have written, most of it without custom rules."""
    x, y = _normal(6, 5), _normal(6, 5, seed=2)
    for f in (
        jax.nn.relu, jax.nn.relu6, jax.nn.elu, jax.nn.selu, jax.nn.celu, jax.nn.gelu, jax.nn.silu, jax.nn.mish,
        jax.nn.softplus, jax.nn.soft_sign, jax.nn.log_sigmoid, jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.hard_swish,
        jax.nn.hard_sigmoid, jax.nn.softmax, jax.nn.log_softmax, jax.nn.logsumexp, jax.nn.standardize, jax.nn.glu,
        jax.nn.squareplus, jax.nn.sparse_plus, jnp.sinc, jnp.cumsum,
    ):  # fmt: skip
        name = getattr(f, "__name__", "f")
        argument = _normal(6, 4) if name == "glu" else x
        yield Right(f"jax/{name}", f, (argument,))
    for f in (jax.nn.softmax, jax.nn.logsumexp, jax.nn.gelu, jax.nn.silu):
        yield Right(f"jax/{f.__name__}/bfloat16", f, (x.astype(jnp.bfloat16),))
    labels = np.array([0, 3, 1, 4, 2, 2], np.int32)
    yield Right("optax/softmax_cross_entropy", optax.softmax_cross_entropy_with_integer_labels, (3 * x, labels))
    yield Right("optax/sigmoid_cross_entropy", lambda x: optax.sigmoid_binary_cross_entropy(x, x > 0), (9 * x,))
    yield Right("optax/huber", lambda x, y: jnp.mean(optax.huber_loss(x, y)), (2 * x, y))
    yield Right("optax/log_cosh", optax.log_cosh, (x, y))
    yield Right("optax/cosine", optax.cosine_similarity, (x, y))
    yield Right("optax/hinge", optax.hinge_loss, (x, np.sign(y)))
    yield Right("numpy/logaddexp", jnp.logaddexp, (30 * x, 30 * y))
    yield Right("numpy/arctan2", jnp.arctan2, (x, y))
    yield Right("numpy/hypot", jnp.hypot, (x, y))
    yield Right("numpy/power", jnp.power, (np.abs(x) + 0.1, y), {"args[0]": (0.0, INF)})
    yield Right("numpy/norm", jnp.linalg.norm, (x,))
    yield Right("numpy/var", lambda x: jnp.var(x, 1), (x,))
    yield Right("numpy/prod", lambda x: jnp.prod(x, 1), (x,))
    yield Right("numpy/einsum", lambda a, b: jnp.einsum("ij,kj->ik", a, b), (x, y))
    yield Right("numpy/sort", jnp.sort, (x,))
    yield Right("lax/conv", lambda a, b: lax.conv(a, b, (1,), "SAME"), (_normal(2, 3, 9), _normal(4, 3, 3, seed=2)))


def _conventions() -> Iterator[Right]:
    """Kinks that are hit exactly, under each convention."""
    x = np.array([-2, -1, 0, 0, 1, 3], np.float32)
    for value in (0.0, 0.5, 1.0):
        slope = _slope(jnp.abs, lambda x, v=2 * value - 1: jnp.where(x == 0, v, jnp.sign(x)))
        yield Right(f"kink/abs gives {2 * value - 1:g} at 0", slope, (x,))
        slope = _slope(lambda x: jnp.maximum(x, 0), lambda x, v=value: jnp.where(x == 0, v, x > 0))
        yield Right(f"kink/relu gives {value:g} at 0", slope, (x,))
        slope = _slope(lambda x: jnp.clip(x, -1, 1), lambda x, v=value: jnp.where(abs(x) == 1, v, abs(x) < 1))
        yield Right(f"kink/clip gives {value:g} at its ends", slope, (x,))
    ties = np.array([[1, 2, 2, 0], [3, 3, 3, 3], [0, 0, -1, -2]], np.float32)

    def top(x: Any) -> Any:
        return jnp.max(x, -1)

    def first(x: Any, ct: Any) -> Any:
        return (ct[:, None] * jax.nn.one_hot(jnp.argmax(x, -1), 4),)

    def last(x: Any, ct: Any) -> Any:
        return (ct[:, None] * jax.nn.one_hot(3 - jnp.argmax(x[:, ::-1], -1), 4),)

    yield Right("kink/max splits ties", top, (ties,))
    yield Right("kink/max gives ties to the first", custom(top, lambda x: (top(x), x), first), (ties,))
    yield Right("kink/max gives ties to the last", custom(top, lambda x: (top(x), x), last), (ties,))
    one = np.ones(4, np.float32)
    for weight in (0.0, 0.5, 1.0):

        def both(kept: Any, ct: Any, weight: float = weight) -> Any:
            a, b = kept
            share = jnp.where(a == b, weight, a > b)
            return ct * share, ct * (1 - share)

        f = custom(jnp.maximum, lambda a, b: (jnp.maximum(a, b), (a, b)), both)
        yield Right(f"kink/maximum gives {weight:g} at ties", f, (one, np.array([1, 0, 2, 1], np.float32)))
    yield Right("kink/relu at 0 in bfloat16", jax.nn.relu, (x.astype(jnp.bfloat16),))
    yield Right("kink/leaky relu at 0", jax.nn.leaky_relu, (x,))
    yield Right("kink/median of ties", lambda x: jnp.median(x, -1), (ties,))


def _slope(f: Callable[..., Any], slope: Callable[[Any], Any]) -> Callable[..., Any]:
    return custom(f, lambda x: (f(x), x), lambda x, ct: (ct * slope(x).astype(x.dtype),))


def _scales() -> Iterator[Right]:
    """Low precision, large and small numbers, saturated tails, long sums."""
    x = _normal(6, 5)
    for dtype in NARROW:
        name, narrow = np.dtype(dtype).name, x.astype(dtype)
        weights = _normal(5, 4, seed=2, dtype=dtype)
        yield Right(f"scale/matmul/{name}", jnp.matmul, (narrow, weights))
        yield Right(f"scale/mean square/{name}", lambda x: jnp.mean(x**2), (narrow,))
        yield Right(f"scale/layer norm/{name}", _layer_norm, (narrow,))
        yield Right(f"scale/tanh/{name}", jnp.tanh, (narrow,))
    yield Right("scale/sum of 1e5", jnp.sum, (_normal(100_000),), level="quick")
    yield Right("scale/mean of 1e5 in bfloat16", jnp.mean, (_normal(100_000, dtype=jnp.bfloat16),), level="quick")
    yield Right("scale/dot of 1e5", jnp.dot, (_normal(100_000), _normal(100_000, seed=2)), level="quick")
    yield Right("scale/variance of 1e5", jnp.var, (_normal(100_000) + 100,), level="quick")
    yield Right("scale/logsumexp of 1e5", jax.nn.logsumexp, (_normal(100_000),), level="quick")
    yield Right("scale/cumsum of 1e4", jnp.cumsum, (_normal(10_000),), level="quick")
    for scale in (1e-30, 1e-5, 1e5, 1e30):
        yield Right(f"scale/sum of {scale:g}", lambda x: jnp.sum(x, 1), (np.float32(scale) * x,))
        yield Right(f"scale/tanh of {scale:g}", jnp.tanh, (np.float32(scale) * x,))
    yield Right("scale/sin of 1e5", jnp.sin, (1e5 * x,))
    yield Right("scale/x * 1e20 * 1e-20", lambda x: x * 1e20 * 1e-20, (x,))
    yield Right("scale/difference that cancels", lambda x: (1 + 1e-4 * x) - 1, (x,))
    yield Right("scale/softmax of 1e4", jax.nn.softmax, (1e4 * x,))
    yield Right("scale/layer norm of 1e5", _layer_norm, (1e5 * x,))
    yield Right("scale/layer norm of 1e-5", _layer_norm, (1e-5 * x,))
    yield Right("scale/layer norm of equal rows", _layer_norm, (np.ones((3, 5), np.float32),))
    yield Right("scale/exp that overflows", jnp.exp, (60 * x,))
    yield Right("scale/log beside 0", jnp.log, (np.exp2(-np.arange(120, dtype=np.float32)),), {"args[0]": (0, INF)})
    masked = np.where(_normal(6, 5, seed=3) > 0.3, -INF, x).astype(np.float32)
    masked[:, 0] = 0
    yield Right("mask/softmax of -inf", jax.nn.softmax, (masked,))
    yield Right("mask/logsumexp of -inf", lambda x: jax.nn.logsumexp(x, -1), (masked,))
    yield Right("mask/log softmax of -1e9", jax.nn.log_softmax, (np.where(masked < -10, -1e9, masked),))
    yield Right("mask/softmax where", lambda x, m: jax.nn.softmax(x, where=m), (x, masked > -10))


def _layer_norm(x: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + jnp.asarray(1e-5, x.dtype))


def _shapes() -> Iterator[Right]:
    """Integers, pytrees, nothing at all, single entries."""
    x = _normal(6, 5)
    ids = np.array([1, 4, 1, 0, 4, 1], np.int32)
    yield Right("shape/gather of repeated indices", lambda t, i: t[i], (x, ids))
    yield Right("shape/scatter add", lambda t, i: jnp.zeros((5, 5)).at[i].add(t), (x, ids))
    yield Right("shape/segment sum", lambda t, i: jax.ops.segment_sum(t, i, 5), (x, ids))
    yield Right("shape/where", lambda c, a, b: jnp.where(c, a, b), (x > 0, x, 2 * x))
    yield Right("shape/empty", jnp.tanh, (np.zeros((0, 3), np.float32),))
    yield Right("shape/sum of nothing", jnp.sum, (np.zeros(0, np.float32),))
    yield Right("shape/one entry", jax.nn.softmax, (np.ones(1, np.float32),))
    yield Right("shape/scalar", jnp.exp, (np.float32(0.5),))
    yield Right("shape/Python number", lambda x, a: a * x, (x, 2.5))
    yield Right("shape/None", lambda x, bias: x if bias is None else x + bias, (x, None))
    params = {"w": _normal(5, 3, seed=2), "b": (np.zeros(3, np.float32), {"scale": np.float32(2)})}
    yield Right("shape/pytree", lambda p, x: p["b"][1]["scale"] * (x @ p["w"] + p["b"][0]), (params, x))
    yield Right("shape/pytree out", lambda x: {"sin": jnp.sin(x), "both": (x, x**2), "sign": x > 0}, (x,))
    yield Right("shape/broadcast", lambda a, b, c: a * b + c, (_normal(4, 1, 3), _normal(5, 1), np.float32(2)))
    yield Right("shape/unused", lambda x, y: x, (x, _normal(3)))
    yield Right("shape/diagonal", jnp.diagonal, (_normal(5, 5),))


def _programs() -> Iterator[Right]:
    """Control flow and transforms inside."""
    x = _normal(6, 5)

    def recurrence(a: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = jnp.tanh(a * h + x)
            return h, h

        return lax.scan(step, jnp.zeros(5), xs)[1]

    def long_recurrence(x: Any) -> Any:
        return lax.scan(lambda h, _: (0.99 * h + 0.1 * jnp.sin(h), None), x, None, length=200)[0]

    def branch(x: Any, flag: Any) -> Any:
        return lax.cond(flag, jnp.sin, lambda x: x**2, x)

    yield Right("program/scan", recurrence, (np.float32(0.7), x))
    yield Right("program/long scan", long_recurrence, (x,))
    yield Right("program/logistic map", lambda x: lax.fori_loop(0, 8, lambda i, x: 3.2 * x * (1 - x), x), (x / 9,))
    yield Right("program/cond", branch, (x, np.bool_(True)))
    yield Right("program/cond that is false", branch, (x, np.bool_(False)))
    yield Right("program/switch", lambda x, i: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x), (x, np.int32(1)))
    yield Right("program/vmap", jax.vmap(lambda a, b: jnp.dot(a, b) * a), (x, 2 * x))
    yield Right("program/vmap of an op", jax.vmap(jaxbp.matmul, (0, None)), (_normal(3, 4, 5), _normal(5, 2)))
    yield Right("program/remat", jax.checkpoint(lambda x: jnp.sin(jnp.tanh(x) @ x.T)), (x,))
    yield Right("program/jit", jax.jit(lambda x: jnp.sin(x) * jnp.cos(x)), (x,))
    yield Right("program/gradient inside", jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2)), (x,))
    yield Right("program/ops", lambda x, y: jaxbp.sigmoid(jaxbp.matmul(jaxbp.tanh(x), y)), (x, _normal(5, 4)))
    yield Right("program/stop gradient", lambda x: x * lax.stop_gradient(jnp.exp(x)), (x,))
    yield Right("program/associative scan", lambda x: lax.associative_scan(jnp.multiply, x), (x,))
    yield Right("program/attention", _attention, (_normal(6, 4), _normal(6, 4, seed=2), _normal(6, 4, seed=3)))


def _attention(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.where(jnp.tri(6, dtype=bool), q @ k.T / 2, -jnp.inf)
    return jax.nn.softmax(scores) @ v


def _own_rules() -> Iterator[Right]:
    """Custom rules that are right though they look unlike the function."""
    x = _normal(6, 5)
    f = custom(jax.nn.softmax, lambda x: (jax.nn.softmax(x),) * 2, _softmax_back)
    yield Right("rule/softmax from its output", f, (3 * x,))
    yield Right("rule/softmax from its output in bfloat16", f, (x.astype(jnp.bfloat16),))
    f = custom(jnp.tanh, lambda x: (jnp.tanh(x),) * 2, lambda y, ct: (ct * (1 - y * y),))
    yield Right("rule/tanh from its output", f, (x,))
    f = custom(jnp.cumsum, lambda x: (jnp.cumsum(x), None), lambda _, ct: (jnp.cumsum(ct[::-1])[::-1],))
    yield Right("rule/cumsum", f, (_normal(50),))
    f = custom(jnp.sum, lambda x: (jnp.sum(x), x.shape), lambda shape, ct: (jnp.broadcast_to(ct, (6, 5)),))
    yield Right("rule/sum", f, (x,))
    f = custom(_wide_norm, lambda x: (_wide_norm(x), x), _wide_norm_back)
    yield Right("rule/RMS norm accumulated in float32", f, (x.astype(jnp.bfloat16),))

    def chunked(a: Any, b: Any) -> Any:
        return sum(a[:, i : i + 8] @ b[i : i + 8] for i in range(0, 40, 8))

    f = custom(
        jnp.matmul,
        lambda a, b: (chunked(a, b), (a, b)),
        lambda kept, ct: (ct @ kept[1].T, chunked(kept[0].T, ct) if kept[0].shape[0] == 40 else kept[0].T @ ct),
    )
    yield Right("rule/matmul in chunks", f, (_normal(6, 40), _normal(40, 3, seed=2)))


def _softmax_back(y: Any, ct: Any) -> Any:
    return (y * (ct - jnp.sum(y * ct, -1, keepdims=True)),)


def _wide_norm(x: Any) -> Any:
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def _wide_norm_back(x: Any, ct: Any) -> Any:
    return jax.vjp(_wide_norm, x)[1](ct)
