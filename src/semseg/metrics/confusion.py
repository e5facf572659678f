"""The confusion matrix, and the scores that are functions of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels import confusion_matrix

Absent = Literal["present", "gt", "all"]
"""Which classes a mean is over: those in truth or prediction, those in the truth, or every one."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in [0, 1]; ``nan`` where nothing was there to score.

    Args:
        miou: mean of ``iou`` over the classes that ``absent`` counts.
        iou: per class, intersection over union; ``nan`` for a class that is not counted.
        accuracy: share of labelled pixels that are right.
        mean_accuracy: mean over classes of the share of a class's pixels that are right. Under
            ``"present"`` and ``"gt"`` over the classes in the truth; under ``"all"`` over every
            class, absent ones as 0.
        fw_iou: IoU weighted by each class's share of the labelled pixels.
        dice: mean of ``2 iou / (1 + iou)`` over the same classes as ``miou``.
        absent: the rule: ``"present"`` counts classes that occur in truth or prediction, ``"gt"``
            classes that occur in the truth, ``"all"`` every class, with 0 for absent ones.
    """

    miou: float
    iou: tuple[float, ...]
    accuracy: float
    mean_accuracy: float
    fw_iou: float
    dice: float
    absent: Absent

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return JSON values, ``iou`` by class name; ``None`` stands for ``nan``."""
        single = ("miou", "accuracy", "mean_accuracy", "fw_iou", "dice")
        values: dict[str, Any] = {key: _json(getattr(self, key)) for key in single}
        iou = {name: _json(value) for name, value in zip(names, self.iou, strict=True)}
        return {**values, "absent": self.absent, "iou": iou}


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs; int64, so exact whatever the number of images.

    Args:
        num_classes: number of train ids; 2 for a binary network with one sigmoid channel.
        ignore_id: truth value of pixels that count for nothing.

    Attributes:
        counts: ``(K, K)`` int64, rows are the truth, columns the prediction; on the device of the
            last update.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]))
        >>> matrix.counts.tolist(), matrix.scores().miou
        ([[1, 1], [0, 1]], 0.5)
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        if num_classes < 1 or 0 <= ignore_id < num_classes:
            raise InputError(
                f"a confusion matrix needs num_classes >= 1 and an ignore_id outside its classes, "
                f"got {num_classes} and {ignore_id}"
            )
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count the pixels of one or several masks.

        Args:
            prediction: integers 0 … K-1 of any shape.
            target: integers of the same shape, 0 … K-1 or the ignore id.

        Raises:
            InputError: shapes that differ, floats, or values outside the classes.
        """
        if prediction.shape != target.shape:
            raise InputError(
                f"prediction is {tuple(prediction.shape)}, target {tuple(target.shape)}; "
                "bring the prediction to the mask's size first"
            )
        if prediction.is_floating_point() or target.is_floating_point():
            raise InputError(
                f"wanted integer ids, got {prediction.dtype} and {target.dtype}; take the argmax"
            )
        pairs = confusion_matrix(prediction, target, self.num_classes, self.ignore_id)
        self.counts = self.counts.to(pairs.device) + pairs

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of ``other``, e.g. of another process.

        Raises:
            InputError: another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise InputError(
                f"cannot merge counts of {other.num_classes} classes into {self.num_classes}"
            )
        self.counts = self.counts + other.counts.to(self.counts.device)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return the counts of both."""
        total = ConfusionMatrix(self.num_classes, self.ignore_id)
        total.merge(self)
        total.merge(other)
        return total

    def scores(self, absent: Absent = "present") -> Scores:
        """Return the scores under a rule for absent classes; see :class:`Scores`.

        Raises:
            InputError: a rule that does not exist.
        """
        if absent not in get_args(Absent):
            raise InputError(f"absent must be one of {get_args(Absent)}, got {absent!r}")
        counts = self.counts.cpu().numpy()
        right, truth, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        union = truth + predicted - right
        counted = {
            "present": union > 0,
            "gt": truth > 0,
            "all": np.ones(self.num_classes, dtype=bool),
        }[absent]
        iou = np.where(counted, _ratio(right, union), np.nan)
        recall_of = counted if absent == "all" else truth > 0
        total = truth.sum()
        return Scores(
            miou=_mean(iou[counted]),
            iou=tuple(float(value) for value in iou),
            accuracy=float(right.sum() / total) if total else math.nan,
            mean_accuracy=_mean(_ratio(right, truth)[recall_of]),
            fw_iou=float((truth / total * _ratio(right, union)).sum()) if total else math.nan,
            dice=_mean(_ratio(2 * right, truth + predicted)[counted]),
            absent=absent,
        )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide; 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value
