"""Transforms that change values and leave masks alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from semseg.data.transforms.joint import Joint


class ColorJitter(Joint, v2.ColorJitter):
    """torchvision's ``ColorJitter``, value by value, in a third of its time for ``uint8`` images.

    The steps work on one copy of the image in floats; between them values are rounded down to
    whole levels, as torchvision does it by going back to bytes. Images of other than three channels
    are grey in each: contrast is about the mean over all of them and saturation changes nothing.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change brightness, contrast, saturation and hue of an image in the order drawn."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        if params["hue_factor"] is not None or inpt.dtype != torch.uint8:
            return super().transform(inpt, params)
        plain = inpt.as_subclass(Tensor)
        values = plain.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        steps = (_brighten, _contrast, _saturate)
        factors = [params[f"{name}_factor"] for name in ("brightness", "contrast", "saturation")]
        for i in params["fn_idx"].tolist():
            if i < len(steps) and factors[i] is not None:
                steps[i](values, factors[i])
                values.clamp_(0, 255).floor_()
        return tv_tensors.wrap(values.to(torch.uint8), like=inpt)


def _brighten(values: Tensor, factor: float) -> None:
    values.mul_(factor)


def _contrast(values: Tensor, factor: float) -> None:
    mean = (_grey(values) if len(values) == 3 else values).mean()
    values.mul_(factor).add_(mean, alpha=1 - factor)


def _saturate(values: Tensor, factor: float) -> None:
    if len(values) == 3:
        grey = _grey(values)
        values.mul_(factor).add_(grey, alpha=1 - factor)


def _grey(values: Tensor) -> Tensor:
    """Return the luma of ITU-R 601 in whole levels, with the weights of torchvision."""
    red, green, blue = values.unbind()
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


class Noise(Joint):
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
