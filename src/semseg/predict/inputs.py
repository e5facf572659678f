"""Images as people have them, to the one form the preprocessing takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from semseg.core.checks import InputError, SettingError
from semseg.core.preprocess import ValueRange
from semseg.data.bands import read_any
from semseg.data.images import image_array

ImageInput = str | Path | Image.Image | NDArray[Any] | Tensor
"""What :func:`to_pixels` takes for an image."""


def to_pixels(image: ImageInput, channels: int, values: ValueRange | None = None) -> Tensor:
    """Return an image as ``(channels, H, W)``, values as they came.

    Args:
        image: a file or Pillow image (read by the rule of :mod:`semseg.data.images`), an array
            ``(H, W)`` or ``(H, W, C)`` of ``uint8`` or ``uint16``, or a tensor ``(C, H, W)`` of
            ``uint8``, ``uint16`` or floats in [0, 1]. Colours are in RGB order.
        channels: of the network. Grey is repeated for 3 channels, alpha is dropped.
        values: how a file's numbers are read, as in training; arrays and tensors are as after that.

    Raises:
        FileError: the file is missing or damaged.
        InputError: the shape, the channels or the range do not fit.
        SettingError: a kind or dtype that is not listed above.

    Example:
        >>> to_pixels(np.zeros((4, 6), dtype=np.uint8), channels=3).shape
        torch.Size([3, 4, 6])
    """
    if isinstance(image, str | Path):
        return _from_array(read_any(image, channels, values)[0])
    if isinstance(image, Image.Image):
        return _from_array(image_array(ImageOps.exif_transpose(image), channels))
    if isinstance(image, np.ndarray):
        native = image.dtype.newbyteorder("=")
        if image.ndim not in (2, 3) or native not in (np.uint8, np.uint16):
            raise SettingError(
                "wanted an array (H, W) or (H, W, C) of uint8 or uint16, got "
                f"{image.dtype} of shape {image.shape}"
            )
        return _fit(_from_array(image), channels)
    if isinstance(image, Tensor):
        _check_tensor(image)
        return _fit(image, channels)
    raise SettingError(
        f"wanted a path, a Pillow image, an array or a tensor, got {type(image).__name__}"
    )


def _from_array(image: NDArray[Any]) -> Tensor:
    # a copy, because an array may be read-only, reversed or of foreign byte order
    own = np.array(image, dtype=image.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(own if own.ndim == 3 else own[..., None]).permute(2, 0, 1)


def _check_tensor(image: Tensor) -> None:
    if image.dim() != 3:
        raise InputError(
            f"wanted a tensor (C, H, W), got {tuple(image.shape)}; give one image at a time"
        )
    if image.is_floating_point():
        # a little beyond is what bicubic resizing does; far beyond is another scale
        if image.numel() and not -0.5 <= image.min() <= image.max() <= 1.5:
            raise InputError(
                f"float images are in [0, 1] before normalisation, got {image.min():.3g} … "
                f"{image.max():.3g}; divide them, or give uint8"
            )
    elif image.dtype not in (torch.uint8, torch.uint16):
        raise SettingError(
            f"wanted a tensor of uint8, uint16 or floats in [0, 1], got {image.dtype}"
        )


def _fit(image: Tensor, channels: int) -> Tensor:
    if 0 in image.shape:
        raise InputError(f"the image is empty: {tuple(image.shape)} (C, H, W)")
    got = image.shape[0]
    if got == channels:
        return image
    if got == 1 and channels == 3:
        return image.expand(3, -1, -1)
    if got == 4 and channels == 3:
        return image[:3]
    raise InputError(
        f"the network takes {channels} channels, the image has {got}; convert it "
        "(arrays are (H, W, C), tensors (C, H, W))"
    )
