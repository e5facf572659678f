"""What the contract tests give to networks, for each kind of input.

The network says which it takes; the tests ask :func:`kind_of` and know neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError, SettingError
from semseg.core.clouds import Clouds
from semseg.core.preprocess import IMAGENET
from semseg.data import build_dataset
from semseg.models.base import SegmentationModel
from tests.models.support import image, noise

CLOUD_STREAM = 2**22 + 2
CLASSES = 8
"""Of the generated scenes that networks learn."""


class Images:
    """``(N, C, H, W)``."""

    @staticmethod
    def of_size(batch: int, channels: int, height: int, width: int) -> Tensor:
        return image(batch, channels, height, width)

    @classmethod
    def enough(cls, model: SegmentationModel, batch: int, height: int, width: int) -> Tensor:
        """At least as large as the network wants; not square: H and W cannot be confused."""
        least = model.min_size
        height, width = max(height, least), max(width, least + least // 2)
        return cls.of_size(batch, model.config.in_channels, height, width)

    @classmethod
    def recorded_size(cls, model: SegmentationModel) -> tuple[int, ...]:
        """What :meth:`of_size` makes the recorded batch of."""
        return tuple(cls.enough(model, 2, 64, 96).shape)

    @classmethod
    def odd_and_least(cls, model: SegmentationModel) -> Iterator[Tensor]:
        least = model.min_size
        for height, width in ((67, 91), (least, least), (least + 1, least + 2)):
            yield image(1, model.config.in_channels, max(height, least), max(width, least))

    @staticmethod
    def size(images: Tensor) -> tuple[int, int]:
        return images.shape[-2], images.shape[-1]

    @staticmethod
    def shape_of_scores(images: Tensor, classes: int) -> tuple[int, ...]:
        return images.shape[0], classes, *images.shape[-2:]

    @staticmethod
    def same(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b)

    @staticmethod
    def singly(images: Tensor) -> list[Tensor]:
        return list(images.split(1))

    @staticmethod
    def target(images: Tensor, classes: int) -> Tensor:
        """Random train ids at the images' size, the first row ignored."""
        shape = (images.shape[0], *images.shape[-2:])
        values = noise(shape[0] * shape[1] * shape[2], 7).reshape(shape)
        target = ((values + 1) / 2 * classes).long()
        target[:, 0] = 255
        return target

    @staticmethod
    def refused(
        model: SegmentationModel, good: Tensor
    ) -> Iterator[tuple[Any, type[Exception], str]]:
        """Inputs that are refused, by which error, and a pattern of what it says."""
        owner, least = type(model).__name__, model.min_size
        more = good.shape[1] + 1
        yield (
            torch.cat([good, good[:, :1]], dim=1),
            InputError,
            f"takes {more - 1} channels, got {more}; create it with in_channels={more}",
        )
        yield good[0], InputError, r"add the batch dimension with images\[None\]"
        normalised = f"{owner} takes normalised float images, got torch.u"
        yield good.to(torch.uint8), SettingError, normalised
        if least > 1:
            too_small = good[..., : least - 1, :]
            yield too_small, InputError, f"at least {least} x {least} pixels"

    @staticmethod
    def feed(images: Tensor) -> dict[str, Tensor]:
        """By the names of an exported network's inputs."""
        return {"images": images}

    @staticmethod
    def scenes(model: SegmentationModel) -> tuple[Tensor, Tensor]:
        """Normalised images and their masks, of a size that the network takes."""
        height, width = (max(side, model.min_size) for side in (64, 96))
        made = build_dataset(
            "synthetic", "train", length=2, size=(height, width), difficulty="easy"
        )
        images = torch.stack([made[i].image.float() / 255 for i in range(2)])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
        channels = [i % 3 for i in range(model.config.in_channels)]
        masks = torch.stack([made[i].mask.long() for i in range(2)])
        return ((images - mean) / std)[:, channels], masks


class PointClouds:
    """:class:`Clouds`."""

    @staticmethod
    def of_size(batch: int, channels: int, height: int, width: int) -> Clouds:
        """Noise: clouds of 8 H + W points, each of the others with eight more."""
        sizes = [8 * height + width + 8 * i for i in range(batch)]
        return PointClouds.of_sizes(sizes, channels)

    @staticmethod
    def of_sizes(sizes: list[int], channels: int) -> Clouds:
        values = noise(sum(sizes) * (3 + channels), CLOUD_STREAM).float()
        points, features = values.reshape(-1, 3 + channels).split([3, channels], 1)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return Clouds(points.contiguous(), features.contiguous(), tuple(ends))

    @classmethod
    def enough(cls, model: SegmentationModel, batch: int, height: int, width: int) -> Clouds:
        sizes = cls.of_size(batch, 1, height, width).sizes
        sizes = [max(size, model.min_points) for size in sizes]
        return cls.of_sizes(sizes, model.config.in_channels)

    @classmethod
    def recorded_size(cls, model: SegmentationModel) -> tuple[int, ...]:
        return 2, model.config.in_channels, 64, 96

    @classmethod
    def odd_and_least(cls, model: SegmentationModel) -> Iterator[Clouds]:
        least = model.min_points
        for size in (least + 371, least, least + 1):
            yield cls.of_sizes([size], model.config.in_channels)

    @staticmethod
    def size(clouds: Clouds) -> None:
        return None

    @staticmethod
    def shape_of_scores(clouds: Clouds, classes: int) -> tuple[int, ...]:
        return len(clouds.coordinates), classes

    @staticmethod
    def same(a: Clouds, b: Clouds) -> bool:
        return torch.equal(a.coordinates, b.coordinates) and torch.equal(a.features, b.features)

    @staticmethod
    def singly(clouds: Clouds) -> list[Clouds]:
        return list(clouds.each())

    @staticmethod
    def target(clouds: Clouds, classes: int) -> Tensor:
        """Random train ids of all points as one row, the first ten ignored."""
        target = ((noise(len(clouds.coordinates), 7) + 1) / 2 * classes).long()
        target[:10] = 255
        return target[None, None]

    @staticmethod
    def refused(
        model: SegmentationModel, good: Clouds
    ) -> Iterator[tuple[Any, type[Exception], str]]:
        owner, least = type(model).__name__, model.min_points
        points, features, offsets = good
        more = features.shape[1] + 1
        yield (
            Clouds(points, torch.cat([features, features[:, :1]], 1), offsets),
            InputError,
            f"takes {more - 1} channels, got {more}; create it with in_channels={more}",
        )
        yield points, SettingError, f"{owner} takes point clouds, got Tensor; give Clouds"
        flat = Clouds(points[:, :2], features, offsets)
        yield flat, InputError, rf"takes coordinates \(N, 3\) and features \(N, {more - 1}\)"
        whole = Clouds(points, features.to(torch.uint8), offsets)
        yield whole, SettingError, f"{owner} takes normalised float points, got torch.float32"
        beyond = Clouds(points, features, (len(points) + 1,))
        yield beyond, InputError, "rising offsets up to their number"
        few = Clouds(points[: least - 1], features[: least - 1], (least - 1,))
        yield few, InputError, f"at least {least} points, got one of {least - 1}"

    @staticmethod
    def feed(clouds: Clouds) -> dict[str, Tensor]:
        return {"coordinates": clouds.coordinates, "features": clouds.features}

    @staticmethod
    def scenes(model: SegmentationModel) -> tuple[Clouds, Tensor]:
        made = build_dataset("synthetic_rooms", "train", length=2, points=600)
        rows = [made[i].image[:, 0].T.float() for i in range(2)]
        channels = [i % 3 for i in range(model.config.in_channels)]
        clouds = [Clouds.of(row[:, :3], (row[:, 3:] / 255)[:, channels]) for row in rows]
        return Clouds.pack(clouds), torch.cat([made[i].mask.long() for i in range(2)], 1)[None]


KINDS = {"images": Images, "clouds": PointClouds}


def kind_of(model: nn.Module) -> type[Images] | type[PointClouds]:
    """Return what makes inputs for a network."""
    return KINDS[model.takes]
