"""Cross entropy of each image's worst pixels: what is already right stops to matter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses.base import LossSettings, at_least_float32, check_target, register
from semseg.losses.class_weights import ClassCounts


def bootstrapped_cross_entropy(
    logits: Tensor, target: Tensor, *, pixels: int = 32_768, ignore_id: int = 255
) -> Tensor:
    """Return the mean cross entropy of the ``pixels`` worst pixels of each image, and over images.

    Pohlen et al. 2017 (arXiv:1611.08323, section 5.1; 512 * 64 pixels, also in their code), after
    Wu et al. 2016 (arXiv:1605.06885). An ignored pixel has the loss 0: it is never among the worst
    while others remain, and it counts as a pixel where they do not.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel and targets 0 or 1.
        target: ``(N, H, W)`` int64 train ids, or ``ignore_id``.
        pixels: how many; all of a smaller image.
        ignore_id: target value of pixels without influence.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
        >>> loss = bootstrapped_cross_entropy(logits, torch.zeros(1, 1, 2).long(), pixels=1)
        >>> round(loss.item(), 4)
        0.6931
    """
    check_target("bootstrapped_cross_entropy", logits, target)
    logits = at_least_float32(logits)
    if logits.shape[1] == 1:
        valid = target != ignore_id
        truth = torch.where(valid, target, 0).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none") * valid
    else:
        each = F.cross_entropy(logits, target, ignore_index=ignore_id, reduction="none")
    each = each.flatten(1)
    return each.topk(min(pixels, each.shape[1]), sorted=False).values.mean()


class BootstrappedCrossEntropy(nn.Module):
    """:func:`bootstrapped_cross_entropy` with its settings."""

    def __init__(self, ignore_id: int, pixels: int) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.pixels = pixels

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        return bootstrapped_cross_entropy(
            logits, target, pixels=self.pixels, ignore_id=self.ignore_id
        )


@register("bootstrapped_cross_entropy")
class BootstrappedCrossEntropySettings(LossSettings):
    """Settings of the term `bootstrapped_cross_entropy`."""

    pixels: int = Field(default=32_768, gt=0)
    """Worst pixels of each image that count."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> BootstrappedCrossEntropy:
        """Return the module; see :meth:`LossSettings.build`."""
        return BootstrappedCrossEntropy(labels.ignore_id, self.pixels)
