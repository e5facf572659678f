"""Cross entropy at full size, without the full-size logits or their gradient.

``F.cross_entropy`` of interpolated logits holds several tensors of K channels at full size. Here
the loss and its gradient for the logits are both computed strip by strip in the forward pass, while
a strip is in the cache; what stays is one gradient of the size of the logits. Enlarging is linear,
so the gradient of a strip goes back to the samples with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.gradient import Gradient
from semseg.kernels.upsample import (
    Size,
    at_once,
    axes,
    check_logits,
    check_size,
    strips,
    working_dtype,
)

FEW, FEW_GPU = 2**21, 2**28
"""Values at full size up to which they are all made at once: starting operators costs more."""

STRIPS = 4
"""How much more is worked on at once than elsewhere: each strip starts many operators."""


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    size: Size | None = None,
    align_corners: bool = False,
    *,
    ignore_id: int = 255,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean cross entropy of logits enlarged bilinearly, over pixels not ignored.

    The value and gradient of ``F.cross_entropy(F.interpolate(logits, size), target)`` with mode
    bilinear, and with class weights its weighted mean. A batch without any labelled pixel gives 0
    and zero gradients. Half precision is computed in float32, under autocast too. Unless there is
    little to compute the gradient is made in the forward pass and has no second derivative.

    Args:
        logits: ``(N, K, h, w)``, K at least 2.
        target: ``(N, H, W)`` int64 train ids, or ``ignore_id``.
        size: what the logits are enlarged to, when the target covers only its upper left part
            (images that were padded right and below); the target's size if left out.
        align_corners: as in ``F.interpolate``.
        ignore_id: target value of pixels without influence.
        weight: one factor per class, ``(K,)``.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).

    Raises:
        InputError: shapes, dtypes or target ids that do not fit.
        SettingError: integer logits.

    Example:
        >>> logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
        >>> loss = upsample_cross_entropy(logits, torch.zeros(1, 8, 8, dtype=torch.int64))
        >>> round(loss.item(), 4)
        1.3863
    """
    check_logits("upsample_cross_entropy", logits)
    _check_target(logits, target, ignore_id)
    size = (target.shape[1], target.shape[2]) if size is None else size
    check_size("upsample_cross_entropy", size)
    if size[0] < target.shape[1] or size[1] < target.shape[2]:
        raise InputError(
            f"upsample_cross_entropy enlarges to {tuple(size)}, which does not cover the target's "
            f"{tuple(target.shape[1:])}; give the size of the padded images"
        )
    if weight is not None and weight.shape != logits.shape[1:2]:
        raise InputError(
            f"upsample_cross_entropy takes one weight per class, got {tuple(weight.shape)} for "
            f"{logits.shape[1]} classes"
        )
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    settings = _Settings(size, align_corners, ignore_id, label_smoothing)
    few = FEW if logits.device.type == "cpu" else FEW_GPU
    if logits.shape[1] * target.numel() <= few:
        return _at_once(logits, target, weight, settings)
    loss: Tensor = _UpsampleCrossEntropy.apply(logits, target, weight, settings)
    return loss


@dataclass(frozen=True, slots=True)
class _Settings:
    size: Size
    align_corners: bool
    ignore_id: int
    smoothing: float


def _at_once(logits: Tensor, target: Tensor, weight: Tensor | None, settings: _Settings) -> Tensor:
    """Return the loss by the plain formula."""
    dtype = working_dtype(logits)
    height, width = target.shape[1:]
    with torch.autocast(logits.device.type, enabled=False):
        full = F.interpolate(
            logits.to(dtype), settings.size, mode="bilinear", align_corners=settings.align_corners
        )
        counted = target != settings.ignore_id
        total = F.cross_entropy(
            full[..., :height, :width],
            target,
            weight=None if weight is None else weight.to(dtype),
            ignore_index=settings.ignore_id,
            label_smoothing=settings.smoothing,
            reduction="sum",
        )
        share = counted.to(dtype)
        if weight is not None:
            share = share * weight.to(dtype)[torch.where(counted, target, 0)]
        return total / share.sum().clamp_min(torch.finfo(dtype).tiny)


class _UpsampleCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, settings: _Settings
    ) -> Tensor:
        dtype = working_dtype(logits)
        needed = ctx.needs_input_grad[0]
        with torch.autocast(logits.device.type, enabled=False):
            rows, columns = axes(logits, settings.size, settings.align_corners)
            rows, columns = rows.cut(target.shape[1]), columns.cut(target.shape[2])
            weight = None if weight is None else weight.to(dtype)
            gradient = torch.zeros_like(logits, dtype=dtype) if needed else None
            # as many images at once as leave room for all rows between two samples
            values_in_run = logits.shape[1] * target.shape[2] * -(-len(rows.low) // len(rows.lows))
            limit = STRIPS * at_once(logits)
            images = min(len(logits), max(1, limit // values_in_run))
            sums = []
            for first in range(0, len(logits), images):
                part = slice(first, first + images)
                back = None if gradient is None else Gradient(gradient[part], rows, columns)
                for y, end, values in strips(logits[part], rows, columns, limit):
                    sums.append(_strip(values, target[part, y:end], weight, settings, needed))
                    if back is not None:
                        back.add(y, end, values)
                if back is not None:
                    back.finish()
            total, share = torch.stack(sums).sum(0).unbind()
            share = share.clamp_min(torch.finfo(dtype).tiny)
            if gradient is not None:
                ctx.save_for_backward(gradient.div_(share), logits)
            return total / share

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None, None]:
        gradient, logits = ctx.saved_tensors
        scaled: Tensor = _Scaled.apply(gradient, upstream, logits)
        return scaled, None, None, None


class _Scaled(torch.autograd.Function):
    """The gradient; it depends on the logits, so that nobody takes it for a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, upstream: Tensor, logits: Tensor) -> Tensor:
        # half precision holds it only after the loss scale came in
        return (gradient * upstream).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        raise InputError(
            "upsample_cross_entropy has no second derivative; use F.interpolate and "
            "F.cross_entropy for a loss on gradients"
        )


def _strip(
    values: Tensor, target: Tensor, weight: Tensor | None, settings: _Settings, needed: bool
) -> Tensor:
    """Return the sums of loss and pixel weight, and turn ``values`` into the loss's gradient.

    Args:
        values: ``(n, K, r, W)`` logits; afterwards the gradient of the sum, if ``needed``.
        target: ``(n, r, W)``.
        weight: per class.
        settings: of the loss.
        needed: whether to compute the gradient.
    """
    classes, eps = values.shape[1], settings.smoothing
    counted = target != settings.ignore_id
    target = torch.where(counted, target, 0)
    own_weight = counted.to(values.dtype)
    if weight is not None:
        own_weight = own_weight * weight[target]
    target = target[:, None]
    values -= values.amax(1, keepdim=True)
    own = values.gather(1, target)[:, 0]
    if eps:
        each = values.new_ones(classes) if weight is None else weight
        each = (each * (eps / classes))[:, None, None]
        spread = (values * each).sum(1)
    total = values.exp_().sum(1)
    log_total = total.log()
    loss = ((1 - eps) * own_weight * (log_total - own)).sum()
    factor = (1 - eps) * own_weight
    if eps:
        loss = loss + (counted * (each.sum() * log_total - spread)).sum()
        factor = factor + counted * each.sum()
    if needed:
        values *= (factor / total)[:, None]
        values.scatter_add_(1, target, -(1 - eps) * own_weight[:, None])
        if eps:
            values -= counted[:, None] * each
    return torch.stack([loss, own_weight.sum()])


def _check_target(logits: Tensor, target: Tensor, ignore_id: int) -> None:
    classes = logits.shape[1]
    if classes < 2:
        raise InputError(
            "upsample_cross_entropy takes at least 2 classes, got 1; enlarge the logits of a "
            "sigmoid channel and take the binary cross entropy"
        )
    if target.dim() != 3 or len(target) != len(logits) or target.dtype != torch.int64:
        raise InputError(
            f"upsample_cross_entropy takes int64 targets (N, H, W) for logits (N, K, h, w), got "
            f"{target.dtype} {tuple(target.shape)} for {tuple(logits.shape)}"
        )
    if target.numel() == 0:
        raise InputError(f"the target is empty, {tuple(target.shape)}")
    if target.device.type != "cpu":
        return  # looking at values would make a GPU wait; it stops at a wrong id by itself
    low, high = (int(v) for v in target.aminmax())
    if low < 0 or high >= classes:
        wrong = target[(target != ignore_id) & ((target < 0) | (target >= classes))]
        if len(wrong):
            raise InputError(
                f"the target holds id {int(wrong[0])}; wanted 0 … {classes - 1} or {ignore_id}"
            )
