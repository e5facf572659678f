"""Class weights computed from how often each class occurs in the training split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """How often each class occurs.

    Args:
        pixels: per class, its pixels in the whole split.
        pixels_of_images: per class, the pixels of all images in which it occurs, ignored pixels
            included.
    """

    pixels: tuple[int, ...]
    pixels_of_images: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.pixels_of_images):
            raise InputError("pixels and pixels_of_images need one number per class each")


def median_frequency(counts: ClassCounts) -> list[float]:
    """Return the median of the class frequencies over the class's own.

    A class's frequency is its pixels over the pixels of the images in which it occurs, as in
    Eigen & Fergus 2015 (arXiv:1411.4734, section 6.3.2) and SegNet (arXiv:1511.00561, section 3).

    Raises:
        InputError: a class never occurs.

    Example:
        >>> median_frequency(ClassCounts((10, 20, 40), (100, 100, 100)))
        [2.0, 1.0, 0.5]
    """
    _check_all_occur("median_frequency", counts.pixels)
    frequency = [p / q for p, q in zip(counts.pixels, counts.pixels_of_images, strict=True)]
    middle = median(frequency)
    return [middle / f for f in frequency]


def enet(counts: ClassCounts, c: float = 1.02) -> list[float]:
    """Return ``1 / ln(c + p)``, p the class's share of all labelled pixels (arXiv:1606.02147, 5.2).

    Args:
        counts: of the training split.
        c: larger values draw the weights together; 1.02 keeps them between 1 and 50.

    Example:
        >>> [round(w, 2) for w in enet(ClassCounts((99, 1), (100, 100)))]
        [1.43, 33.83]
    """
    total = sum(counts.pixels)
    if total == 0:
        raise InputError("class weights enet: the training split has no labelled pixel")
    return [1 / math.log(c + p / total) for p in counts.pixels]


def inverse_frequency(counts: ClassCounts) -> list[float]:
    """Return ``N / (K n)``, n the class's pixels, N those of all K classes.

    So every class has the same weight in sum; called balanced elsewhere.

    Raises:
        InputError: a class never occurs.

    Example:
        >>> inverse_frequency(ClassCounts((1, 3), (4, 4)))
        [2.0, 0.6666666666666666]
    """
    _check_all_occur("inverse_frequency", counts.pixels)
    return [sum(counts.pixels) / (len(counts.pixels) * p) for p in counts.pixels]


def effective_number(counts: ClassCounts, beta: float | None = None) -> list[float]:
    """Return ``(1 - beta) / (1 - beta^n)`` with the sum K, n the class's pixels.

    Cui et al. 2019 (arXiv:1901.05555). ``beta`` is (N - 1) / N there, N being
    how many samples differ. For pixels, the paper's 0.9 to 0.9999 would give all classes one weight
    to within rounding.

    Args:
        counts: of the training split.
        beta: in [0, 1), 0 for equal weights; (N - 1) / N of all labelled pixels if None.

    Raises:
        InputError: a class never occurs.

    Example:
        >>> [round(w, 3) for w in effective_number(ClassCounts((1, 2), (3, 3)), beta=0.5)]
        [1.2, 0.8]
    """
    _check_all_occur("effective_number", counts.pixels)
    total = sum(counts.pixels)
    log_beta = math.log1p(-1 / max(total, 2)) if beta is None else math.log(beta) if beta else -1e4
    weights = [1 / -math.expm1(p * log_beta) for p in counts.pixels]
    return [w * len(weights) / sum(weights) for w in weights]


SCHEMES: dict[str, Callable[[ClassCounts], list[float]]] = {
    "median_frequency": median_frequency,
    "enet": enet,
    "inverse_frequency": inverse_frequency,
    "effective_number": effective_number,
}
"""Schemes by the name a recipe gives."""

Scheme = Literal["median_frequency", "enet", "inverse_frequency", "effective_number"]

ClassWeights = list[float] | Scheme | None
"""One factor per class, a scheme's name, or none."""


def resolve(
    given: ClassWeights, labels: LabelMap, counts: ClassCounts | None, *, enet_c: float = 1.02
) -> list[float] | None:
    """Return the weights that a recipe gives or names.

    Args:
        given: one factor per class, a scheme's name, or None.
        labels: the classes.
        counts: pixels of each class in the training split; schemes need them.
        enet_c: c in the scheme ``enet``.

    Raises:
        InputError: the weights do not fit the classes, or the counts are missing.
    """
    if given is None:
        return None
    if isinstance(given, list):
        if len(given) != labels.num_classes:
            raise InputError(
                f"class_weights has {len(given)} numbers, the data has {labels.num_classes} "
                "classes; give one per class"
            )
        if min(given) < 0:
            raise InputError(f"class_weights must not be negative, got {given}")
        return given
    if counts is None:
        raise InputError(
            f"class_weights {given} is computed from the training split; "
            "pass its counts, or give the weights as a list"
        )
    return enet(counts, enet_c) if given == "enet" else SCHEMES[given](counts)


def _check_all_occur(scheme: str, pixels: Sequence[int]) -> None:
    absent = [i for i, p in enumerate(pixels) if p == 0]
    if absent:
        raise InputError(
            f"class weights {scheme}: class {absent[0]} has no pixel in the training split; "
            "give the weights as a list"
        )
