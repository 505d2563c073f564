"""Normalizations of rows: layer_norm, rms_norm, and rms_norm_linear with the linear layer that follows."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import Case, Normal, Uniform
from jaxbp.declaration import Flops, Rule, Shapes, flops_per_entry
from jaxbp.devices import on_gpu
from jaxbp.fusion import whole
from jaxbp.kernels import rms_norm as kernels
from jaxbp.kernels.launch import differentiated_as
from jaxbp.op import Op
from jaxbp.products import columns_by_columns, rows_by_rows
from jaxbp.promotion import widened

#: Entries of a row whose mean is near to that of all.
_SAMPLED = 32
#: Rows that are added up in one product, at most.
_BLOCK = 64


def _cases(name, *shape, bias):
    """Rows of activations at three sizes, and those of a model."""
    shapes = {"small": (32, 16), "cache": (256, 256), "memory": (4096, 1024), name: shape}
    draws = (Normal(), Uniform(0.5, 1.5), Normal())
    return tuple(Case(case, (s, s[-1:], s[-1:])[: 2 + bias], draws[: 2 + bias]) for case, s in shapes.items())


def _mean(x):
    return jnp.mean(x, axis=-1, keepdims=True)


def _weighted_mean(x, weights):
    """The mean of x times weights over each row.

    As a product of matrix and vector: for a plain sum XLA's CPU backend first writes down x, and whatever is broadcast
    in it, at full size.
    """
    return jnp.matmul(x, weights, precision="highest")[..., None] / x.shape[-1]


def _sum_of_rows(x, like):
    return jnp.sum(x, axis=tuple(range(x.ndim - 1))).astype(like.dtype)


def _moments(x):
    """The mean of each row, in parts that are subtracted one after the other, and the variance.

    Of centred entries: the difference of mean square and squared mean has no digits beside a large mean.
    """
    if not on_gpu():
        mean = _mean(x)
        return (mean,), _mean(jnp.square(x - mean))
    # In one pass, where the mean is not known yet: of entries centred by the mean of some of them. These are part of
    # the variance, so that its error grows by no more than a factor of 1 + n / _SAMPLED.
    some = _mean(jax.lax.stop_gradient(x[..., : max(1, min(_SAMPLED, x.shape[-1]))]))
    centred = x - some
    rest = _mean(centred)
    return (some, rest), jnp.maximum(_mean(jnp.square(centred)) - jnp.square(rest), 0)


def _less(x, mean):
    for part in mean:
        x = x - part
    return x


def _weighted_sum_of_rows(x, weights, like):
    """The sum of all rows of x, each times its weight.

    As products of blocks of rows: for a plain sum XLA's CPU backend first writes down the weighted rows, and of one
    product of all the sum loses a digit to each row in turn.
    """
    n, rows = x.shape[-1], math.prod(x.shape[:-1])
    block = next((size for size in range(_BLOCK, _BLOCK // 4, -1) if rows % size == 0), None)
    if block is None:
        return _sum_of_rows(x * weights, like)
    blocks = weights.reshape(rows // block, block), x.reshape(rows // block, block, n)
    return _sum_of_rows(jnp.einsum("br,brn->bn", *blocks, precision="highest"), like)


def layer_norm_fwd(x, scale, bias, *, epsilon=1e-5):
    wide = widened(x)
    mean, variance = _moments(wide)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = _less(wide, mean) * inverse * widened(scale) + widened(bias)
    return y.astype(x.dtype), (x, scale, mean, inverse)


def layer_norm_bwd(res, ct, *, epsilon=1e-5):
    x, scale, (near, *rest), inverse = res
    ct, wide_scale = widened(ct), widened(scale)
    centred = widened(x) - near
    # Not times the inverse: so the sums need not wait for it, and share passes with those that it is from.
    products = ct * centred
    slope, along = _weighted_mean(ct, wide_scale), _weighted_mean(products, wide_scale)
    along = inverse * (along - sum(part * slope for part in rest))
    ct_x = inverse * (ct * wide_scale - slope - _less(centred, rest) * inverse * along)
    of_scale = products - sum(ct * part for part in rest)
    return whole(ct_x, ct).astype(x.dtype), _weighted_sum_of_rows(of_scale, inverse, scale), _sum_of_rows(ct, scale)


def layer_norm_stock(x, scale, bias, *, epsilon=1e-5):
    return jax.nn.standardize(x, axis=-1, epsilon=epsilon) * scale + bias


def _numpy_normal(x, epsilon):
    centred = x - np.mean(x, axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(np.mean(np.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _numpy_mean(x):
    return np.mean(x, axis=-1, keepdims=True)


def _numpy_sum_of_rows(x):
    return np.sum(x, axis=tuple(range(x.ndim - 1)))


def layer_norm_reference_vjp(ct, x, scale, bias, *, epsilon=1e-5):
    normal, inverse = _numpy_normal(x, epsilon)
    slopes = ct * scale
    ct_x = inverse * (slopes - _numpy_mean(slopes) - normal * _numpy_mean(slopes * normal))
    return ct_x, _numpy_sum_of_rows(ct * normal), _numpy_sum_of_rows(ct)


layer_norm = Op(
    name="layer_norm",
    summary="Rows with mean 0 and variance 1, scaled and shifted: x [..., n], scale [n], bias [n] -> y [..., n], "
    "floating. `epsilon` is added to the variance, as in jax.nn.standardize. A row of equal entries gives the bias.",
    formula="h = (x - mean(x)) / sqrt(var(x) + epsilon), y = h scale + bias; with g = ct scale: "
    "ct_x = (g - mean(g) - h mean(g h)) / sqrt(var(x) + epsilon), ct_scale = sum_rows(ct h), ct_bias = sum_rows(ct)",
    rules=(
        Rule(
            "statistics",
            layer_norm_fwd,
            layer_norm_bwd,
            "Keeps the inputs, and of each row the mean and the inverse of the standard deviation; normalizes again.",
        ),
    ),
    stock=layer_norm_stock,
    reference=lambda x, scale, bias, *, epsilon=1e-5: _numpy_normal(x, epsilon)[0] * scale + bias,
    reference_vjp=layer_norm_reference_vjp,
    cases=_cases("gpt2", 1024, 768, bias=True),
    flops=flops_per_entry(8, 14),
    version=3,
    torch=lambda torch: (
        lambda x, scale, bias, *, epsilon=1e-5: torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, epsilon)
    ),
    source="Ba, Kiros and Hinton, Layer Normalization (2016).",
    example=""">>> x, scale, bias = jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.zeros(2)
>>> y, (ct_x, ct_scale, ct_bias) = jaxbp.layer_norm.value_and_vjp((x, scale, bias), jnp.array([[1.0, 0.0]]))
>>> y.round(3).tolist(), ct_scale.round(3).tolist(), ct_bias.tolist()
([[-1.0, 1.0]], [-1.0, 0.0], [1.0, 0.0])""",
)


def rms_norm_fwd(x, scale, *, epsilon=1e-6):
    wide = widened(x)
    inverse = jax.lax.rsqrt(_mean(jnp.square(wide)) + epsilon)
    return (wide * inverse * widened(scale)).astype(x.dtype), (x, scale, inverse)


def rms_norm_bwd(res, ct, *, epsilon=1e-6):
    x, scale, inverse = res
    ct, wide_scale = widened(ct), widened(scale)
    wide = widened(x)
    products = ct * wide  # As in layer_norm.
    along = inverse * _weighted_mean(products, wide_scale)
    ct_x = inverse * (ct * wide_scale - wide * inverse * along)
    return whole(ct_x, ct).astype(x.dtype), _weighted_sum_of_rows(products, inverse, scale)


def _plain_forward(x, scale, *, epsilon):
    """What the kernel returns, for its derivatives."""
    return rms_norm_fwd(x, scale, epsilon=epsilon)[0]


def _plain_backward(x, scale, ct, *, epsilon):
    return rms_norm_bwd(rms_norm_fwd(x, scale, epsilon=epsilon)[1], ct)


def rms_norm_kernel_fwd(x, scale, *, epsilon=1e-6):
    if scale.shape != x.shape[-1:]:
        raise ValueError(f"scale must have the shape {list(x.shape[-1:])} of a row of x, got {list(scale.shape)}.")
    forward = differentiated_as(_plain_forward, kernels.forward, epsilon=epsilon)
    return (forward(x, scale) if x.size else x), (x, scale)


def rms_norm_kernel_bwd(res, ct, *, epsilon=1e-6):
    x, scale = res
    backward = differentiated_as(_plain_backward, kernels.backward, epsilon=epsilon)
    return backward(x, scale, ct) if x.size else (ct, jnp.zeros_like(scale))


def rms_norm_stock(x, scale, *, epsilon=1e-6):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * scale


def _numpy_inverse(x, epsilon):
    return 1 / np.sqrt(_numpy_mean(np.square(x)) + epsilon)


def rms_norm_reference_vjp(ct, x, scale, *, epsilon=1e-6):
    inverse = _numpy_inverse(x, epsilon)
    normal, slopes = x * inverse, ct * scale
    return inverse * (slopes - normal * _numpy_mean(slopes * normal)), _numpy_sum_of_rows(ct * normal)


rms_norm = Op(
    name="rms_norm",
    summary="Rows divided by the root of their mean square, and scaled: x [..., n], scale [n] -> y [..., n], floating. "
    "`epsilon` is added to the mean square; a row of zeros stays 0.",
    formula="h = x / sqrt(mean(x^2) + epsilon), y = h scale; with g = ct scale: "
    "ct_x = (g - h mean(g h)) / sqrt(mean(x^2) + epsilon), ct_scale = sum_rows(ct h)",
    rules=(
        Rule(
            "statistics",
            rms_norm_fwd,
            rms_norm_bwd,
            "Keeps the inputs, and of each row the inverse of its root mean square; normalizes again.",
        ),
        Rule(
            "kernel",
            rms_norm_kernel_fwd,
            rms_norm_kernel_bwd,
            "A Pallas kernel a pass, for GPUs and TPUs: each reads its arrays once. Keeps the inputs.",
            kernel=True,
        ),
    ),
    stock=rms_norm_stock,
    reference=lambda x, scale, *, epsilon=1e-6: x * _numpy_inverse(x, epsilon) * scale,
    reference_vjp=rms_norm_reference_vjp,
    cases=_cases("llama", 512, 4096, bias=False),
    flops=flops_per_entry(5, 10),
    version=3,
    torch=lambda torch: lambda x, scale, *, epsilon=1e-6: torch.nn.functional.rms_norm(x, x.shape[-1:], scale, epsilon),
    source="Zhang and Sennrich, Root Mean Square Layer Normalization (2019).",
    example=""">>> x, scale = jnp.array([[3.0, 4.0]]), jnp.ones(2)
>>> y, (ct_x, ct_scale) = jaxbp.rms_norm.value_and_vjp((x, scale), jnp.ones((1, 2)))
>>> print(f"{y[0, 0]:.3f} {y[0, 1]:.3f}; {ct_x[0, 0]:.3f} {ct_x[0, 1]:.3f}")
0.849 1.131; 0.045 -0.034""",
)


def rms_norm_linear_fwd(x, scale, w, *, epsilon=1e-6, precision=None):
    normal, res = rms_norm_fwd(x, scale, epsilon=epsilon)
    return jnp.matmul(normal, w, precision=precision), (res, w)


def rms_norm_linear_bwd(res, ct, *, epsilon=1e-6, precision=None):
    (x, scale, inverse), w = res
    normal = (widened(x) * inverse * widened(scale)).astype(x.dtype)
    rows = math.prod(x.shape[:-1])
    ct_w = columns_by_columns(normal.reshape(rows, w.shape[0]), ct.reshape(rows, w.shape[1]), precision)
    return *rms_norm_bwd((x, scale, inverse), rows_by_rows(ct, w, precision), epsilon=epsilon), ct_w


def rms_norm_linear_stock(x, scale, w, *, epsilon=1e-6, precision=None):
    return jnp.matmul(rms_norm_stock(x, scale, epsilon=epsilon), w, precision=precision)


def rms_norm_linear_reference(x, scale, w, *, epsilon=1e-6, precision=None):
    return np.matmul(x * _numpy_inverse(x, epsilon) * scale, w)


def rms_norm_linear_reference_vjp(ct, x, scale, w, *, epsilon=1e-6, precision=None):
    normal = x * _numpy_inverse(x, epsilon) * scale
    ct_w = np.matmul(normal.reshape(-1, w.shape[0]).T, ct.reshape(-1, w.shape[1]))
    return *rms_norm_reference_vjp(np.matmul(ct, w.T), x, scale, epsilon=epsilon), ct_w


def rms_norm_linear_flops(shapes: Shapes) -> Flops:
    x, _, w = shapes
    entries, products = math.prod(x), 2 * math.prod(x) * w[1]
    return Flops(5 * entries + products, 12 * entries + 2 * products)


def _linear_cases():
    """Tokens, their size and units at three sizes, and what a layer of T5 begins with."""
    sizes = {"small": (16, 16, 12), "cache": (256, 256, 256), "memory": (4096, 1024, 256), "t5": (512, 512, 2048)}
    return tuple(
        Case(name, ((n, d), (d,), (d, units)), (Normal(), Uniform(0.5, 1.5), Normal(1 / math.sqrt(d))))
        for name, (n, d, units) in sizes.items()
    )


rms_norm_linear = Op(
    name="rms_norm_linear",
    summary="A linear layer without bias of rows divided by the root of their mean square, and scaled: x [..., n], "
    "scale [n], w [n, m] -> y [..., m], floating. `epsilon` is added to the mean square; `precision` is jnp.matmul's.",
    formula="h = x / sqrt(mean(x^2) + epsilon), y = (h scale) w; with g = (ct w^T) scale: "
    "ct_x = (g - h mean(g h)) / sqrt(mean(x^2) + epsilon), ct_scale = sum_rows((ct w^T) h), ct_w = (h scale)^T ct",
    rules=(
        Rule(
            "statistics",
            rms_norm_linear_fwd,
            rms_norm_linear_bwd,
            "Keeps the inputs, and of each row the inverse of its root mean square; what the layer takes is computed "
            "again.",
        ),
    ),
    stock=rms_norm_linear_stock,
    reference=rms_norm_linear_reference,
    reference_vjp=rms_norm_linear_reference_vjp,
    cases=_linear_cases(),
    flops=rms_norm_linear_flops,
    torch=lambda torch: (
        lambda x, scale, w, *, epsilon=1e-6, precision=None: (
            torch.nn.functional.rms_norm(x, x.shape[-1:], scale, epsilon) @ w
        )
    ),
    source="Zhang and Sennrich, Root Mean Square Layer Normalization (2019); the layer before attention in LLaMA.",
    version=3,
    example=""">>> x, scale, w = jnp.array([[3.0, 4.0]]), jnp.ones(2), jnp.ones((2, 1))
>>> y, (ct_x, ct_scale, ct_w) = jaxbp.rms_norm_linear.value_and_vjp((x, scale, w), jnp.ones((1, 1)))
>>> print(f"{y[0, 0]:.3f}; {ct_x[0, 0]:.3f} {ct_x[0, 1]:.3f}; {ct_w[0, 0]:.3f}")
1.980; 0.045 -0.034; 0.849""",
)
