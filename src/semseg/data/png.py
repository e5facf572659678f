"""Plain PNG files through ``imagecodecs``, where that is installed: in two thirds of Pillow's time.

The pixels are the same. Only what decides them goes to the decoder: header, data and end. What is
not plainly stored (other than 8 bits, a palette where colours are wanted, transparency beside each
pixel, rows in several passes, animation, an orientation) or is damaged is left to Pillow, whose
messages say what is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core import archive

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3
_HEADER = slice(8, 33)  # the first chunk
_MOST_PIXELS = 80_000_000  # fewer than Pillow warns of
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED = (b"Raw profile", b"XML:")  # texts that may say how the image lies


def read_png(path: Path, *, indices: bool = False) -> NDArray[np.uint8] | None:
    """Decode a plain PNG file of 8 bits.

    Args:
        path: any file.
        indices: give the numbers in a palette image; without it such a file is not plain.

    Returns:
        ``(H, W)`` or ``(H, W, 3)``; ``None`` for what Pillow must read, for files that are missing
        or damaged, and without ``imagecodecs``.

    Raises:
        FileError: an archive is damaged there.
    """
    if path.suffix.lower() != ".png" or (decoder := _decoder()) is None:
        return None
    try:
        parts = _decisive(archive.read_bytes(path), indices)
        return np.asarray(decoder.png_decode(b"".join(parts))) if parts else None
    except (OSError, RuntimeError, ValueError):
        return None


@cache
def _decoder() -> Any:
    """Return ``imagecodecs`` if it can decode PNG."""
    try:
        codecs = import_module("imagecodecs")
        return codecs if codecs.PNG.available else None
    except (ImportError, AttributeError):
        return None


def _decisive(data: bytes, indices: bool) -> list[bytes]:
    """Return the parts of a file that decide its pixels; none if it is not plain."""
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        return []
    size = int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    depth, color, *_, passes = data[24:29]
    palette = indices and color == _PALETTE
    if depth != 8 or passes or size > _MOST_PIXELS or not (palette or color in (_GREY, _RGB)):
        return []
    header = data[_HEADER]
    if palette:  # indices are stored as grey is
        body = header[4:17] + bytes([_GREY]) + header[18:21]
        header = header[:4] + body + zlib.crc32(body).to_bytes(4, "big")
    parts = [_SIGNATURE, header]
    for kind, start, end in _chunks(data):
        text = data[start:end].startswith(_ORIENTED) if kind in _TEXTS else False
        if kind in (b"IDAT", b"IEND"):
            parts.append(data[start - 8 : end + 4])
        elif text or kind in (b"eXIf", b"acTL") or (_decides(kind) and kind != b"PLTE"):
            return []
    return parts


def _decides(kind: bytes) -> bool:
    """Tell whether no decoder may pass over a chunk: its first letter is a capital."""
    return kind[:1].isupper()


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk after the first, and where its content begins and ends.

    Raises:
        ValueError: the file ends before its last chunk.
    """
    start, kind = _HEADER.stop + 8, b""
    while kind != b"IEND":
        kind, length = data[start - 4 : start], data[start - 8 : start - 4]
        end = start + int.from_bytes(length, "big")
        if end + 4 > len(data):
            raise ValueError("the file ends early")
        yield kind, start, end
        start = end + 12
