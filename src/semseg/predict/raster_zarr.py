"""Zarr arrays, of their own or in an OME-Zarr or any other group, as rasters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError
from semseg.predict.raster_files import Missing, Raster, damaged, package


def open_zarr(path: Path, channels: int) -> Raster:
    """Open an array, the full size of an OME-Zarr pyramid, or the only array of a group.

    Where no names of axes are stored, three axes are taken as bands first if only that fits
    ``channels``, and as bands last otherwise. Axes of one element are left out.

    Raises:
        FileError: it is no Zarr, or damaged.
        InputError: there are several arrays or more axes, or zarr is not installed.
    """
    zarr: Any = package("zarr", path)
    try:
        found = zarr.open(path, mode="r")
        array, names = _array(zarr, found, path)
    except (InputError, FileError):
        raise
    except Exception as error:  # of the store, of the format, of the codecs
        raise damaged(path, error) from error
    y, x, band = _axes(array.shape, names, channels, path)
    bands = 1 if band is None else array.shape[band]
    kept = sorted(axis for axis in (y, x, band) if axis is not None)
    order = [kept.index(axis) for axis in (y, x, band) if axis is not None]

    def fetch(top: int, left: int, height: int, width: int) -> tuple[NDArray[Any], Missing]:
        index: list[Any] = [0] * array.ndim
        if band is not None:
            index[band] = slice(None)
        index[y], index[x] = slice(top, top + height), slice(left, left + width)
        values = np.asarray(array[tuple(index)]).transpose(order)
        return values if values.ndim == 3 else values[..., None], None

    dtype = np.dtype(array.dtype).newbyteorder("=")
    size, block = (array.shape[y], array.shape[x]), (array.chunks[y], array.chunks[x])
    return Raster(path, size, bands, dtype, block, fetch, lambda: None)


def _array(zarr: Any, found: Any, path: Path) -> tuple[Any, Sequence[str] | None]:
    """Return the array that is meant, and the names of its axes where they are stored."""
    if isinstance(found, zarr.Array):
        attributes = dict(found.attrs)
        stored = getattr(found.metadata, "dimension_names", None)
        return found, stored or attributes.get("_ARRAY_DIMENSIONS")
    attributes = dict(found.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if scales:
        axes = [a["name"] if isinstance(a, dict) else a for a in scales[0].get("axes", ())]
        return found[scales[0]["datasets"][0]["path"]], axes or None
    arrays = sorted(name for name, _ in found.arrays())
    if len(arrays) != 1:
        raise InputError(
            f"{path} holds {len(arrays)} arrays ({', '.join(arrays[:6])}); give the path of one"
        )
    return _array(zarr, found[arrays[0]], path)


def _axes(
    shape: Sequence[int], names: Sequence[str] | None, channels: int, path: Path
) -> tuple[int, int, int | None]:
    """Return which axes are rows, columns and bands."""
    lower = [str(name).lower() for name in names] if names else []
    if "y" in lower and "x" in lower:
        y, x = lower.index("y"), lower.index("x")
        others = [i for i, n in enumerate(shape) if i not in (y, x) and n > 1]
        if len(others) <= 1:
            return y, x, others[0] if others else None
    else:
        large = [i for i, n in enumerate(shape) if n > 1 or len(shape) <= 3]
        if len(large) == 2:
            return large[0], large[1], None
        if len(large) == 3:
            first, middle, last = large
            if shape[first] == channels and shape[last] != channels:
                return middle, last, first
            return first, middle, last
    raise InputError(
        f"image {path} has the shape {tuple(shape)} ({', '.join(lower) or 'axes without names'}); "
        "wanted height, width and bands"
    )
