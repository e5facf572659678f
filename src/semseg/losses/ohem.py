"""Online hard example mining: cross entropy of the pixels that are not yet sure."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses.base import LossSettings, at_least_float32, check_target, register
from semseg.losses.class_weights import ClassCounts


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    probability: float = 0.7,
    least: int = 100_000,
    ignore_id: int = 255,
) -> Tensor:
    """Return the mean cross entropy of the pixels whose true class has too small a probability.

    Shrivastava et al. 2016 (arXiv:1604.03540) in the form that segmentation uses, as in the code of
    HRNet, DDRNet and PIDNet (0.9 and 131,072 pixels) and of BiSeNet (0.7): pixels of the batch
    below ``probability`` count, or the ``least`` worst ones where those are fewer.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel and targets 0 or 1.
        target: ``(N, H, W)`` int64 train ids, or ``ignore_id``.
        probability: of the true class, from which on a pixel is left out; in (0, 1].
        least: pixels of the batch that count in any case, if there are as many.
        ignore_id: target value of pixels without influence.

    Returns:
        A scalar; 0 where every pixel is ignored.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
        >>> loss = ohem_cross_entropy(logits, torch.zeros(1, 1, 2).long(), least=1)
        >>> round(loss.item(), 4)
        0.6931
    """
    check_target("ohem_cross_entropy", logits, target)
    logits = at_least_float32(logits)
    valid = target != ignore_id
    if logits.shape[1] == 1:
        truth = torch.where(valid, target, 0).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
    else:
        each = F.cross_entropy(logits, target, ignore_index=ignore_id, reduction="none")
    each = each[valid]
    hard = each[each > -math.log(probability)]
    if len(hard) < least:
        hard = each.topk(min(least, len(each)), sorted=False).values
    return hard.sum() / max(len(hard), 1)


class OhemCrossEntropy(nn.Module):
    """:func:`ohem_cross_entropy` with its settings."""

    def __init__(self, ignore_id: int, probability: float, least: int) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.probability = probability
        self.least = least

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        return ohem_cross_entropy(
            logits,
            target,
            probability=self.probability,
            least=self.least,
            ignore_id=self.ignore_id,
        )


@register("ohem_cross_entropy")
class OhemCrossEntropySettings(LossSettings):
    """Settings of the term `ohem_cross_entropy`."""

    probability: float = Field(default=0.7, gt=0, le=1)
    """Probability of the true class from which on a pixel does not count."""
    least: int = Field(default=100_000, gt=0)
    """Worst pixels of the batch that count in any case."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> OhemCrossEntropy:
        """Return the module; see :meth:`LossSettings.build`."""
        return OhemCrossEntropy(labels.ignore_id, self.probability, self.least)
