"""Whether a network is right as often as it says: calibration error and reliability."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics.base import Metric, number, ratio, register
from semseg.metrics.confusion import Absent

ONE = 2**28
"""Confidences are summed as integers of this many parts of 1: exact, whatever the order."""


@register("ece")
class CalibrationError(Metric):
    """Expected calibration error over the labelled pixels, and the reliability diagram behind it.

    Guo et al. 2017 (arXiv:1706.04599, section 2): the mean over pixels of the gap between the
    accuracy of a bin of confidences and their mean. Classes play no part, so there is no rule for
    absent ones.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.
        bins: of the same width, from 0 to 1.
        closed: the side of a bin to which a value between two belongs. With ``"left"``, 1 has a bin
            of its own, as in torchmetrics.

    Example:
        >>> metric = CalibrationError(2, bins=2)
        >>> ids, sure = torch.tensor([[[0, 1]]]), torch.tensor([[[0.75, 1.0]]])
        >>> metric.update(ids, torch.zeros(1, 1, 2).long(), sure)
        >>> metric.result()["ece"]
        0.375
    """

    needs_confidence = True

    def __init__(
        self,
        num_classes: int,
        ignore_id: int = 255,
        *,
        bins: int = 15,
        closed: Literal["left", "right"] = "right",
    ) -> None:
        super().__init__(num_classes, ignore_id)
        if bins < 1:
            raise InputError(f"calibration needs at least one bin, got {bins}")
        self.bins = bins
        self.closed = closed
        zeros = torch.zeros(bins + 1, dtype=torch.int64)
        self.state = {"pixels": zeros, "right": zeros, "confidence": zeros}

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images; see :meth:`Metric.update`."""
        if confidence is None or confidence.shape != target.shape:
            got = None if confidence is None else tuple(confidence.shape)
            raise InputError(
                f"calibration needs the probability of each decision, {tuple(target.shape)}, "
                f"got {got}"
            )
        labelled = self._labelled(prediction, target)
        sure = confidence[labelled].float()
        if not bool(((sure >= 0) & (sure <= 1)).all()):  # nan too
            raise InputError("confidences must be probabilities, from 0 to 1; take the softmax")
        edges = torch.linspace(0, 1, self.bins + 1, device=sure.device)
        place = torch.bucketize(sure, edges, right=self.closed == "left").sub_(1).clamp_min_(0)
        right = (prediction == target)[labelled]
        parts = (sure.double() * ONE).round().long()
        for key, value in (
            ("pixels", torch.ones_like(parts)),
            ("right", right),
            ("confidence", parts),
        ):
            into = torch.zeros(self.bins + 1, dtype=torch.int64, device=sure.device)
            self._add(key, into.scatter_add_(0, place, value.long()))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return the error, the largest one of a bin, and the diagram; see :meth:`Metric.result`.

        ``reliability`` holds the bins that are not empty: mean confidence, accuracy, pixels.
        """
        pixels = self.state["pixels"].cpu().numpy()
        accuracy = ratio(self.state["right"], self.state["pixels"])
        confidence = ratio(self.state["confidence"], self.state["pixels"]) / ONE
        gap = np.abs(accuracy - confidence)
        total = pixels.sum()
        rows = zip(confidence, accuracy, pixels, strict=True)
        return {
            "ece": number(float((gap * pixels).sum() / total)) if total else None,
            "mce": number(float(gap.max())) if total else None,
            "bins": self.bins,
            "reliability": [[float(c), float(a), int(n)] for c, a, n in rows if n],
        }
