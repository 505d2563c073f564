"""What scikit-learn's own classifiers reach on the same images: the yardstick of every descent."""

import dataclasses
import time

import numpy as np

from jaxbp.errors import import_extra
from jaxbp.training.data import load_examples
from jaxbp.training.descent import Setting
from jaxbp.training.gradients import by_reference
from jaxbp.training.models import MODELS

#: More than any of them needs.
ITERATIONS = 20_000


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """A classifier of scikit-learn.

    Attributes:
        name: its class and what sets it apart.
        correct: how many images of the test it classifies correctly.
        tests: of so many.
        objective: our objective at its weights, where it has the same ones.
        seconds: to fit it.
    """

    name: str
    correct: int
    tests: int
    objective: float | None
    seconds: float


def fit_yardstick(setting: Setting) -> Yardstick:
    """Fit the classifier that is nearest to a setting, with the same penalty and, where linear, the same bias trick.

    The softmax objective has `LogisticRegression`, whose minimum is ours. The SVM has `LinearSVC` by Crammer and
    Singer, whose loss takes the largest margin of a row where the notes' takes the sum. The network has
    `MLPClassifier`, which knows the softmax loss alone.
    """
    train, test = load_examples(setting.seed)
    model = MODELS[setting.model]
    x, tests = (model.inputs(part.images).astype(np.float64) for part in (train, test))
    # Theirs is C sum(losses) + ||w||^2 / 2, ours mean(losses) + strength ||w||^2.
    n = train.labels.size
    c = 1 / (2 * setting.strength * n) if setting.strength else np.inf
    if setting.model == "two-layer":
        networks = import_extra("sklearn.neural_network", "bench")
        classifier = networks.MLPClassifier(
            (setting.hidden,), alpha=2 * setting.strength * n, max_iter=ITERATIONS, random_state=setting.seed
        )
        name = f"MLPClassifier, {setting.hidden} hidden units"
    elif setting.loss == "softmax":
        linear = import_extra("sklearn.linear_model", "bench")
        classifier = linear.LogisticRegression(C=c, fit_intercept=False, max_iter=ITERATIONS)
        name = "LogisticRegression"
    else:
        svm = import_extra("sklearn.svm", "bench")
        classifier = svm.LinearSVC(
            C=min(c, 1e6),
            multi_class="crammer_singer",
            fit_intercept=False,
            max_iter=ITERATIONS,
            random_state=setting.seed,
        )
        name = "LinearSVC, Crammer and Singer"
    start = time.perf_counter()
    classifier.fit(x, train.labels)
    seconds = time.perf_counter() - start
    right = int((classifier.predict(tests) == test.labels).sum())
    objective = None
    if setting.model == "linear":
        weights = {"w": classifier.coef_.T}
        objective = float(model.objective(setting.loss, setting.strength, by_reference, weights, x, train.labels))
    return Yardstick(name, right, test.labels.size, objective, seconds)
