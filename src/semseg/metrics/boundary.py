"""Scores of borders: boundary IoU and the BF score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semseg.kernels.distance import squared_distance
from semseg.metrics.base import Metric, check_absent, mean_over, number, numbers, ratio, register
from semseg.metrics.confusion import Absent


def border_band(labels: Tensor, width: int) -> Tensor:
    """Return the pixels with another label, or the image's end, at most ``width`` away.

    Away means rows or columns, whichever is more: what ``width`` erosions of every class by 3 x 3
    pixels take away. The work does not grow with ``width`` or with the number of classes.

    Args:
        labels: ``(N, H, W)`` integers.
        width: at least 1.

    Example:
        >>> border_band(torch.tensor([[[0, 0, 0, 0, 0]] * 3]), 1)[0, 1].tolist()
        [True, False, False, False, True]
    """
    rows = _changes(labels, 2, width)
    # a square of one label: each of its rows is of one label, and so is its middle column
    return _windows(rows, 1, width, width) | _changes(labels, 1, width)


def _changes(labels: Tensor, dim: int, width: int) -> Tensor:
    """Return whether the label changes, or the image ends, within ``width`` along ``dim``."""
    size = labels.shape[dim]
    changed = labels.narrow(dim, 1, size - 1) != labels.narrow(dim, 0, size - 1)
    end = torch.ones_like(labels.narrow(dim, 0, 1), dtype=torch.bool)
    return _windows(torch.cat([end, changed, end], dim), dim, width - 1, width, size)


def _windows(mask: Tensor, dim: int, before: int, after: int, size: int | None = None) -> Tensor:
    """Return whether a mask holds anything from ``before`` to ``after`` each position."""
    length = mask.shape[dim]
    total = mask.cumsum(dim, dtype=torch.int32)
    total = torch.cat([torch.zeros_like(total.narrow(dim, 0, 1)), total], dim)
    place = torch.arange(length if size is None else size, device=mask.device)
    first = (place - before).clamp_min(0)
    last = (place + after + 1).clamp_max(length)
    return total.index_select(dim, last) > total.index_select(dim, first)


def contour(labels: Tensor, ignore_id: int) -> Tensor:
    """Return the labelled pixels that share an edge with a pixel of another class.

    Example:
        >>> contour(torch.tensor([[[0, 0, 1, 255, 0]]]), 255).tolist()
        [[[False, True, True, False, False]]]
    """
    found = torch.zeros_like(labels, dtype=torch.bool)
    labelled = labels != ignore_id
    for dim in (1, 2):
        size = labels.shape[dim] - 1
        differ = labels.narrow(dim, 0, size) != labels.narrow(dim, 1, size)
        differ &= labelled.narrow(dim, 0, size) & labelled.narrow(dim, 1, size)
        found.narrow(dim, 0, size).logical_or_(differ)
        found.narrow(dim, 1, size).logical_or_(differ)
    return found


def _diagonal(labels: Tensor) -> float:
    return math.hypot(*labels.shape[1:])


@register("boundary_iou")
class BoundaryIoU(Metric):
    """Intersection over union of the pixels near the borders of truth and prediction.

    Cheng et al. 2021 (arXiv:2103.16562), over the pixels of all images. Ignored pixels
    count as such in the prediction too, so that a right one has the same borders as the truth.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.
        width: of the band, as a share of the image's diagonal; at least a pixel.

    Example:
        >>> metric = BoundaryIoU(2)
        >>> metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]))
        >>> metric.result()["boundary_iou"]
        0.5
    """

    def __init__(self, num_classes: int, ignore_id: int = 255, *, width: float = 0.02) -> None:
        super().__init__(num_classes, ignore_id)
        self.width = width
        zeros = torch.zeros(num_classes, dtype=torch.int64)
        self.state = {"common": zeros, "truth": zeros, "predicted": zeros}

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images; see :meth:`Metric.update`."""
        labelled = self._labelled(prediction, target)
        prediction = torch.where(labelled, prediction, self.ignore_id)
        width = max(1, round(self.width * _diagonal(target)))
        true, guessed = (border_band(x, width) & labelled for x in (target, prediction))
        common = true & guessed & (target == prediction)
        self._add("common", self._count(target[common]))
        self._add("truth", self._count(target[true]))
        self._add("predicted", self._count(prediction[guessed]))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return the mean and the classes' values; see :meth:`Metric.result`."""
        truth, common = self.state["truth"], self.state["common"]
        union = truth + self.state["predicted"] - common
        values = ratio(common, union)
        mean, each = mean_over(values, union.cpu().numpy(), truth.cpu().numpy(), absent)
        return {"boundary_iou": number(mean), "per_class": numbers(each), "absent": absent}


@register("bf_score")
class BFScore(Metric):
    """F1 of contours: how many pixels of each one have the other within a tolerance.

    Csurka et al. 2013 (What is a good evaluation measure for semantic segmentation?, BMVC): per
    image and class, then the mean over an image's classes, then over images. A contour is what
    :func:`contour` returns, of the pixels of one class; distances are Euclidean. A class without
    contour on either side scores 1 where both hold it, else 0.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.
        tolerance: largest distance, as a share of the image's diagonal.
    """

    def __init__(
        self, num_classes: int, ignore_id: int = 255, *, tolerance: float = 0.0075
    ) -> None:
        super().__init__(num_classes, ignore_id)
        self.tolerance = tolerance
        self.state = {
            "score": torch.zeros(num_classes, dtype=torch.float64),
            "present": torch.zeros(num_classes, dtype=torch.int64),
            "gt": torch.zeros(num_classes, dtype=torch.int64),
            # over images, by rule for absent classes: present, gt, all
            "image_score": torch.zeros(3, dtype=torch.float64),
            "images": torch.zeros(3, dtype=torch.int64),
        }

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images; see :meth:`Metric.update`."""
        labelled = self._labelled(prediction, target)
        prediction = torch.where(labelled, prediction, self.ignore_id)
        for guess, truth in zip(prediction, target, strict=True):
            self._image(guess[None], truth[None])

    def _image(self, guess: Tensor, truth: Tensor) -> None:
        reach = self.tolerance * _diagonal(truth)
        lines = [contour(x, self.ignore_id) for x in (guess, truth)]
        score = torch.zeros(self.num_classes, dtype=torch.float64)
        held = torch.zeros(2, self.num_classes, dtype=torch.bool)
        for label in torch.unique(torch.cat([guess, truth])).tolist():
            if label == self.ignore_id:
                continue
            masks = guess == label, truth == label
            held[:, label] = torch.tensor([bool(mask.any()) for mask in masks])
            if bool(held[:, label].all()):
                pair = [line & mask for line, mask in zip(lines, masks, strict=True)]
                score[label] = _f1(pair[0], pair[1], reach)
        counted = (held.any(0), held[1], torch.ones_like(held[0]))
        count = torch.stack([c.sum() for c in counted])
        means = torch.stack([(score * c).sum() for c in counted]) / count.clamp_min(1)
        values = {"score": score, "present": counted[0], "gt": counted[1]}
        for key, value in (values | {"image_score": means, "images": count > 0}).items():
            self._add(key, value.to(self.state[key].dtype))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return the mean over images and the classes' means; see :meth:`Metric.result`."""
        check_absent(absent)
        rule = ("present", "gt", "all").index(absent)
        images = self.state["images"]
        mean = float(self.state["image_score"][rule] / images[rule]) if images[rule] else math.nan
        count = images[2].expand(self.num_classes) if absent == "all" else self.state[absent]
        each = np.where(count.numpy() > 0, ratio(self.state["score"], count), np.nan)
        return {"bf_score": number(mean), "per_class": numbers(each), "absent": absent}


def _f1(guess: Tensor, truth: Tensor, reach: float) -> float:
    """Return F1 of two contours of one image."""
    if not bool(guess.any()) or not bool(truth.any()):
        return float(not bool(guess.any()) and not bool(truth.any()))
    precision, recall = (
        float((squared_distance(to, reach)[line] <= reach**2).double().mean())
        for line, to in ((guess, truth), (truth, guess))
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
