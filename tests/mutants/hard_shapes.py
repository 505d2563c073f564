"""Right functions of integers, booleans, pytrees, None, keys, empty arrays and single entries."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants.mutant import custom
from tests.mutants.register import normal
from tests.mutants.right import Right


class Layer(NamedTuple):
    """Parameters as a named tuple, whose leaves are called by name."""

    w: Any
    b: Any


def rights() -> Iterator[Right]:
    """All of them."""
    yield from _indices()
    yield from _sizes()
    yield from _trees()
    yield from _random()


def _indices() -> Iterator[Right]:
    x, ids = normal(6, 5), np.array([1, 4, 1, 0, 4, 1], np.int32)
    yield Right("shape/gather of repeated indices", lambda t, i: t[i], (x, ids))
    yield Right("shape/scatter add", lambda t, i: jnp.zeros((5, t.shape[1]), t.dtype).at[i].add(t), (x, ids))
    yield Right("shape/segment sum", lambda t, i: jax.ops.segment_sum(t, i, 5), (x, ids))
    yield Right("shape/segment max", lambda t, i: jax.ops.segment_max(t, i, 5)[jnp.clip(i, 0, 4)], (x, ids))
    yield Right("shape/where", lambda c, a, b: jnp.where(c, a, b), (x > 0, x, 2 * x))
    yield Right("shape/scatter of one row", lambda x, v: x.at[0].set(v), (x, normal(5)))
    yield Right("shape/scatter multiply", lambda x: x.at[::2].multiply(3.0), (x,))
    yield Right("shape/gather that fills", lambda t, i: t.at[i].get(mode="fill", fill_value=0), (x, 2 * ids))
    yield Right("shape/gather that clips", lambda t, i: t.at[i].get(mode="clip"), (x, 2 * ids))
    yield Right("shape/integers that count", _raised, (np.abs(x) + 1, ids[:5]), {"args[0]": (0, np.inf)})
    yield Right("shape/integer power", lambda x: x**3, (x,))
    yield Right("shape/booleans that choose", lambda x, keep: jnp.where(keep, x, -x), (x, np.bool_(True)))
    yield Right("shape/unsigned bytes", lambda x, i: x * i.astype(x.dtype), (x, np.arange(5, dtype=np.uint8)))
    yield Right("shape/integers out", lambda x: (jnp.argmax(x, -1), jnp.max(x, -1)), (x,))
    embed = custom(_embed, lambda t, i: (_embed(t, i), (i, jnp.zeros((0, *t.shape), t.dtype))), _embed_back)
    yield Right("shape/embedding that adds with at", embed, (x, ids))


def _raised(x: Any, n: Any) -> Any:
    return x ** n.astype(x.dtype)


def _embed(table: Any, ids: Any) -> Any:
    return table.at[ids].get(mode="fill", fill_value=0)


def _embed_back(res: Any, ct: Any) -> Any:
    # An empty array carries the table's shape and dtype: residuals have to be arrays.
    ids, like = res
    return jnp.zeros(like.shape[1:], like.dtype).at[ids].add(ct, mode="drop"), None


def _sizes() -> Iterator[Right]:
    x = normal(6, 5)
    yield Right("shape/empty", jnp.tanh, (np.zeros((0, 3), np.float32),))
    yield Right("shape/sum of nothing", jnp.sum, (np.zeros(0, np.float32),))
    yield Right("shape/product of nothing", jnp.prod, (np.zeros(0, np.float32),))
    yield Right("shape/matmul over nothing", jnp.matmul, (np.zeros((3, 0), np.float32), np.zeros((0, 2), np.float32)))
    yield Right("shape/softmax of no rows", jax.nn.softmax, (np.zeros((0, 4), np.float32),))
    yield Right("shape/concatenated with nothing", lambda a, b: jnp.concatenate([a, b]), (x, np.zeros((0, 5), "f")))
    yield Right("shape/one entry", jax.nn.softmax, (np.ones(1, np.float32),))
    yield Right("shape/variance of one", jnp.var, (np.ones(1, np.float32),))
    yield Right("shape/scalar", jnp.exp, (np.float32(0.5),))
    yield Right("shape/Python number", lambda x, a: a * x, (x, 2.5))
    yield Right("shape/four axes", lambda x: jnp.sum(jnp.transpose(x, (3, 1, 0, 2)), 2), (normal(2, 3, 4, 5),))
    yield Right("shape/broadcast", lambda a, b, c: a * b + c, (normal(4, 1, 3), normal(5, 1), np.float32(2)))
    yield Right("shape/unused", lambda x, y: x, (x, normal(3)))
    yield Right("shape/none is used", lambda x: jnp.ones(x.shape, x.dtype), (x,))
    yield Right("shape/diagonal", jnp.diagonal, (normal(5, 5),))
    yield Right("shape/reshaped", lambda x: jnp.tanh(x.reshape(-1)), (x,))
    summed = custom(_summed, lambda a, b: (_summed(a, b), (a, b)), _summed_back)
    yield Right("shape/rule that sums over broadcast axes", summed, (normal(4, 1, 3), normal(5, 1)))
    nothing = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    yield Right("shape/rule on an empty array", nothing, (np.zeros((3, 0), np.float32),))
    yield Right("shape/rule on a scalar", nothing, (np.float32(0.7),))


def _summed(a: Any, b: Any) -> Any:
    return a * b


def _summed_back(res: Any, ct: Any) -> Any:
    a, b = res
    return _unbroadcast(ct * b, a.shape), _unbroadcast(ct * a, b.shape)


def _unbroadcast(x: Any, shape: tuple[int, ...]) -> Any:
    x = jnp.sum(x, tuple(range(x.ndim - len(shape))))
    return jnp.sum(x, tuple(i for i, n in enumerate(shape) if n == 1 != x.shape[i]), keepdims=True)


def _trees() -> Iterator[Right]:
    x = normal(6, 5)
    yield Right("shape/None", lambda x, bias: x if bias is None else x + bias, (x, None))
    params = {"w": normal(5, 3, seed=2), "b": (np.zeros(3, np.float32), {"scale": np.float32(2)})}
    yield Right("shape/pytree", lambda p, x: p["b"][1]["scale"] * (x @ p["w"] + p["b"][0]), (params, x))
    yield Right("shape/pytree out", lambda x: {"sin": jnp.sin(x), "both": (x, x**2), "sign": x > 0}, (x,))
    yield Right("shape/list of arrays", lambda xs: sum(jnp.sum(x**2) for x in xs), ([x, normal(3), np.float32(2)],))
    yield Right("shape/named tuple", _layer, (Layer(normal(5, 3), normal(3)), x))
    mixed = {"x": x, "n": np.int32(3), "keep": x > 0, "none": None, "empty": ()}
    yield Right("shape/all sorts in a tree", lambda t: jnp.where(t["keep"], t["n"] * t["x"], 0), (mixed,))
    rule = custom(_layer, lambda *args: (_layer(*args), args), _layer_back)
    yield Right("shape/rule of a named tuple", rule, (Layer(normal(5, 3), normal(3)), x))
    rule = custom(_layer, lambda *args: (_layer(*args), args), _layer_back)
    yield Right("shape/rule without a bias", rule, (Layer(normal(5, 3), None), x))
    yield Right("shape/rule of many outputs", custom(_spread, _spread_fwd, _spread_back), ({"x": x, "n": np.int32(2)},))
    yield Right("shape/empty tuple", lambda x, nothing: jnp.sin(x), (x, ()))


def _layer(layer: Layer, x: Any) -> Any:
    y = x @ layer.w
    return y if layer.b is None else y + layer.b


def _layer_back(res: Any, ct: Any) -> Any:
    layer, x = res
    return Layer(x.T @ ct, None if layer.b is None else jnp.sum(ct, 0)), ct @ layer.w.T


def _spread(tree: Any) -> Any:
    return {"times": tree["n"] * tree["x"], "sum": jnp.sum(tree["x"]), "top": jnp.argmax(tree["x"], 0)}


def _spread_fwd(tree: Any) -> Any:
    return _spread(tree), tree


def _spread_back(tree: Any, ct: Any) -> Any:
    # What comes for an output of integers is of the dtype float0, and of no use.
    return ({"x": tree["n"] * ct["times"] + ct["sum"], "n": None},)


def _random() -> Iterator[Right]:
    """Keys are arguments like any other, without a gradient."""
    x = normal(6, 5)
    old, new = jax.random.PRNGKey(3), jax.random.key(3)

    def dropout(x: Any, key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)

    def fwd(x: Any, key: Any) -> Any:
        return dropout(x, key), key

    def bwd(key: Any, ct: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 0.75, ct.shape), ct / 0.75, 0), None

    for name, key in (("old", np.asarray(old)), ("new", new)):
        yield Right(f"random/dropout by a key of the {name} style", dropout, (x, key))
        yield Right(f"random/dropout that draws its mask again, {name} style", custom(dropout, fwd, bwd), (x, key))
    yield Right("random/fixed key", lambda x: dropout(x, jax.random.key(0)), (x,))
    yield Right("random/noise by a key", lambda x, key: x * jax.random.normal(key, x.shape, x.dtype), (x, old))
