"""Reductions over axes: logsumexp, softmax, log_softmax."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import reduced_axes
from jaxbp.cases import Case, Normal
from jaxbp.declaration import Rule, flops_per_entry
from jaxbp.devices import computed_again, on_gpu, on_processor
from jaxbp.fusion import whole
from jaxbp.numerics import exponent_shift, numpy_exponent_shift
from jaxbp.op import Op
from jaxbp.promotion import widened

#: Of a GPU, with the compilers of JAX 0.10 and 0.11.
_LONGEST_ROW = 2**14
_AXIS = "`axis` is an int, a tuple of them, or None for all axes."


def _row_cases(name, *shape):
    """Rows of scores at three sizes, and the scores of a model."""
    shapes = {"small": (32, 16), "cache": (256, 256), "memory": (4096, 1024), name: shape}
    return tuple(Case(case, (s,), (Normal(4),)) for case, s in shapes.items())


def _value_and_exponentials(x, axis):
    """The value; and, over axes that are kept, the exponentials, what was subtracted before, and their sum."""
    m = widened(exponent_shift(x, axis))  # The largest of narrow numbers is found faster before they are widened.
    e = jnp.exp(widened(x) - m)
    s = jnp.sum(e, axis=axis, keepdims=True)
    # Along an axis of length 1 XLA's CPU backend takes one logarithm at a time.
    y = jnp.squeeze(m, axis) + jnp.log(jnp.squeeze(s, axis))
    # The exponentials, not those of x - y: they lose as many digits as y has before the point.
    return y.astype(x.dtype), e, m, s


def logsumexp_fwd(x, *, axis=-1):
    y, _, m, s = _value_and_exponentials(x, axis)
    return y, (x, m, s)


def logsumexp_bwd(res, ct, *, axis=-1):
    x, m, s = res
    return (_shares_of(ct, jnp.exp(widened(x) - m), s).astype(x.dtype),)


def keeping_logsumexp_fwd(x, *, axis=-1):
    y, e, _, s = _value_and_exponentials(x, axis)
    # Narrow numbers take less than their exponentials.
    return (y, (e, s)) if on_processor() and e.dtype == x.dtype else logsumexp_fwd(x, axis=axis)


def keeping_logsumexp_bwd(res, ct, *, axis=-1):
    return (_shares_of(ct, *res),) if len(res) == 2 else logsumexp_bwd(res, ct, axis=axis)


def _shares_of(ct, e, s):
    return e * (widened(ct).reshape(s.shape) / jnp.where(s == 0, 1, s))


def _numpy_sum(x, axis):
    m = numpy_exponent_shift(x, axis)
    return m, np.sum(np.exp(x - m), axis=axis, keepdims=True)


def logsumexp_reference(x, *, axis=-1):
    m, s = _numpy_sum(x, axis)
    return np.squeeze(m + np.log(s), axis)


def logsumexp_reference_vjp(ct, x, *, axis=-1):
    m, s = _numpy_sum(x, axis)
    return (np.exp(x - m) * (ct.reshape(m.shape) / np.where(s == 0, 1, s)),)


logsumexp = Op(
    name="logsumexp",
    summary=f"The logarithm of a sum of exponentials, without overflow. x [..., n] -> y [...], floating. {_AXIS} "
    "Masks of -inf add nothing; where all is -inf the value is -inf and the gradient 0, where stock JAX's is NaN.",
    formula="log sum_j exp(x_j); ct_x = ct exp(x) / sum_j exp(x_j)",
    rules=(
        Rule(
            "exponentials",
            keeping_logsumexp_fwd,
            keeping_logsumexp_bwd,
            "Keeps the exponentials and the sum of each row; narrow numbers, and on a GPU or TPU, as `weights`.",
        ),
        Rule(
            "weights",
            logsumexp_fwd,
            logsumexp_bwd,
            "Keeps x, and of each row the largest entry and the sum; computes the exponentials again.",
        ),
    ),
    stock=lambda x, *, axis=-1: jax.nn.logsumexp(x, axis=axis),
    reference=logsumexp_reference,
    reference_vjp=logsumexp_reference_vjp,
    cases=_row_cases("gpt2-vocabulary", 64, 50257),
    flops=flops_per_entry(4, 3),
    torch=lambda torch: lambda x, *, axis=-1: torch.logsumexp(x, axis),
    source="d logsumexp(x) / dx = softmax(x).",
    example=""">>> y, (ct_x,) = jaxbp.logsumexp.value_and_vjp((jnp.array([1000.0, 1000.0]),), 1.0)
>>> round(float(y), 3), ct_x.tolist()
(1000.693, [0.5, 0.5])
>>> jax.grad(jaxbp.logsumexp)(jnp.full(2, -jnp.inf)).tolist()
[0.0, 0.0]""",
    version=3,
)


def _largest(x, axis):
    """The largest entry, which counts as a constant; NaN follows where it is infinite, as in stock JAX."""
    # With a number to begin with there may be no entries.
    return widened(jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf)))


def _softmax_pullback(y, ct, axis):
    return y * (ct - jnp.sum(ct * y, axis=axis, keepdims=True))


def _shares(x, axis):
    return x / jnp.sum(x, axis=axis, keepdims=True)


def _softmax(x, axis):
    return _shares(jnp.exp(widened(x) - _largest(x, axis)), axis)


def _one_kernel(x, axis):
    """Whether what is normalized along these axes is one kernel: XLA takes rows that are not too long on a GPU so."""
    return on_gpu() and reduced_axes(x.ndim, axis) == (x.ndim - 1,) and 0 < x.shape[-1] <= _LONGEST_ROW


def _again(kept, axis):
    """What is kept; where one kernel is enough for the gradient, it reads that, and computes the value once more."""
    return computed_again(kept) if _one_kernel(kept, axis) else kept


def _as_one_kernel(y, axis):
    """Probabilities, as they are.

    XLA makes one kernel of what begins with rows from which something of theirs is taken, where the formula alone takes
    two; here that is 0, which XLA does not know.
    """
    if not _one_kernel(y, axis):
        return y
    return y - jax.lax.stop_gradient(jnp.floor(0.5 * jnp.max(y, axis=axis, keepdims=True)))


def output_softmax_fwd(x, *, axis=-1):
    y = _softmax(x, axis).astype(x.dtype)
    return y, (y,)


def output_softmax_bwd(res, ct, *, axis=-1):
    y = _again(res[0], axis)
    return (_softmax_pullback(_as_one_kernel(widened(y), axis), widened(ct), axis).astype(y.dtype),)


def input_softmax_fwd(x, *, axis=-1):
    return _softmax(x, axis).astype(x.dtype), (x,)


def input_softmax_bwd(res, ct, *, axis=-1):
    x = _again(res[0], axis)
    return (_softmax_pullback(_softmax(x, axis), widened(ct), axis).astype(x.dtype),)


def softmax_reference(x, *, axis=-1):
    m, s = _numpy_sum(x, axis)
    return np.exp(x - m) / s


def softmax_reference_vjp(ct, x, *, axis=-1):
    y = softmax_reference(x, axis=axis)
    return (y * (ct - np.sum(ct * y, axis=axis, keepdims=True)),)


softmax = Op(
    name="softmax",
    summary=f"Exponentials divided by their sum. x [..., n] -> y [..., n], floating. {_AXIS} Masks of -inf get 0; "
    "where all is -inf the value is NaN, as stock JAX's.",
    formula="y = exp(x) / sum_j exp(x_j); ct_x = y (ct - sum_j ct_j y_j)",
    rules=(
        Rule("output", output_softmax_fwd, output_softmax_bwd, "Keeps the output and takes no exponential again."),
        Rule(
            "input",
            input_softmax_fwd,
            input_softmax_bwd,
            "Keeps x and computes the output again: no bytes where the output is not needed otherwise, and a gradient "
            "that is rounded once in the narrow dtypes.",
        ),
    ),
    stock=lambda x, *, axis=-1: jax.nn.softmax(x, axis=axis),
    reference=softmax_reference,
    reference_vjp=softmax_reference_vjp,
    cases=_row_cases("gpt2-attention", 12, 512, 512),
    flops=flops_per_entry(5, 4),
    torch=lambda torch: lambda x, *, axis=-1: torch.softmax(x, axis),
    source="dy_i/dx_j = y_i (1(i = j) - y_j).",
    version=2,
    example=""">>> y, (ct_x,) = jaxbp.softmax.value_and_vjp((jnp.zeros(4),), jnp.array([1.0, 0.0, 0.0, 0.0]))
>>> y.tolist(), ct_x.tolist()
([0.25, 0.25, 0.25, 0.25], [0.1875, -0.0625, -0.0625, -0.0625])""",
)


def _log_softmax_and_exponentials(x, m, axis):
    shifted = widened(x) - m
    e = jnp.exp(shifted)
    s = jnp.sum(e, axis=axis, keepdims=True)
    return (shifted - jnp.log(s)).astype(x.dtype), e, s


def _log_softmax_pullback(e, s, ct, axis):
    # XLA's library for sums takes up to 1.4 times as long to subtract a product as to add it.
    return ct + e * (-jnp.sum(ct, axis=axis, keepdims=True) / s)


def input_log_softmax_fwd(x, *, axis=-1):
    m = _largest(x, axis)
    y, _, s = _log_softmax_and_exponentials(x, m, axis)
    return y, (x, m, s)


def input_log_softmax_bwd(res, ct, *, axis=-1):
    x, m, s = res
    return (_log_softmax_pullback(jnp.exp(widened(x) - m), s, widened(ct), axis).astype(x.dtype),)


def output_log_softmax_fwd(x, *, axis=-1):
    y, _, _ = _log_softmax_and_exponentials(x, _largest(x, axis), axis)
    return y, (y,)


def output_log_softmax_bwd(res, ct, *, axis=-1):
    y = _again(res[0], axis)
    probabilities = jnp.exp(widened(y))
    if _one_kernel(y, axis):
        # They add up to 1 but for the rounding of y, and are one kernel with the rest.
        probabilities = _shares(probabilities, axis)
    return (_log_softmax_pullback(probabilities, 1, widened(ct), axis).astype(y.dtype),)


def keeping_log_softmax_fwd(x, *, axis=-1):
    if not on_processor() or widened(x).dtype != x.dtype:
        return output_log_softmax_fwd(x, axis=axis)
    m = _largest(x, axis)
    # In one piece, so that loops shift x for themselves: the library would write what is shifted to memory.
    y, e, s = _log_softmax_and_exponentials(x, whole(m, m), axis)
    return y, (e, s)


def keeping_log_softmax_bwd(res, ct, *, axis=-1):
    if len(res) == 1:
        return output_log_softmax_bwd(res, ct, axis=axis)
    e, s = res
    return (_log_softmax_pullback(e, s, ct, axis),)


def log_softmax_value(x, *, axis=-1):
    # All of it goes into the library where nothing is kept.
    return output_log_softmax_fwd(x, axis=axis)[0]


def log_softmax_reference(x, *, axis=-1):
    m, s = _numpy_sum(x, axis)
    return (x - m) - np.log(s)


def log_softmax_reference_vjp(ct, x, *, axis=-1):
    return (ct - softmax_reference(x, axis=axis) * np.sum(ct, axis=axis, keepdims=True),)


log_softmax = Op(
    name="log_softmax",
    summary=f"The logarithm of softmax, without its underflow. x [..., n] -> y [..., n], floating. {_AXIS} Masks of "
    "-inf stay -inf; where all is -inf the value is NaN, as stock JAX's.",
    formula="x - log sum_j exp(x_j); ct_x = ct - softmax(x) sum_j ct_j",
    rules=(
        Rule(
            "exponentials",
            keeping_log_softmax_fwd,
            keeping_log_softmax_bwd,
            "Keeps the exponentials and the sum of each row; narrow numbers, and on a GPU or TPU, as `output`.",
            value=log_softmax_value,
        ),
        Rule(
            "output",
            output_log_softmax_fwd,
            output_log_softmax_bwd,
            "Keeps the output, of which softmax is the exponential.",
        ),
        Rule(
            "input",
            input_log_softmax_fwd,
            input_log_softmax_bwd,
            "Keeps x, and of each row the largest entry and the sum: a pass more where the passes are apart, and a "
            "gradient that is rounded once in the narrow dtypes.",
        ),
    ),
    stock=lambda x, *, axis=-1: jax.nn.log_softmax(x, axis=axis),
    reference=log_softmax_reference,
    reference_vjp=log_softmax_reference_vjp,
    cases=_row_cases("gpt2-vocabulary", 64, 50257),
    flops=flops_per_entry(5, 4),
    torch=lambda torch: lambda x, *, axis=-1: torch.log_softmax(x, axis),
    source="dy_i/dx_j = 1(i = j) - softmax(x)_j.",
    version=3,
    example=""">>> y, (ct_x,) = jaxbp.log_softmax.value_and_vjp((jnp.array([0.0, 1000.0]),), jnp.array([1.0, 0.0]))
>>> y.tolist(), ct_x.tolist()
([-1000.0, 0.0], [1.0, -1.0])""",
)
