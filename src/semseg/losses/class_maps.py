"""Logits and truth as one map per class, for losses that look at classes one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.losses.base import at_least_float32, check_target


@dataclass(frozen=True, slots=True)
class ClassMaps:
    """One map per class; what is ignored is 0 in each of them.

    Args:
        logits: ``(N, C, H, W)``, float32 or float64; no gradient reaches ignored ones.
        truth: ``(N, C, H, W)``, 1 where a pixel belongs to the class.
        valid: ``(N, C, H, W)``, 1 where the truth is known.
        exclusive: a pixel belongs to one class only: probabilities are a softmax, else sigmoids.
    """

    logits: Tensor
    truth: Tensor
    valid: Tensor
    exclusive: bool

    def probability(self) -> Tensor:
        """Return the classes' probabilities, 0 for what is ignored."""
        return (self.logits.softmax(1) if self.exclusive else self.logits.sigmoid()) * self.valid


def class_maps(
    owner: str, logits: Tensor, target: Tensor, ignore_id: int, *, sigmoid: bool = False
) -> ClassMaps:
    """Return the maps of logits and target.

    Args:
        owner: name of the loss, for messages.
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, whose map is the foreground's.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or, for classes that do not exclude
            each other, ``(N, K, H, W)`` int64 with 0, 1 or ``ignore_id``.
        ignore_id: target value without influence.
        sigmoid: take each class against all others, although they exclude each other.

    Raises:
        InputError: shapes or dtypes that do not fit.

    Example:
        >>> maps = class_maps("loss", torch.zeros(1, 2, 1, 2), torch.tensor([[[1, 255]]]), 255)
        >>> maps.truth.tolist(), maps.probability().tolist()
        ([[[[0.0, 0.0]], [[1.0, 0.0]]]], [[[[0.5, 0.0]], [[0.5, 0.0]]]])
    """
    several = target.dim() == 4
    if several and (target.shape != logits.shape or target.dtype != torch.int64):
        raise InputError(
            f"{owner} takes int64 targets (N, H, W), or (N, K, H, W) for classes that do not "
            f"exclude each other, got {target.dtype} {tuple(target.shape)} for logits "
            f"{tuple(logits.shape)}"
        )
    if not several:
        check_target(owner, logits, target)
        target = target.unsqueeze(1)
    logits = at_least_float32(logits)
    valid = target != ignore_id
    known = torch.where(valid, target, 0)
    if several or logits.shape[1] == 1:
        truth = known.to(logits.dtype)
    else:
        truth = torch.zeros_like(logits).scatter_(1, known, valid.to(logits.dtype))
    valid = valid.expand_as(logits)
    exclusive = not (several or sigmoid or logits.shape[1] == 1)
    # taken out before any arithmetic: 0 times what overflowed would not be 0
    return ClassMaps(torch.where(valid, logits, 0), truth, valid.to(logits.dtype), exclusive)
