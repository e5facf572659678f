"""Images too large for the memory: opened, and read window by window.

GeoTIFF, and every TIFF whose compression tifffile cannot undo by itself, is read through rasterio,
as is whatever is neither TIFF nor Zarr; other TIFF, BigTIFF and OME-TIFF through tifffile. Of a
pyramid the full size is read. Blocks of the file are decoded once and kept while they are near.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError

Missing = NDArray[np.bool_] | None
"""``(H, W)`` pixels without data, or ``None`` where there are none."""

Fetch = Callable[[int, int, int, int], tuple[NDArray[Any], Missing]]
"""From top, left, height and width of blocks to ``(H, W, bands)`` as stored, and what is missing
by the file's own word."""

CACHE = 256 << 20
"""Bytes of decoded blocks kept; 40,000 pixels of three bytes take 184 MB per 1024 rows and more."""

_LARGEST = 1 << 30  # of one block: it must be decoded as a whole


@dataclass(slots=True)
class Raster:
    """An opened image.

    Args:
        path: its file or folder.
        size: height and width.
        bands: their number, without an alpha band that says where data is.
        dtype: of the numbers, in the machine's byte order.
        block: height and width of what is decoded at once.
        fetch: reads blocks.
        close: closes the file.
        odd: in which way the colours are stored, where not as grey or RGB.
        tags: GeoTIFF tags of the georeference, as tifffile writes them.
    """

    path: Path
    size: tuple[int, int]
    bands: int
    dtype: np.dtype[Any]
    block: tuple[int, int]
    fetch: Fetch
    close: Callable[[], Any]
    odd: str | None = None
    tags: tuple[Any, ...] = ()
    _cache: OrderedDict[tuple[int, int], tuple[NDArray[Any], Missing]] = field(
        default_factory=OrderedDict
    )
    _held: int = 0

    def __post_init__(self) -> None:
        high, wide = self.block
        if (size := self._bytes(high, wide)) > _LARGEST:
            raise InputError(
                f"image {self.path} is stored in blocks of {high} x {wide} pixels, {size / 1e9:.1f}"
                " GB each; rewrite it in tiles (gdal_translate -co TILED=YES)"
            )

    def window(self, y: int, x: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        """Return ``(height, width, bands)`` and what is missing.

        Raises:
            FileError: the file is damaged.
        """
        high, wide = self.block
        pixels = np.empty((height, width, self.bands), self.dtype)
        missing: Missing = None
        budget = CACHE
        if wide >= self.size[1]:  # each strip serves all windows beside each other
            budget = max(budget, self._bytes(height + 2 * high, wide))
        for top in range(y // high * high, y + height, high):
            for left in range(x // wide * wide, x + width, wide):
                block, gone = self._block(top, left, budget)
                first, start = max(y, top), max(x, left)
                last = min(y + height, top + block.shape[0])
                end = min(x + width, left + block.shape[1])
                inside = np.s_[first - top : last - top, start - left : end - left]
                place = np.s_[first - y : last - y, start - x : end - x]
                pixels[place] = block[inside]
                if gone is not None:
                    missing = np.zeros((height, width), np.bool_) if missing is None else missing
                    missing[place] = gone[inside]
        return pixels, missing

    def _block(self, top: int, left: int, budget: int) -> tuple[NDArray[Any], Missing]:
        if (top, left) in self._cache:
            self._cache.move_to_end((top, left))
            return self._cache[top, left]
        high, wide = (
            min(s, n - at) for s, n, at in zip(self.block, self.size, (top, left), strict=True)
        )
        try:
            found = self.fetch(top, left, high, wide)
        except Exception as error:  # damage shows in many ways
            raise damaged(self.path, error) from error
        self._held += self._bytes(high, wide)
        while self._cache and self._held > budget:
            old, _ = self._cache.popitem(last=False)[1]
            self._held -= self._bytes(*old.shape[:2])
        self._cache[top, left] = found
        return found

    def _bytes(self, height: int, width: int) -> int:
        return height * width * self.bands * self.dtype.itemsize


def open_raster(path: str | Path, channels: int) -> Raster:
    """Open an image for reading in windows; only its header is read.

    Args:
        path: a TIFF of any kind, a Zarr folder, or what else rasterio reads.
        channels: of the network; they tell an alpha band from one of data, and in Zarr arrays
            without named axes where the bands are.

    Raises:
        FileError: it is missing, damaged or cut short.
        InputError: it cannot be read in windows, or a package for it is not installed.
    """
    from semseg.predict.raster_gdal import open_rasterio
    from semseg.predict.raster_tiff import open_tiff
    from semseg.predict.raster_zarr import open_zarr

    path = Path(path)
    if not path.exists():
        raise FileError(f"image {path} does not exist")
    if path.is_dir() or path.suffix == ".zarr":
        return open_zarr(path, channels)
    if path.suffix.lower() in (".tif", ".tiff", ".btf", ".tf8"):
        return open_tiff(path) or open_rasterio(path, channels)
    return open_rasterio(path, channels)


def package(name: str, path: Path) -> Any:
    """Import what reads ``path``.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"image {path} is read in windows, which needs {name}; pip install 'semseg[big]'"
        ) from error


def damaged(path: Path, error: Exception) -> FileError:
    """Return the error for a file that cannot be read."""
    if isinstance(error, FileError):
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    return FileError(f"image {path} cannot be read: {reason}; replace the file")


def equal(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where values are the one that stands for no data."""
    if nodata is None:
        return np.zeros(values.shape, np.bool_)
    same: NDArray[np.bool_] = np.isnan(values) if math.isnan(nodata) else np.equal(values, nodata)
    return same
