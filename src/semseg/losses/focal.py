"""Focal loss: cross entropy in which pixels that are already right weigh little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses.base import Bound, LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts, ClassWeights, resolve


def focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    weight: Tensor | None = None,
    sigmoid: bool = False,
    ignore_id: int = 255,
) -> Tensor:
    """Return the mean of ``-(1 - p)^gamma log(p)``, p the probability of what is true.

    Lin et al. 2017 (arXiv:1708.02002, equations 4 and 5). The mean is over the labelled pixels,
    where the paper divides by the anchors assigned to an object; a sum over classes inside it where
    classes are taken one by one, as in the paper. ``gamma`` 0 gives cross entropy.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel and targets 0 or 1.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        gamma: how fast a pixel loses weight as it becomes right.
        alpha: factor of a class's own pixels, and 1 minus it of all others; where classes are taken
            one by one. None for no factor.
        weight: one factor per class, ``(K,)``; two for K = 1.
        sigmoid: take each class against all others; else a softmax.
        ignore_id: target value of pixels without influence.

    Raises:
        InputError: shapes or dtypes that do not fit, or alpha with a softmax.

    Example:
        >>> round(focal(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1).long()).item(), 4)
        0.1733
    """
    maps = class_maps("focal", logits, target, ignore_id, sigmoid=sigmoid)
    truth = maps.truth
    if maps.exclusive and alpha is not None:
        raise InputError(
            f"focal takes alpha ({alpha}) for one channel or with sigmoid, got a softmax over "
            f"{logits.shape[1]} classes; give class weights"
        )
    if maps.exclusive:
        log = maps.logits.log_softmax(1)
        factor = truth
    else:
        log = F.logsigmoid(maps.logits * (2 * truth - 1))
        factor = maps.valid
        if alpha is not None:
            factor = factor * (alpha * truth + (1 - alpha) * (1 - truth))
    # 1 - p without its loss of digits near p = 1, and away from 0, where powers have no slope
    missing = (-torch.expm1(log)).clamp_min(torch.finfo(log.dtype).tiny)
    each = -(missing**gamma) * log * factor
    if weight is not None:
        weight = weight.to(each.dtype).view(1, -1, 1, 1)
        if each.shape[1] == 1 and weight.shape[1] == 2:
            weight = weight[:, :1] * (1 - truth) + weight[:, 1:] * truth
        each = each * weight
    return each.sum() / maps.valid.amax(1).sum().clamp_min(1)


@register("focal")
class FocalSettings(LossSettings):
    """Settings of the term `focal`."""

    gamma: float = Field(default=2.0, ge=0)
    """How fast a pixel loses weight as it becomes right; 0 is cross entropy."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """Factor of a class's own pixels, 1 - alpha of others; one channel or `sigmoid` only."""
    sigmoid: bool = False
    """Take each class against all others, as the paper does, not all together."""
    class_weights: ClassWeights = None
    """One factor per class, or how to compute them from the training split."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`.

        Raises:
            InputError: the weights do not fit the classes, or the counts are missing.
        """
        return Bound(
            focal,
            weight=resolve(self.class_weights, labels, counts),
            gamma=self.gamma,
            alpha=self.alpha,
            sigmoid=self.sigmoid,
            ignore_id=labels.ignore_id,
        )
