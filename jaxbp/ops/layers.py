"""Layers of networks: embedding and conv2d."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import shape_of
from jaxbp.cases import Case, Labels, Normal
from jaxbp.classes import places
from jaxbp.declaration import Flops, Rule, Shapes
from jaxbp.devices import on_gpu
from jaxbp.op import Op
from jaxbp.promotion import NARROW, widened


def _indices(ids, rows):
    """The ids in int32, as which JAX takes indices: of those that are wider, what is none stays none."""
    fits = jnp.iinfo(ids.dtype).max <= jnp.iinfo(jnp.int32).max
    return ids.astype(jnp.int32) if fits else places(ids, rows)


def embedding_fwd(table, ids):
    return jnp.take(table, _indices(ids, table.shape[0]), axis=0), (shape_of(table), ids)


def embedding_bwd(res, ct):
    table, ids = res
    # Rows that occur twice add up; indices outside the table are dropped.
    ct_table = jnp.zeros(table.shape, widened(ct).dtype).at[_indices(ids, table.shape[0])].add(widened(ct), mode="drop")
    return ct_table.astype(ct.dtype), None


def embedding_reference(table, ids):
    inside = (ids >= -len(table)) & (ids < len(table))
    return np.where(inside[..., None], table[np.where(inside, ids, 0)], np.nan)


def embedding_reference_vjp(ct, table, ids):
    inside = (ids >= -len(table)) & (ids < len(table))
    ct_table = np.zeros_like(table)
    np.add.at(ct_table, ids[inside], ct[inside])
    return ct_table, None


def _embedding_cases():
    shapes = {
        "small": ((16, 8), (32,)),
        "cache": ((1024, 64), (1024,)),
        "memory": ((8192, 512), (8192,)),
        "bert-base": ((30522, 768), (8, 512)),
    }
    return tuple(Case(name, (table, ids), (Normal(), Labels(table[0]))) for name, (table, ids) in shapes.items())


embedding = Op(
    name="embedding",
    summary="Rows of a table: table [V, d], floating, ids [...], integers -> y [..., d]. As in jnp.take negative ids "
    "count from the end, and one outside [-V, V) gives a row of NaN; it has no part in the gradient.",
    formula="y_i = table[ids_i]; ct_table[v] = sum of ct_i over all i with ids_i = v",
    rules=(
        Rule(
            "scatter",
            embedding_fwd,
            embedding_bwd,
            "Keeps the ids, and of the table its shape. float16 and bfloat16 add up in float32 and are rounded once: a "
            "token that occurs often loses nothing.",
        ),
    ),
    integers=("ids",),
    stock=lambda table, ids: jnp.take(table, ids, axis=0),
    reference=embedding_reference,
    reference_vjp=embedding_reference_vjp,
    cases=_embedding_cases(),
    flops=lambda shapes: Flops(0, math.prod(shapes[1]) * math.prod(shapes[0][1:])),
    torch=lambda torch: lambda table, ids: torch.nn.functional.embedding(ids.long(), table),
    version=2,
    source="The product of one-hot rows with the table; where branches meet, gradients add.",
    example=""">>> table, ids = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([2, 0, 2])
>>> y, (ct_table, _) = jaxbp.embedding.value_and_vjp((table, ids), jnp.array([[1.0], [10.0], [100.0]]))
>>> y.tolist(), ct_table.tolist()
([[3.0], [1.0], [3.0]], [[10.0], [0.0], [101.0]])""",
)


#: By these names XLA knows margins of zeros.
PADDINGS = "SAME", "SAME_LOWER", "VALID"


def _pair(stride):
    pair = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"stride must be a positive whole number, or two, got {stride}.")
    return pair


def _require_padding(padding):
    if isinstance(padding, str) and padding.upper() not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, or numbers before and after, got {padding!r}.")


def _paddings(x, w, stride, padding):
    """Zeros before and after each axis of the image, as numbers."""
    _require_padding(padding)
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(x.shape[1:3], w.shape[:2], _pair(stride), padding))
    return tuple(map(tuple, padding))


def _convolution(x, w, stride, padding, layout=("NHWC", "HWIO", "NHWC"), **dilation):
    # On a GPU cuDNN adds up narrow numbers in float32 by itself; asked for float32 it is given widened copies.
    widen = x.dtype in NARROW and not on_gpu()
    return jax.lax.conv_general_dilated(
        x,
        w,
        _pair(stride),
        padding,
        dimension_numbers=layout,
        preferred_element_type=jnp.float32 if widen else None,
        **dilation,
    )


def _is_product(w, paddings):
    """Whether the convolution is a product of each pixel with one matrix."""
    return w.shape[:2] == (1, 1) and paddings == ((0, 0), (0, 0))


def conv2d_fwd(x, w, *, stride=1, padding="SAME"):
    if x.ndim == w.ndim == 4 and _is_product(w, _paddings(x, w, stride, padding)):
        down, across = _pair(stride)
        return jnp.matmul(x[:, ::down, ::across], w[0, 0]), (x, w)
    return _convolution(x, w, stride, padding).astype(x.dtype), (x, w)


def conv2d_bwd(res, ct, *, stride=1, padding="SAME"):
    x, w = res
    paddings = _paddings(x, w, stride, padding)
    if _is_product(w, paddings):
        return _pulled_back_product(x, w, ct, _pair(stride))
    if not ct.size:
        return jnp.zeros_like(x), jnp.zeros_like(w)
    # One pixel of ct apart from the next by the stride; both cotangents are convolutions with that.
    spans = [(n - 1) * step + 1 for n, step in zip(ct.shape[1:3], _pair(stride), strict=True)]
    axes = list(zip(x.shape[1:3], w.shape[:2], paddings, spans, strict=True))
    for_x = [(k - 1 - before, n - span + before) for n, k, (before, _), span in axes]
    for_w = [(before, k - 1 + span - n - before) for n, k, (before, _), span in axes]
    turned = w[::-1, ::-1].swapaxes(2, 3)
    ct_x = _convolution(ct, turned, 1, for_x, lhs_dilation=_pair(stride))
    # The batch is what is summed over, the channels of x are as many images.
    ct_w = _convolution(x, ct, 1, for_w, ("CHWN", "IHWO", "HWNC"), rhs_dilation=_pair(stride))
    return ct_x.astype(x.dtype), ct_w.astype(w.dtype)


def _pulled_back_product(x, w, ct, stride):
    down, across = stride
    channels, outputs = w.shape[2:]
    rows = ct.reshape(math.prod(ct.shape[:3]), outputs)
    seen = x[:, ::down, ::across].reshape(math.prod(ct.shape[:3]), channels)
    ct_w = jnp.matmul(rows.T, seen).T.reshape(w.shape)
    ct_x = jnp.matmul(ct, w[0, 0].T)
    if stride != (1, 1):
        ct_x = jnp.zeros_like(x).at[:, ::down, ::across].set(ct_x)
    return ct_x, ct_w


def conv2d_stock(x, w, *, stride=1, padding="SAME"):
    _require_padding(padding)
    return jax.lax.conv_general_dilated(x, w, _pair(stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _numpy_paddings(x, w, stride, padding):
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding != "SAME":
        return padding
    missing = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(x.shape[1:3], w.shape[:2], stride, strict=True)]
    return tuple((m // 2, m - m // 2) for m in missing)


def _numpy_views(x, w, stride, padding):
    """The image with its margins, and for each tap of the kernel the view of all pixels that it meets."""
    stride = _pair(stride)
    margins = _numpy_paddings(x, w, stride, padding)
    padded = np.pad(x, ((0, 0), *margins, (0, 0)))
    sizes = [max(0, (n - k) // s + 1) for n, k, s in zip(padded.shape[1:3], w.shape[:2], stride, strict=True)]

    def view(i, j):
        rows, columns = (slice(t, t + n * s, s) for t, n, s in zip((i, j), sizes, stride, strict=True))
        return padded[:, rows, columns]

    top, left = margins[0][0], margins[1][0]
    image = padded[:, top : top + x.shape[1], left : left + x.shape[2]]
    return image, {tap: view(*tap) for tap in np.ndindex(*w.shape[:2])}


def conv2d_reference(x, w, *, stride=1, padding="SAME"):
    _, views = _numpy_views(x, w, stride, padding)
    return sum(np.matmul(view, w[tap]) for tap, view in views.items())


def conv2d_reference_vjp(ct, x, w, *, stride=1, padding="SAME"):
    _, views = _numpy_views(x, w, stride, padding)
    ct_w = np.empty_like(w)
    for tap, view in views.items():
        ct_w[tap] = np.tensordot(view, ct, ((0, 1, 2), (0, 1, 2)))
    ct_x, ct_views = _numpy_views(np.zeros_like(x), w, stride, padding)
    for tap, view in ct_views.items():
        view += np.matmul(ct, w[tap].T)
    return ct_x, ct_w


def _torch_conv2d(torch):
    def conv2d(x, w, *, stride=1, padding="SAME"):
        (top, bottom), (left, right) = _numpy_paddings(x, w, _pair(stride), padding)
        padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
        return torch.nn.functional.conv2d(padded, w.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)

    return conv2d


def conv2d_flops(shapes: Shapes) -> Flops:
    """Of the default options: as many pixels come out as go in."""
    x, w = shapes
    product = 2 * math.prod(x[:3]) * math.prod(w)
    return Flops(product, 2 * product)


def conv2d_terms(shapes: Shapes) -> tuple[int, ...]:
    x, w = shapes
    return math.prod(w[:3]), math.prod(w[:2]) * w[3], math.prod(x[:3])


def _convolution_cases():
    shapes = {
        "small": ((2, 6, 6, 4), (3, 3, 4, 4)),
        "cache": ((4, 16, 16, 64), (3, 3, 64, 64)),
        "memory": ((64, 64, 64, 16), (3, 3, 16, 16)),
        "resnet": ((8, 56, 56, 64), (3, 3, 64, 64)),
        "bottleneck": ((8, 56, 56, 64), (1, 1, 64, 256)),
    }
    return tuple(
        Case(name, (x, w), (Normal(), Normal(1 / math.sqrt(math.prod(w[:3]))))) for name, (x, w) in shapes.items()
    )


conv2d = Op(
    name="conv2d",
    summary="A convolution in two dimensions, as jax.lax.conv_general_dilated's and flax's: x [N, H, W, I], "
    "w [h, w, I, O] -> y [N, H', W', O], floating. `stride` is a number or one for each axis of the image; `padding` "
    "is `SAME`, `VALID`, or `((top, bottom), (left, right))`, tuples of numbers of zeros.",
    formula="y[n, p, q] = sum over i, j of x[n, s p + i - top, s q + j - left] w[i, j]; "
    "ct_x = ct, spread by the stride, convolved with w turned by half a turn and transposed, "
    "ct_w[i, j] = sum over n, p, q of x[n, s p + i - top, s q + j - left]^T ct[n, p, q]",
    rules=(
        Rule(
            "transpose",
            conv2d_fwd,
            conv2d_bwd,
            "Keeps x and w. Two convolutions; where the kernel is a single pixel, two matrix products.",
        ),
    ),
    stock=conv2d_stock,
    reference=conv2d_reference,
    reference_vjp=conv2d_reference_vjp,
    cases=_convolution_cases(),
    flops=conv2d_flops,
    terms=conv2d_terms,
    torch=_torch_conv2d,
    source="Dumoulin and Visin, A guide to convolution arithmetic for deep learning (2016).",
    version=2,
    example=""">>> x, w = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.ones((2, 2, 1, 1))
>>> y, (ct_x, ct_w) = jaxbp.conv2d.value_and_vjp((x, w), jnp.ones((1, 2, 2, 1)), padding="VALID")
>>> y[0, :, :, 0].tolist(), ct_x[0, :, :, 0].tolist()
([[8.0, 12.0], [20.0, 24.0]], [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])""",
)
