"""Images of any number of bands and of any kind of number, as bytes by a stated range.

8 and 16-bit integers have a range of their own; other numbers need :class:`ValueRange`, which is
stored with the weights, so that predictions see what training saw. TIFF files are read through
``tifffile`` (``pip install 'semseg[big]'``), others through Pillow. Bands are taken as stored: a
palette, a colour space or transparency means nothing here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core import archive
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import ValueRange
from semseg.data.deep import words_of
from semseg.data.images import open_upright, read_image

_TIFF = (".tif", ".tiff")
_BANDED_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "F")
_OWN_RANGES = {np.dtype(np.uint8): ValueRange(0, 255), np.dtype(np.uint16): ValueRange(0, 65535)}


def read_any(
    path: str | Path, channels: int, values: ValueRange | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Read grey and colours without a stated range by the rule of images, others as bands.

    Args:
        path: the file.
        channels: number of bands.
        values: what its numbers mean; ``None`` for 8 and 16-bit integers over their full range.

    Returns:
        ``(H, W, channels)``, and ``(H, W)`` where data is missing, or ``None`` if it is nowhere.

    Raises:
        FileError: the file is missing or damaged, or its numbers have no known range.
        InputError: it has another number of bands, or ``tifffile`` is not installed.
    """
    path = Path(path)
    if values is None and channels in (1, 3):
        return read_image(path, channels), None
    bands = _read_tiff(path) if path.suffix.lower() in _TIFF else _read_other(path)
    if bands.shape[2] != channels:
        raise InputError(
            f"image {path} has {bands.shape[2]} bands, wanted {channels}; set the dataset's "
            "channels, or convert the file"
        )
    rule = values or _OWN_RANGES.get(bands.dtype)
    if rule is None:
        raise FileError(
            f"image {path} holds {bands.dtype} of unknown range, {_extremes(bands)}; set the "
            "dataset's value_range"
        )
    missing: NDArray[np.bool_] = np.any(rule.missing(bands), axis=2)
    return rule(bands), (missing if missing.any() else None)


def _read_tiff(path: Path) -> NDArray[Any]:
    try:
        tifffile = import_module("tifffile")
    except ImportError as error:
        raise InputError(
            f"image {path} is read band by band, which needs tifffile; pip install 'semseg[big]'"
        ) from error
    try:
        with tifffile.TiffFile(archive.openable(path)) as opened:
            first = opened.series[0]
            values, axes = np.asarray(first.asarray()), str(first.axes)
    except FileNotFoundError as error:
        raise FileError(f"image {path} does not exist") from error
    except FileError:
        raise
    except Exception as error:  # damage shows in many ways, and unpackers may be missing
        raise FileError(
            f"image {path} cannot be read: {error}; replace the file or take it out of the dataset"
        ) from error
    if values.ndim == 2:
        values, axes = values[..., None], f"{axes}S"
    if values.ndim != 3 or "Y" not in axes or "X" not in axes:
        raise FileError(
            f"image {path} has the shape {values.shape} ({axes}); wanted height, width and bands"
        )
    band = next(i for i, name in enumerate(axes) if name not in "YX")
    values = np.moveaxis(values, band, 2)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _read_other(path: Path) -> NDArray[Any]:
    image = open_upright(path, "image")
    if image.mode not in _BANDED_MODES and not image.mode.startswith("I"):
        raise FileError(f"image {path} is {image.mode}, which has no bands; save it as RGB or TIFF")
    words = words_of(image)
    values = np.array(image) if words is None else words
    if image.mode.startswith("I") and values.min(initial=0) >= 0 and values.max(initial=0) < 65536:
        values = values.astype(np.uint16)  # Pillow opens 16 bits as 32 in some versions
    return values if values.ndim == 3 else values[..., None]


def _extremes(values: NDArray[Any]) -> str:
    known = values[np.isfinite(values)]
    return f"{known.min():.6g} … {known.max():.6g}" if known.size else "none of them finite"
