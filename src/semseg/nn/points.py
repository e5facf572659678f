"""Points on several scales, and what carries features between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from semseg.kernels.furthest import furthest
from semseg.kernels.neighbours import nearest


@dataclass(frozen=True, slots=True)
class Scale:
    """The points of a batch of clouds on one scale.

    Args:
        points: ``(N, 3)`` coordinates of all clouds, one after the other.
        offsets: end of each cloud.
    """

    points: Tensor
    offsets: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Number of points of each cloud."""
        return [end - start for start, end in pairwise((0, *self.offsets))]

    def neighbours(self, k: int, of: Scale | None = None) -> Tensor:
        """Return ``(M, k)`` positions here of the points nearest to each one of another scale."""
        if of is None:
            return nearest(k, self.points, self.offsets)[0]
        return nearest(k, self.points, self.offsets, of.points, of.offsets)[0]

    def coarser(self, stride: int, starts: Tensor | None = None) -> Scale:
        """Return every ``stride``-th point, those that lie furthest from one another.

        Args:
            stride: points here for one there; a cloud's number is rounded down.
            starts: position of the point that each cloud begins with; its first if ``None``.
        """
        counts = [size // stride for size in self.sizes]
        chosen = furthest(self.points, self.offsets, counts, starts)
        ends = torch.tensor(counts).cumsum(0).tolist() if len(counts) > 1 else counts
        return Scale(self.points[chosen], tuple(ends))


class PointNorm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension, over all that come before it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., C)`` normalised."""
        return super().forward(x.flatten(0, -2)).view(x.shape)


def relative(points: Tensor, centres: Tensor, index: Tensor) -> Tensor:
    """Return where the points at ``index`` ``(M, k)`` lie as seen from ``(M, 3)`` centres."""
    return points[index] - centres[:, None]


def interpolate(features: Tensor, coarse: Scale, fine: Scale, k: int = 3) -> Tensor:
    """Carry features to a finer scale, weighted by the inverse of the distance.

    PointNet++ (Qi et al., arXiv:1706.02413, equation 2 with p = 1), with 1e-8 added to distances.

    Args:
        features: ``(M, C)`` of the coarse scale.
        coarse: where they are.
        fine: where they are wanted.
        k: how many of the nearest points are taken.

    Returns:
        ``(N, C)``.

    Example:
        >>> coarse = Scale(torch.tensor([[0.0, 0, 0], [4, 0, 0]]), (2,))
        >>> fine = Scale(torch.tensor([[1.0, 0, 0]]), (1,))
        >>> round(interpolate(torch.tensor([[0.0], [1.0]]), coarse, fine, k=2).item(), 4)
        0.25
    """
    index, squared = nearest(k, coarse.points, coarse.offsets, fine.points, fine.offsets)
    # 1 / (distance + 1e-8) but for a factor that all share; exporters take an added 1e-8 for 0
    weight = 1 / (1e8 * squared.sqrt() + 1)
    weight = weight / weight.sum(1, keepdim=True)
    return (features[index] * weight[..., None]).sum(1)


def cloud_means(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean ``(B, C)`` of each cloud's features ``(N, C)``."""
    return torch.stack([part.mean(0) for part in torch.split(features, list(sizes))])
