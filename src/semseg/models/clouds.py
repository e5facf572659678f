"""What every network over point clouds promises, besides what every network does."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from semseg.core.clouds import Clouds, check_clouds
from semseg.core.criterion import Criterion
from semseg.models.base import SegmentationModel


class CloudModel(SegmentationModel):
    """A network from packed point clouds to a class score per point.

    Shapes:
        - clouds: :class:`Clouds` of ``(N, 3)`` coordinates and ``(N, C)`` features; C is
          ``in_channels``, and coordinates do not count.
        - output: ``(N, K)`` logits, never probabilities.

    Losses and metrics, which know images alone, see a batch as one image of one row.
    """

    takes: ClassVar[Literal["images", "clouds"]] = "clouds"

    min_points: ClassVar[int] = 1
    """Least number of points of a cloud."""

    def forward_heads(self, clouds: Clouds) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute every output a loss may want; ``"logits"`` are ``(N, K)``."""
        raise NotImplementedError

    def forward(self, clouds: Clouds) -> Tensor:  # type: ignore[override]
        """Return class scores ``(N, K)`` of all points.

        Raises:
            InputError: shapes, channels or offsets do not fit, or a cloud is too small.
            SettingError: images, or integers.
        """
        return self.forward_heads(self.pad(clouds))["logits"]

    def pad(self, clouds: Clouds) -> Clouds:  # type: ignore[override]
        """Return checked clouds as they are; a cloud of any number of points is taken."""
        check_clouds(type(self).__name__, clouds, self.config.in_channels, self.min_points)
        return clouds

    def blank(self, size: tuple[int, int], batch: int = 1) -> Clouds:
        """Return clouds of H times W points each on the meta device."""
        points = size[0] * size[1]
        features = torch.empty(batch * points, self.config.in_channels, device="meta")
        ends = tuple(points * (i + 1) for i in range(batch))
        return Clouds(torch.empty(batch * points, 3, device="meta"), features, ends)

    def full_size(self, logits: Tensor, size: object = None) -> Tensor:
        """Return a head's logits as they are: there is one score per point already."""
        return logits

    def head_loss(self, logits: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the criterion of ``(N, K)`` logits and a target of N values in any shape."""
        return criterion(as_image(logits), target.reshape(1, 1, -1))


def as_image(logits: Tensor) -> Tensor:
    """Return ``(N, K)`` scores of points as those of an image of one row, ``(1, K, 1, N)``."""
    return logits.T[None, :, None]
