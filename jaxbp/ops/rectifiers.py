"""Rectifiers that let something through below 0: elu, leaky_relu."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.cases import Normal, elementwise_cases
from jaxbp.declaration import Accuracy, Flops, Kink, Rule
from jaxbp.elementary import growth_and_exponent
from jaxbp.floats import is_negative, is_positive, product, two_powers
from jaxbp.op import Op


def _growth(x):
    """`(p, a, b)` with e^x = (1 + p) a b for x <= 0; 1 for others. The powers of two reach as far as alpha may."""
    # Not a minimum, whose own derivative at 0 would be half of the second one.
    below = jnp.where(is_positive(x), 0, x)
    p, k = growth_and_exponent(jnp.maximum(below, -1.3 * jnp.finfo(x.dtype).maxexp))
    return p, *two_powers(k, x.dtype)


def elu_fwd(x, *, alpha=1.0):
    p, a, b = _growth(x)
    # As small as that e^x - 1 is x, whose product with alpha must not take a subnormal x for 0.
    tiny = jnp.abs(x) < jnp.finfo(x.dtype).eps / 4
    below = jnp.where(tiny, product(x, jnp.full_like(x, alpha)), alpha * (p * (a * b) + (a * b - 1)))
    # By the bits, as in relu.
    return jnp.where(is_positive(x), x, below), (x,)


def elu_bwd(res, ct, *, alpha=1.0):
    (x,) = res
    # Not y + alpha, which cancels.
    p, a, b = _growth(x)
    return (ct * jnp.where(is_positive(x), 1, (alpha + alpha * p) * a * b),)


def elu_reference(x, *, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_reference_vjp(ct, x, *, alpha=1.0):
    return (ct * np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))),)


elu = Op(
    name="elu",
    summary="x above 0, and alpha (e^x - 1) from there down. At 0 the gradient is alpha, as that of jax.nn.elu. "
    "alpha is a Python number and has no gradient. x [...] -> y [...], floating.",
    formula="x if x > 0 else alpha (e^x - 1); ct_x = ct if x > 0 else ct alpha e^x",
    rules=(
        Rule(
            "stable",
            elu_fwd,
            elu_bwd,
            "Both passes from e^r - 1 on a reduced argument; keeps x.",
            Accuracy((2.5, 1.5), (2.5, 1.5)),
        ),
    ),
    stock=jax.nn.elu,
    reference=elu_reference,
    reference_vjp=elu_reference_vjp,
    variants=({}, {"alpha": 1.6732632423543772}),
    elementwise=True,
    hard=(-0.34657, -1.03972, -16.6355, -17.3287, -36.7368, -87.33655, -87.8513, -708.396, -708.911),
    cases=elementwise_cases(Normal()),
    flops=Flops(26, 24),
    torch=lambda torch: torch.nn.functional.elu,
    source="Clevert, Unterthiner, Hochreiter 2015, Fast and accurate deep network learning by ELUs.",
    example=""">>> round(float(jaxbp.elu(-1.0)), 4), round(float(jax.grad(jaxbp.elu)(-1.0)), 4)
(-0.6321, 0.3679)
>>> print(f"{jax.grad(jaxbp.elu)(-20.0):.3e}, where jax.nn gives {jax.grad(jax.nn.elu)(-20.0):.0f}")
2.061e-09, where jax.nn gives 0""",
)


def leaky_relu_fwd(x, *, negative_slope=0.01):
    # A factor of at most 1 makes no subnormal x a normal number.
    below = negative_slope * x if abs(negative_slope) <= 1 else product(x, jnp.full_like(x, negative_slope))
    return jnp.where(is_negative(x), below, x), (x,)


def leaky_relu_bwd(res, ct, *, negative_slope=0.01):
    (x,) = res
    # NaN counts, as in stock.
    return (jnp.where(is_negative(x) | (x != x), negative_slope * ct, ct),)


leaky_relu = Op(
    name="leaky_relu",
    summary="x from 0 up, and negative_slope x below. negative_slope is a Python number and has no gradient. "
    "x [...] -> y [...], floating.",
    formula="x if x >= 0 else negative_slope x; ct_x = ct if x >= 0 else ct negative_slope",
    rules=(
        Rule(
            "mask",
            leaky_relu_fwd,
            leaky_relu_bwd,
            "Keeps x, which costs nothing extra.",
            Accuracy((1.1, 0.5), (1.1, 0.5)),
        ),
    ),
    stock=jax.nn.leaky_relu,
    reference=lambda x, *, negative_slope=0.01: np.where(x >= 0, x, negative_slope * x),
    reference_vjp=lambda ct, x, *, negative_slope=0.01: (np.where(x >= 0, ct, negative_slope * ct),),
    elementwise=True,
    kinks=(Kink((0.0,), {"mask": (1.0,)}, "The slope from above, as jax.nn.leaky_relu."),),
    cases=elementwise_cases(Normal()),
    flops=Flops(2, 2),
    torch=lambda torch: torch.nn.functional.leaky_relu,
    source="Maas, Hannun, Ng 2013, Rectifier nonlinearities improve neural network acoustic models.",
    example=""">>> jax.vmap(jax.grad(jaxbp.leaky_relu))(jnp.array([-1.0, 0.0, 2.0])).tolist()
[0.009999999776482582, 1.0, 1.0]
>>> round(float(jaxbp.leaky_relu(-3.0, negative_slope=0.2)), 4)
-0.6""",
    version=2,
)
