"""The gates of arithmetic: add, subtract, multiply, divide, negative, reciprocal, shift, scale."""

import jax.numpy as jnp
import numpy as np

from jaxbp.broadcasting import shape_of, sum_to
from jaxbp.cases import LogUniform, Normal, elementwise_cases
from jaxbp.declaration import BROADCAST, NOTES, Accuracy, Domain, Flops, Rule
from jaxbp.floats import LIFT, lift, product, product_over_square, total
from jaxbp.fusion import whole
from jaxbp.numerics import numpy_sum_to
from jaxbp.op import Op
from jaxbp.promotion import is_inexact

#: Rounded once, and gradients not at all.
ONCE = Accuracy((0.5, 0), (0.5, 0))


def _sum(x, y):
    return total(x, y) if is_inexact(x) else x + y


def _product(x, y):
    return product(x, y) if is_inexact(x) else x * y


def add_fwd(x, y):
    return _sum(x, y), (shape_of(x), shape_of(y))


def add_bwd(res, ct):
    x, y = res
    return sum_to(ct, x), sum_to(ct, y)


add = Op(
    name="add",
    summary="The add gate: hands the cotangent to both inputs, whatever their values. " + BROADCAST,
    formula="x + y; ct_x = ct, ct_y = ct",
    rules=(Rule("distribute", add_fwd, add_bwd, "Keeps nothing but the shapes.", ONCE),),
    stock=jnp.add,
    reference=np.add,
    reference_vjp=lambda ct, x, y: (numpy_sum_to(ct, x), numpy_sum_to(ct, y)),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(1, 0),
    torch=lambda torch: torch.add,
    source=f"{NOTES}: the add gate distributes the gradient.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.add.value_and_vjp((-2.0, 5.0), -4.0)
>>> float(y), float(ct_x), float(ct_y)
(3.0, -4.0, -4.0)""",
    version=3,
)


def subtract_fwd(x, y):
    return _sum(x, -y), (shape_of(x), shape_of(y))


def subtract_bwd(res, ct):
    x, y = res
    return sum_to(ct, x), -sum_to(ct, y)


subtract = Op(
    name="subtract",
    summary="The subtract gate. " + BROADCAST,
    formula="x - y; ct_x = ct, ct_y = -ct",
    rules=(Rule("distribute", subtract_fwd, subtract_bwd, "Keeps nothing but the shapes.", ONCE),),
    stock=jnp.subtract,
    reference=np.subtract,
    reference_vjp=lambda ct, x, y: (numpy_sum_to(ct, x), -numpy_sum_to(ct, y)),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(1, 1),
    torch=lambda torch: torch.sub,
    source=NOTES,
    example=""">>> y, (ct_x, ct_y) = jaxbp.subtract.value_and_vjp((3.0, 1.0), 2.0)
>>> float(y), float(ct_x), float(ct_y)
(2.0, 2.0, -2.0)""",
    version=3,
)


def multiply_fwd(x, y):
    return _product(x, y), (x, y)


def multiply_bwd(res, ct):
    x, y = res
    return sum_to(ct * y, x), sum_to(ct * x, y)


multiply = Op(
    name="multiply",
    summary="The multiply gate: each input's gradient is the other input's value. " + BROADCAST,
    formula="x y; ct_x = ct y, ct_y = ct x",
    rules=(Rule("swap", multiply_fwd, multiply_bwd, "Keeps the inputs, which cost nothing extra.", ONCE),),
    stock=jnp.multiply,
    reference=np.multiply,
    reference_vjp=lambda ct, x, y: (numpy_sum_to(ct * y, x), numpy_sum_to(ct * x, y)),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(1, 2),
    torch=lambda torch: torch.mul,
    source=f"{NOTES}: the multiply gate swaps its inputs.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.multiply.value_and_vjp((4.0, -3.0), 1.0)
>>> float(y), float(ct_x), float(ct_y)
(-12.0, -3.0, 4.0)""",
    version=2,
)


def divide_fwd(x, y):
    (zx, fx), (zy, fy) = lift(x), lift(y)
    return _quotient(zx, zy) * (fy * jnp.where(fx == 1, 1, 1 / LIFT)), (x, y)


def _quotient(x, y):
    """x / y, rounded once: with the reciprocal of a divisor that is broadcast, as vmap may do, XLA would multiply."""
    return x / jnp.where(jnp.isnan(x), x, y)


def divide_bwd(res, ct):
    x, y = res
    z, f = lift(y)
    ct_x, ct_y = _quotient(ct, z) * f, product_over_square(-ct, x, y)
    return sum_to(whole(ct_x, ct), x), sum_to(whole(ct_y, ct), y)


divide = Op(
    name="divide",
    summary="The quotient x / y. At y = 0 value and gradients are infinite or NaN, as IEEE division. " + BROADCAST,
    formula="x / y; ct_x = ct / y, ct_y = -ct x / y^2",
    rules=(
        Rule(
            "quotients",
            divide_fwd,
            divide_bwd,
            "Never forms y^2, so it does not overflow early.",
            Accuracy((0.5, 1.6), (0.5, 1.6)),
        ),
    ),
    stock=jnp.divide,
    reference=np.divide,
    reference_vjp=lambda ct, x, y: (numpy_sum_to(ct / y, x), numpy_sum_to(-ct * (x / y / y), y)),
    elementwise=True,
    domain={"y": Domain(excluded=(0.0,))},
    cases=elementwise_cases(Normal(), LogUniform(-20, 20)),
    flops=Flops(1, 4),
    torch=lambda torch: torch.div,
    source="Quotient rule.",
    example=""">>> y, (ct_x, ct_y) = jaxbp.divide.value_and_vjp((6.0, 2.0), 1.0)
>>> float(y), float(ct_x), float(ct_y)
(3.0, 0.5, -1.5)""",
    version=5,
)


def negative_fwd(x):
    return -x, ()


def negative_bwd(res, ct):
    () = res
    return (-ct,)


negative = Op(
    name="negative",
    summary="-x. x [...] -> y [...], floating.",
    formula="-x; ct_x = -ct",
    rules=(Rule("flip", negative_fwd, negative_bwd, "Keeps nothing.", Accuracy((0, 0), (0, 0), (0, 0))),),
    stock=jnp.negative,
    reference=np.negative,
    reference_vjp=lambda ct, x: (-ct,),
    elementwise=True,
    cases=elementwise_cases(Normal()),
    flops=Flops(1, 1),
    torch=lambda torch: torch.neg,
    source=NOTES,
    example=""">>> float(jax.grad(jaxbp.negative)(3.0))
-1.0""",
)


def reciprocal_fwd(x):
    z, f = lift(x)
    return 1 / z * f, (x,)


def reciprocal_bwd(res, ct):
    (x,) = res
    y = 1 / x  # Where x is subnormal, the square of this is infinite anyway.
    # (ct y) y, not ct (y y) or ct / (x x): the square overflows or vanishes where the product need not.
    return (-(ct * y) * y,)


reciprocal = Op(
    name="reciprocal",
    summary="1 / x. At 0 value and gradient are infinite. x [...] -> y [...], floating.",
    formula="1 / x; ct_x = -ct / x^2",
    rules=(
        Rule(
            "product",
            reciprocal_fwd,
            reciprocal_bwd,
            "Multiplies by 1 / x twice; keeps x alone.",
            Accuracy((0.5, 2), (0.5, 2.1)),
        ),
    ),
    stock=jnp.reciprocal,
    reference=lambda x: 1 / x,
    reference_vjp=lambda ct, x: (-ct / x / x,),
    elementwise=True,
    domain={"x": Domain(excluded=(0.0,))},
    cases=elementwise_cases(LogUniform(-20, 20)),
    flops=Flops(1, 4),
    torch=lambda torch: torch.reciprocal,
    source=f"{NOTES}: f(x) = 1/x, df/dx = -1/x^2.",
    example=""">>> float(jax.grad(jaxbp.reciprocal)(0.5))
-4.0""",
    version=2,
)


def shift_fwd(x, c):
    return _sum(c, x), (shape_of(x), shape_of(c))


def shift_bwd(res, ct):
    x, c = res
    return sum_to(ct, x), sum_to(ct, c)


shift = Op(
    name="shift",
    summary="Shift by a constant c that has a gradient too. x [...], c [] (or broadcast) -> y [...], floating.",
    formula="c + x; ct_x = ct, ct_c = sum(ct)",
    rules=(Rule("sum", shift_fwd, shift_bwd, "Keeps nothing but the shapes.", ONCE),),
    stock=lambda x, c: c + jnp.asarray(x),
    reference=lambda x, c: c + x,
    reference_vjp=lambda ct, x, c: (numpy_sum_to(ct, x), numpy_sum_to(ct, c)),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal(), scalars=(1,)),
    flops=Flops(1, 1),
    torch=lambda torch: lambda x, c: c + x,
    source=f"{NOTES}: f_c(x) = c + x, df/dx = 1.",
    example=""">>> y, (ct_x, ct_c) = jaxbp.shift.value_and_vjp((jnp.zeros(3), 2.0), jnp.ones(3))
>>> float(ct_c)
3.0""",
    version=3,
)


def scale_fwd(x, a):
    return _product(a, x), (x, a)


def scale_bwd(res, ct):
    x, a = res
    return sum_to(ct * a, x), sum_to(ct * x, a)


scale = Op(
    name="scale",
    summary="Scale by a constant a that has a gradient too. x [...], a [] (or broadcast) -> y [...], floating.",
    formula="a x; ct_x = ct a, ct_a = sum(ct x)",
    rules=(Rule("sum", scale_fwd, scale_bwd, "Keeps the inputs, which cost nothing extra.", ONCE),),
    stock=lambda x, a: a * jnp.asarray(x),
    reference=lambda x, a: a * x,
    reference_vjp=lambda ct, x, a: (numpy_sum_to(ct * a, x), numpy_sum_to(ct * x, a)),
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal(), scalars=(1,)),
    flops=Flops(1, 3),
    torch=lambda torch: lambda x, a: a * x,
    source=f"{NOTES}: f_a(x) = a x, df/dx = a.",
    example=""">>> y, (ct_x, ct_a) = jaxbp.scale.value_and_vjp((jnp.array([1.0, 2.0]), 3.0), jnp.ones(2))
>>> ct_x.tolist(), float(ct_a)
([3.0, 3.0], 3.0)""",
    version=2,
)
