"""Colours of 16 bits, of which Pillow keeps the high bytes: the low ones by a second look.

Pillow unpacks the file again with the order of bytes turned round, and so keeps the others. PNG and
TIFF store such colours.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffTags

from semseg.core.checks import FileError

WORDS = "16-bit numbers"
"""Where :func:`semseg.data.images.open_upright` keeps them in the information of an image."""

_OTHER_END = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_GREY_ALPHA = "LA;16B"
_TAGS = {info.name: tag for tag, info in TiffTags.TAGS_V2.items()}
_BITS, _PLANES = _TAGS["BitsPerSample"], _TAGS["PlanarConfiguration"]
_APART = 2


def deep_kind(image: Image.Image, path: object) -> str | None:
    """Return how an image just opened stores 16-bit colours; ``None`` for others.

    Raises:
        FileError: they are stored plane by plane, not compressed, which Pillow takes for 8 bits.
    """
    if image.mode not in ("RGB", "RGBA"):
        return None
    raw, tags = _raw(image), getattr(image, "tag_v2", {})
    if ";16" in raw:
        # of compressed planes Pillow gives the high bytes, however it is asked
        return None if tags.get(_PLANES) == _APART else raw
    if 16 in tags.get(_BITS, ()):
        raise FileError(
            f"image {path} stores 16-bit colours plane by plane; save them pixel by pixel, or set "
            "value_range (dataset folder)"
        )
    return None


def turn_bytes(image: Image.Image, kind: str) -> None:
    """Let an image just opened be read by its other bytes."""
    turned = "RGBA" if kind == _GREY_ALPHA else kind[:-1] + _OTHER_END[kind[-1]]
    tiles: list[Any] = image.tile  # type: ignore[attr-defined]
    for i, (*place, stated) in enumerate(tiles):
        make = getattr(tiles[i], "_make", tuple)  # a tuple without names in older Pillow
        tiles[i] = make((*place, turned if isinstance(stated, str) else (turned, *stated[1:])))


def join_bytes(kind: str, image: Image.Image, other: Image.Image) -> NDArray[np.uint16]:
    """Return ``(H, W, bands)`` from the image and what :func:`turn_bytes` made of it."""
    high, low = (np.asarray(one).astype(np.uint16) for one in (image, other))
    if kind == _GREY_ALPHA:  # Pillow has no turned kind of it; other has all four bytes
        high, low = low[..., 0::2], low[..., 1::2]
    return high << np.uint16(8) | low


def words_of(image: Image.Image) -> NDArray[np.uint16] | None:
    """Return the 16-bit bands of an image from :func:`semseg.data.images.open_upright`."""
    words: NDArray[np.uint16] | None = image.info.get(WORDS)
    return words


def _raw(image: Any) -> str:
    """Return Pillow's name of the form in which the first part of a file is stored."""
    stated = image.tile[0][3] if getattr(image, "tile", ()) else ""
    return str(stated if isinstance(stated, str) else stated[0])
