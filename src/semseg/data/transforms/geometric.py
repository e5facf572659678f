"""Transforms that move pixels: image smoothly, mask by the nearest pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from semseg.data.transforms.joint import Joint

Fill = dict[type, Any]
"""For each kind of tensor the value where there was no image."""

_TRIES = 10
_GRID = 3


def resize(tensor: Any, size: tuple[int, int]) -> Any:
    """Resize an image bilinearly (antialiased) or a mask by the nearest pixel centre.

    torchvision's own rule for masks takes the pixel left and above of the centre, which moves a
    mask by up to half a pixel against its image.
    """
    if tuple(tensor.shape[-2:]) == size:
        return tensor
    plain = tensor.as_subclass(Tensor)
    if isinstance(tensor, tv_tensors.Mask):
        nearest = v2.InterpolationMode.NEAREST_EXACT
        if plain.dtype == torch.uint8:
            out = interpolate(plain[None, None], size, mode="nearest-exact")[0, 0]
        else:
            out = F.resize_image(plain[None], list(size), interpolation=nearest)[0]
    elif plain.dtype == torch.uint8:
        if len(plain) == 3:  # colours pixel by pixel are resized several times faster
            plain = plain[None].contiguous(memory_format=torch.channels_last)[0]
        out = interpolate(plain[None], size, mode="bilinear", antialias=True)[0]
    else:
        out = F.resize_image(plain, list(size), antialias=True)
    return tv_tensors.wrap(out, like=tensor)


class Resize(Joint):
    """Bring every sample to one height and width."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one tensor."""
        return resize(inpt, self.size)


class Flip(Joint):
    """Mirror every other sample, or what share of them is asked for.

    Args:
        probability: the share.
        dim: -1 swaps left and right, -2 top and bottom.
    """

    def __init__(self, probability: float, dim: int) -> None:
        super().__init__()
        self.probability = probability
        self.dim = dim

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether to mirror."""
        return {"mirror": float(torch.rand(())) < self.probability}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Mirror one tensor, or leave it."""
        if not params["mirror"]:
            return inpt
        return tv_tensors.wrap(inpt.as_subclass(Tensor).flip(self.dim), like=inpt)


class ElasticGrid(Joint):
    """Smooth deformation: shifts drawn on a 3 x 3 grid, bicubic between (arXiv:1505.04597, 3.1).

    Args:
        sigma: standard deviation of the shifts in pixels.
        fill: values outside the image.
    """

    def __init__(self, sigma: float, fill: Fill) -> None:
        super().__init__()
        self.sigma = sigma
        self.fill = fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the shift of every pixel, in the units of ``grid_sample``."""
        height, width = flat_inputs[0].shape[-2:]
        coarse = torch.randn(1, 2, _GRID, _GRID) * self.sigma
        shift = interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        per_pixel = torch.tensor([2.0 / width, 2.0 / height]).view(1, 2, 1, 1)
        return {"displacement": (shift * per_pixel).permute(0, 2, 3, 1)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Move the pixels of one tensor."""
        return F.elastic(inpt, params["displacement"], fill=self.fill[type(inpt)])


class ScaleCrop(Joint):
    """A random window at a random scale that is not nearly all of one class.

    The window is cut first and then resized, so a large image is never resized as a whole.

    Args:
        size: height and width of the result; ``None`` scales the whole image.
        scale: range of the factor.
        max_class_share: a window is drawn again (ten draws at most) while one class has more than
            this share of the pixels that are not ignored, or while all are ignored.
        ignore_id: what stands in masks for ignored pixels.
        fill: values outside the image.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        scale: tuple[float, float],
        max_class_share: float,
        ignore_id: int,
        fill: Fill,
    ) -> None:
        super().__init__()
        self.size = size
        self.scale = scale
        self.max_class_share = max_class_share
        self.ignore_id = ignore_id
        self.fill = fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a window ``(top, left, height, width)`` of the image and the size it gets."""
        height, width = flat_inputs[0].shape[-2:]
        masks = [t for t in flat_inputs if isinstance(t, tv_tensors.Mask)]
        for _ in range(_TRIES):
            factor = float(torch.empty(()).uniform_(*self.scale))
            if self.size is None:
                size = (max(1, round(height * factor)), max(1, round(width * factor)))
                return {"window": (0, 0, height, width), "size": size}
            rows, columns = (max(1, round(length / factor)) for length in self.size)
            window = (_place(height, rows), _place(width, columns), rows, columns)
            if all(self._mixed(mask, window) for mask in masks):
                break
        return {"window": window, "size": self.size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut and resize one tensor."""
        top, left, rows, columns = params["window"]
        height, width = inpt.shape[-2:]
        inside = _cut(inpt, params["window"])
        right, below = max(0, left + columns - width), max(0, top + rows - height)
        margins = [max(0, -left), max(0, -top), right, below]
        if any(margins):
            inside = F.pad(inside, margins, fill=self.fill[type(inpt)])
        return resize(inside, params["size"])

    def _mixed(self, mask: Tensor, window: tuple[int, int, int, int]) -> bool:
        if self.max_class_share >= 1:
            return True
        values = _cut(mask, window).as_subclass(Tensor).flatten()
        counts = torch.bincount(values[values != self.ignore_id])
        return len(counts) > 0 and int(counts.max()) <= self.max_class_share * int(counts.sum())


def _place(length: int, window: int) -> int:
    """Draw where a window starts; negative where it is longer than the image."""
    least, greatest = min(0, length - window), max(0, length - window)
    return int(torch.randint(least, greatest + 1, ()))


def _cut(tensor: Any, window: tuple[int, int, int, int]) -> Any:
    """Return the part of a window that lies in the image."""
    top, left, rows, columns = window
    plain = tensor.as_subclass(Tensor)
    part = plain[..., max(0, top) : top + rows, max(0, left) : left + columns]
    return tv_tensors.wrap(part, like=tensor)
