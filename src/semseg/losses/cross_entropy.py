"""Cross entropy per pixel; binary with logits where the network has one channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.kernels import upsample_cross_entropy
from semseg.losses.base import LossSettings, at_least_float32, check_target, register
from semseg.losses.class_weights import ClassCounts, ClassWeights, resolve


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_id: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean cross entropy of the pixels that are not ignored.

    With class weights the sum is divided by the sum of the pixels' weights, as PyTorch does:
    multiplying all weights by one number changes nothing. A batch without any labelled pixel
    gives 0 and zero gradients.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel and targets 0 or 1.
        target: ``(N, H, W)`` int64 train ids, or ``ignore_id``.
        ignore_id: target value of pixels without influence.
        weight: one factor per class, ``(K,)``; two for K = 1.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> cross_entropy(torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), 255)).item()
        0.0
    """
    check_target("cross_entropy", logits, target)
    logits = at_least_float32(logits)
    valid = target != ignore_id
    pixel_weight = valid.to(logits.dtype)
    if weight is not None:
        weight = weight.to(logits.dtype)
        pixel_weight = pixel_weight * weight[target * valid]
    if logits.shape[1] == 1:
        soft = target.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        # the ignore id must not reach the product: it would be far outside [0, 1]
        soft = torch.where(valid, soft, 0.5)
        total = F.binary_cross_entropy_with_logits(
            logits[:, 0], soft, weight=pixel_weight, reduction="sum"
        )
    else:
        total = F.cross_entropy(
            logits,
            target,
            weight=weight,
            ignore_index=ignore_id,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
    return total / pixel_weight.sum().clamp_min(torch.finfo(logits.dtype).tiny)


class CrossEntropy(nn.Module):
    """:func:`cross_entropy` with its settings; the weights move with the module."""

    weight: Tensor | None

    def __init__(
        self, ignore_id: int, weight: list[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.label_smoothing = label_smoothing
        tensor = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.register_buffer("weight", tensor, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean over ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        return cross_entropy(
            logits,
            target,
            ignore_id=self.ignore_id,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
        )

    def enlarged(
        self, logits: Tensor, target: Tensor, size: tuple[int, int], align_corners: bool
    ) -> Tensor:
        """Return the mean over enlarged logits; see :class:`semseg.core.criterion.Enlarging`."""
        return upsample_cross_entropy(
            logits,
            target,
            size,
            align_corners,
            ignore_id=self.ignore_id,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
        )


@register("cross_entropy")
class CrossEntropySettings(LossSettings):
    """Settings of the term `cross_entropy`."""

    class_weights: ClassWeights = None
    """One factor per class, or how to compute them from the training split."""
    enet_c: float = Field(default=1.02, gt=1)
    """c in the scheme `enet`, 1 / ln(c + p)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over the classes."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> CrossEntropy:
        """Return the module; see :meth:`LossSettings.build`.

        Raises:
            InputError: the weights do not fit the classes, or the counts are missing.
        """
        weights = resolve(self.class_weights, labels, counts, enet_c=self.enet_c)
        return CrossEntropy(labels.ignore_id, weights, self.label_smoothing)
