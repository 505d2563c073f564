"""Custom rules of TensorFlow Probability on JAX."""

# These packages are installed in the field study's environment only.
# pyright: reportMissingImports=false

import functools

import jax
import numpy as np
import scipy.special
import scipy.stats
import tensorflow_probability.substrates.jax as tfp
from tensorflow_probability.substrates.jax.math.psd_kernels.internal.util import sqrt_with_finite_grads

from bench.field import confirm
from bench.field.entry import Entry, Verified, between, normal, positive_definite, values

tfp_entry = functools.partial(Entry, "tfp-nightly")
INF = float("inf")
UNIT = (0.0, 1.0)
POSITIVE = (0.0, INF)
TAILS = values(0.0, -0.0, 1e-30, -1e-6, 20, -20, 1e4, -1e4)
ORDERS = (between(0.5, 4, 8), between(0.5, 4, 8, seed=1))
TWO_POSITIVE = {"args[0]": POSITIVE, "args[1]": POSITIVE}


def von_mises_cdf(x, concentration):
    """The distribution function of a distribution on the circle."""
    return tfp.distributions.VonMises(0.0, concentration).cdf(x)


def student_t_cdf(t, df):
    """The distribution function, which has no closed form."""
    return tfp.distributions.StudentT(df, 0.0, 1.0).cdf(t)


def student_t_quantile(p, df):
    """Its inverse."""
    return tfp.distributions.StudentT(df, 0.0, 1.0).quantile(p)


def noncentral_chi2_cdf(x, df, noncentrality):
    """The distribution function, a series."""
    return tfp.distributions.NoncentralChi2(df, noncentrality).cdf(x)


def gamma_sample(concentration):
    """Samples, differentiated implicitly."""
    return tfp.distributions.Gamma(concentration, 1.0).sample(3, seed=jax.random.PRNGKey(0))


def von_mises_sample(concentration):
    """Samples, differentiated implicitly."""
    return tfp.distributions.VonMises(0.0, concentration).sample(3, seed=jax.random.PRNGKey(0))


def inverse_gaussian_sample(loc, concentration):
    """Samples, differentiated implicitly."""
    return tfp.distributions.InverseGaussian(loc, concentration).sample(3, seed=jax.random.PRNGKey(0))


def two_piece_normal_sample(skewness):
    """Samples, differentiated implicitly."""
    return tfp.distributions.TwoPieceNormal(0.0, 1.0, skewness).sample(3, seed=jax.random.PRNGKey(0))


def reparameterized_mixture_sample(logits, loc):
    """Samples of a mixture, differentiated implicitly."""
    mixture = tfp.distributions.MixtureSameFamily(
        tfp.distributions.Categorical(logits=logits), tfp.distributions.Normal(loc, 1.0), reparameterize=True
    )
    return mixture.sample(3, seed=jax.random.PRNGKey(0))


def bessel_ratio(v, z):
    """I_v(z) / I_{v - 1}(z) in float64."""
    return scipy.special.ive(v, z) / scipy.special.ive(v - 1, z)


def without_order(f, true):
    """What the finding in the order of a Bessel function turned out to be."""
    at = (0.5, 0.1)
    why = "Documented: no derivative in the order. It is a silent 0, not an error."
    confirmation = confirm.slope(f, at, lambda: confirm.difference(true, at))
    return (Verified("gradient", "args[0]", "by design", why, confirmation),)


ERFCX = tuple(
    Verified(
        kind,
        "args[0]",
        "imprecise",
        "2 x erfcx(x) - 2 / sqrt(pi) cancels: no digit is left from x = 1000 on.",
        confirm.slope(tfp.math.erfcx, (1e4,), lambda: confirm.erfcx_slope(1e4)),
    )
    for kind in ("gradient", "precision")
)
LOGERFCX = Verified(
    "gradient",
    "args[0]",
    "imprecise",
    "The rule of erfcx cancels: at x = 1000 one digit is left, at 10000 none.",
    confirm.slope(tfp.math.logerfcx, (1e4,), lambda: confirm.logerfcx_slope(1e4)),
)
LOG_GAMMA_DIFFERENCE = Verified(
    "gradient",
    "args[1]",
    "imprecise",
    "digamma(y) - digamma(x + y) cancels, which the value's own series avoids: 17 of 24 bits are right.",
    confirm.slope(
        tfp.math.log_gamma_difference,
        (0.64340734, 9.311152),
        lambda: scipy.special.digamma(9.311152) - scipy.special.digamma(0.64340734 + 9.311152),
        1,
    ),
)
DAWSN = Verified(
    "gradient",
    "args[0]",
    "imprecise",
    "1 - 2 x D(x) cancels: no digit is left from x = 3000 on.",
    confirm.slope(tfp.math.dawsn, (1e4,), lambda: confirm.dawsn_slope(1e4)),
)
QUADRATIC_FORM = (
    Verified(
        "gradient",
        "args[1]",
        "wrong",
        "y = B' A^-1 B: its cotangent is taken for symmetric; of A = 1, y[0, 1] has the "
        "derivative B[0, 1] in B[0, 0], not 0.",
        confirm.quadratic_form(tfp.math.hpsd_quadratic_form_solve),
    ),
    Verified(
        "gradient", "args[0]", "convention", "Not symmetrized: the function reads only the matrix's symmetric part."
    ),
)
ENTRIES = (
    tfp_entry(
        "math.bessel_iv_ratio",
        tfp.math.bessel_iv_ratio,
        ORDERS,
        "no derivative in the order",
        domain=TWO_POSITIVE,
        verified=without_order(tfp.math.bessel_iv_ratio, bessel_ratio),
    ),
    tfp_entry(
        "math.bessel_ive",
        tfp.math.bessel_ive,
        ORDERS,
        "no derivative in the order",
        domain=TWO_POSITIVE,
        verified=without_order(tfp.math.bessel_ive, scipy.special.ive),
    ),
    tfp_entry(
        "math.bessel_kve",
        tfp.math.bessel_kve,
        ORDERS,
        "no derivative in the order",
        domain=TWO_POSITIVE,
        verified=without_order(tfp.math.bessel_kve, scipy.special.kve),
    ),
    tfp_entry(
        "math.log_bessel_ive",
        tfp.math.log_bessel_ive,
        ORDERS,
        "no derivative in the order",
        domain=TWO_POSITIVE,
        verified=without_order(tfp.math.log_bessel_ive, lambda v, z: np.log(scipy.special.ive(v, z))),
    ),
    tfp_entry(
        "math.log_bessel_kve",
        tfp.math.log_bessel_kve,
        ORDERS,
        "no derivative in the order",
        domain=TWO_POSITIVE,
        verified=without_order(tfp.math.log_bessel_kve, lambda v, z: np.log(scipy.special.kve(v, z))),
    ),
    tfp_entry("math.log_cosh", tfp.math.log_cosh, (normal(8),), "saturation", ((TAILS,),)),
    tfp_entry("math.hpsd_logdet", tfp.math.hpsd_logdet, (positive_definite(4),), "a Cholesky decomposition"),
    tfp_entry("math.hpsd_solve", tfp.math.hpsd_solve, (positive_definite(4), normal(4, 2)), "a solve"),
    tfp_entry(
        "math.hpsd_quadratic_form_solve",
        tfp.math.hpsd_quadratic_form_solve,
        (positive_definite(4), normal(4, 2)),
        "a solve",
        verified=QUADRATIC_FORM,
    ),
    tfp_entry(
        "math.hpsd_quadratic_form_solvevec",
        tfp.math.hpsd_quadratic_form_solvevec,
        (positive_definite(4), normal(4)),
        "a solve",
    ),
    tfp_entry(
        "math.betainc",
        tfp.math.betainc,
        (between(0.5, 4, 6), between(0.5, 4, 6, seed=1), between(0.1, 0.9, 6)),
        "derivatives in the parameters",
        domain={"args[0]": (0.2, 10), "args[1]": (0.2, 10), "args[2]": UNIT},
    ),
    tfp_entry(
        "math.betaincinv",
        tfp.math.betaincinv,
        (between(0.5, 4, 6), between(0.5, 4, 6, seed=1), between(0.1, 0.9, 6)),
        "an inverse",
        domain={"args[0]": (0.2, 10), "args[1]": (0.2, 10), "args[2]": UNIT},
    ),
    tfp_entry(
        "math.dawsn",
        tfp.math.dawsn,
        (normal(8),),
        "1 - 2 x D(x) cancels",
        ((values(0, 1e-6, 0.92413887, 3, 5, 20, 100, 1e6),),),
        verified=(DAWSN,),
    ),
    tfp_entry(
        "math.erfcx",
        tfp.math.erfcx,
        (normal(8),),
        "huge on the left, 1/x on the right",
        ((values(-8, -5, 0, 1e-6, 5, 20, 100, 1e6),),),
        verified=ERFCX,
    ),
    tfp_entry(
        "math.logerfcx",
        tfp.math.logerfcx,
        (normal(8),),
        "erfcx inside",
        ((values(-8, -5, 0, 1e-6, 5, 20, 100, 1e6),),),
        verified=(LOGERFCX,),
    ),
    tfp_entry(
        "math.igammainv",
        tfp.math.igammainv,
        (between(0.5, 4, 6), between(0.1, 0.9, 6)),
        "an inverse",
        domain={"args[0]": (0.2, 10), "args[1]": UNIT},
    ),
    tfp_entry(
        "math.igammacinv",
        tfp.math.igammacinv,
        (between(0.5, 4, 6), between(0.1, 0.9, 6)),
        "an inverse",
        domain={"args[0]": (0.2, 10), "args[1]": UNIT},
    ),
    tfp_entry(
        "math.lambertw",
        tfp.math.lambertw,
        (between(-0.3, 4, 8),),
        "an inverse",
        ((values(0, 1e-30, 1e-6, -0.3678, 1, 20, 1e4, 1e10),),),
        {"args[0]": (-0.36, INF)},
    ),
    tfp_entry(
        "math.log_gamma_difference",
        tfp.math.log_gamma_difference,
        (between(0.5, 4, 8), between(8, 40, 8)),
        "cancellation",
        domain={"args[0]": (0.1, 20), "args[1]": (8.0, INF)},
        verified=(LOG_GAMMA_DIFFERENCE,),
    ),
    tfp_entry(
        "math.lbeta", tfp.math.lbeta, (between(0.5, 4, 8), between(0.5, 40, 8)), "cancellation", domain=TWO_POSITIVE
    ),
    tfp_entry(
        "math.owens_t", tfp.math.owens_t, (normal(8), normal(8, seed=1)), "a quadrature", ((TAILS, TAILS[::-1]),)
    ),
    tfp_entry(
        "math.softplus_inverse",
        tfp.math.softplus_inverse,
        (between(0.1, 5, 8),),
        "no rule of its own, log1mexp",
        domain={"args[0]": POSITIVE},
    ),
    tfp_entry(
        "math.clip_by_value_preserve_gradient",
        lambda x: tfp.math.clip_by_value_preserve_gradient(x, -1.0, 1.0),
        (normal(8),),
        "a gradient that passes the clip",
        verified=(Verified("gradient", "args[0]", "by design", "Straight through, as its name says."),),
    ),
    tfp_entry(
        "math.psd_kernels.sqrt_with_finite_grads",
        sqrt_with_finite_grads,
        (between(0.1, 5, 8),),
        "0",
        ((values(0, 1e-30, 1e-10, 1e-4, 1, 2, 1e10, 1e30),),),
        {"args[0]": POSITIVE},
    ),
    tfp_entry(
        "math.soft_sorting_matrix", lambda x: tfp.math.soft_sorting_matrix(x, 0.5), (normal(4),), "softmax inside"
    ),
    tfp_entry(
        "bijectors.Sigmoid(-2, 3)",
        tfp.bijectors.Sigmoid(-2.0, 3.0).forward,
        (normal(8),),
        "a stable softplus",
        ((TAILS,),),
    ),
    tfp_entry("bijectors.Softplus", tfp.bijectors.Softplus().forward, (normal(8),), "a stable softplus", ((TAILS,),)),
    tfp_entry(
        "bijectors.Softplus(hinge, low)",
        tfp.bijectors.Softplus(0.5, low=1.0).forward,
        (normal(8),),
        "a hinge",
        ((TAILS,),),
    ),
    tfp_entry(
        "distributions.VonMises.cdf",
        von_mises_cdf,
        (normal(8), between(0.5, 20, 8)),
        "a series and a normal approximation",
        domain={"args[0]": (-3.0, 3.0), "args[1]": POSITIVE},
    ),
    tfp_entry(
        "distributions.StudentT.cdf",
        student_t_cdf,
        (normal(8), between(0.5, 20, 8)),
        "no closed form",
        domain={"args[1]": (0.3, INF)},
    ),
    tfp_entry(
        "distributions.StudentT.quantile",
        student_t_quantile,
        (between(0.1, 0.9, 8), between(1, 20, 8)),
        "an inverse",
        domain={"args[0]": UNIT, "args[1]": (0.5, INF)},
    ),
    tfp_entry(
        "distributions.NoncentralChi2.cdf",
        noncentral_chi2_cdf,
        (between(1, 9, 4), between(2, 5, 4), between(1, 4, 4)),
        "a series",
        domain=dict.fromkeys(("args[0]", "args[1]", "args[2]"), (0.5, 20)),
        verified=(
            Verified(
                "gradient",
                "args[1]",
                "wrong",
                "No derivative in the degrees of freedom: a silent 0.",
                confirm.slope(
                    noncentral_chi2_cdf,
                    (1.0, 2.0, 1.0),
                    lambda: confirm.difference(scipy.stats.ncx2.cdf, (1.0, 2.0, 1.0), 1),
                    1,
                ),
            ),
        ),
    ),
    tfp_entry(
        "distributions.Gamma.sample",
        gamma_sample,
        (between(0.5, 5, 4),),
        "implicit differentiation",
        domain={"args[0]": (0.3, 20)},
        verified=(confirm.SAMPLED,),
    ),
    tfp_entry(
        "distributions.VonMises.sample",
        von_mises_sample,
        (between(0.5, 5, 4),),
        "implicit differentiation",
        domain={"args[0]": (0.3, 20)},
        verified=(confirm.SAMPLED,),
    ),
    tfp_entry(
        "distributions.InverseGaussian.sample",
        inverse_gaussian_sample,
        (between(0.5, 5, 4), between(0.5, 5, 4, seed=1)),
        "implicit differentiation",
        domain={"args[0]": (0.3, 20), "args[1]": (0.3, 20)},
        verified=(confirm.SAMPLED,),
    ),
    tfp_entry(
        "distributions.TwoPieceNormal.sample",
        two_piece_normal_sample,
        (between(0.5, 2, 4),),
        "implicit differentiation",
        domain={"args[0]": (0.3, 3)},
        verified=(confirm.SAMPLED,),
    ),
    tfp_entry(
        "distributions.MixtureSameFamily.sample",
        reparameterized_mixture_sample,
        (normal(3), normal(3, seed=1)),
        "implicit differentiation",
        verified=(confirm.SAMPLED,),
    ),
)
