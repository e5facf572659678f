"""Rasters of many kinds for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semseg.predict.raster_files import Raster

tifffile: Any = pytest.importorskip("tifffile")

SIZE = 83, 121
WINDOWS = [(0, 0, 83, 121), (0, 0, 16, 16), (5, 7, 40, 64), (50, 100, 33, 21), (82, 120, 1, 1)]
TILES = {"tile": (32, 48), "compression": "zlib"}


def numbers(bands: int, dtype: str = "uint8") -> np.ndarray:
    draw = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return draw.normal(0, 100, (*SIZE, bands)).astype(dtype)
    return draw.integers(
        0, np.iinfo(dtype).max, (*SIZE, bands), dtype=np.dtype(dtype).newbyteorder("=")
    )


def save(path: Path, values: np.ndarray, **settings: Any) -> Path:
    """A TIFF of ``(H, W, bands)``."""
    bands = values.shape[2]
    colours = bands == 3 and values.dtype.kind == "u"
    settings = {"photometric": "rgb" if colours else "minisblack", "metadata": None} | settings
    if bands > 1:
        settings |= {"planarconfig": "contig"}
    tifffile.imwrite(path, values[..., 0] if bands == 1 else values, **settings)
    return path


def whole(raster: Raster) -> np.ndarray:
    return raster.window(0, 0, *raster.size)[0]


def georeferenced(path: Path, values: np.ndarray, **more: Any) -> Path:
    """A GeoTIFF of ``(H, W, bands)``."""
    rasterio = pytest.importorskip("rasterio", reason="the extra big is not installed")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype.name}
    interpretation = more.pop("colorinterp", None)
    mask = more.pop("mask", None)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **(place | more)) as file,
    ):
        file.write(np.moveaxis(values, 2, 0))
        if interpretation:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in interpretation]
        if mask is not None:
            file.write_mask(mask)
    return path
