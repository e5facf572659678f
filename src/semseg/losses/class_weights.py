"""Class weights computed from how often each class occurs in the training split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from semseg.core.checks import InputError


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


SCHEMES: dict[str, Callable[[ClassCounts], list[float]]] = {
    "median_frequency": median_frequency,
    "enet": enet,
}
"""Schemes by the name a recipe gives."""


def _check_all_occur(scheme: str, pixels: Sequence[int]) -> None:
    absent = [i for i, p in enumerate(pixels) if p == 0]
    if absent:
        raise InputError(
            f"class weights {scheme}: class {absent[0]} has no pixel in the training split; "
            "give the weights as a list"
        )
