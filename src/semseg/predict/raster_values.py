"""Numbers of a raster as bytes, by the rules that training reads files with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import ValueRange
from semseg.predict.raster_files import Missing, Raster


class ByteRule:
    """From stored numbers to bytes, window by window.

    Grey and colours without a stated range go by the rule of :mod:`semseg.data.images` (grey is
    repeated, colours become luma, alpha is dropped, 16 bits become 8), others by that of
    :mod:`semseg.data.bands`, so that a network sees what it saw in training.

    Args:
        raster: the image.
        channels: of the network.
        values: what the numbers mean; ``None`` for 8 and 16-bit integers over their full range.

    Raises:
        FileError: numbers without a known range.
        InputError: bands that do not fit the network, or colours stored in another way.
    """

    def __init__(self, raster: Raster, channels: int, values: ValueRange | None) -> None:
        self._channels = channels
        self._as_image = values is None and channels in (1, 3)
        whole = raster.dtype in (np.uint8, np.uint16)
        if raster.bands != channels and not (self._as_image and raster.bands <= 4):
            raise InputError(
                f"image {raster.path} has {raster.bands} bands, the network takes {channels}; give "
                "an image with the bands it was trained on"
            )
        if self._as_image and raster.odd:
            raise InputError(
                f"image {raster.path} is stored with {raster.odd}; convert it to upright grey or "
                "RGB"
            )
        if values is None and not whole:
            raise FileError(
                f"image {raster.path} holds {raster.dtype} of unknown range, and the network was "
                "trained without a value_range; convert it to 8 or 16 bit"
            )
        self._plain = values is None
        self._rule = values or ValueRange(0, np.iinfo(raster.dtype).max)
        self._table: NDArray[np.uint8] | None = None
        if whole:  # the same numbers, ten times as fast
            self._table = self._rule(np.arange(np.iinfo(raster.dtype).max + 1, dtype=raster.dtype))

    def __call__(self, stored: NDArray[Any]) -> tuple[NDArray[np.uint8], Missing]:
        """Return ``(H, W, channels)`` of ``(H, W, bands)``, and which pixels have no data."""
        if not self._as_image:
            gone: NDArray[np.bool_] | None = None
            if self._rule.nodata is not None or self._table is None:
                gone = np.any(self._rule.missing(stored), axis=2)
            return self._bytes(stored), gone if gone is not None and gone.any() else None
        if stored.shape[2] <= 2:
            return np.repeat(self._bytes(stored[..., :1]), self._channels, axis=2), None
        rgb = np.ascontiguousarray(self._bytes(stored[..., :3]))
        if self._channels == 3:
            return rgb, None
        return np.array(Image.fromarray(rgb).convert("L"))[..., None], None

    def _bytes(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        if stored.dtype == np.uint8 and self._plain:
            return stored
        return self._rule(stored) if self._table is None else self._table.take(stored)
