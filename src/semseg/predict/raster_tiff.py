"""TIFF, BigTIFF and OME-TIFF as rasters, strip by strip or tile by tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.predict.raster_files import Fetch, Missing, Raster, damaged, equal, package

_NODATA = 42113  # GDAL's tag
_ORIENTATION = 274
_PIECE = 256, 2048  # of a file that is one long array: height and width read at once


def open_tiff(path: Path) -> Raster | None:
    """Open a file that tifffile reads, or return ``None`` for one that is left to rasterio.

    Raises:
        FileError: it is damaged or cut short.
        InputError: it has more axes than height, width and bands; it needs a codec that is not
            there; or tifffile is not installed.
    """
    tifffile: Any = package("tifffile", path)
    try:
        opened = tifffile.TiffFile(path)
    except Exception as error:  # damage shows in many ways
        raise damaged(path, error) from error
    try:
        raster = _raster(tifffile, opened, path)
    except Exception as error:
        opened.close()
        raise error if isinstance(error, InputError) else damaged(path, error) from error
    if raster is None:
        opened.close()
    return raster


def _raster(tifffile: Any, opened: Any, path: Path) -> Raster | None:
    series = opened.series[0]
    page = series.keyframe
    _check_whole(series, path)
    if page.is_geotiff:
        return None
    axes = str(series.axes)
    if len(axes) not in (2, 3) or "Y" not in axes or "X" not in axes:
        raise FileError(
            f"image {path} has the shape {tuple(series.shape)} ({axes}); wanted height, width and "
            "bands"
        )
    if not _can_decode(tifffile, page):
        if len(series.pages) == 1:
            return None
        raise InputError(
            f"image {path} is compressed by {page.compression.name}, which needs imagecodecs; "
            "pip install imagecodecs"
        )
    size = (series.shape[axes.index("Y")], series.shape[axes.index("X")])
    bands = 1 if len(axes) == 2 else int(np.prod(series.shape)) // (size[0] * size[1])
    dtype = np.dtype(page.dtype).newbyteorder("=")
    if series.dataoffset is not None:  # one long array
        fetch, block = _mapped(path, opened, series, axes), _PIECE
    else:
        fetch, block = _segments(series, bands, dtype), _segment_size(page)
    if (nodata := page.tags.get(_NODATA)) is not None:
        fetch = _without_data(fetch, float(str(nodata.value).strip("\0 ")))
    return Raster(path, size, bands, dtype, block, fetch, opened.close, _odd(page))


def _check_whole(series: Any, path: Path) -> None:
    """Refuse a file that ends before its data, now and not after hours."""
    for page in series.pages:
        if page is None:
            continue
        ends = np.add(page.dataoffsets, page.databytecounts)
        there = page.parent.filehandle.size
        if not len(ends) or ends.max() > there:
            needed = ends.max() if len(ends) else "more"
            raise FileError(
                f"image {path} is cut short: it has {there} bytes of {needed}; replace the file"
            )


def _can_decode(tifffile: Any, page: Any) -> bool:
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError:
        return False
    return True


def _odd(page: Any) -> str | None:
    """Say how colours are stored where not as grey or RGB, upright."""
    if page.photometric.name not in ("MINISBLACK", "RGB"):
        return f"the colours {page.photometric.name}"
    turned = page.tags.get(_ORIENTATION)
    return f"the orientation {int(turned.value)}" if turned and turned.value != 1 else None


def _mapped(path: Path, opened: Any, series: Any, axes: str) -> Fetch:
    y, x = axes.index("Y"), axes.index("X")
    dtype = np.dtype(opened.byteorder + series.dtype.char)

    def fetch(top: int, left: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        # mapped anew each time: pages that were read count as memory until they are let go
        whole = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
        index: list[Any] = [slice(None)] * whole.ndim
        index[y], index[x] = slice(top, top + height), slice(left, left + width)
        values = np.array(whole[tuple(index)], dtype=dtype.newbyteorder("="))
        if values.ndim == 2:
            return values[..., None], None
        return np.moveaxis(values, 3 - y - x, 2), None

    return fetch


def _segment_size(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _segments(series: Any, bands: int, dtype: np.dtype[Any]) -> Fetch:
    """Return what reads strips or tiles: all bands in one, or one after another, or in pages."""
    keyframe, pages = series.keyframe, list(series.pages)
    high, wide = _segment_size(keyframe)
    across = -(-keyframe.imagewidth // wide)
    plane = across * -(-keyframe.imagelength // high)
    planes = keyframe.samplesperpixel if keyframe.planarconfig == 2 else 1
    each = bands // (planes * len(pages))

    def fetch(top: int, left: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        values = np.full((height, width, bands), keyframe.nodata, dtype)
        for i, (page, number) in enumerate((page, n) for page in pages for n in range(planes)):
            index = number * plane + top // high * across + left // wide
            if page is None or not page.databytecounts[index]:
                continue  # left out by the writer
            file = page.parent.filehandle
            file.seek(page.dataoffsets[index])
            coded = file.read(page.databytecounts[index])
            decoded = keyframe.decode(coded, index, jpegtables=keyframe.jpegtables)[0]
            values[..., i * each : (i + 1) * each] = decoded[0, :height, :width]
        return values, None

    return fetch


def _without_data(fetch: Fetch, nodata: float) -> Fetch:
    def marked(top: int, left: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        values, _ = fetch(top, left, height, width)
        missing: NDArray[np.bool_] = np.all(equal(values, nodata), axis=2)
        return values, missing if missing.any() else None

    return marked
