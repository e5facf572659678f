"""Scores near the true borders, as a curve over the distance to them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.distance import squared_distance
from semseg.metrics.base import Metric, number, register
from semseg.metrics.boundary import contour
from semseg.metrics.confusion import Absent, ConfusionMatrix


@register("trimap")
class Trimap(Metric):
    """Mean IoU and accuracy of the pixels within some distances of the true borders.

    Kohli et al. 2009 (Robust higher order potentials, section on trimaps); DeepLab (arXiv:
    1412.7062, figure 5) takes bands around ignored pixels, which mark the borders of PASCAL VOC.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.
        widths: rising; 1 is the pixels next to a border, or to ignored ones.
        around: what a band is around.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_id: int = 255,
        *,
        widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
        around: Literal["borders", "ignored"] = "borders",
    ) -> None:
        super().__init__(num_classes, ignore_id)
        if list(widths) != sorted(set(widths)) or not widths or widths[0] < 1:
            raise InputError(f"trimap widths must rise from 1 or more, got {widths}")
        self.widths = widths
        self.around = around
        self.state = {"counts": torch.zeros(len(widths), num_classes, num_classes).long()}

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images; see :meth:`Metric.update`."""
        labelled = self._labelled(prediction, target)
        if self.around == "borders":
            # both sides of a border lie at 0 from a contour
            line, offset = contour(target, self.ignore_id), 1
        else:
            line, offset = ~labelled, 0
        distance = squared_distance(line, self.widths[-1]).sqrt() + offset
        bands = torch.tensor(self.widths, dtype=distance.dtype, device=distance.device)
        band = torch.bucketize(distance, bands)
        near = labelled & (band < len(self.widths))
        k = self.num_classes
        index = (band[near] * k + target[near].long()) * k + prediction[near].long()
        counts = torch.bincount(index, minlength=len(self.widths) * k * k)
        self._add("counts", counts.view(-1, k, k))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return both curves over the widths; see :meth:`Metric.result`."""
        scores = []
        for counts in self.state["counts"].cumsum(0):
            matrix = ConfusionMatrix(self.num_classes, self.ignore_id)
            matrix.counts = counts
            scores.append(matrix.scores(absent))
        return {
            "widths": list(self.widths),
            "miou": [number(s.miou) for s in scores],
            "accuracy": [number(s.accuracy) for s in scores],
            "absent": absent,
        }
