"""Custom rules of jax."""

import functools

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
from jax.experimental import ode
from jax.experimental.pallas.ops.gpu import layer_norm, rms_norm
from jax.experimental.pallas.ops.tpu import flash_attention
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

from bench.field import confirm
from bench.field.entry import BOTH, Entry, Verified, between, normal, positive_definite, rows, values

jax_entry = functools.partial(Entry, "jax")
INF = float("inf")
TAILS = values(0.0, -0.0, 1e-30, -1e-30, 20, -20, 90, -90, 1e4, -1e4, 6, 3)
POSITIVE = {"args[0]": (0.0, INF)}
UNIT = {"args[0]": (0.0, 1.0)}


def reference_attention(q, k, v):
    """The TPU kernel's reference, whose backward pass is written by hand."""
    return flash_attention.mha_reference(q, k, v, None, None, True)


def splash_reference(q, k, v, custom_type="flash", cap=None):
    """Splash attention's reference with its own backward pass, one head."""
    mask = jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool))
    return splash.attention_reference_custom(mask, q, k, v, None, custom_type=custom_type, attn_logits_soft_cap=cap)


def splash_with_sinks(q, k, v, sinks):
    """The same with attention sinks."""
    mask = jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool))
    return splash.attention_reference_custom(mask, q, k, v, None, sinks)


def exported_sine(x):
    """A function that went through serialization's format: its call has a rule of its own."""
    exported = jax.export.export(jax.jit(jnp.sin))(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return exported.call(x)


def root_of_cosine(a):
    """x = cos(a x), by the implicit function theorem."""
    return jax.lax.custom_root(
        lambda x: x - jnp.cos(a * x),
        jnp.zeros_like(a),
        lambda f, x: jax.lax.fori_loop(0, 60, lambda _, x: x - 0.5 * f(x), x),
        lambda g, y: y / g(jnp.ones_like(y)),
    )


def decay(y0, rate):
    """An ordinary differential equation; its gradient integrates the adjoint backwards."""
    return ode.odeint(lambda y, t, rate: -rate * y, y0, jnp.asarray([0.0, 0.5, 1.0], y0.dtype), rate)


ERFCX = Verified(
    "gradient",
    "args[0]",
    "imprecise",
    "2 x erfcx(x) - 2 / sqrt(pi) cancels: no digit is left from x = 1000 on.",
    confirm.slope(special.erfcx, (1e4,), lambda: confirm.erfcx_slope(1e4)),
)
MISH = Verified(
    "precision",
    "args[0]",
    "imprecise",
    "At x = -90 softplus underflows to 0 before it is multiplied by x.",
    confirm.slope(jax.nn.mish, (-90.0,), lambda: confirm.mish_slope(-90.0)),
)
SINC = Verified(
    "precision",
    "args[0]",
    "imprecise",
    "The rule is for x = 0 only; beside it autodiff of the quotient cancels, and from 1e-19 down the gradient is -inf.",
    confirm.slope(jnp.sinc, (1e-20,), lambda: confirm.sinc_slope(1e-20)),
)
LOG_NDTR = Verified(
    "gradient",
    "args[0]",
    "imprecise",
    "exp(log density - log_ndtr(x)) subtracts two numbers near x^2 / 2: at x = -1000 three digits are left.",
    confirm.slope(special.log_ndtr, (-1000.0,), lambda: confirm.log_ndtr_slope(-1000.0)),
)
DAWSN = Verified(
    "gradient",
    "args[0]",
    "imprecise",
    "1 - 2 x D(x) cancels: no digit is left from x = 3000 on, and few in bfloat16.",
    confirm.slope(special.dawsn, (1e4,), lambda: confirm.dawsn_slope(1e4)),
)
QKV = (normal(1, 2, 5, 8), normal(1, 2, 5, 8, seed=1), normal(1, 2, 5, 8, seed=2))
HEAD = (normal(5, 8), normal(5, 8, seed=1), normal(5, 3, seed=2))

ENTRIES = (
    jax_entry(
        "jax.nn.relu", jax.nn.relu, (normal(4, 3),), "the kink at 0", ((values(*TAILS).reshape(4, 3),),), dtypes=BOTH
    ),
    jax_entry("jax.nn.relu6", jax.nn.relu6, (normal(12, scale=4),), "kinks at 0 and 6", ((TAILS,),), dtypes=BOTH),
    jax_entry(
        "jax.nn.hard_sigmoid", jax.nn.hard_sigmoid, (normal(12, scale=3),), "relu6 inside", ((TAILS,),), dtypes=BOTH
    ),
    jax_entry("jax.nn.hard_silu", jax.nn.hard_silu, (normal(12, scale=3),), "relu6 inside", ((TAILS,),)),
    jax_entry(
        "jax.nn.softmax",
        jax.nn.softmax,
        (normal(4, 5),),
        "saturation, ties",
        ((rows([0, 0, 0, 0, 0], [90, -90, 0, 0, 0], [1e4, 0, 0, 0, 1e4], [-INF, 0, 1, 2, 3]),),),
        dtypes=BOTH,
    ),
    jax_entry("jax.nn.softmax(axis=0)", functools.partial(jax.nn.softmax, axis=0), (normal(4, 5),), "another axis"),
    jax_entry(
        "jax.nn.softmax(where=)",
        lambda x, keep: jax.nn.softmax(x, where=keep, axis=-1),
        (normal(3, 4), np.asarray([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)),
        "a mask",
    ),
    jax_entry(
        "jax.nn.dot_product_attention",
        jax.nn.dot_product_attention,
        (normal(1, 5, 2, 4), normal(1, 5, 2, 4, seed=1), normal(1, 5, 2, 4, seed=2)),
        "softmax inside",
    ),
    jax_entry(
        "jax.nn.log1mexp",
        jax.nn.log1mexp,
        (between(0.1, 5, 12),),
        "cancellation near 0",
        ((values(1e-30, 1e-10, 1e-4, 0.6, 0.7, 0.6931472, 10, 20, 80, 90, 100, 1e3),),),
        POSITIVE,
        BOTH,
    ),
    jax_entry("jax.nn.softplus", jax.nn.softplus, (normal(12),), "logaddexp inside", ((TAILS,),), dtypes=BOTH),
    jax_entry("jax.nn.log_sigmoid", jax.nn.log_sigmoid, (normal(12),), "logaddexp inside", ((TAILS,),)),
    jax_entry("jax.nn.mish", jax.nn.mish, (normal(12),), "logaddexp inside", ((TAILS,),), verified=(MISH,)),
    jax_entry(
        "jax.numpy.logaddexp",
        jnp.logaddexp,
        (normal(12), normal(12, seed=1)),
        "ties, saturation",
        ((TAILS, TAILS), (TAILS, -TAILS)),
        dtypes=BOTH,
    ),
    jax_entry(
        "jax.numpy.logaddexp2",
        jnp.logaddexp2,
        (normal(12), normal(12, seed=1)),
        "ties, saturation",
        ((TAILS, TAILS), (TAILS, -TAILS)),
        dtypes=BOTH,
    ),
    jax_entry(
        "jax.numpy.sinc",
        jnp.sinc,
        (normal(8),),
        "0, where the quotient is 0/0",
        ((values(0, 1e-30, 1e-10, 1e-4, 1e-2, 1, 2, 100),),),
        dtypes=BOTH,
        verified=(SINC,),
    ),
    jax_entry(
        "jax.numpy.i0",
        jnp.i0,
        (normal(8),),
        "the kink of the scaled function",
        ((values(0, 1e-6, 8, -8, 20, -20, 80, 1),),),
    ),
    jax_entry(
        "jax.numpy.frexp",
        lambda x: jnp.frexp(x)[0],
        (normal(8),),
        "a mantissa",
        ((values(0, 1, 2, 3, -4, 0.3, 1e-30, 1e30),),),
    ),
    jax_entry(
        "jax.numpy.linalg.det(3 x 3)",
        jnp.linalg.det,
        (normal(3, 3),),
        "the small case",
        ((rows([1, 2, 3], [2, 4, 6], [1, 1, 1]),), (np.zeros((3, 3), np.float32),)),
    ),
    jax_entry(
        "jax.numpy.linalg.det(5 x 5)",
        jnp.linalg.det,
        (normal(5, 5),),
        "cofactors by a QR decomposition",
        ((np.ones((5, 5), np.float32),), (np.diag(values(0, 1, 2, 3, 4)),)),
    ),
    jax_entry(
        "jax.numpy.linalg.slogdet(lu)", lambda a: jnp.linalg.slogdet(a, method="lu")[1], (normal(5, 5),), "a solve"
    ),
    jax_entry(
        "jax.numpy.linalg.slogdet(qr)", lambda a: jnp.linalg.slogdet(a, method="qr")[1], (normal(5, 5),), "a solve"
    ),
    jax_entry("jax.numpy.linalg.slogdet(2 x 2)", lambda a: jnp.linalg.slogdet(a)[1], (normal(2, 2),), "the small case"),
    jax_entry("jax.numpy.linalg.pinv(5 x 3)", jnp.linalg.pinv, (normal(5, 3),), "a tall matrix"),
    jax_entry("jax.numpy.linalg.pinv(3 x 5)", jnp.linalg.pinv, (normal(3, 5),), "a wide matrix"),
    jax_entry(
        "jax.scipy.special.erfcx",
        special.erfcx,
        (normal(8),),
        "huge on the left, 1/x on the right",
        ((values(-8, -5, 0, 1e-6, 5, 20, 100, 1e6),),),
        verified=(ERFCX,),
    ),
    jax_entry(
        "jax.scipy.special.wofz",
        lambda x, y: jnp.real(special.wofz(jax.lax.complex(x, y))),
        (normal(6), between(0.1, 3, 6)),
        "of complex numbers",
    ),
    jax_entry(
        "jax.scipy.special.dawsn",
        special.dawsn,
        (normal(8),),
        "1 - 2 x D(x) cancels",
        ((values(0, 1e-6, 0.92413887, 3, 5, 20, 100, 1e6),),),
        dtypes=BOTH,
        verified=(DAWSN,),
    ),
    jax_entry(
        "jax.scipy.special.logit",
        special.logit,
        (between(0.05, 0.95, 8),),
        "both ends",
        ((values(1e-30, 1e-10, 0.5, 0.999, 0.9999999, 0.25, 0.75, 1e-3),),),
        UNIT,
        BOTH,
    ),
    jax_entry(
        "jax.scipy.special.xlogy",
        special.xlogy,
        (normal(8), between(0.1, 3, 8)),
        "0 log 0",
        ((values(0, 0, 1, -1, 0, 2, 3, 0), values(0, 1, 1e-30, 1e30, 2, 1e-6, 1, 1e-30)),),
        {"args[1]": (0.0, INF)},
        BOTH,
    ),
    jax_entry(
        "jax.scipy.special.xlog1py",
        special.xlog1py,
        (normal(8), between(-0.9, 3, 8)),
        "0 log 0",
        ((values(0, 0, 1, -1, 0, 2, 3, 0), values(-1, 1, 1e-30, 1e30, 2, 1e-6, -0.999, -0.5)),),
        {"args[1]": (-1.0, INF)},
    ),
    jax_entry(
        "jax.scipy.special.entr",
        special.entr,
        (between(0.1, 3, 8),),
        "0 log 0",
        ((values(0, 1e-30, 1, 0.36787945, 2, 1e10, 1e-3, 3),),),
        POSITIVE,
    ),
    jax_entry(
        "jax.scipy.special.rel_entr",
        special.rel_entr,
        (between(0.1, 3, 8), between(0.1, 3, 8, seed=1)),
        "0 log 0",
        domain={"args[0]": (0.0, INF), "args[1]": (0.0, INF)},
    ),
    jax_entry(
        "jax.scipy.special.kl_div",
        special.kl_div,
        (between(0.1, 3, 8), between(0.1, 3, 8, seed=1)),
        "p = q",
        ((values(1, 2, 3, 1e-6, 1e6, 1, 1, 1), values(1, 2, 3, 1e-6, 1e6, 1.0001, 2, 3)),),
        {"args[0]": (0.0, INF), "args[1]": (0.0, INF)},
    ),
    jax_entry(
        "jax.scipy.special.zeta",
        lambda q: special.zeta(jnp.asarray(2.5, q.dtype), q),
        (between(0.5, 5, 8),),
        "a series",
        domain=POSITIVE,
    ),
    jax_entry(
        "jax.scipy.special.log_ndtr",
        special.log_ndtr,
        (normal(8),),
        "the left tail",
        ((values(-100, -20, -10, -5, 0, 5, 10, 20),),),
        verified=(LOG_NDTR,),
    ),
    jax_entry("jax.scipy.stats.norm.logsf", jax.scipy.stats.norm.logsf, (normal(8),), "log_ndtr inside"),
    jax_entry(
        "jax.scipy.special.expi",
        special.expi,
        (between(0.1, 5, 8),),
        "the pole at 0",
        ((values(-20, -5, -1, -0.1, 0.1, 0.37, 20, 50),),),
    ),
    jax_entry("jax.scipy.special.exp1", special.exp1, (between(0.1, 5, 8),), "the pole at 0", domain=POSITIVE),
    jax_entry(
        "jax.scipy.special.expn", lambda x: special.expn(2, x), (between(0.1, 5, 8),), "an order of 2", domain=POSITIVE
    ),
    jax_entry(
        "jax.scipy.special.expn(n=1)",
        lambda x: special.expn(1, x),
        (between(0.1, 5, 8),),
        "order 1 needs order 0",
        domain=POSITIVE,
    ),
    jax_entry("jax.scipy.special.sici", special.sici, (between(0.1, 5, 8),), "two outputs, log at 0", domain=POSITIVE),
    jax_entry(
        "jax.scipy.special.poch",
        special.poch,
        (between(1, 5, 6), between(0.1, 2, 6)),
        "digamma of sums",
        domain={"args[0]": (0.0, INF), "args[1]": (0.0, INF)},
    ),
    jax_entry(
        "jax.scipy.special.hyp1f1",
        special.hyp1f1,
        (between(0.5, 2, 4), between(2, 4, 4), normal(4)),
        "a series",
        domain={"args[0]": (0.3, 3.0), "args[1]": (2.0, 5.0), "args[2]": (-3.0, 3.0)},
    ),
    jax_entry(
        "jax.scipy.special.hyp2f1",
        special.hyp2f1,
        (between(0.5, 2, 4), between(0.5, 2, 4, seed=1), between(2.5, 4, 4), between(-0.5, 0.5, 4)),
        "a series",
        domain={"args[0]": (0.3, 2.0), "args[1]": (0.3, 2.0), "args[2]": (2.0, 5.0), "args[3]": (-0.7, 0.7)},
    ),
    jax_entry("jax.scipy.special.owens_t", special.owens_t, (normal(8), normal(8, seed=1)), "a quadrature"),
    jax_entry(
        "jax.scipy.special.fresnel",
        special.fresnel,
        (normal(8),),
        "two outputs",
        ((values(0, 1e-6, 1, 1.6, 2, 5, 20, 1e4),),),
    ),
    jax_entry("jax.lax.custom_root", root_of_cosine, (between(0.2, 1, 4),), "the implicit function theorem"),
    jax_entry("jax.experimental.ode.odeint", decay, (normal(3), between(0.5, 1.5, 3)), "the adjoint equation"),
    jax_entry("jax.export.Exported.call", exported_sine, (normal(6),), "a rule around what was exported"),
    jax_entry("flash_attention.mha_reference", reference_attention, QKV, "a TPU kernel's reference"),
    jax_entry(
        "splash_attention.attention_reference_custom", splash_reference, HEAD, "a TPU kernel's reference", dtypes=BOTH
    ),
    jax_entry(
        "splash_attention.attention_reference_custom(vanilla)",
        functools.partial(splash_reference, custom_type="vanilla"),
        HEAD,
        "its other backward pass",
    ),
    jax_entry(
        "splash_attention.attention_reference_custom(soft cap)",
        functools.partial(splash_reference, cap=5.0),
        HEAD,
        "capped logits",
    ),
    jax_entry(
        "splash_attention.attention_reference_custom(sinks)", splash_with_sinks, (*HEAD, values(0.3)[0]), "sinks"
    ),
    jax_entry(
        "pallas.ops.gpu.rms_norm",
        functools.partial(rms_norm.rms_norm, interpret=True),
        (normal(2, 3, 8), normal(8, seed=1), normal(8, seed=2)),
        "a GPU kernel, interpreted",
    ),
    jax_entry(
        "pallas.ops.gpu.layer_norm",
        functools.partial(layer_norm.layer_norm, interpret=True),
        (normal(2, 3, 8), normal(8, seed=1), normal(8, seed=2)),
        "a GPU kernel, interpreted",
    ),
    jax_entry(
        "jax.numpy.linalg.pinv(hermitian)",
        functools.partial(jnp.linalg.pinv, hermitian=True),
        (positive_definite(4),),
        "a symmetric matrix",
    ),
)
