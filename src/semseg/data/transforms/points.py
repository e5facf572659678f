"""Augmentation of point clouds, thinned out on their grid and cut to a number of points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from semseg.core.checks import InputError
from semseg.data.clouds import cells_of, one_of_each

if TYPE_CHECKING:
    from semseg.data.transforms.config import AugmentConfig

Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


class PointAugment(BaseModel):
    """Augmentation of clouds; applied in the order of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 1.0)
    """Range of a random factor of all coordinates."""

    contrast: Probability = 0.0
    """Probability of colours that are stretched, by a random share, to the full range."""

    color_shift: Probability = 0.0
    """Probability of a colour added to all points, of up to 5 % of the full range either way."""

    color_jitter: Probability = 0.0
    """Probability of noise added to each colour, with a deviation of 0.5 % of the full range."""

    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift of the hue by up to this share of the colour circle."""

    saturation: Probability = 0.0
    """Factor of the saturation, drawn from 1 ± this."""

    color_drop: Probability = 0.0
    """Probability of points that are all black."""

    crop: Annotated[int, Field(ge=1)] | None = None
    """Points that are kept, those nearest to a random one; taken after the grid."""


class PointTransform:
    """Changes a cloud as ``(3 + C, 1, N)`` and its ``(1, N)`` mask, and mixes the points' order.

    Zhao et al. (arXiv:2012.09164), in the order of the authors' code. All draws come from torch's
    own generator.

    Args:
        config: what to do.
        voxel: edge of the grid's cells, of each of which one random point is kept; ``None`` keeps
            all.
    """

    def __init__(self, config: PointAugment, voxel: float | None) -> None:
        self.config = config
        self.voxel = voxel

    def __call__(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return another cloud."""
        rows = image.as_subclass(Tensor)[:, 0]
        points, features = rows[:3], rows[3:]
        points = points * torch.empty(()).uniform_(*self.config.scale)
        if len(features) == 3:
            features = self._colors(features)
        rows = torch.cat([points, features])
        kept = self._kept(points)
        ids = mask.as_subclass(Tensor)
        return tv_tensors.Image(rows[:, None, kept]), tv_tensors.Mask(ids[:, kept])

    def _kept(self, points: Tensor) -> Tensor:
        """Return positions of the points that are left, in random order."""
        kept = torch.randperm(points.shape[1])
        if self.voxel is not None:
            kept = one_of_each(cells_of(points.T, self.voxel), kept)
        crop = self.config.crop
        if crop is not None and crop < len(kept):
            middle = points[:, kept[torch.randint(len(kept), ())], None]
            away = (points[:, kept] - middle).square().sum(0)
            kept = kept[away.topk(crop, largest=False).indices]
        return kept[torch.randperm(len(kept))]

    def _colors(self, colors: Tensor) -> Tensor:
        config = self.config
        if _drawn(config.contrast):
            low, high = colors.amin(1, keepdim=True), colors.amax(1, keepdim=True)
            stretched = (colors - low) * (255 / (high - low).clamp(min=1))
            colors = torch.lerp(colors, stretched, torch.rand(()))
        if _drawn(config.color_shift):
            colors = (colors + (torch.rand(3, 1) - 0.5) * 2 * 0.05 * 255).clamp(0, 255)
        if _drawn(config.color_jitter):
            colors = (colors + torch.randn_like(colors) * 0.005 * 255).clamp(0, 255)
        if config.hue or config.saturation:
            colors = self._hue_and_saturation(colors)
        return torch.zeros_like(colors) if _drawn(config.color_drop) else colors

    def _hue_and_saturation(self, colors: Tensor) -> Tensor:
        """Change them in the space of hue, saturation and value."""
        hue, saturation = ((torch.rand(2) - 0.5) * 2).tolist()
        turned: Tensor = F.adjust_hue(colors[:, None] / 255, hue * self.config.hue)[:, 0] * 255
        value = turned.amax(0)
        held = (value - turned.amin(0)) / value.clamp(min=1)
        # saturation is the depth below the value: deeper by the factor, but not below black
        factor = (1 / held.clamp(min=1e-6)).clamp(max=1 + saturation * self.config.saturation)
        return value - (value - turned) * factor


def build_point_transform(config: AugmentConfig, voxel: float | None) -> PointTransform:
    """Return the augmentation of a recipe over clouds.

    Raises:
        InputError: it asks for something that is for images.
    """
    for name, field in type(config).model_fields.items():
        if name != "points" and getattr(config, name) != field.get_default():
            raise InputError(
                f"augment.{name} is for images and the data are point clouds; leave it out and set "
                "augment.points"
            )
    return PointTransform(config.points, voxel)


def _drawn(probability: float) -> bool:
    return bool(torch.rand(()) < probability)
