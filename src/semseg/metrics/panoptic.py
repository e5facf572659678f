"""Panoptic quality: segments that match, and how well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.metrics.base import Metric, mean_over, number, numbers, ratio, register
from semseg.metrics.confusion import Absent


@register("pq")
class PanopticQuality(Metric):
    """Panoptic quality and its two factors, by class.

    Kirillov et al. 2019 (arXiv:1801.00868, section 4): segments of one class match where their IoU
    is above 1/2. Ignored pixels belong to no union, and a predicted segment that is ignored for
    more than half counts for nothing, as in the authors' code (without its crowd regions).
    Without instances, all pixels of a class in an image are one segment.

    Args:
        num_classes: number of train ids.
        ignore_id: truth value of pixels that count for nothing.

    Example:
        >>> metric = PanopticQuality(2)
        >>> metric.update(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
        >>> metric.result()["pq"], metric.result()["rq"]  # 1/2 is not above 1/2
        (0.3333333333333333, 0.5)
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        super().__init__(num_classes, ignore_id)
        zeros = torch.zeros(num_classes, dtype=torch.int64)
        self.state = {"matched": zeros, "extra": zeros, "missed": zeros, "iou": zeros.double()}

    def update(self, prediction: Tensor, target: Tensor, confidence: Tensor | None = None) -> None:
        """Count images, a class in an image being one segment; see :meth:`Metric.update`."""
        nothing = torch.zeros_like(target)
        self.update_instances(prediction, target, nothing, nothing)

    def update_instances(
        self,
        prediction: Tensor,
        target: Tensor,
        predicted_instances: Tensor,
        target_instances: Tensor,
    ) -> None:
        """Count images with instances.

        Args:
            prediction: ``(N, H, W)`` classes 0 … K-1.
            target: ``(N, H, W)`` classes 0 … K-1 or the ignore id.
            predicted_instances: ``(N, H, W)`` integers; pixels of one class and number are one
                segment. One number throughout for classes that have no instances.
            target_instances: the same of the truth.

        Raises:
            InputError: shapes or values that do not fit.
        """
        labelled = self._labelled(prediction, target)
        for instances in (predicted_instances, target_instances):
            if instances.shape != target.shape:
                raise InputError(
                    f"instances are {tuple(instances.shape)}, classes {tuple(target.shape)}"
                )
        every = (prediction, target, predicted_instances, target_instances, labelled)
        for guess, truth, guess_number, truth_number, known in zip(*every, strict=True):
            low = int(guess.min()) if guess.numel() else 0
            if low < 0 or (guess.numel() and int(guess.max()) >= self.num_classes):
                guess = torch.where(known, guess, 0)  # what is predicted where nothing is known
            self._image(guess, truth, guess_number, truth_number, known)

    def _image(
        self,
        guess: Tensor,
        truth: Tensor,
        guess_number: Tensor,
        truth_number: Tensor,
        known: Tensor,
    ) -> None:
        guesses, guess_class, guess_area = _segments(guess, guess_number)
        truths, truth_class, truth_area = _segments(truth, truth_number, known)
        # pixels that two segments share; the last row collects ignored pixels
        count = len(truth_class)
        pairs = torch.where(known, truths, count) * len(guess_class) + guesses
        shared = torch.bincount(pairs.flatten(), minlength=(count + 1) * len(guess_class))
        shared = shared.view(count + 1, -1)
        ignored = shared[count]
        union = truth_area[:, None] + guess_area[None] - ignored[None] - shared[:count]
        iou = shared[:count].double() / union.clamp_min(1)
        match = (truth_class[:, None] == guess_class[None]) & (iou > 0.5)
        self._add("matched", self._count(truth_class[match.any(1)]))
        self._add("missed", self._count(truth_class[~match.any(1)]))
        extra = ~match.any(0) & (2 * ignored <= guess_area)
        self._add("extra", self._count(guess_class[extra]))
        total = torch.zeros(self.num_classes, dtype=torch.float64, device=iou.device)
        self._add("iou", total.index_add_(0, truth_class, (iou * match).sum(1)))

    def result(self, absent: Absent = "present") -> dict[str, Any]:
        """Return PQ, SQ, RQ, each the mean over classes, and PQ by class."""
        matched, extra, missed = (self.state[key] for key in ("matched", "extra", "missed"))
        whole = matched + 0.5 * extra + 0.5 * missed
        values = {
            "pq": ratio(self.state["iou"], whole),
            "sq": ratio(self.state["iou"], matched),
            "rq": ratio(matched, whole),
        }
        there, truth = whole.cpu().numpy(), (matched + missed).cpu().numpy()
        means = {key: mean_over(value, there, truth, absent) for key, value in values.items()}
        scores = {key: number(mean) for key, (mean, _) in means.items()}
        return {**scores, "per_class": numbers(means["pq"][1]), "absent": absent}


def _segments(
    classes: Tensor, instances: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pixel's segment, and the segments' classes and areas; unknown pixels have 0."""
    known = torch.ones_like(classes, dtype=torch.bool) if known is None else known
    both = torch.stack([classes[known].long(), instances[known].long()], 1)
    names, place, area = torch.unique(both, dim=0, return_inverse=True, return_counts=True)
    pixels = torch.zeros(classes.shape, dtype=torch.int64, device=classes.device)
    pixels[known] = place
    return pixels, names[:, 0], area
