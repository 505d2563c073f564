"""Custom rules of numerical packages: distributions, solvers, optimal transport, spherical harmonics."""

# These packages are installed in the field study's environment only.
# pyright: reportMissingImports=false

import functools

import diffrax
import distrax
import distreqx.utils
import e3nn_jax
import jax
import jax.numpy as jnp
import lineax
import matfree.decomp
import matfree.lstsq
import numpy as np
import numpyro.distributions as npd
import optimistix
import ott
import ott.geometry.costs
import ott.geometry.regularizers
import ott.math.matrix_square_root
import ott.math.utils
import quadax
from distrax._src.utils import math as distrax_math
from numpyro.distributions.util import log1mexp

from bench.field import confirm
from bench.field.entry import BOTH, Entry, Verified, between, normal, positive_definite, rows, values

INF = float("inf")
POSITIVE = (0.0, INF)
PAIR = (normal(8), normal(8, seed=1))
ZEROS = (values(0, 0, 1, -1, 2, INF, 0, 3), values(0, 1, 0, 2, -1, 0, 2, 0))


def sampled_von_mises(concentration):
    """Samples of distrax, differentiated implicitly."""
    return distrax.VonMises(0.0, concentration).sample(seed=jax.random.PRNGKey(0), sample_shape=(3,))


def power_law(x, alpha, low, high):
    """A truncated power law of numpyro."""
    return npd.DoublyTruncatedPowerLaw(alpha, low, high).log_prob(x)


def power_law_cdf(x, alpha, low, high):
    """Its distribution function."""
    return npd.DoublyTruncatedPowerLaw(alpha, low, high).cdf(x)


def power_law_icdf(q, alpha, low, high):
    """Its inverse."""
    return npd.DoublyTruncatedPowerLaw(alpha, low, high).icdf(q)


def root(theta):
    """A root by Newton's method, differentiated implicitly."""
    return optimistix.root_find(lambda y, t: y**3 + y - t, optimistix.Newton(1e-6, 1e-6), theta, theta).value


def fixed_point(theta):
    """A fixed point, differentiated implicitly."""
    return optimistix.fixed_point(
        lambda y, t: 0.5 * jnp.cos(y * t), optimistix.FixedPointIteration(1e-6, 1e-6), theta, theta
    ).value


def backsolve(y0, rate):
    """An ordinary differential equation with the adjoint integrated backwards."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, rate: -rate * y),
        diffrax.Tsit5(),
        0.0,
        1.0,
        0.05,
        y0,
        rate,
        adjoint=diffrax.BacksolveAdjoint(),
        stepsize_controller=diffrax.ConstantStepSize(),
    ).ys


def sphere(x):
    """Spherical harmonics of the direction of a vector."""
    return e3nn_jax.spherical_harmonics(e3nn_jax.Irreps("0e + 1o + 2e + 3o"), x, normalize=True).array


def polynomials(x):
    """Spherical harmonics, not normalized: polynomials."""
    irreps = e3nn_jax.Irreps("0e + 1o + 2e + 3o")
    return e3nn_jax.spherical_harmonics(irreps, x, normalize=False, normalization="component").array


def legendre_transform(z):
    """The Legendre transform of a regularized cost, by Danskin's theorem."""
    return ott.geometry.costs.RegTICost(ott.geometry.regularizers.L1(), lam=0.5).h_legendre(z)


def tridiagonal(a, v):
    """Lanczos' algorithm; its gradient solves an adjoint recursion."""
    sym = 0.5 * (a + a.T)
    decomposition = matfree.decomp.tridiag_sym(3, reortho="full")(lambda x, m: m @ x, v, sym)
    return jnp.diag(decomposition.J_tall) if hasattr(decomposition, "J_tall") else decomposition.J_small


def least_squares(a, b):
    """LSMR, differentiated implicitly."""
    x, _ = matfree.lstsq.lsmr()(lambda v, m: m.T @ v, b, a)
    return x


def integral(a):
    """An integral whose limits and integrand depend on the argument."""
    return quadax.quadgk(lambda x, a: jnp.exp(-a * x * x), jnp.asarray([0.0, 1.0]), args=(a,))[0]


ott_entry = functools.partial(Entry, "ott-jax")
norm = ott.math.utils.norm
NORM = Verified(
    "value",
    "y",
    "wrong",
    "Differentiated at 0, the value is that of a vector of ones: sqrt(n) where the norm is 0.",
    confirm.value_under_vjp(norm, np.zeros(4, np.float32)),
)
ROWS = rows([3, 4], [1, -1], [0.5, 2])
ONE_ZERO_ROW = rows([3, 4], [0, 0], [0.5, 2])
LOWEST = rows([-INF, -INF, -INF], [0, -INF, 1], [2, 2, 2])
ENTRIES = (
    *(
        entry
        for package, math in (("distrax", distrax_math), ("distreqx", distreqx.utils))
        for entry in (
            Entry(
                package, "utils.multiply_no_nan", math.multiply_no_nan, PAIR, "0 times infinity", (ZEROS,), dtypes=BOTH
            ),
            Entry(
                package,
                "utils.power_no_nan",
                math.power_no_nan,
                (between(0.1, 3, 8), normal(8)),
                "0 to the power of 0",
                (ZEROS,),
                {"args[0]": POSITIVE},
                verified=(
                    Verified(
                        "gradient",
                        "args[1]",
                        "wrong",
                        "x^y log(x) is 0 log(0) = nan at x = 0, where the derivative is 0.",
                        confirm.slope(math.power_no_nan, (0.0, 2.0), lambda: 0.0, 1),
                    ),
                ),
            ),
        )
    ),
    Entry(
        "distrax",
        "VonMises.sample",
        sampled_von_mises,
        (between(0.5, 5, 4),),
        "implicit differentiation",
        domain={"args[0]": (0.3, 20)},
        verified=(confirm.SAMPLED,),
    ),
    Entry(
        "distrax",
        "VonMises.cdf",
        lambda x, k: distrax.VonMises(0.0, k).cdf(x),
        (normal(8), between(0.5, 20, 8)),
        "a series and a normal approximation",
        domain={"args[0]": (-3, 3), "args[1]": POSITIVE},
    ),
    Entry(
        "numpyro",
        "distributions.util.log1mexp",
        log1mexp,
        (-between(0.1, 5, 12),),
        "cancellation near 0",
        ((-values(1e-30, 1e-10, 1e-4, 0.6, 0.7, 0.6931472, 10, 20, 80, 90, 100, 1e3),),),
        {"args[0]": (-INF, 0)},
    ),
    *(
        Entry(
            "numpyro",
            f"distributions.DoublyTruncatedPowerLaw.{name}",
            f,
            (x, values(-2, -1, 0.5, 2), values(0.5, 0.5, 0.5, 0.5), values(2, 2, 2, 2)),
            "a removable pole at -1",
            domain={
                "args[0]": (0.6, 1.9) if name != "icdf" else (0.0, 1.0),
                "args[2]": (0.1, 0.5),
                "args[3]": (2.0, 4.0),
            },
            verified=confirm.power_law(name, f),
        )
        for name, f, x in (
            ("log_prob", power_law, between(0.6, 1.9, 4)),
            ("cdf", power_law_cdf, between(0.6, 1.9, 4)),
            ("icdf", power_law_icdf, between(0.1, 0.9, 4)),
        )
    ),
    Entry(
        "lineax",
        "internal.two_norm",
        lineax.internal.two_norm,
        (normal(6),),
        "0",
        ((np.zeros(6, np.float32),), (values(1e30, 0, 0, 0, 0, 0),), (values(1e-30, 1e-30, 0, 0, 0, 0),)),
        dtypes=BOTH,
        verified=(
            Verified(
                "precision",
                "args[0]",
                "convention",
                "The squares overflow; of an infinite norm the gradient is 0, as a comment says.",
            ),
        ),
    ),
    Entry("lineax", "internal.two_norm(one entry)", lineax.internal.two_norm, (normal(1),), "the absolute value"),
    Entry("lineax", "internal.rms_norm", lineax.internal.rms_norm, (normal(6),), "0", ((np.zeros(6, np.float32),),)),
    Entry(
        "lineax",
        "internal.max_norm",
        lineax.internal.max_norm,
        (normal(6),),
        "ties, 0",
        ((np.zeros(6, np.float32),), (values(1, -1, 1, 0, 0, 0),)),
    ),
    Entry(
        "lineax",
        "linear_solve",
        lambda a, b: lineax.linear_solve(lineax.MatrixLinearOperator(a), b).value,
        (positive_definite(4), normal(4)),
        "implicit differentiation",
    ),
    Entry("optimistix", "root_find", root, (between(0.5, 2, 1)[0],), "the implicit function theorem"),
    Entry(
        "optimistix",
        "fixed_point",
        fixed_point,
        (between(0.2, 1, 1)[0],),
        "the implicit function theorem",
        verified=(
            Verified(
                "gradient",
                "args[0]",
                "approximation",
                "The iteration stops at a tolerance of 1e-6; "
                "the rule is that of the exact fixed point, at the one it found.",
            ),
        ),
    ),
    Entry("diffrax", "BacksolveAdjoint", backsolve, (normal(3), between(0.5, 1.5, 3)), "the adjoint equation"),
    Entry(
        "e3nn-jax", "spherical_harmonics(normalize)", sphere, (normal(4, 3),), "0", ((np.zeros((4, 3), np.float32),),)
    ),
    Entry("e3nn-jax", "spherical_harmonics", polynomials, (normal(4, 3),), "polynomials"),
    ott_entry("math.utils.norm", norm, (normal(6),), "0", ((np.zeros(6, np.float32),),), verified=(NORM,)),
    ott_entry(
        "math.utils.norm(axis=1)",
        lambda x: norm(x, None, 1),
        (ROWS,),
        "one row of zeros",
        ((ONE_ZERO_ROW,), (np.zeros((3, 2), np.float32),)),
        verified=(NORM,),
    ),
    ott_entry(
        "math.utils.logsumexp(axis=1)",
        lambda x: ott.math.utils.logsumexp(x, axis=1),
        (normal(3, 3),),
        "rows of -inf",
        ((LOWEST,),),
        verified=(
            Verified(
                "value",
                "y",
                "wrong",
                "Differentiated, it gives 0 for a row of -inf, where it gives -inf otherwise.",
                confirm.value_under_vjp(lambda x: ott.math.utils.logsumexp(x, axis=0), LOWEST[0]),
            ),
        ),
    ),
    ott_entry(
        "math.utils.logsumexp(b=)",
        lambda x, b: ott.math.utils.logsumexp(x, axis=1, b=b),
        (normal(3, 3), between(0.1, 2, 3, 3)),
        "weights",
        domain={"args[1]": POSITIVE},
    ),
    ott_entry(
        "math.utils.softmin",
        lambda x, gamma: ott.math.utils.softmin(x, gamma, 1),
        (normal(3, 4), np.float32(0.5)),
        "a gradient in gamma",
        domain={"args[1]": (0.1, 10)},
        verified=(
            Verified(
                "gradient",
                "args[1]",
                "wrong",
                "The rule returns no cotangent for gamma: a silent 0.",
                confirm.slope(
                    lambda g: ott.math.utils.softmin(values(0.0, 1.0), g), (0.5,), lambda: confirm.softmin_slope(0.5)
                ),
            ),
        ),
    ),
    ott_entry(
        "math.utils.lambertw",
        ott.math.utils.lambertw,
        (between(-0.3, 4, 8),),
        "an iteration",
        domain={"args[0]": (-0.36, INF)},
    ),
    ott_entry(
        "math.matrix_square_root.sqrtm_only",
        ott.math.matrix_square_root.sqrtm_only,
        (positive_definite(4),),
        "an iteration",
    ),
    ott_entry(
        "math.matrix_square_root.inv_sqrtm_only",
        ott.math.matrix_square_root.inv_sqrtm_only,
        (positive_definite(4),),
        "an iteration",
    ),
    ott_entry(
        "math.matrix_square_root.sqrtm",
        lambda a: ott.math.matrix_square_root.sqrtm(a)[:2],
        (positive_definite(4),),
        "an iteration",
    ),
    ott_entry("geometry.costs.RegTICost.h_legendre", legendre_transform, (normal(5),), "Danskin's theorem"),
    Entry("matfree", "decomp.tridiag_sym", tridiagonal, (positive_definite(5), normal(5)), "an adjoint recursion"),
    Entry("matfree", "lstsq.lsmr", least_squares, (normal(6, 3), normal(6, seed=1)), "implicit differentiation"),
    Entry("quadax", "quadgk", integral, (between(0.5, 2, 1)[0],), "an adaptive quadrature"),
)
