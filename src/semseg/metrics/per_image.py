"""Counts of every image, kept small: scores per image, and intervals by drawing images anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics.base import Floats, Metric, check_absent, number, numbers, register
from semseg.metrics.confusion import Absent

KEYS = ("miou", "accuracy", "mean_accuracy", "fw_iou", "dice")

CHUNK = 100
"""Drawings worked on at once."""


@register("per_image")
class PerImage(Metric):
    """Right, true and predicted pixels of each class in each image: 12 bytes per class and image.

    2.3 kB for ten images of 19 classes, 9 MB for 5,000 images of 150. All scores of
    :class:`semseg.metrics.Scores` follow from them. The order of images plays no part.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.

    Example:
        >>> metric = PerImage(2)
        >>> metric.update(torch.tensor([[[0, 1]], [[1, 1]]]), torch.tensor([[[0, 1]], [[0, 1]]]))
        >>> metric.result()["miou"]  # the mean of 1 and 1/4
        0.625
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        super().__init__(num_classes, ignore_id)
        self.state = {"counts": torch.zeros(0, 3, num_classes, dtype=torch.int32)}
        self._parts: list[Tensor] = []

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images; see :meth:`Metric.update`."""
        labelled = self._labelled(prediction, target)
        for guess, truth, known in zip(prediction, target, labelled, strict=True):
            guess, truth = guess[known], truth[known]
            each = (truth[truth == guess], truth, guess)
            counts = torch.stack([self._count(ids) for ids in each])
            self._parts.append(counts.to(torch.int32).cpu()[None])
        if len(self._parts) > CHUNK:
            self.counts()

    def counts(self) -> NDArray[np.int32]:
        """Return ``(images, 3, K)``: right, true and predicted pixels, in an order of their own."""
        self.state["counts"] = torch.cat([self.state["counts"], *self._parts])
        self._parts = []
        return self.state["counts"].numpy()

    def merge(self, other: Self) -> None:
        """Add the images of ``other``.

        Raises:
            InputError: another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise InputError(
                f"cannot merge images of {other.num_classes} classes into {self.num_classes}"
            )
        self._parts.append(torch.from_numpy(other.counts()))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return the means over images of their scores; see :meth:`Metric.result`."""
        check_absent(absent)
        counts = self.counts()
        scores = scores_of(counts.astype(np.float64), absent)
        means = {key: number(_mean(scores[key])) for key in ("miou", "dice", "accuracy")}
        return {**means, "images": len(counts), "absent": absent}


def scores_of(counts: Floats, absent: Absent) -> dict[str, Floats]:
    """Return the scores of :class:`semseg.metrics.Scores` for many sets of counts at once.

    Args:
        counts: ``(n, 3, K)``: right, true and predicted pixels of each class.
        absent: rule for absent classes.

    Returns:
        ``(n,)`` by name, and ``iou`` ``(n, K)``; ``nan`` where nothing was there to score.
    """
    right, truth, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    union = truth + predicted - right
    counted = {"present": union > 0, "gt": truth > 0, "all": np.ones(union.shape, dtype=bool)}[
        absent
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, right / union, 0)
        recall = np.where(truth > 0, right / truth, 0)
        dice = np.where(union > 0, 2 * right / (truth + predicted), 0)
        total = truth.sum(1)
        known = counted if absent == "all" else truth > 0
        return {
            "miou": _masked_mean(iou, counted),
            "accuracy": right.sum(1) / total,
            "mean_accuracy": _masked_mean(recall, known),
            "fw_iou": (truth * iou).sum(1) / total,
            "dice": _masked_mean(dice, counted),
            "iou": np.where(counted, iou, np.nan),
        }


def _masked_mean(values: Floats, mask: NDArray[np.bool_]) -> Floats:
    means: Floats = (values * mask).sum(1) / mask.sum(1)
    return means


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds between which a score lies in 95 of 100 drawings of the images.

    Args:
        low: bounds below, by score.
        high: bounds above.
        iou: bounds of each class; ``nan`` for classes that are in no drawing.
        images: how many there were.
        drawings: how often as many images were drawn anew.
        level: share of the drawings between the bounds.
        seed: of the draws.
        absent: rule for absent classes.
    """

    low: dict[str, float]
    high: dict[str, float]
    iou: tuple[tuple[float, float], ...]
    images: int
    drawings: int
    level: float
    seed: int
    absent: Absent

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, bounds as pairs; ``None`` stands for ``nan``."""
        bounds = {key: [number(self.low[key]), number(self.high[key])] for key in self.low}
        facts = {key: getattr(self, key) for key in ("images", "drawings", "level", "seed")}
        iou = [numbers(np.array(pair)) for pair in self.iou]
        return {**bounds, "iou": iou, **facts, "absent": self.absent}


def bootstrap(
    images: PerImage,
    absent: Absent = "present",
    *,
    drawings: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return how far scores vary with the choice of images.

    Efron's percentile bootstrap: as many images are drawn with replacement, again and again. The
    bounds follow from the images and the seed alone, not from their order.

    Args:
        images: counts of every image.
        absent: rule for absent classes.
        drawings: how often.
        level: share of the drawings between the bounds.
        seed: of the draws.

    Raises:
        InputError: no images, no drawings, or a level outside (0, 1).

    Example:
        >>> metric = PerImage(2)
        >>> metric.update(torch.tensor([[[0, 1]]] * 9), torch.tensor([[[0, 1]]] * 9))
        >>> bootstrap(metric).low["miou"], bootstrap(metric).high["miou"]
        (1.0, 1.0)
    """
    check_absent(absent)
    counts = images.counts()
    if not len(counts) or drawings < 1 or not 0 < level < 1:
        raise InputError(
            f"an interval needs images, drawings and a level in (0, 1), got {len(counts)}, "
            f"{drawings} and {level}"
        )
    flat = counts.reshape(len(counts), -1)
    flat = flat[np.lexsort(flat.T[::-1])].astype(np.float64)  # an order that is no one's
    random = np.random.default_rng(seed)
    parts: dict[str, list[Floats]] = {key: [] for key in (*KEYS, "iou")}
    for start in range(0, drawings, CHUNK):
        rows = min(CHUNK, drawings - start)
        drawn = random.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), size=rows)
        sums = (drawn.astype(np.float64) @ flat).reshape(rows, 3, -1)
        for key, values in scores_of(sums, absent).items():
            parts[key].append(values)
    ends = ((1 - level) / 2, (1 + level) / 2)
    found = {key: _quantiles(np.concatenate(values), ends) for key, values in parts.items()}
    return Interval(
        low={key: float(found[key][0]) for key in KEYS},
        high={key: float(found[key][1]) for key in KEYS},
        iou=tuple((float(a), float(b)) for a, b in found["iou"].T),
        images=len(counts),
        drawings=drawings,
        level=level,
        seed=seed,
        absent=absent,
    )


def _quantiles(values: Floats, ends: tuple[float, float]) -> Floats:
    """Return quantiles over the drawings in which a value is defined."""
    table = values.reshape(len(values), -1)
    found = np.full((2, table.shape[1]), math.nan)
    for column in range(table.shape[1]):
        defined = table[:, column][~np.isnan(table[:, column])]
        if defined.size:
            found[:, column] = np.quantile(defined, ends)
    return found if values.ndim > 1 else found[:, 0]


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
