"""The objectives of the notes, data loss and L2 penalty of a linear classifier in one op: softmax and hinge."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import classes
from jaxbp.broadcasting import require_number
from jaxbp.cases import Case, Digits, Labels, Normal, Short, Uniform
from jaxbp.declaration import Flops, Rule, Shapes
from jaxbp.op import Op
from jaxbp.products import columns_by_columns, rows_by_rows
from jaxbp.promotion import widened

NOTES = "PKU CV notes, Optimization and Back Propagation"
_SHAPES = (
    "x [..., k], w [k, C] and strength [] floating, labels [...] integers -> y []. It is the mean over the rows of x; "
    f"with `average=False` their sum, as the notes write it. {classes.LABELS}"
)


def _cases(short: bool):
    """A linear classifier at three sizes, on the digit images, and on a batch of CIFAR-10 as the notes have it.

    With `short` the scores are exact, as they must be where margins have kinks. A mean over 16 rows then is, too: of
    another number of rows `exact_vjp` could not tell on which side of half-way between two floats it lies.
    """

    def case(name, n, k, c, x):
        w = Normal(1 / math.sqrt(k))
        draws = (x, Short(w, 8) if short else w, Labels(c), Uniform(0.01, 0.1))
        return Case(name, ((n, k), (k, c), (n,), ()), draws)

    x = Short(Normal(), 5) if short else Normal()
    return (
        case("small", 16, 12, 5, x),
        case("cache", 256, 256, 64, x),
        case("memory", 16384, 256, 64, x),
        case("digits", *Digits.SHAPE, 10, Digits()),
        case("cifar10-linear", 256, 3073, 10, x),
    )


def _flops(shapes: Shapes) -> Flops:
    x, w, _, _ = shapes
    rows = math.prod(x[:-1])
    product, entries, weights = 2 * rows * math.prod(w), rows * w[1], math.prod(w)
    return Flops(product + 5 * entries + 2 * weights, 2 * product + entries + 2 * weights)


def _scores(x, w):
    return jnp.matmul(widened(x), widened(w))


def _objective(losses, w, strength, average):
    """The value, and the sum of squares."""
    require_number("strength", strength)
    squares = jnp.sum(jnp.square(widened(w)))
    data = jnp.mean(losses) if average else jnp.sum(losses)
    return (data + widened(strength) * squares).astype(w.dtype), squares


def _pulled_back(slopes, ct, x, w, labels, strength, squares, average):
    """The cotangents, from the slopes of each row's loss in its scores and the cotangent of the objective."""
    ct, wide_w, rows = widened(ct), widened(w), labels.size
    # The weights are scaled, not the slopes, of which there are more.
    share = ct / max(1, rows) if average else ct
    ct_x = rows_by_rows(slopes, share * wide_w)
    ct_w = share * columns_by_columns(widened(x).reshape(rows, w.shape[0]), slopes.reshape(rows, w.shape[1]))
    ct_w = ct_w + (2 * ct * widened(strength)) * wide_w
    return ct_x.astype(x.dtype), ct_w.astype(w.dtype), None, (ct * squares).astype(strength.dtype)


def _softmax_forward(x, w, labels, strength, average):
    scores = _scores(x, w)
    m = classes.exponent_shift_of_own(scores, labels)
    losses, e, others, total = classes.cross_entropy(scores, labels, m)
    return *_objective(losses, w, strength, average), m, e, others, total


def softmax_objective_fwd(x, w, labels, strength, *, average=True):
    y, squares, _, e, others, total = _softmax_forward(x, w, labels, strength, average)
    slopes = classes.cross_entropy_slopes(e, labels, others) / total
    return y, (x, w, labels, strength, slopes, squares)


def softmax_objective_bwd(res, ct, *, average=True):
    x, w, labels, strength, slopes, squares = res
    return _pulled_back(slopes, ct, x, w, labels, strength, squares, average)


def recomputing_softmax_fwd(x, w, labels, strength, *, average=True):
    y, squares, m, _, others, total = _softmax_forward(x, w, labels, strength, average)
    return y, (x, w, labels, strength, squares, m, others, total)


def recomputing_softmax_bwd(res, ct, *, average=True):
    x, w, labels, strength, squares, m, others, total = res
    e = classes.other_exponentials(_scores(x, w), labels, m)
    slopes = classes.cross_entropy_slopes(e, labels, others) / total
    return _pulled_back(slopes, ct, x, w, labels, strength, squares, average)


def softmax_objective_stock(x, w, labels, strength, *, average=True):
    require_number("strength", strength)
    scores = jnp.matmul(x, w)
    losses = classes.cross_entropy_stock(scores, labels)
    return (jnp.mean(losses) if average else jnp.sum(losses)) + strength * jnp.sum(jnp.square(w))


def hinge_objective_fwd(x, w, labels, strength, *, average=True, count_label=False):
    scores = _scores(x, w)
    of_label = classes.of_label(scores, labels)
    losses = classes.hinge(scores, labels, of_label)
    y, squares = _objective(losses + 1 if count_label else losses, w, strength, average)
    return y, (x, w, labels, strength, classes.violated(scores, labels, of_label), squares)


def hinge_objective_bwd(res, ct, *, average=True, count_label=False):
    x, w, labels, strength, violated, squares = res
    slopes = classes.hinge_slopes(violated, labels, jnp.ones(labels.shape, widened(ct).dtype))
    return _pulled_back(slopes, ct, x, w, labels, strength, squares, average)


def hinge_objective_stock(x, w, labels, strength, *, average=True, count_label=False):
    require_number("strength", strength)
    scores = jnp.matmul(x, w)
    margins = jax.nn.relu(scores - classes.of_label(scores, labels) + 1)
    losses = jnp.sum(margins if count_label else jnp.where(classes.is_label(scores, labels), 0, margins), axis=-1)
    return (jnp.mean(losses) if average else jnp.sum(losses)) + strength * jnp.sum(jnp.square(w))


def _reference(losses_and_slopes):
    """Value and VJP in NumPy of an objective with such losses."""

    def value(x, w, labels, strength, *, average=True, **options):
        losses, _ = losses_and_slopes(np.matmul(x, w), labels, **options)
        return (np.mean(losses) if average else np.sum(losses)) + strength * np.sum(np.square(w))

    def vjp(ct, x, w, labels, strength, *, average=True, **options):
        _, slopes = losses_and_slopes(np.matmul(x, w), labels, **options)
        slopes = ct * (slopes / labels.size if average else slopes)
        rows = tuple(range(x.ndim - 1))
        ct_w = np.tensordot(x, slopes, (rows, rows)) + 2 * ct * strength * w
        return np.matmul(slopes, w.T), ct_w, None, ct * np.sum(np.square(w))

    return {"reference": value, "reference_vjp": vjp}


def _torch_objective(losses):
    def make(torch):
        def objective(x, w, labels, strength, *, average=True, **options):
            losses_of_rows = losses(torch, x @ w, labels.long(), **options)
            return (losses_of_rows.mean() if average else losses_of_rows.sum()) + strength * torch.sum(torch.square(w))

        return objective

    return make


def _torch_cross_entropy(torch, scores, labels):
    return torch.nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1), reduction="none")


def _torch_hinge(torch, scores, labels, *, count_label=False):
    margins = torch.relu(scores - scores.gather(-1, labels[..., None]) + 1)
    return (margins if count_label else margins.scatter(-1, labels[..., None], 0.0)).sum(-1)


softmax_objective = Op(
    name="softmax_objective",
    summary="The softmax loss of a linear classifier with its L2 penalty, one number: cross-entropy of the scores x w "
    f"and strength ||w||^2. {_SHAPES}",
    formula="s = x w, p = softmax(s), y = mean(-log p_label) + strength ||w||^2; with g = (p - 1(j = label)) / n: "
    "ct_x = ct g w^T, ct_w = ct (x^T g + 2 strength w), ct_strength = ct ||w||^2",
    rules=(
        Rule(
            "slopes",
            softmax_objective_fwd,
            softmax_objective_bwd,
            "Keeps the slope of each score, p - 1(label), so that the backward pass is two matrix products. The "
            "other classes are summed alone, as in softmax_cross_entropy: no digits are lost where the label is all "
            "but certain.",
        ),
        Rule(
            "recompute",
            recomputing_softmax_fwd,
            recomputing_softmax_bwd,
            "Keeps three numbers a row, and computes the scores again: one matrix product more, for many classes.",
        ),
    ),
    integers=("labels",),
    stock=softmax_objective_stock,
    **_reference(classes.numpy_cross_entropy),
    cases=_cases(short=False),
    flops=_flops,
    torch=_torch_objective(_torch_cross_entropy),
    source=f"{NOTES}: L(w) = lambda ||W||^2 + sum_i -log(exp(s_y) / sum_k exp(s_k)).",
    example=""">>> x, w, labels = jnp.eye(2), jnp.zeros((2, 2)), jnp.array([0, 1])
>>> y, (_, ct_w, _, _) = jaxbp.softmax_objective.value_and_vjp((x, w, labels, 0.1), 1.0)
>>> round(float(y), 3), ct_w.tolist()
(0.693, [[-0.25, 0.25], [0.25, -0.25]])""",
    version=5,
)


hinge_objective = Op(
    name="hinge_objective",
    summary="The multiclass SVM loss of a linear classifier with its L2 penalty, one number: multiclass_hinge of the "
    f"scores x w and strength ||w||^2. {_SHAPES} With `count_label` the loss of a row includes the label itself, as "
    "the notes write it, and is 1 more. Where a margin is 0 the subgradient is 0, as in multiclass_hinge.",
    formula="s = x w, y = mean(sum over j != label of max(0, s_j - s_label + 1)) + strength ||w||^2; with "
    "g = 1(margin_j > 0) / n, at the label minus its row's sum: "
    "ct_x = ct g w^T, ct_w = ct (x^T g + 2 strength w), ct_strength = ct ||w||^2",
    rules=(
        Rule(
            "mask",
            hinge_objective_fwd,
            hinge_objective_bwd,
            "Keeps which margins are positive, a byte a score: the backward pass needs nothing else of the scores.",
        ),
    ),
    integers=("labels",),
    stock=hinge_objective_stock,
    **_reference(classes.numpy_hinge),
    cases=_cases(short=True),
    flops=_flops,
    torch=_torch_objective(_torch_hinge),
    source=f"{NOTES}: L(w) = lambda ||W||^2 + sum_i sum_j max(0, s_j - s_y + 1).",
    example=""">>> x, w, labels = jnp.eye(2), jnp.zeros((2, 2)), jnp.array([0, 1])
>>> y, (_, ct_w, _, _) = jaxbp.hinge_objective.value_and_vjp((x, w, labels, 0.1), 1.0)
>>> float(y), ct_w.tolist()
(1.0, [[-0.5, 0.5], [0.5, -0.5]])""",
    version=4,
)
