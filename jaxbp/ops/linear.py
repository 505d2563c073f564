"""Linear maps: matmul and linear (x w + b)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import shape_of, sum_to
from jaxbp.cases import Case, Digits, Normal
from jaxbp.declaration import NOTES, Flops, Rule, Shapes
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.products import columns_by_columns, rows_by_rows


def _as_matrices(a, b, ct):
    """Write a vector on the left as a row, one on the right as a column, and the cotangent accordingly."""
    if b.ndim == 1:
        b, ct = b[:, None], ct[..., None]
    if a.ndim == 1:
        a, ct = a[None, :], ct[..., None, :]
    return a, b, ct


def matmul_fwd(a, b, *, precision=None):
    return jnp.matmul(a, b, precision=precision), (a, b)


def matmul_bwd(res, ct, *, precision=None):
    a, b = res
    left, right, ct = _as_matrices(a, b, ct)
    if right.ndim == 2:
        ct_a = rows_by_rows(ct, right, precision)
        ct_b = _weight_cotangent(left, ct, precision)
    else:
        ct_a = jnp.matmul(ct, right.swapaxes(-1, -2), precision=precision)
        ct_b = jnp.matmul(left.swapaxes(-1, -2), ct, precision=precision)
    return _restore(ct_a, left, a), _restore(ct_b, right, b)


def _rows(x):
    """[..., m, k] as one matrix of all its rows."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 would be undecided for empty rows.


def _weight_cotangent(x, ct, precision):
    """x^T ct over the rows of all batches at once; batch by batch it would be materialized and then summed."""
    return columns_by_columns(_rows(x), _rows(ct), precision)


def _restore(ct, matrices, argument):
    return sum_to(ct, matrices).reshape(argument.shape)


def matmul_reference_vjp(ct, a, b, *, precision=None):
    left, right, ct = _as_matrices(a, b, ct)
    ct_a = np.matmul(ct, right.swapaxes(-1, -2))
    ct_b = np.matmul(left.swapaxes(-1, -2), ct)
    return (
        numpy_sum_to(ct_a, left).reshape(a.shape),
        numpy_sum_to(ct_b, right).reshape(b.shape),
    )


def matmul_flops(shapes: Shapes) -> Flops:
    a, b = shapes
    k = a[-1]
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    product = 2 * math.prod(batch) * math.prod(a[-2:-1]) * k * math.prod(b[-1:] if len(b) > 1 else ())
    return Flops(product, 2 * product)


def matmul_terms(shapes: Shapes) -> tuple[int, ...]:
    """Products that an entry adds up, of value, ct_a and ct_b; ct_a of a broadcast a adds over the batch, too."""
    a, _ = shapes
    products = matmul_flops(shapes).fwd // 2
    return a[-1], *(max(1, products // max(1, math.prod(shape))) for shape in shapes)


def _matrix_cases(*, bias):
    """Tokens times weights at three sizes, and the digit images times the weights of ten classes."""

    def case(name, m, k, n, x):
        shapes, draws = ((m, k), (k, n), (n,)), (x, Normal(1 / math.sqrt(k)), Normal())
        return Case(name, shapes, draws) if bias else Case(name, shapes[:2], draws[:2])

    return (
        case("small", 16, 16, 16, Normal()),
        case("cache", 256, 256, 256, Normal()),
        case("memory", 8192, 512, 512, Normal()),
        case("digits", *Digits.SHAPE, 10, Digits()),
    )


matmul = Op(
    name="matmul",
    summary="Matrix product with jnp.matmul's shapes: a [..., m, k], b [..., k, n] -> y [..., m, n], batch axes "
    "broadcast; a vector on the left is a row, one on the right a column. `precision` is jnp.matmul's, for all "
    "three products.",
    formula="a b; ct_a = ct b^T, ct_b = a^T ct",
    rules=(Rule("transpose", matmul_fwd, matmul_bwd, "Two products with the other matrix transposed."),),
    stock=jnp.matmul,
    reference=lambda a, b, *, precision=None: np.matmul(a, b),
    reference_vjp=matmul_reference_vjp,
    cases=(
        *_matrix_cases(bias=False),
        Case("heads", ((8, 512, 64), (8, 64, 512)), (Normal(), Normal(1 / math.sqrt(64)))),
    ),
    flops=matmul_flops,
    terms=matmul_terms,
    torch=lambda torch: lambda a, b, *, precision=None: torch.matmul(a, b),
    source=f"{NOTES}: dW = dD X^T, dX = W^T dD.",
    example=""">>> w, x = jnp.ones((5, 10)), jnp.ones((10, 3))
>>> d, (dw, dx) = jaxbp.matmul.value_and_vjp((w, x), jnp.ones((5, 3)))
>>> d.shape, dw.shape, dx.shape
((5, 3), (5, 10), (10, 3))""",
    version=2,
)


def _whole(w, axis_name):
    """All rows of w, where they are spread over an axis of the mesh."""
    return w if axis_name is None else jax.lax.all_gather(w, axis_name, tiled=True)


def linear_fwd(x, w, b, *, precision=None, axis_name=None):
    return jnp.matmul(x, _whole(w, axis_name), precision=precision) + b, (x, w, shape_of(b))


def linear_bwd(res, ct, *, precision=None, axis_name=None):
    x, w, b = res
    if axis_name is not None:
        # Not before the cotangent is there, or the compiler would keep what the forward pass has gathered.
        w, ct = jax.lax.optimization_barrier((w, ct))
    ct_x = rows_by_rows(ct, _whole(w, axis_name), precision)
    ct_w = _weight_cotangent(x, ct, precision)
    if axis_name is not None:
        ct_w = jax.lax.psum_scatter(ct_w, axis_name, tiled=True)
    return ct_x, ct_w, sum_to(ct, b)


def linear_stock(x, w, b, *, precision=None, axis_name=None):
    return jnp.matmul(x, _whole(w, axis_name), precision=precision) + b


def linear_reference_vjp(ct, x, w, b, *, precision=None, axis_name=None):
    return np.matmul(ct, w.T), np.matmul(_rows(x).T, _rows(ct)), numpy_sum_to(ct, b)


def linear_flops(shapes: Shapes) -> Flops:
    x, w, _ = shapes
    product = 2 * math.prod(x) * w[1]
    outputs = math.prod(x[:-1]) * w[1]
    return Flops(product + outputs, 2 * product + outputs)


def linear_terms(shapes: Shapes) -> tuple[int, ...]:
    x, w, b = shapes
    rows = math.prod(x[:-1])
    return w[0] + 1, w[1], rows, max(1, rows * w[1] // max(1, math.prod(b)))


linear = Op(
    name="linear",
    summary="A linear layer: x [..., k], w [k, n], b [n] or [] -> y [..., n], floating. `precision` is jnp.matmul's. "
    "`axis_name` is the axis of the mesh, under jax.shard_map, over which the rows of w are spread in order: they are "
    "gathered for each of both passes and not kept between them, and ct_w is added up where its rows are.",
    formula="x w + b; ct_x = ct w^T, ct_w = x^T ct, ct_b = sum of ct over all rows",
    rules=(Rule("transpose", linear_fwd, linear_bwd, "Keeps x and w, which cost nothing extra."),),
    stock=linear_stock,
    reference=lambda x, w, b, *, precision=None, axis_name=None: np.matmul(x, w) + b,
    reference_vjp=linear_reference_vjp,
    cases=_matrix_cases(bias=True),
    flops=linear_flops,
    terms=linear_terms,
    torch=lambda torch: lambda x, w, b, *, precision=None, axis_name=None: torch.nn.functional.linear(x, w.T, b),
    source=f"{NOTES}: gradients for vectorized operations.",
    example=""">>> x, w, b = jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.zeros(2)
>>> y, (ct_x, ct_w, ct_b) = jaxbp.linear.value_and_vjp((x, w, b), jnp.ones((4, 2)))
>>> ct_b.tolist()
[4.0, 4.0]""",
    version=2,
)
