"""Losses: softmax_cross_entropy, multiclass_hinge, squared_error, l2_penalty."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import classes
from jaxbp.broadcasting import require_number, sum_to
from jaxbp.cases import ELEMENTWISE_SIZES, Case, Labels, Normal, elementwise_cases
from jaxbp.declaration import BROADCAST, Flops, Kink, Rule, Shapes, flops_per_entry
from jaxbp.devices import on_processor
from jaxbp.numerics import exponent_shift, numpy_sum_to
from jaxbp.op import Op
from jaxbp.promotion import widened

NOTES = "PKU CV notes, Optimization and Back Propagation"
_LABELS = f"There is one label for each row of scores, which the last axis holds. {classes.LABELS}"


def _label_cases(name, *shape):
    """Rows of scores with labels at three sizes, and those of a model."""
    shapes = {"small": (32, 16), "cache": (256, 256), "memory": (4096, 1024), name: shape}
    return tuple(Case(case, (s, s[:-1]), (Normal(4), Labels(s[-1]))) for case, s in shapes.items())


def softmax_cross_entropy_fwd(logits, labels, *, axis_name=None):
    y, m, _, others, total = _cross_entropy(logits, labels, axis_name)
    return y, (logits, labels, m, others, total)


def _cross_entropy(logits, labels, axis_name):
    """The losses, what was subtracted from the logits, and the exponentials with their sums."""
    classes.require_rows(logits, labels)
    m = widened(exponent_shift(logits, -1, axis_name))
    here = classes.labels_here(labels, logits.shape[-1], axis_name)
    y, *exponentials = classes.cross_entropy(widened(logits), here, m, axis_name)
    return y.astype(logits.dtype), m, *exponentials


def softmax_cross_entropy_bwd(res, ct, *, axis_name=None):
    logits, labels, m, others, total = res
    here = classes.labels_here(labels, logits.shape[-1], axis_name)
    e = classes.other_exponentials(widened(logits), here, m)
    return (_pulled_back(e, here, others, total, widened(ct)).astype(logits.dtype), None)


def _pulled_back(e, here, others, total, ct):
    return classes.cross_entropy_slopes(e, here, others) * (ct[..., None] / total)


def keeping_softmax_cross_entropy_fwd(logits, labels, *, axis_name=None):
    if not on_processor() or widened(logits).dtype != logits.dtype:
        return softmax_cross_entropy_fwd(logits, labels, axis_name=axis_name)
    y, _, e, others, total = _cross_entropy(logits, labels, axis_name)
    return y, (e, labels, others, total)


def keeping_softmax_cross_entropy_bwd(res, ct, *, axis_name=None):
    if len(res) == 5:
        return softmax_cross_entropy_bwd(res, ct, axis_name=axis_name)
    e, labels, others, total = res
    here = classes.labels_here(labels, e.shape[-1], axis_name)
    return _pulled_back(e, here, others, total, ct), None


def softmax_cross_entropy_reference_vjp(ct, logits, labels, *, axis_name=None):
    return classes.numpy_cross_entropy(logits, labels)[1] * ct[..., None], None


softmax_cross_entropy = Op(
    name="softmax_cross_entropy",
    summary="Minus the logarithm of the probability that softmax gives the label, one loss a row. logits [..., C], "
    f"floating, labels [...], integers -> y [...]. {_LABELS} Masks of -inf have the probability 0; where the label is "
    f"masked the loss is infinite, where all are it is NaN, as optax's. {classes.SPREAD}",
    formula="log sum_j exp(x_j) - x_label; ct_logits = ct (softmax(x) - 1(j = label))",
    rules=(
        Rule(
            "exponentials",
            keeping_softmax_cross_entropy_fwd,
            keeping_softmax_cross_entropy_bwd,
            "Sums the exponentials of the other classes alone: right to the last digits where the label is all but "
            "certain and autodiff's loss is 0. Keeps them, so that the logits may go, and two numbers a row; narrow "
            "numbers, and on a GPU or TPU, as `others`.",
        ),
        Rule(
            "others",
            softmax_cross_entropy_fwd,
            softmax_cross_entropy_bwd,
            "The same sums. Keeps the inputs and three numbers a row, and computes the exponentials again.",
        ),
    ),
    integers=("labels",),
    stock=lambda logits, labels, *, axis_name=None: classes.cross_entropy_stock(logits, labels, axis_name),
    reference=lambda logits, labels, *, axis_name=None: classes.numpy_cross_entropy(logits, labels)[0],
    reference_vjp=softmax_cross_entropy_reference_vjp,
    cases=_label_cases("gpt2-vocabulary", 128, 50257),
    flops=flops_per_entry(5, 4),
    torch=lambda torch: (
        lambda logits, labels, *, axis_name=None: torch.nn.functional.cross_entropy(
            logits.movedim(-1, 1) if logits.ndim > 1 else logits, labels.long(), reduction="none"
        )
    ),
    source=f"{NOTES}: -log(exp(s_y) / sum_k exp(s_k)).",
    example=""">>> logits, labels = jnp.array([[20.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
>>> y, (ct_logits, _) = jaxbp.softmax_cross_entropy.value_and_vjp((logits, labels), jnp.ones(2))
>>> print(f"{y[0]:.3e} {y[1]:.3f}; {ct_logits[0, 0]:.3e} {ct_logits[1, 0]:.1f}")
2.061e-09 0.693; -2.061e-09 0.5
>>> float(jaxbp.softmax_cross_entropy.stock(logits, labels)[0])
0.0""",
    version=4,
)


def multiclass_hinge_fwd(scores, labels, *, count_label=False):
    x = widened(scores)
    of_label = classes.of_label(x, labels)
    y = classes.hinge(x, labels, of_label)
    return (y + 1 if count_label else y).astype(scores.dtype), (scores, labels, of_label)


def multiclass_hinge_bwd(res, ct, *, count_label=False):
    scores, labels, of_label = res
    violated = classes.violated(widened(scores), labels, of_label)
    return classes.hinge_slopes(violated, labels, widened(ct)).astype(scores.dtype), None


def multiclass_hinge_stock(scores, labels, *, count_label=False):
    margins = jax.nn.relu(scores - classes.of_label(scores, labels) + 1)
    return jnp.sum(margins if count_label else jnp.where(classes.is_label(scores, labels), 0, margins), axis=-1)


def multiclass_hinge_reference_vjp(ct, scores, labels, *, count_label=False):
    return classes.numpy_hinge(scores, labels)[1] * ct[..., None], None


def _torch_hinge(torch):
    def hinge(scores, labels, *, count_label=False):
        # Not torch's multi_margin_loss, which knows no bfloat16 and divides by the number of classes.
        places = labels.long()[..., None]
        margins = torch.relu(scores - scores.gather(-1, places) + 1)
        return (margins if count_label else margins.scatter(-1, places, 0.0)).sum(-1)

    return hinge


multiclass_hinge = Op(
    name="multiclass_hinge",
    summary="The multiclass SVM loss, one a row: how far the scores of the other classes are above that of the label "
    f"less 1, summed. scores [..., C], floating, labels [...], integers -> y [...]. {_LABELS} With `count_label` the "
    "sum includes the label itself, as the notes write it: the loss is 1 more, the gradient the same.",
    formula="sum over j != label of max(0, s_j - s_label + 1); ct_scores = ct 1(margin_j > 0), "
    "at the label -ct times the number of positive margins",
    rules=(
        Rule(
            "mask",
            multiclass_hinge_fwd,
            multiclass_hinge_bwd,
            "Keeps the inputs and the label's score, and compares again.",
        ),
    ),
    integers=("labels",),
    stock=multiclass_hinge_stock,
    reference=lambda scores, labels, *, count_label=False: classes.numpy_hinge(scores, labels, count_label=count_label)[
        0
    ],
    reference_vjp=multiclass_hinge_reference_vjp,
    kinks=(
        Kink(
            ((2.0, 1.0), 0),
            {"mask": ((0.0, 0.0), None)},
            "The subgradient 0 where a margin is 0, as jax.nn.relu and torch's multi_margin_loss.",
        ),
    ),
    cases=_label_cases("imagenet", 1024, 1000),
    flops=flops_per_entry(4, 4),
    torch=_torch_hinge,
    source=f"{NOTES}: sum_j max(0, s_j - s_y + 1).",
    example=""">>> scores, labels = jnp.array([[3.2, 5.1, -1.7]]), jnp.array([0])
>>> y, (ct_scores, _) = jaxbp.multiclass_hinge.value_and_vjp((scores, labels), jnp.ones(1))
>>> round(float(y[0]), 1), ct_scores.tolist()
(2.9, [[-1.0, 1.0, 0.0]])""",
)


def squared_error_fwd(predictions, targets):
    error = predictions - targets
    return error * error, (predictions, targets)


def squared_error_bwd(res, ct):
    predictions, targets = res
    slope = 2 * (predictions - targets) * ct
    return sum_to(slope, predictions), -sum_to(slope, targets)


def squared_error_stock(predictions, targets):
    # As optax.squared_error.
    return jnp.square(jnp.subtract(predictions, targets))


def squared_error_reference_vjp(ct, predictions, targets):
    slope = 2 * (predictions - targets) * ct
    return numpy_sum_to(slope, predictions), -numpy_sum_to(slope, targets)


squared_error = Op(
    name="squared_error",
    summary="The square of each error, as optax's: neither halved nor summed. predictions [...], targets [...] -> y "
    + BROADCAST.partition("-> y ")[2],
    formula="(p - t)^2; ct_predictions = 2 ct (p - t), ct_targets = -2 ct (p - t)",
    rules=(Rule("double", squared_error_fwd, squared_error_bwd, "Keeps the inputs and subtracts again."),),
    stock=squared_error_stock,
    reference=lambda predictions, targets: np.square(predictions - targets),
    reference_vjp=squared_error_reference_vjp,
    elementwise=True,
    cases=elementwise_cases(Normal(), Normal()),
    flops=Flops(2, 4),
    torch=lambda torch: lambda predictions, targets: torch.square(predictions - targets),
    source=f"{NOTES}: the gradient of sum_i (y_i - w^T x_i)^2 is -sum_i 2 (y_i - w^T x_i) x_i.",
    example=""">>> y, (ct_predictions, ct_targets) = jaxbp.squared_error.value_and_vjp((3.0, 1.0), 1.0)
>>> float(y), float(ct_predictions), float(ct_targets)
(4.0, 4.0, -4.0)""",
)


def l2_penalty_fwd(w, strength):
    require_number("strength", strength)
    wide = widened(w)
    total = jnp.sum(wide * wide)
    return (widened(strength) * total).astype(w.dtype), (w, strength, total)


def l2_penalty_bwd(res, ct):
    w, strength, total = res
    ct = widened(ct)
    slopes = (2 * ct * widened(strength)) * widened(w)
    return slopes.astype(w.dtype), (ct * total).astype(strength.dtype)


def l2_penalty_stock(w, strength):
    require_number("strength", strength)
    return strength * jnp.sum(jnp.square(w))


def l2_penalty_terms(shapes: Shapes) -> tuple[int, ...]:
    entries = math.prod(shapes[0])
    return entries + 1, 3, entries + 1


l2_penalty = Op(
    name="l2_penalty",
    summary="The sum of all squares times the strength of the regularization. w [...], strength [] -> y [], floating.",
    formula="strength ||w||^2; ct_w = 2 ct strength w, ct_strength = ct ||w||^2",
    rules=(Rule("double", l2_penalty_fwd, l2_penalty_bwd, "Keeps the inputs and the sum."),),
    stock=l2_penalty_stock,
    reference=lambda w, strength: strength * np.sum(np.square(w)),
    reference_vjp=lambda ct, w, strength: (2 * ct * strength * w, ct * np.sum(np.square(w))),
    cases=(
        *(Case(name, ((n,), ()), (Normal(), Normal())) for name, n in ELEMENTWISE_SIZES.items()),
        Case("cifar10-linear", ((10, 3073), ()), (Normal(1e-2), Normal())),
    ),
    flops=lambda shapes: Flops(2 * math.prod(shapes[0]) + 1, math.prod(shapes[0]) + 3),
    terms=l2_penalty_terms,
    torch=lambda torch: lambda w, strength: strength * torch.sum(torch.square(w)),
    source=f"{NOTES}: the gradient of lambda ||w||^2 is 2 lambda w.",
    example=""">>> y, (ct_w, ct_strength) = jaxbp.l2_penalty.value_and_vjp((jnp.array([3.0, -4.0]), 0.5), 1.0)
>>> float(y), ct_w.tolist(), float(ct_strength)
(12.5, [3.0, -4.0], 25.0)""",
)
