"""The digit images that classifiers learn from, split once into those for training and those for the test."""

import dataclasses
import functools

import numpy as np

from jaxbp.cases import Digits
from jaxbp.errors import import_extra

CLASSES = 10
PIXELS = Digits.SHAPE[1]
#: The share of the images that no classifier sees before it is judged by them.
TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images as rows, and what they show.

    Attributes:
        images: float32 [n, 64].
        labels: int32 [n], 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


@functools.cache
def load_examples(seed: int) -> tuple[Examples, Examples]:
    """The images for training and for the test, pixels in [0, 1]; each class has the same share in both.

    >>> train, test = load_examples(0)
    >>> train.images.shape, test.images.shape
    ((1437, 64), (360, 64))
    """
    labels = import_extra("sklearn.datasets", "bench").load_digits().target
    images = Digits()(np.random.default_rng(seed), Digits.SHAPE)
    split = import_extra("sklearn.model_selection", "bench").train_test_split
    parts = split(
        images.astype(np.float32), labels.astype(np.int32), test_size=TEST_SHARE, stratify=labels, random_state=seed
    )
    return Examples(parts[0], parts[2]), Examples(parts[1], parts[3])
