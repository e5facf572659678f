"""Region mutual information: neighbouring pixels are judged together, as one point each."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.losses.base import Bound, LossSettings, register
from semseg.losses.class_maps import class_maps
from semseg.losses.class_weights import ClassCounts

Pool = Literal["mean", "max"]

RIDGE = 5e-4
"""Added to the diagonal of covariances, which keeps them positive definite."""


def rmi(
    logits: Tensor,
    target: Tensor,
    *,
    radius: int = 3,
    stride: int = 4,
    pool: Pool = "mean",
    cross_entropy_share: float = 0.5,
    ignore_id: int = 255,
) -> Tensor:
    """Return binary cross entropy per class, mixed with minus the regions' mutual information.

    Zhao et al. 2019 (arXiv:1910.12037), equal to the authors' code with the
    settings of its training script. The second part is a lower bound without its constants: it can
    be negative. Its covariances are float64, whatever comes in.

    Args:
        logits: ``(N, K, H, W)``; K = 1 means one sigmoid channel, the foreground alone.
        target: ``(N, H, W)`` int64 train ids or ``ignore_id``; or ``(N, K, H, W)`` with 0, 1 or
            ``ignore_id`` for classes that do not exclude each other.
        radius: side of the regions, in pixels after pooling.
        stride: pixels that are pooled into one along each side; 1 for none.
        pool: how.
        cross_entropy_share: lambda, share of the cross entropy in the sum.
        ignore_id: target value of pixels without influence. They count as 0 in truth and
            probability, as in the authors' code.

    Raises:
        InputError: shapes or dtypes that do not fit, or images with no room for one region.

    Example:
        >>> logits = torch.tensor([[[[9.0, -9.0]]]])
        >>> round(rmi(logits, torch.tensor([[[1, 0]]]), radius=1, stride=1).item(), 2)
        -1.73
    """
    maps = class_maps("rmi", logits, target, ignore_id, sigmoid=True)
    pixels = maps.valid.amax(1).sum()
    each = F.binary_cross_entropy_with_logits(
        maps.logits, maps.truth, weight=maps.valid, reduction="sum"
    )
    binary = each / (pixels + 1)
    truth = _regions(maps.truth.double(), radius, stride, pool)
    guess = _regions(maps.probability().double(), radius, stride, pool)
    bound = _log_variance(truth, guess).mean(0).sum() / (2 * radius**2)
    bound = bound.to(binary.dtype) * (pixels > 0)
    return cross_entropy_share * binary + (1 - cross_entropy_share) * bound


def _regions(maps: Tensor, radius: int, stride: int, pool: Pool) -> Tensor:
    """Return the regions' pixels minus their means, ``(N, C, radius^2, regions)``."""
    if stride > 1:
        shrink = F.avg_pool2d if pool == "mean" else F.max_pool2d
        maps = shrink(maps, stride, stride, padding=stride // 2)
    height, width = (side - radius + 1 for side in maps.shape[2:])
    if min(height, width) < 1:
        raise InputError(
            f"rmi has no region of {radius} x {radius} in maps of {maps.shape[2]} x "
            f"{maps.shape[3]}, the images' size over {stride}; make radius or stride smaller"
        )
    points = torch.stack(
        [maps[:, :, y : y + height, x : x + width] for y in range(radius) for x in range(radius)],
        dim=2,
    ).flatten(3)
    return points - points.mean(3, keepdim=True)


def _log_variance(truth: Tensor, guess: Tensor) -> Tensor:
    """Return the logarithm of the determinant of the truth's variance given the guess, (N, C)."""
    ridge = RIDGE * torch.eye(truth.shape[2], dtype=truth.dtype, device=truth.device)
    common = truth @ guess.mT
    known = common @ torch.linalg.solve(guess @ guess.mT + ridge, common.mT)
    left = truth @ truth.mT - known
    factor = torch.linalg.cholesky(left + ridge)
    logarithm: Tensor = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return logarithm


@register("rmi")
class RmiSettings(LossSettings):
    """Settings of the term `rmi`; it contains a cross entropy of its own."""

    radius: int = Field(default=3, ge=1, le=10)
    """Side of the regions, in pixels after pooling."""
    stride: int = Field(default=4, ge=1)
    """Pixels that are pooled into one along each side."""
    pool: Pool = "mean"
    """How pixels are pooled."""
    cross_entropy_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the binary cross entropy in the sum."""

    def build(self, labels: LabelMap, counts: ClassCounts | None) -> nn.Module:
        """Return the module; see :meth:`LossSettings.build`."""
        return Bound(
            rmi,
            radius=self.radius,
            stride=self.stride,
            pool=self.pool,
            cross_entropy_share=self.cross_entropy_share,
            ignore_id=labels.ignore_id,
        )
