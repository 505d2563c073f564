"""Sums over axes and what is made of them: sum, mean, var, norm. `sum` here is the op, not Python's."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import kept_shape, reduced_axes, shape_of, spread
from jaxbp.cases import Case, Normal
from jaxbp.declaration import Kink, Rule, Shapes, flops_per_entry
from jaxbp.devices import on_gpu
from jaxbp.floats import power_of_two, rounded, split_exponent
from jaxbp.op import Op
from jaxbp.promotion import widened

_AXIS = "`axis` is an int, a tuple of them, or None for all axes."
_SHAPES = "x [...] -> y [...] without the axes that are added up, or with length 1 there (`keepdims`), floating."


def _cases(name, *shape):
    """Vectors of rows at three sizes, and an array of a model."""
    shapes = {"small": (32, 16), "cache": (256, 256), "memory": (4096, 1024), name: shape}
    return tuple(Case(case, (s,), (Normal(),)) for case, s in shapes.items())


def _terms(of_value, of_gradient):
    """Roundings beyond those of adding up all entries."""

    def terms(shapes: Shapes) -> tuple[int, ...]:
        return math.prod(shapes[0]) + of_value, of_gradient

    return terms


def _numpy_spread(ct, x, axis):
    return np.broadcast_to(ct.reshape(kept_shape(x.shape, axis)), x.shape)


def sum_fwd(x, *, axis=None, keepdims=False):
    return jnp.sum(x, axis=axis, keepdims=keepdims), (shape_of(x),)


def sum_bwd(res, ct, *, axis=None, keepdims=False):
    (x,) = res
    return (spread(ct, x, axis),)


sum = Op(
    name="sum",
    summary=f"The sum over axes. {_SHAPES} {_AXIS} float16 and bfloat16 accumulate in float32.",
    formula="sum_i x_i; ct_x_i = ct",
    rules=(Rule("copy", sum_fwd, sum_bwd, "Keeps nothing but the shape, and hands the cotangent to every entry."),),
    stock=lambda x, *, axis=None, keepdims=False: jnp.sum(x, axis=axis, keepdims=keepdims),
    reference=lambda x, *, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=keepdims),
    reference_vjp=lambda ct, x, *, axis=None, keepdims=False: (_numpy_spread(ct, x, axis),),
    cases=_cases("gpt2-weights", 768, 3072),
    flops=flops_per_entry(1, 0),
    terms=_terms(0, 1),
    torch=lambda torch: lambda x, *, axis=None, keepdims=False: torch.sum(x, axis, keepdim=keepdims),
    source="The gradient of a sum is 1 for each of its terms.",
    example=""">>> x, ct = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1.0, -1.0])
>>> y, (ct_x,) = jaxbp.sum.value_and_vjp((x,), ct, axis=0)
>>> y.tolist(), ct_x.tolist()
([4.0, 6.0], [[1.0, -1.0], [1.0, -1.0]])""",
)


def _number(shape, axis):
    """How many entries are added to one."""
    return math.prod(shape[i] for i in reduced_axes(len(shape), axis))


def mean_stock(x, *, axis=None, keepdims=False):
    # jnp.mean does not say which axis is out of bounds.
    return jnp.mean(x, axis=reduced_axes(jnp.ndim(x), axis), keepdims=keepdims)


def mean_fwd(x, *, axis=None, keepdims=False):
    return mean_stock(x, axis=axis, keepdims=keepdims), (shape_of(x),)


def mean_bwd(res, ct, *, axis=None, keepdims=False):
    (x,) = res
    share = widened(ct) / _number(x.shape, axis)
    return (spread(share.astype(ct.dtype), x, axis),)


def _numpy_mean_vjp(ct, x, *, axis=None, keepdims=False):
    return (_numpy_spread(ct / _number(x.shape, axis), x, axis),)


mean = Op(
    name="mean",
    summary=f"The mean over axes. {_SHAPES} {_AXIS} Of no entries it is NaN. float16 and bfloat16 are computed in "
    "float32.",
    formula="sum_i x_i / n; ct_x_i = ct / n",
    rules=(Rule("share", mean_fwd, mean_bwd, "Keeps nothing but the shape; divides before the cotangent is copied."),),
    stock=mean_stock,
    reference=lambda x, *, axis=None, keepdims=False: np.sum(x, axis=axis, keepdims=keepdims) / _number(x.shape, axis),
    reference_vjp=_numpy_mean_vjp,
    cases=_cases("gpt2-losses", 512, 1024),
    flops=flops_per_entry(1, 0),
    terms=_terms(1, 2),
    torch=lambda torch: lambda x, *, axis=None, keepdims=False: torch.mean(x, axis, keepdim=keepdims),
    source="The sum, divided by the number of its terms.",
    example=""">>> y, (ct_x,) = jaxbp.mean.value_and_vjp((jnp.array([1.0, 2.0, 6.0, 7.0]),), 1.0)
>>> float(y), ct_x.tolist()
(4.0, [0.25, 0.25, 0.25, 0.25])""",
)


def _freedom(shape, axis, ddof):
    """What the squares are divided by; NaN where it would not be positive, as in stock JAX."""
    n = _number(shape, axis) - ddof
    return n if n > 0 else math.nan


def var_stock(x, *, axis=None, ddof=0, keepdims=False):
    return jnp.var(x, axis=reduced_axes(jnp.ndim(x), axis), ddof=ddof, keepdims=keepdims)


def var_fwd(x, *, axis=None, ddof=0, keepdims=False):
    wide = widened(x)
    mean = mean_stock(wide, axis=axis, keepdims=True)
    # Of the centred entries: the difference of mean square and squared mean has no digits beside a large mean.
    squares = jnp.sum(jnp.square(wide - mean), axis=axis, keepdims=keepdims)
    return (squares / _freedom(x.shape, axis, ddof)).astype(x.dtype), (x, mean)


def var_bwd(res, ct, *, axis=None, ddof=0, keepdims=False):
    x, mean = res
    # Nothing comes back through the mean: the centred entries add up to 0.
    share = widened(ct).reshape(mean.shape) * (2 / _freedom(x.shape, axis, ddof))
    return ((share * (widened(x) - mean)).astype(x.dtype),)


def _numpy_centred(x, axis):
    return x - np.sum(x, axis=axis, keepdims=True) / _number(x.shape, axis)


def var_reference(x, *, axis=None, ddof=0, keepdims=False):
    squares = np.sum(np.square(_numpy_centred(x, axis)), axis=axis, keepdims=keepdims)
    return squares / _freedom(x.shape, axis, ddof)


def var_reference_vjp(ct, x, *, axis=None, ddof=0, keepdims=False):
    return (_numpy_spread(ct * (2 / _freedom(x.shape, axis, ddof)), x, axis) * _numpy_centred(x, axis),)


var = Op(
    name="var",
    summary=f"The variance over axes. {_SHAPES} {_AXIS} The squares are divided by n - `ddof`; the value is NaN where "
    "that is not positive. float16 and bfloat16 are computed in float32.",
    formula="sum_i (x_i - mean(x))^2 / (n - ddof); ct_x = 2 ct (x - mean(x)) / (n - ddof)",
    rules=(Rule("centred", var_fwd, var_bwd, "Keeps x and the mean, and subtracts again."),),
    stock=var_stock,
    reference=var_reference,
    reference_vjp=var_reference_vjp,
    cases=_cases("gpt2", 1024, 768),
    flops=flops_per_entry(4, 2),
    torch=lambda torch: (
        lambda x, *, axis=None, ddof=0, keepdims=False: torch.var(x, axis, correction=ddof, keepdim=keepdims)
    ),
    source="d var / d x_i = 2 (x_i - mean) / (n - ddof), since the centred entries add up to 0.",
    example=""">>> y, (ct_x,) = jaxbp.var.value_and_vjp((jnp.array([1.0, 2.0, 6.0]),), 1.0, ddof=1)
>>> float(y), ct_x.tolist()
(7.0, [-2.0, -1.0, 3.0])""",
)


def _squares(x, axis):
    return jnp.sum(jnp.square(x), axis=axis, keepdims=True)


def _scaled_norm(x, axis):
    """From entries divided by a power of 2 near the largest, so that no square overflows or vanishes."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    limits = jnp.finfo(x.dtype)
    # Its inverse is a normal number, too: the compiler may multiply with that.
    exponent = jnp.clip(split_exponent(largest)[1], limits.minexp, limits.maxexp - 2)
    scale = power_of_two(exponent, x.dtype)
    return jnp.sqrt(_squares(x / scale, axis)) * scale


def _norm_in_two_passes(x, axis):
    """From the squares, and from those of scaled entries in a second pass where some have overflowed or vanished."""
    squares = _squares(x, axis)
    limits = jnp.finfo(x.dtype)
    safe = (squares > float(limits.tiny) / float(limits.eps) ** 2) & (squares < limits.max)
    return jax.lax.cond(jnp.all(safe), lambda: jnp.sqrt(squares), lambda: _scaled_norm(x, axis))


def _norm_in_one_pass(x, axis):
    """From three sums: squares that would overflow or vanish are added up apart, of entries times a power of 2.

    Blue's algorithm. The bounds leave room for the sum of 2^40 squares, and no subnormal square.
    """
    limits = jnp.finfo(x.dtype)
    digits = limits.nmant + 1
    least, most = 2.0 ** (limits.minexp // 2), 2.0 ** (limits.maxexp // 2 - 20)
    lowering, raising = 2.0 ** -((limits.maxexp + digits) // 2), 2.0 ** (digits + 13) / least
    size = jnp.abs(x)
    large, small = size > most, size < least  # NaN is neither.
    of_large = _squares(jnp.where(large, size * lowering, 0), axis)
    of_small = _squares(jnp.where(small, size * raising, 0), axis)
    others = _squares(jnp.where(large | small, 0, size), axis)
    # Below this the small ones count, and it can be raised like them.
    ordinary = others > least * least * 2.0 ** (2 * digits)
    squares = jnp.where(ordinary, others, of_small + _times_square(others, raising))
    squares = jnp.where(of_large > 0, of_large + _times_square(others, lowering), squares)
    return jnp.sqrt(squares) * jnp.where(of_large > 0, 1 / lowering, jnp.where(ordinary, 1, 1 / raising))


def _times_square(x, factor):
    """x factor^2 where factor^2 leaves the range: XLA would multiply the two factors first."""
    return rounded(x * factor) * factor


def norm_fwd(x, *, axis=None, keepdims=False):
    y = (_norm_in_one_pass if on_gpu() else _norm_in_two_passes)(widened(x), axis)
    return (y if keepdims else jnp.squeeze(y, axis)).astype(x.dtype), (x, y)


@jax.custom_jvp
def _directions(x, y):
    return x * (1 / y)


@_directions.defjvp
def _directions_jvp(primals, tangents):
    # The square of y, by which autodiff would divide, leaves the range where y is far within.
    (x, y), (t_x, t_y) = primals, tangents
    inverse = 1 / y
    return x * inverse, t_x * inverse - (x * inverse) * (t_y * inverse)


def norm_bwd(res, ct, *, axis=None, keepdims=False):
    x, y = res
    # The direction first: ct / y may overflow. It is taken four times for a large y, whose inverse may be subnormal.
    shrink = jnp.where(y > 1, 0.25, 1).astype(y.dtype)
    directions = _directions(widened(x), jnp.where(y == 0, 1, y * shrink))
    return ((directions * (widened(ct).reshape(y.shape) * shrink)).astype(x.dtype),)


def norm_reference(x, *, axis=None, keepdims=False):
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims))


def norm_reference_vjp(ct, x, *, axis=None, keepdims=False):
    y = norm_reference(x, axis=axis, keepdims=True)
    return (_numpy_spread(ct, x, axis) * (x / np.where(y == 0, 1, y)),)


norm = Op(
    name="norm",
    summary=f"The Euclidean norm over axes. {_SHAPES} `axis` is an int, two of them, or None for all axes. It neither "
    "overflows nor vanishes where the squares do. float16 and bfloat16 are computed in float32.",
    formula="sqrt(sum_i x_i^2); ct_x = ct x / norm(x), and 0 at 0",
    rules=(Rule("direction", norm_fwd, norm_bwd, "Keeps x and the norm; squares scaled entries only where it must."),),
    stock=lambda x, *, axis=None, keepdims=False: jnp.linalg.norm(x, axis=axis, keepdims=keepdims),
    reference=norm_reference,
    reference_vjp=norm_reference_vjp,
    kinks=(
        Kink(
            ((0.0, 0.0),),
            {"direction": ((0.0, 0.0),)},
            "The subgradient 0 at 0, as torch's; stock JAX's is NaN.",
        ),
    ),
    cases=_cases("gpt2-weights", 768, 3072),
    flops=flops_per_entry(2, 2),
    torch=lambda torch: lambda x, *, axis=None, keepdims=False: torch.linalg.vector_norm(x, dim=axis, keepdim=keepdims),
    source="d |x| / dx = x / |x|.",
    version=2,
    example=""">>> y, (ct_x,) = jaxbp.norm.value_and_vjp((jnp.array([3e30, 4e30]),), 1.0)
>>> print(f"{y:.1e} {ct_x[0]:.1f} {ct_x[1]:.1f}")
5.0e+30 0.6 0.8
>>> jax.grad(jaxbp.norm)(jnp.zeros(2)).tolist()
[0.0, 0.0]""",
)
