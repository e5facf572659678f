"""From the configuration to one callable."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision import tv_tensors
from torchvision.transforms import v2

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.transforms.config import AugmentConfig
from semseg.data.transforms.geometric import ElasticGrid, Fill, Flip, Resize, ScaleCrop
from semseg.data.transforms.photometric import ColorJitter, Noise
from semseg.data.transforms.points import PointAugment


def build_transform(
    config: AugmentConfig, labels: LabelMap, mean_fill: Sequence[float]
) -> v2.Transform:
    """Return the augmentation as one transform of ``(image, mask)``.

    All draws come from torch's own generator. Images stay ``uint8``.

    Args:
        config: what to do.
        labels: gives the ignore id for masks.
        mean_fill: value per channel in [0, 1] where there is no image; the preprocessing's mean.

    Raises:
        InputError: the hue shall change in images without colours, or points are asked for.

    Example:
        >>> import torch
        >>> labels = LabelMap.from_names(["sky", "road"])
        >>> transform = build_transform(AugmentConfig(crop=(8, 8)), labels, (0.5, 0.5, 0.5))
        >>> image = tv_tensors.Image(torch.zeros(3, 20, 30, dtype=torch.uint8))
        >>> image, mask = transform(image, tv_tensors.Mask(torch.zeros(20, 30).byte()))
        >>> image.shape, mask.shape
        (torch.Size([3, 8, 8]), torch.Size([8, 8]))
    """
    if config.points != PointAugment():
        raise InputError("augment.points is for point clouds and the data are images; leave it out")
    if config.hue and len(mean_fill) not in (1, 3):
        raise InputError(
            f"augment.hue needs images of 1 or 3 channels, got {len(mean_fill)}; set it to 0"
        )
    fill: Fill = {
        tv_tensors.Image: [round(255 * value) for value in mean_fill],
        tv_tensors.Mask: labels.ignore_id,
    }
    steps = [*_geometric(config, labels.ignore_id, fill), *_photometric(config)]
    return v2.Compose(steps) if steps else v2.Identity()


def _geometric(config: AugmentConfig, ignore_id: int, fill: Fill) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if config.resize is not None:
        steps.append(Resize(config.resize))
    if config.rotate or config.translate or config.shear:
        shear = config.shear
        steps.append(
            v2.RandomAffine(
                degrees=config.rotate,
                translate=(config.translate, config.translate),
                shear=[-shear, shear, -shear, shear],
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=fill,
            )
        )
    if config.elastic:
        steps.append(ElasticGrid(config.elastic, fill))
    if config.scale is not None or config.crop is not None:
        scale = config.scale or (1.0, 1.0)
        steps.append(ScaleCrop(config.crop, scale, config.max_class_share, ignore_id, fill))
    if config.hflip:
        steps.append(Flip(config.hflip, -1))
    if config.vflip:
        steps.append(Flip(config.vflip, -2))
    return steps


def _photometric(config: AugmentConfig) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if config.brightness or config.contrast or config.saturation or config.hue:
        steps.append(ColorJitter(config.brightness, config.contrast, config.saturation, config.hue))
    if config.blur:
        blur = v2.GaussianBlur(13, (0.1, 2.0))  # three of the greatest deviations either way
        steps.append(v2.RandomApply([blur], p=config.blur))
    if config.noise:
        steps.append(Noise(config.noise))
    return steps
