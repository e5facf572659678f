"""Transforms that change values and leave masks alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class Noise(v2.Transform):
    """Add Gaussian noise to a ``uint8`` image.

    Args:
        largest: the standard deviation is drawn between 0 and this share of the full range.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the standard deviation, in grey levels."""
        return {"sigma": float(torch.rand(())) * self.largest * 255}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Add noise to images."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        plain = inpt.as_subclass(Tensor)
        noisy = torch.randn(plain.shape).mul_(params["sigma"]).add_(plain).round_().clamp_(0, 255)
        return tv_tensors.wrap(noisy.to(torch.uint8), like=inpt)
