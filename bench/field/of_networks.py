"""Custom rules of optax, flax, equinox, jaxopt, rlax, qwix and tokamax: optimizers and neural networks."""

# These packages are installed in the field study's environment only.
# pyright: reportMissingImports=false, reportFunctionMemberAccess=false

import functools

import equinox as eqx
import equinox.internal as eqxi
import flax.linen
import flax.linen.fp8_ops as fp8
import flax.nnx
import jax
import jax.numpy as jnp
import jaxopt
import jaxopt.isotonic
import jaxopt.perturbations
import jaxopt.projection
import numpy as np
import optax
import optax.projections
import rlax
import tokamax
from optax.losses._classification import weighted_logsoftmax
from qwix._src.core import dot_general_qt

from bench.field.entry import BOTH, Entry, Verified, between, normal, rows, values

INF = float("inf")
LABELS = rows([1, 0, 0, 0], [0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25])
MASKED = rows([0, -INF, 1, 2], [-INF, 0, 0, -INF], [1, 1, 1, 1])
TIED = values(0.5, 0.5, 0.25, 0.25, 0, 0)
DOT = (((1,), (0,)), ((), ()))


def scaled(x):
    """A gradient three times as large."""
    return optax.scale_gradient(x, 3.0)


def huber_by_clipping(x):
    """A squared error with a clipped gradient."""
    return 0.5 * rlax.clip_gradient(x, -1.0, 1.0) ** 2


def doubled_by_while(x):
    """A checkpointed loop of equinox."""
    return eqxi.while_loop(
        lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x), max_steps=8, kind="checkpointed"
    )[1]


def doubled_by_bounded_while(x):
    """A bounded loop of equinox."""
    return eqxi.while_loop(
        lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x), max_steps=8, kind="bounded"
    )[1]


def checkpointed_scan(x):
    """A checkpointed scan of equinox."""
    return eqxi.scan(lambda c, row: (jnp.tanh(c * row), c), x[0], x, kind="checkpointed")


def guarded(x):
    """`equinox.error_if` of what is no error."""
    return eqx.error_if(x * x, jnp.any(x > 1e30), "too large")


@flax.nnx.custom_vjp(graph_updates=False)
def nnx_cube(x):
    """A rule that is right, under flax's wrapper."""
    return x**3


nnx_cube.defvjp(lambda x: (x**3, x), lambda x, ct: (3 * x**2 * ct,))


@eqx.filter_custom_vjp
def filtered_cube(x):
    """A rule that is right, under equinox's wrapper."""
    return x**3


filtered_cube.def_fwd(lambda perturbed, x: (x**3, x))
filtered_cube.def_bwd(lambda x, ct, perturbed, _: 3 * x**2 * ct)


@eqx.filter_custom_jvp
def filtered_sine(x):
    """The same in forward mode."""
    return jnp.sin(x)


filtered_sine.def_jvp(lambda primals, tangents: (jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0]))


def fixed_point(theta):
    """A root of jaxopt's, differentiated implicitly."""
    solver = jaxopt.FixedPointIteration(lambda x, theta: 0.5 * jnp.cos(x * theta), maxiter=60, tol=1e-9)
    return solver.run(jnp.zeros_like(theta), theta).params


def bisected(theta):
    """A bisection of jaxopt's, differentiated implicitly."""
    return (
        jaxopt.Bisection(lambda x, theta: x**3 + x - theta, -10.0, 10.0, maxiter=60, tol=1e-9, check_bracket=False)
        .run(None, theta)
        .params
    )


def perturbed_max(x):
    """A perturbed maximum, whose gradient is that of its expectation."""

    def one_hot_argmax(v):
        return jax.nn.one_hot(jnp.argmax(v), v.shape[-1], dtype=v.dtype)

    return jaxopt.perturbations.make_perturbed_max(one_hot_argmax, num_samples=50)(x, jax.random.PRNGKey(0))


def quantized_dot(a, b):
    """A matrix product through int8, whose gradient passes straight through."""
    config = dot_general_qt.DotGeneralQtConfig(lhs_qtype=jnp.int8, rhs_qtype=jnp.int8)
    return dot_general_qt.dot_general_qt(a, b, DOT, config)


def tokamax_attention(q, k, v, **kwargs):
    """Attention of tokamax in XLA."""
    return tokamax.dot_product_attention(q, k, v, **kwargs)


def tokamax_triangle(x, mask, *weights):
    """Triangle multiplication of tokamax in XLA."""
    return tokamax.triangle_multiplication(x, mask, *weights, triangle_type="outgoing", implementation="xla")


DESIGN = tuple(
    Verified(kind, "args[0]", "by design", "Documented: a gradient that is scaled or clipped on its way.")
    for kind in ("gradient", "linearity", "second order")
)
QUANTIZED = tuple(
    Verified(
        kind,
        "",
        "by design",
        "Straight through the quantization; the cotangents of scale and history are their new values.",
    )
    for kind in ("gradient", "linearity", "value", "second order", "precision")
)
QKV = (normal(1, 5, 2, 4), normal(1, 5, 2, 4, seed=1), normal(1, 5, 2, 4, seed=2))
QDQ = (normal(6, scale=100), values(2.0), np.zeros(4, np.float32))
TRIANGLE = (
    normal(3, 3, 4),
    np.ones((3, 3), bool),
    normal(4, 2, 5),
    normal(4, 2, 5, seed=1),
    normal(5, 3),
    normal(4, 3),
    normal(4),
    normal(4, seed=1),
    normal(5),
    normal(5, seed=1),
)

optax_entry, flax_entry, eqx_entry, jaxopt_entry, tokamax_entry = (
    functools.partial(Entry, name) for name in ("optax", "flax", "equinox", "jaxopt", "tokamax")
)
ENTRIES = (
    optax_entry(
        "losses.weighted_logsoftmax",
        weighted_logsoftmax,
        (normal(3, 4), LABELS),
        "weights of 0, logits of -inf",
        ((MASKED, LABELS), (normal(3, 4, scale=90), LABELS)),
        dtypes=BOTH,
    ),
    optax_entry(
        "safe_softmax_cross_entropy",
        optax.safe_softmax_cross_entropy,
        (normal(3, 4), LABELS),
        "masked classes",
        ((MASKED, rows([0, 0, 1, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0])), (np.zeros((3, 4), np.float32), LABELS)),
    ),
    optax_entry(
        "softmax_cross_entropy", optax.softmax_cross_entropy, (normal(3, 4), LABELS), "weighted_logsoftmax inside"
    ),
    optax_entry(
        "poly_loss_cross_entropy", optax.losses.poly_loss_cross_entropy, (normal(3, 4), LABELS), "softmax inside"
    ),
    optax_entry(
        "sigmoid_focal_loss",
        optax.losses.sigmoid_focal_loss,
        (normal(3, 4), (LABELS > 0.3).astype(np.float32)),
        "logaddexp inside",
    ),
    optax_entry(
        "ctc_loss",
        optax.ctc_loss,
        (normal(1, 4, 3), np.zeros((1, 4), np.float32), np.asarray([[1, 2]], np.int32), np.zeros((1, 2), np.float32)),
        "logaddexp in a scan",
        domain={"args[1]": (-0.01, 0.01), "args[3]": (-0.01, 0.01)},
    ),
    optax_entry(
        "multiclass_sparsemax_loss",
        optax.losses.multiclass_sparsemax_loss,
        (normal(3, 4), np.asarray([0, 3, 1], np.int32)),
        "a projection inside",
    ),
    optax_entry(
        "projections.projection_simplex",
        optax.projections.projection_simplex,
        (normal(6),),
        "ties, the border",
        ((TIED,), (values(2, 0, 0, 0, 0, 0),), (values(1, 0, 0, 0, 0, 0),)),
    ),
    optax_entry(
        "projections.projection_simplex(scale)",
        optax.projections.projection_simplex,
        (normal(6), np.float32(2.0)),
        "a gradient in the scale",
        domain={"args[1]": (0.1, INF)},
    ),
    optax_entry(
        "projections.projection_l1_ball",
        optax.projections.projection_l1_ball,
        (normal(6),),
        "inside and outside",
        ((0.01 * normal(6),), (TIED,), (values(0.5, 0.5, 0, 0, 0, 0),)),
    ),
    optax_entry(
        "projections.projection_l1_sphere", optax.projections.projection_l1_sphere, (normal(6),), "signs", ((TIED,),)
    ),
    optax_entry("scale_gradient", scaled, (normal(6),), "scales on purpose", verified=DESIGN),
    flax_entry(
        "linen.fp8_ops.in_qdq",
        functools.partial(fp8.in_qdq, jnp.float32, jnp.float8_e4m3fn),
        QDQ,
        "straight through",
        verified=QUANTIZED,
    ),
    flax_entry(
        "linen.fp8_ops.out_qdq",
        functools.partial(fp8.out_qdq, jnp.float32, jnp.float8_e5m2),
        QDQ,
        "straight through",
        verified=QUANTIZED,
    ),
    flax_entry(
        "linen.fp8_ops.dot_general_with_precision",
        lambda a, b: fp8.dot_general_with_precision(a, b, DOT),
        (normal(3, 4), normal(4, 5)),
        "another precision in the backward pass",
        dtypes=BOTH,
    ),
    flax_entry("linen.softmax", flax.linen.softmax, (normal(3, 4),), "jax's"),
    flax_entry("linen.dot_product_attention", flax.linen.dot_product_attention, QKV, "softmax inside"),
    flax_entry("nnx.custom_vjp of x**3", nnx_cube, (normal(6),), "the wrapper"),
    eqx_entry("filter_custom_vjp of x**3", filtered_cube, (normal(6),), "the wrapper"),
    eqx_entry("filter_custom_jvp of sin", filtered_sine, (normal(6),), "the wrapper"),
    eqx_entry("error_if", guarded, (normal(6),), "a check at run time"),
    eqx_entry("internal.while_loop(checkpointed)", doubled_by_while, (normal(4),), "recomputes"),
    eqx_entry("internal.while_loop(bounded)", doubled_by_bounded_while, (normal(4),), "nested scans"),
    eqx_entry("internal.scan(checkpointed)", checkpointed_scan, (normal(5, 3),), "recomputes"),
    eqx_entry("internal.nextafter", eqxi.nextafter, (normal(6),), "one float further"),
    eqx_entry("internal.prevbefore", eqxi.prevbefore, (normal(6),), "one float back"),
    eqx_entry("debug.backward_nan", lambda x: eqx.debug.backward_nan(x, terminate=False), (normal(3),), "prints"),
    eqx_entry(
        "nn.MultiheadAttention",
        lambda q, k: eqx.nn.MultiheadAttention(2, 4, key=jax.random.PRNGKey(0))(q, k, k),
        (normal(3, 4), normal(5, 4)),
        "softmax inside",
    ),
    jaxopt_entry(
        "projection.projection_simplex",
        jaxopt.projection.projection_simplex,
        (normal(6),),
        "ties, the border",
        ((TIED,), (values(2, 0, 0, 0, 0, 0),)),
    ),
    jaxopt_entry(
        "projection.projection_simplex(value)",
        jaxopt.projection.projection_simplex,
        (normal(6), np.float32(2.0)),
        "a gradient in the value",
        domain={"args[1]": (0.1, INF)},
    ),
    jaxopt_entry(
        "projection.projection_sparse_simplex",
        lambda x: jaxopt.projection.projection_sparse_simplex(x, max_nz=3),
        (normal(6),),
        "a support of 3",
        ((TIED,),),
    ),
    jaxopt_entry(
        "projection.projection_l1_ball",
        jaxopt.projection.projection_l1_ball,
        (normal(6),),
        "inside and outside",
        ((0.01 * normal(6),), (TIED,)),
    ),
    jaxopt_entry(
        "projection.projection_l1_sphere", jaxopt.projection.projection_l1_sphere, (normal(6),), "signs", ((TIED,),)
    ),
    jaxopt_entry(
        "projection.projection_box_section",
        lambda x, w: jaxopt.projection.projection_box_section(x, (jnp.zeros(5), jnp.ones(5), w, 2.0)),
        (normal(5), between(0.5, 2, 5)),
        "a root",
        domain={"args[1]": (0.3, 3)},
    ),
    jaxopt_entry("isotonic.isotonic_l2_pav", jaxopt.isotonic.isotonic_l2_pav, (normal(6),), "pools", ((TIED,),)),
    jaxopt_entry(
        "loss.multiclass_sparsemax_loss",
        lambda x: jaxopt.loss.multiclass_sparsemax_loss(1, x),
        (normal(5),),
        "a projection inside",
    ),
    jaxopt_entry("FixedPointIteration", fixed_point, (between(0.2, 1, 4),), "the implicit function theorem"),
    jaxopt_entry("Bisection", bisected, (between(0.2, 3, 1)[0],), "the implicit function theorem"),
    jaxopt_entry(
        "perturbations.make_perturbed_max",
        perturbed_max,
        (normal(5),),
        "an estimator",
        verified=(
            Verified(
                "gradient", "args[0]", "by design", "The gradient of the expectation, estimated from the same samples."
            ),
        ),
    ),
    Entry("rlax", "clip_gradient", huber_by_clipping, (normal(6, scale=2),), "clips on purpose", verified=DESIGN),
    Entry(
        "qwix",
        "dot_general_qt(int8)",
        quantized_dot,
        (normal(3, 4), normal(4, 5)),
        "straight through",
        verified=QUANTIZED,
    ),
    tokamax_entry(
        "layer_norm",
        functools.partial(tokamax.layer_norm, implementation="xla"),
        (normal(3, 8), normal(8), normal(8)),
        "the XLA implementation",
        dtypes=BOTH,
    ),
    tokamax_entry(
        "gated_linear_unit",
        functools.partial(tokamax.gated_linear_unit, activation=jax.nn.swish, implementation="xla"),
        (normal(3, 4), normal(4, 2, 5)),
        "a hand-written backward pass",
        dtypes=BOTH,
    ),
    tokamax_entry(
        "dot_product_attention(xla)",
        functools.partial(tokamax_attention, implementation="xla"),
        QKV,
        "softmax inside",
        dtypes=BOTH,
    ),
    tokamax_entry(
        "dot_product_attention(xla_chunked)",
        functools.partial(tokamax_attention, implementation="xla_chunked"),
        QKV,
        "online softmax",
    ),
    tokamax_entry(
        "dot_product_attention(soft cap, causal)",
        functools.partial(tokamax_attention, implementation="xla", is_causal=True, logits_soft_cap=5.0),
        QKV,
        "masks",
    ),
    tokamax_entry(
        "linear_softmax_cross_entropy_loss",
        lambda x, labels, w: tokamax.linear_softmax_cross_entropy_loss(x, labels, w, implementation="xla"),
        (normal(3, 4), np.asarray([0, 4, 2], np.int32), normal(4, 5)),
        "a chunked backward pass",
    ),
    tokamax_entry(
        "ragged_dot",
        lambda a, b, sizes: tokamax.ragged_dot(a, b, sizes, implementation="xla"),
        (normal(6, 4), normal(2, 4, 3), np.asarray([2, 4], np.int32)),
        "groups",
    ),
    tokamax_entry("triangle_multiplication", tokamax_triangle, TRIANGLE, "the XLA implementation"),
)
