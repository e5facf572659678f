"""Cross entropy that weighs the narrow gaps between touching objects, as U-Net's paper does."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses.base import LossSettings, at_least_float32, check_target, register
from semseg.losses.class_weights import ClassCounts

REACH = 6
"""Distances beyond this many sigma give weights that float32 does not see: w0 * exp(-18)."""


def two_nearest(instances: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the exact Euclidean distances to the nearest and the second-nearest object.

    The distances are separable: the two nearest objects of a pixel are among the two nearest of
    its row's pixels along their columns. Work grows with ``reach``, not with the number of objects.

    Args:
        instances: ``(N, H, W)`` integers, 0 for background and one number for each object.
        reach: farthest row and column that is looked at, in pixels.

    Returns:
        Two tensors ``(N, H, W)``, ``inf`` where there is no such object within reach.

    Example:
        >>> row = torch.tensor([[[1, 0, 0, 2]]])
        >>> near, second = two_nearest(row, reach=5)
        >>> near.tolist(), second.tolist()
        ([[[0.0, 1.0, 1.0, 0.0]]], [[[3.0, 2.0, 2.0, 3.0]]])
    """
    inside = instances > 0
    far = torch.full(instances.shape, torch.inf, device=instances.device)
    found = (torch.where(inside, 0.0, far), far, instances, torch.zeros_like(instances))
    for dim in (1, 2):
        found = _spread(found, dim, min(reach, instances.shape[dim] - 1))
    return found[0].sqrt(), found[1].sqrt()


Nearest = tuple[Tensor, Tensor, Tensor, Tensor]
"""Squared distances to the nearest and the second-nearest object, then their two numbers."""


def _spread(given: Nearest, dim: int, reach: int) -> Nearest:
    """Return the two nearest objects over all shifts of ``given`` along one dimension."""
    near, second, name, other = given
    candidates = [(near, name), (second, other)]
    if not second.isfinite().any():  # each pixel has seen itself only
        candidates.pop()
    for step in range(1, reach + 1):
        for shift in (step, -step):
            for distance, label in candidates:
                d = _shifted(distance, dim, shift, torch.inf) + step * step
                who = _shifted(label, dim, shift, 0)
                closer = d < near
                same = who == name
                # what was nearest becomes second, unless it is the same object
                pushed = closer & ~same
                replaces = ~closer & ~same & (d < second)
                second = torch.where(pushed, near, torch.where(replaces, d, second))
                other = torch.where(pushed, name, torch.where(replaces, who, other))
                near = torch.where(closer, d, near)
                name = torch.where(closer, who, name)
    return near, second, name, other


def _shifted(x: Tensor, dim: int, shift: int, value: float) -> Tensor:
    """Return ``x`` moved by ``shift`` along ``dim`` of ``(N, H, W)``, the gap filled."""
    pad = (max(shift, 0), max(-shift, 0))
    kept = x.narrow(dim, max(-shift, 0), x.shape[dim] - abs(shift))
    return F.pad(kept, pad if dim == 2 else (0, 0, *pad), value=value)


def components(mask: Tensor) -> Tensor:
    """Number the connected regions of a mask; pixels that share an edge or corner belong together.

    Args:
        mask: ``(N, H, W)`` bool.

    Returns:
        ``(N, H, W)`` int64, 0 outside; one positive number per region, in no particular order.

    Example:
        >>> components(torch.tensor([[[True, False, True]]])).unique().numel()
        3
    """
    count, height, width = mask.shape
    own = torch.arange(1, mask.numel() + 1, device=mask.device).view(count, height, width)
    label = torch.where(mask, own, 0)
    while True:
        # the largest number among the neighbours, then the number that this one has by now: each
        # round jumps as far as all before it
        grown = F.max_pool2d(label.double(), 3, stride=1, padding=1).long() * mask
        known = torch.cat([grown.new_zeros(1), grown.flatten()])
        grown = known[known[grown]]
        if torch.equal(grown, label):
            return label
        label = grown


def border_weights(instances: Tensor, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """Return ``w0 * exp(-(d1 + d2)^2 / (2 sigma^2))`` on the background, 0 on objects.

    d1 and d2 are the distances to the nearest and second-nearest object (Ronneberger et al.,
    arXiv:1505.04597, equation 2, without its class weights).

    Args:
        instances: ``(N, H, W)`` integers, 0 for background and one number for each object.
        w0: weight of a gap of no width.
        sigma: width in pixels over which the weight falls.
    """
    near, second = two_nearest(instances, math.ceil(REACH * sigma))
    weight = w0 * torch.exp(-((near + second) ** 2) / (2 * sigma**2))
    return torch.where(instances > 0, 0.0, weight)


def border_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    weight: Tensor | None = None,
    ignore_id: int = 255,
) -> Tensor:
    """Return U-Net's loss: the mean over labelled pixels of weighted cross entropy.

    Class 0 is background. Objects are the connected regions of each other class, so touching
    objects must be parted by background in the mask, as the paper's are. The weight of a pixel is
    its class's plus :func:`border_weights`; it is not divided out, so a gap of weight 11 pulls
    eleven times as hard. The paper sums instead of averaging.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel and targets 0 or 1.
        target: ``(N, H, W)`` int64 train ids, or ``ignore_id``.
        w0: weight of a gap of no width.
        sigma: width in pixels over which the weight falls.
        weight: one factor per class, ``(K,)``; two for K = 1. 1 each if ``None``.
        ignore_id: target value of pixels without influence.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> border_cross_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long()).item()
        0.6931471824645996
    """
    check_target("border_cross_entropy", logits, target)
    logits = at_least_float32(logits)
    valid = target != ignore_id
    known = torch.where(valid, target, 0)
    if logits.shape[1] == 1:
        truth = known.to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
    else:
        each = F.cross_entropy(logits, known, reduction="none")
    pixels = border_weights(objects(known), w0, sigma)
    pixels = pixels + (1 if weight is None else weight.to(logits.dtype)[known])
    return (each * pixels * valid).sum() / valid.sum().clamp_min(1)


def objects(target: Tensor) -> Tensor:
    """Number the connected regions of each class but 0: ``(N, H, W)`` train ids to instances."""
    instances = torch.zeros_like(target)
    for label in torch.unique(target).tolist():
        if label != 0:
            # numbers are positions in the batch, so those of two classes never meet
            instances += components(target == label)
    return instances


class BorderCrossEntropy(nn.Module):
    """:func:`border_cross_entropy` with its settings; the weights move with the module."""

    weight: Tensor | None

    def __init__(
        self, ignore_id: int, w0: float, sigma: float, weight: list[float] | None = None
    ) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.w0 = w0
        self.sigma = sigma
        tensor = None if weight is None else torch.tensor(weight, dtype=torch.float32)
        self.register_buffer("weight", tensor, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``(N, K, H, W)`` logits against ``(N, H, W)`` train ids."""
        return border_cross_entropy(
            logits,
            target,
            w0=self.w0,
            sigma=self.sigma,
            weight=self.weight,
            ignore_id=self.ignore_id,
        )


@register("border_cross_entropy")
class BorderCrossEntropySettings(LossSettings):
    """Settings of the term `border_cross_entropy`."""

    w0: float = Field(default=10.0, ge=0)
    """Weight of a gap of no width between two objects."""
    sigma: float = Field(default=5.0, gt=0)
    """Width in pixels over which that weight falls."""
    class_weights: list[float] | None = None
    """One factor per class; 1 each if not given."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> BorderCrossEntropy:
        """Return the module; see :meth:`LossSettings.build`.

        Raises:
            InputError: class weights that do not fit the classes.
        """
        weights = self.class_weights
        if weights is not None and len(weights) != labels.num_classes:
            raise InputError(
                f"class_weights has {len(weights)} numbers, the data has {labels.num_classes} "
                "classes; give one per class"
            )
        return BorderCrossEntropy(labels.ignore_id, self.w0, self.sigma, weights)
