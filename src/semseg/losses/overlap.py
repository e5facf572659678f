"""Losses of overlap between probabilities and truth: Jaccard, Tversky and focal Tversky."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses.base import Bound, LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts


def tversky(
    logits: Tensor,
    target: Tensor,
    *,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    power: float = 1.0,
    sigmoid: bool = False,
    ignore_id: int = 255,
    owner: str = "tversky",
) -> Tensor:
    """Return the mean over the classes present of one minus their Tversky index.

    ``T = TP / (TP + a FP + b FN)`` with soft counts over the labelled pixels of the whole batch;
    a, b = 0.3, 0.7 in Salehi et al. 2017 (arXiv:1706.05721), 0.5 each is
    Dice, 1 each Jaccard. ``(1 - T)^(3/4)`` is the focal Tversky loss. Absent classes are left out;
    a batch without any class present gives 0 and zero gradients.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        false_positive: a, weight of what is wrongly given to a class.
        false_negative: b, weight of what a class misses.
        power: exponent of ``1 - T``.
        sigmoid: take each class against all others; else a softmax.
        ignore_id: target value of pixels without influence.
        owner: name of the loss, for messages.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> round(tversky(torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])).item(), 4)
        0.5
    """
    maps = class_maps(owner, logits, target, ignore_id, sigmoid=sigmoid)
    probability, pixels = maps.probability(), (0, 2, 3)
    overlap = (probability * maps.truth).sum(pixels)
    wrong = probability.sum(pixels) - overlap
    area = maps.truth.sum(pixels)
    present = (area > 0).to(overlap.dtype)
    whole = overlap + false_positive * wrong + false_negative * (area - overlap)
    # an absent class divides by what is not 0, so that its gradient is 0 and not undefined
    missing = 1 - overlap / torch.where(area > 0, whole, 1.0)
    if power != 1:  # away from 0, where roots have no slope
        missing = missing.clamp_min(torch.finfo(missing.dtype).eps) ** power
    return (missing * present).sum() / present.sum().clamp_min(1)


def jaccard(
    logits: Tensor, target: Tensor, *, sigmoid: bool = False, ignore_id: int = 255
) -> Tensor:
    """Return one minus the mean soft intersection over union of the classes present.

    Rahman & Wang 2016 (Optimizing intersection-over-union in deep neural networks), per batch and
    class; :func:`tversky` with both weights 1. Arguments as there.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> round(jaccard(torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])).item(), 4)
        0.6667
    """
    return tversky(
        logits,
        target,
        false_positive=1,
        false_negative=1,
        sigmoid=sigmoid,
        ignore_id=ignore_id,
        owner="jaccard",
    )


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    *,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    gamma: float = 4 / 3,
    sigmoid: bool = False,
    ignore_id: int = 255,
) -> Tensor:
    """Return the mean over the classes present of ``(1 - T)^(1 / gamma)``, T as in :func:`tversky`.

    Abraham & Khan 2018 (arXiv:1810.07842), which sums over the classes. Above 1,
    ``gamma`` gives classes that are nearly right more slope, not less. Other arguments as there.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> round(focal_tversky(torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])).item(), 4)
        0.5946
    """
    return tversky(
        logits,
        target,
        false_positive=false_positive,
        false_negative=false_negative,
        power=1 / gamma,
        sigmoid=sigmoid,
        ignore_id=ignore_id,
        owner="focal_tversky",
    )


@register("jaccard")
class JaccardSettings(LossSettings):
    """Settings of the term `jaccard`."""

    sigmoid: bool = False
    """Take each class against all others, not all together."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(jaccard, sigmoid=self.sigmoid, ignore_id=labels.ignore_id)


@register("tversky")
class TverskySettings(LossSettings):
    """Settings of the term `tversky`."""

    false_positive: float = Field(default=0.3, gt=0)
    """Weight of what is wrongly given to a class."""
    false_negative: float = Field(default=0.7, gt=0)
    """Weight of what a class misses."""
    sigmoid: bool = False
    """Take each class against all others, not all together."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            tversky,
            false_positive=self.false_positive,
            false_negative=self.false_negative,
            sigmoid=self.sigmoid,
            ignore_id=labels.ignore_id,
        )


@register("focal_tversky")
class FocalTverskySettings(TverskySettings):
    """Settings of the term `focal_tversky`."""

    gamma: float = Field(default=4 / 3, gt=0)
    """The power is 1 / gamma; the paper varies it from 1 to 3."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            focal_tversky,
            false_positive=self.false_positive,
            false_negative=self.false_negative,
            gamma=self.gamma,
            sigmoid=self.sigmoid,
            ignore_id=labels.ignore_id,
        )
