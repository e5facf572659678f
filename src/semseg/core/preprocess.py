"""From file values to what a network takes: one rule, stored with its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semseg.core.checks import InputError


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What the numbers in image files mean: ``low`` becomes 0, ``high`` 255, and between evenly.

    Args:
        low: and all below it is 0.
        high: and all above it is 255.
        nodata: the number of pixels without data; what is not a finite number is one always. They
            become 0.

    Example:
        >>> ValueRange(0, 10000, nodata=-9999)(np.array([-9999, 0, 5100, 20000])).tolist()
        [0, 0, 130, 255]
    """

    low: float
    high: float
    nodata: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"a range of values is [low, high] with low below high, got {self.low} and "
                f"{self.high}"
            )

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return bytes."""
        wide = values.astype(np.float64)
        wide[self.missing(values)] = self.low
        share = (wide.clip(self.low, self.high) - self.low) / (self.high - self.low)
        return np.rint(share * 255).astype(np.uint8)

    def missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which numbers stand for no data."""
        wrong: NDArray[np.bool_] = ~np.isfinite(values)
        return wrong if self.nodata is None else wrong | (values == self.nodata)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``(x / maximum - mean) / std`` per channel, RGB order, where ``maximum`` is the dtype's.

    Args:
        mean: per channel, in [0, 1].
        std: per channel, in units of [0, 1].
        values: how files are read before, where that is not by the type of their numbers.
        voxel: of point clouds, the edge in metres of the cells of which one point each is kept.

    ``uint8`` is divided by 255, ``uint16`` by 65535; floats are taken to be in [0, 1] already.

    Example:
        >>> rule = Preprocessing(mean=(0.5,), std=(0.25,))
        >>> rule(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
        2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    values: ValueRange | None = None
    voxel: float | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(
                f"mean and std need one value per channel each, got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, got {self.std}")

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Normalise ``(..., C, H, W)`` of any integer or float dtype to float32.

        Args:
            images: file values.
            out: where the result is written, float32 of the same shape; new memory if not given.

        Raises:
            InputError: fewer than three dimensions, or another number of channels.
        """
        if images.dim() < 3:
            raise InputError(f"images are (..., C, H, W), got {tuple(images.shape)}")
        if images.shape[-3] != len(self.mean):
            raise InputError(
                f"images have {images.shape[-3]} channels, the preprocessing has {len(self.mean)}; "
                "use for_channels() or convert the images"
            )
        top = 1.0 if images.is_floating_point() else float(torch.iinfo(images.dtype).max)
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        if out is None:
            out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        return out.copy_(images).sub_(mean * top).div_(std * top)

    def for_channels(self, channels: int) -> Preprocessing:
        """Return the rule for another number of channels: their average, repeated."""
        if channels == len(self.mean):
            return self
        return Preprocessing(
            mean=(sum(self.mean) / len(self.mean),) * channels,
            std=(sum(self.std) / len(self.std),) * channels,
            values=self.values,
            voxel=self.voxel,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        rule: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        if self.voxel is not None:
            rule["voxel"] = self.voxel
        return rule if self.values is None else rule | {"values": asdict(self.values)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` wrote."""
        mean, std = tuple(data["mean"]), tuple(data["std"])
        rule = cls(mean=mean, std=std, voxel=data.get("voxel"))
        values = data.get("values")
        return rule if values is None else replace(rule, values=ValueRange(**values))


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What nearly all pretrained trunks of timm and torchvision take."""

UNIT = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Values in [0, 1], nothing subtracted."""
