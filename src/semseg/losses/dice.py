"""Soft Dice loss: overlap of probabilities and truth, each class weighing the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses.base import LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts


def dice(logits: Tensor, target: Tensor, *, ignore_id: int = 255) -> Tensor:
    """Return one minus the mean soft Dice of the classes present in the batch's target.

    ``Dice_c = 2 sum(p_c y_c) / (sum(p_c) + sum(y_c))`` with sums over the pixels of the whole
    batch that are not ignored, as in Drozdzal et al. 2016 (arXiv:1608.04117, section 3). Absent
    classes are left out: their Dice is 0 whatever the network says. A batch without any class
    present gives 0 and zero gradients.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, Dice of the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        ignore_id: target value of pixels without influence.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> target = torch.tensor([[[0, 1]]])
        >>> perfect = torch.tensor([[[[50.0, -50.0]], [[-50.0, 50.0]]]])
        >>> round(dice(perfect, target).item(), 6)
        0.0
    """
    maps = class_maps("dice", logits, target, ignore_id)
    probability, pixels = maps.probability(), (0, 2, 3)
    area = maps.truth.sum(pixels)
    present = (area > 0).to(area.dtype)
    tiny = torch.finfo(area.dtype).tiny
    score = 2 * (probability * maps.truth).sum(pixels)
    score = score / (probability.sum(pixels) + area).clamp_min(tiny)
    return ((1 - score) * present).sum() / present.sum().clamp_min(1)


class Dice(nn.Module):
    """:func:`dice` with its ignore id."""

    def __init__(self, ignore_id: int) -> None:
        super().__init__()
        self.ignore_id = ignore_id

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        return dice(logits, target, ignore_id=self.ignore_id)


@register("dice")
class DiceSettings(LossSettings):
    """Settings of the term `dice`: none."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> Dice:
        """Return the module; see :meth:`LossSettings.build`."""
        return Dice(labels.ignore_id)
