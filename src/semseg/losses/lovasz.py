"""Lovász-hinge and Lovász-softmax: a convex surrogate of the intersection over union itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from semseg.core.labels import LabelMap
from semseg.losses.base import Bound, LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts

Classes = Literal["present", "all"]


def lovasz_softmax(
    logits: Tensor,
    target: Tensor,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    ignore_id: int = 255,
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss at the errors of the probabilities.

    Berman et al. 2018 (arXiv:1705.08790, algorithm 1); equal to the authors' code.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        classes: which ones the mean is over, those in the target or all. A single channel counts
            in any case, as in the authors' code.
        per_image: mean over images of their losses; else all pixels of the batch together.
        ignore_id: target value of pixels without influence.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> lovasz_softmax(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])).item()
        0.5
    """
    maps = class_maps("lovasz_softmax", logits, target, ignore_id)
    errors = (maps.truth - maps.probability()).abs()
    return _mean(errors, maps.truth, maps.valid, classes, per_image)


def lovasz_hinge(
    logits: Tensor,
    target: Tensor,
    *,
    classes: Classes = "present",
    per_image: bool = True,
    ignore_id: int = 255,
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss at the hinge losses of the logits.

    Berman et al. 2018 (arXiv:1705.08790), equal to the authors' code for one channel;
    with several, each class is taken against all others. Per image, as in the authors' code.
    Arguments as for :func:`lovasz_softmax`.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> lovasz_hinge(torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])).item()
        1.0
    """
    maps = class_maps("lovasz_hinge", logits, target, ignore_id, sigmoid=True)
    errors = 1 - maps.logits * (2 * maps.truth - 1)
    return _mean(errors, maps.truth, maps.valid, classes, per_image)


def _mean(
    errors: Tensor, truth: Tensor, valid: Tensor, classes: Classes, per_image: bool
) -> Tensor:
    """Return the mean over images (or the batch as one) of the mean over classes."""
    if not per_image:
        errors, truth, valid = (x.transpose(0, 1).flatten(1)[None] for x in (errors, truth, valid))
    single = errors.shape[1] == 1
    losses, counted = [], []
    # one class at a time: the sorted copies of all classes together would be large
    for error, inside, known in zip(
        *(x.flatten(2).unbind(1) for x in (errors, truth, valid)), strict=True
    ):
        losses.append(_extension(error, inside, known))
        counted.append((known if single or classes == "all" else inside).any(1))
    loss, count = torch.stack(losses, 1), torch.stack(counted, 1)
    return ((loss * count).sum(1) / count.sum(1).clamp_min(1)).mean()


def _extension(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Return the Lovász extension of the Jaccard loss for ``(N, P)`` errors of one class.

    Ignored pixels are sorted behind all others, where they change no coefficient before them.
    """
    key, order = torch.where(valid > 0, errors, -torch.inf).sort(dim=1, descending=True)
    inside = truth.gather(1, order).to(torch.int32)
    area = inside.sum(1, keepdim=True)
    common = area - inside.cumsum(1)
    union = area + (1 - inside).cumsum(1)
    # differences of numbers near 1 that lie 1 / pixels apart: float32 would lose them
    loss = 1 - common.double() / union.double()
    slope = torch.cat([loss[:, :1], loss.diff(dim=1)], 1).to(errors.dtype)
    return (key.relu() * slope).sum(1)


@register("lovasz_softmax")
class LovaszSoftmaxSettings(LossSettings):
    """Settings of the term `lovasz_softmax`."""

    classes: Classes = "present"
    """Classes that the mean is over: those in the target, or all."""
    per_image: bool = False
    """Mean over images of their losses; else all pixels of the batch together."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            lovasz_softmax,
            classes=self.classes,
            per_image=self.per_image,
            ignore_id=labels.ignore_id,
        )


@register("lovasz_hinge")
class LovaszHingeSettings(LossSettings):
    """Settings of the term `lovasz_hinge`."""

    classes: Classes = "present"
    """Classes that the mean is over: those in the target, or all."""
    per_image: bool = True
    """Mean over images of their losses; else all pixels of the batch together."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            lovasz_hinge,
            classes=self.classes,
            per_image=self.per_image,
            ignore_id=labels.ignore_id,
        )
