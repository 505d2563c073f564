"""Cumulative reductions along an axis: cumsum, cumlogsumexp."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import reduced_axes, shape_of
from jaxbp.cases import Case, Normal
from jaxbp.declaration import Rule, Shapes, flops_per_entry
from jaxbp.devices import by_device, computed_again, on_gpu, on_processor
from jaxbp.op import Op
from jaxbp.promotion import widened

#: Steps of a scan in a row on a processor: longer arrays are cut into blocks of this length, which are scanned side by
#: side. On a GPU each step would be a kernel to launch.
_BLOCK = 64


def _cases(draw, memory, name, *shape):
    """Rows at three sizes, and those of a model."""
    shapes = {"small": (8, 16), "cache": (256, 256), "memory": memory, name: shape}
    return tuple(Case(case, (s,), (draw,)) for case, s in shapes.items())


def _along(x, axis):
    """The axis counted from the start, as jax.lax wants it."""
    return reduced_axes(x.ndim, axis)[0]


def _sums(x, axis, reverse=False):
    """The sums up to each entry along an axis, or without one of x flattened; `reverse` begins at the end."""
    x, along = (widened(x).ravel(), 0) if axis is None else (widened(x), _along(x, axis))
    # XLA's CPU backend takes up to five times as long over the windows of `cumsum` as over a tree of sums, but for
    # those that begin at the end of the last axis.
    if on_processor() and not (reverse and along == x.ndim - 1):
        return jax.lax.associative_scan(jnp.add, x, reverse, along)
    return jax.lax.cumsum(x, along, reverse)


def cumsum_fwd(x, *, axis=None):
    return _sums(x, axis).astype(x.dtype), (shape_of(x),)


def cumsum_bwd(res, ct, *, axis=None):
    (x,) = res
    return (_sums(ct, axis, reverse=True).astype(ct.dtype).reshape(x.shape),)


def cumsum_reference_vjp(ct, x, *, axis=None):
    if axis is None:
        return (np.cumsum(ct[::-1])[::-1].reshape(x.shape),)
    return (np.flip(np.cumsum(np.flip(ct, axis), axis), axis),)


def cumsum_terms(shapes: Shapes) -> tuple[int, ...]:
    return (math.prod(shapes[0]),) * 2


cumsum = Op(
    name="cumsum",
    summary="The sums of all entries up to each. x [...] -> y [...], floating; without `axis` of x flattened, [n]. "
    "float16 and bfloat16 are computed in float32.",
    formula="y_i = sum_{j <= i} x_j; ct_x_j = sum_{i >= j} ct_i",
    rules=(
        Rule(
            "reverse",
            cumsum_fwd,
            cumsum_bwd,
            "Keeps nothing but the shape; adds up from the end. On a processor it adds in a tree of pairs.",
        ),
    ),
    stock=lambda x, *, axis=None: jnp.cumsum(x, axis=axis),
    reference=lambda x, *, axis=None: np.cumsum(x, axis=axis),
    reference_vjp=cumsum_reference_vjp,
    cases=_cases(Normal(), (4096, 1024), "gpt2-vocabulary", 64, 50257),
    flops=flops_per_entry(1, 1),
    terms=cumsum_terms,
    torch=lambda torch: lambda x, *, axis=None: torch.cumsum(*((x.flatten(), 0) if axis is None else (x, axis))),
    version=2,
    source="The Jacobian is a triangle of ones; its transpose adds up from the other end.",
    example=""">>> y, (ct_x,) = jaxbp.cumsum.value_and_vjp((jnp.array([1.0, 2.0, 3.0]),), jnp.array([1.0, 10.0, 100.0]))
>>> y.tolist(), ct_x.tolist()
([1.0, 3.0, 6.0], [111.0, 110.0, 100.0])""",
)


def _split(x, axis, fill):
    """An axis cut into blocks, [..., n, ...] -> [steps, ..., blocks, ...]: what is scanned is the first axis."""
    n = x.shape[axis]
    steps = by_device(min(_BLOCK, max(1, n)), max(1, n))
    blocks = max(1, -(-n // steps))
    x = jnp.pad(x, [(0, blocks * steps - n if i == axis else 0) for i in range(x.ndim)], constant_values=fill)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, steps, *x.shape[axis + 1 :]), axis + 1, 0)


def _join(x, axis, n):
    """`_split` undone."""
    x = jnp.moveaxis(x, 0, axis + 1)
    x = x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, n, axis=axis)


def _moved_on(x, axis, first):
    """x moved on by one place along an axis, with `first` at its start."""
    start, rest = jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
    return jnp.concatenate([jnp.full_like(start, first), rest], axis)


def _previous(x, axis, first):
    """Of each entry of what is split the one before it."""
    return jnp.concatenate([_moved_on(x[-1:], axis + 1, first), x[:-1]])


def _scan(compose, identity, xs, axis):
    """`jax.lax.associative_scan` of what is split along `axis`; on a processor this is several times faster."""
    if on_gpu():
        return jax.lax.associative_scan(compose, xs)
    start = jax.tree.map(lambda x, e: jnp.full_like(x[0], e), xs, identity)
    within = jax.lax.scan(lambda done, x: (compose(done, x),) * 2, start, xs)[1]
    totals = jax.tree.map(lambda x: x[-1], within)
    blocks = jax.tree.leaves(totals)[0].shape[axis]
    if blocks <= 1:
        return within
    split = jax.tree.map(lambda x, e: _split(x, axis, e), totals, identity)
    totals = jax.tree.map(lambda x: _join(x, axis, blocks), _scan(compose, identity, split, axis))
    return compose(jax.tree.map(lambda x, e: _moved_on(x, axis, e), totals, identity), within)


def _recurrence(decays, terms, axis):
    """s_i = decay_i s_(i-1) + term_i, from 0 on."""

    def compose(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    return _scan(compose, (1.0, 0.0), (decays, terms), axis)[1]


def _ratio(one, other):
    """exp(one - other), and 1 where both are the same infinity."""
    return jnp.exp(jnp.where((one == other) & jnp.isinf(one), 0, one - other))


def _largest_and_sums(z, axis):
    """`(m, s)`: of what is split, the largest entry so far, and the sum of exp(z - m) so far.

    What is computed does not depend on m, so that it counts as a constant.
    """
    m = jax.lax.stop_gradient(z)
    if not on_gpu():
        m = _scan(jnp.maximum, -jnp.inf, m, axis)
        return m, _recurrence(_ratio(_previous(m, axis, -jnp.inf), m), _ratio(z, m), axis)

    def compose(a, b):
        largest = jnp.maximum(a[0], b[0])
        return largest, a[1] * _ratio(a[0], largest) + b[1] * _ratio(b[0], largest)

    # Both at once: a scan of the largest would have to come before that of the sums.
    return jax.lax.associative_scan(compose, (m, _ratio(z, m)))


def cumlogsumexp_fwd(x, *, axis=0, reverse=False):
    i = _along(x, axis)
    z = _split(widened(jnp.flip(x, i) if reverse else x), i, -jnp.inf)
    m, s = _largest_and_sums(z, i)
    y = _join(m + jnp.log(s), i, x.shape[i]).astype(x.dtype)
    return jnp.flip(y, i) if reverse else y, (x, m, s)


def cumlogsumexp_bwd(res, ct, *, axis=0, reverse=False):
    x, m, s = computed_again(res) if on_gpu() else res
    i = _along(x, axis)
    ordered, ct = (jnp.flip(v, i) if reverse else v for v in (x, ct))
    z, terms = _split(widened(ordered), i, -jnp.inf), _split(widened(ct), i, 0) / s
    # From the end, as the cotangents come.
    m_back, terms_back = jnp.flip(m, (0, i + 1)), jnp.flip(terms, (0, i + 1))
    sums = _recurrence(_ratio(m_back, _previous(m_back, i, jnp.inf)), terms_back, i)
    ct_x = _join(_ratio(z, m) * jnp.flip(sums, (0, i + 1)), i, x.shape[i]).astype(x.dtype)
    return (jnp.flip(ct_x, i) if reverse else ct_x,)


def cumlogsumexp_stock(x, *, axis=0, reverse=False):
    # jax.lax takes integers for numbers of their own dtype.
    floating = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    return jax.lax.cumlogsumexp(floating, _along(x, axis), reverse)


def _numpy_ordered(x, axis, reverse):
    """The axis first, in the order of the sums."""
    x = np.moveaxis(x, axis, 0)
    return x[::-1] if reverse else x


def _numpy_restored(x, axis, reverse):
    return np.moveaxis(x[::-1] if reverse else x, 0, axis)


def _numpy_ratio(one, other):
    return np.exp(np.where(one == other, 0, one - other))


def _numpy_sums(x):
    m = np.maximum.accumulate(x)
    s = _numpy_ratio(x, m)
    for i in range(1, len(x)):
        s[i] += _numpy_ratio(m[i - 1], m[i]) * s[i - 1]
    return m, s


def cumlogsumexp_reference(x, *, axis=0, reverse=False):
    m, s = _numpy_sums(_numpy_ordered(x, axis, reverse))
    return _numpy_restored(m + np.log(s), axis, reverse)


def cumlogsumexp_reference_vjp(ct, x, *, axis=0, reverse=False):
    x, ct = (_numpy_ordered(v, axis, reverse) for v in (x, ct))
    m, s = _numpy_sums(x)
    sums = ct / s
    for i in reversed(range(len(x) - 1)):
        sums[i] += _numpy_ratio(m[i], m[i + 1]) * sums[i + 1]
    return (_numpy_restored(_numpy_ratio(x, m) * sums, axis, reverse),)


cumlogsumexp = Op(
    name="cumlogsumexp",
    summary="The logarithms of the sums of all exponentials up to each. x [..., n] -> y [..., n], floating. `axis` is "
    "an int, the first by default as in jax.lax; with `reverse` the sums start at the end. Masks of -inf add nothing; "
    "where all so far is -inf the value is -inf, and as equal numbers do they share its cotangent equally, where stock "
    "JAX's gradient is NaN. float16 and bfloat16 are computed in float32.",
    formula="y_i = log sum_{j <= i} exp(x_j); ct_x_j = exp(x_j) sum_{i >= j} ct_i exp(-y_i)",
    rules=(
        Rule(
            "recurrence",
            cumlogsumexp_fwd,
            cumlogsumexp_bwd,
            "Keeps x, the largest entries so far and the sums beside them; both passes run through one linear "
            "recurrence with factors of at most 1.",
        ),
    ),
    stock=cumlogsumexp_stock,
    reference=cumlogsumexp_reference,
    reference_vjp=cumlogsumexp_reference_vjp,
    # Smaller than elsewhere: stock JAX takes seconds for the value of 16 MiB.
    cases=_cases(Normal(4), (512, 512), "cox-cohort", 20_000),
    flops=flops_per_entry(8, 7),
    torch=lambda torch: (
        lambda x, *, axis=0, reverse=False: (
            torch.logcumsumexp(x.flip(axis), axis).flip(axis) if reverse else torch.logcumsumexp(x, axis)
        )
    ),
    source="d y_i / d x_j = exp(x_j - y_i) for j <= i.",
    version=2,
    example=""">>> y, (ct_x,) = jaxbp.cumlogsumexp.value_and_vjp((jnp.array([-jnp.inf, 0.0, 0.0]),), jnp.ones(3))
>>> [round(v, 3) for v in y.tolist()], ct_x.tolist()
([-inf, 0.0, 0.693], [1.0, 1.5, 0.5])""",
)
