"""From file values to what a network takes: one rule, stored with its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from semseg.core.checks import InputError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``(x / maximum - mean) / std`` per channel, RGB order, where ``maximum`` is the dtype's.

    Args:
        mean: per channel, in [0, 1].
        std: per channel, in units of [0, 1].

    ``uint8`` is divided by 255, ``uint16`` by 65535; floats are taken to be in [0, 1] already.

    Example:
        >>> rule = Preprocessing(mean=(0.5,), std=(0.25,))
        >>> rule(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
        2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(
                f"mean and std need one value per channel each, got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, got {self.std}")

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``(..., C, H, W)`` of any integer or float dtype to float32.

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
        return (images.to(torch.float32) - mean * top) / (std * top)

    def for_channels(self, channels: int) -> Preprocessing:
        """Return the rule for another number of channels: their average, repeated."""
        if channels == len(self.mean):
            return self
        return Preprocessing(
            mean=(sum(self.mean) / len(self.mean),) * channels,
            std=(sum(self.std) / len(self.std),) * channels,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` wrote."""
        return cls(mean=tuple(data["mean"]), std=tuple(data["std"]))


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What nearly all pretrained trunks of timm and torchvision take."""

UNIT = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Values in [0, 1], nothing subtracted."""
