"""GeoTIFF, and whatever else GDAL reads, as rasters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.predict.raster_files import Missing, Raster, damaged, equal, package

_CODES = (33550, 33922, 34264, 34735, 34736, 34737)  # GeoTIFF 1.1, table 2


def open_rasterio(path: Path, channels: int) -> Raster:
    """Open what GDAL reads.

    A pixel is without data where all bands have the file's nodata, where an alpha band beside
    ``channels`` others is 0, or where the file's own mask says so.

    Raises:
        FileError: it is damaged or of no kind that rasterio knows.
        InputError: rasterio or tifffile is not installed.
    """
    rasterio: Any = package("rasterio", path)
    windows: Any = package("rasterio.windows", path)
    enums: Any = package("rasterio.enums", path)

    def environment() -> AbstractContextManager[Any]:
        # its own cache would hold the same blocks again, up to a twentieth of the memory
        context: AbstractContextManager[Any] = rasterio.Env(GDAL_CACHEMAX=64 << 20)
        return context

    try:
        with environment(), _quiet(rasterio):
            opened = rasterio.open(path)
            tags = _georeference(opened, path)
    except rasterio.errors.RasterioError as error:
        raise damaged(path, error) from error
    alpha = opened.colorinterp[-1] == enums.ColorInterp.alpha and opened.count == channels + 1
    own_mask = not alpha and opened.mask_flag_enums[0] == [enums.MaskFlags.per_dataset]
    bands = list(range(1, opened.count + (not alpha)))
    nodata = opened.nodatavals[: len(bands)]

    def fetch(y: int, x: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        window = windows.Window(x, y, width, height)
        with environment():
            values = opened.read(bands, window=window)
            missing = np.ones((height, width), np.bool_)
            for band, number in zip(values, nodata, strict=True):
                missing &= equal(band, number)
            if alpha:
                missing |= opened.read(opened.count, window=window) == 0
            elif own_mask:
                missing |= opened.read_masks(1, window=window) == 0
        return np.moveaxis(values, 0, 2), missing if missing.any() else None

    dtype = np.result_type(*opened.dtypes[: len(bands)])
    palette = opened.colorinterp[0] == enums.ColorInterp.palette
    return Raster(
        path,
        (opened.height, opened.width),
        len(bands),
        dtype,
        opened.block_shapes[0],
        fetch,
        opened.close,
        "a palette" if palette else None,
        tags,
    )


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    """Say nothing of images without a georeference: most have none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def _georeference(opened: Any, path: Path) -> tuple[Any, ...]:
    """Return the GeoTIFF tags of any opened image: GDAL writes them to a file of one pixel."""
    gcps, gcps_crs = opened.gcps
    if opened.crs is None and opened.transform.is_identity and not gcps:
        return ()
    place = {"gcps": gcps} if gcps else {"transform": opened.transform}
    crs = gcps_crs if gcps else opened.crs
    memory: Any = package("rasterio.io", path).MemoryFile
    pixel = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    with memory() as file:
        with file.open(**pixel, crs=crs, **place):
            pass
        with package("tifffile", path).TiffFile(file) as written:
            tags = written.pages[0].tags
            found = [tags[code] for code in _CODES if code in tags]
            return tuple((tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found)
