"""Writing MATLAB files of version 7, as small as the tests need them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CLASSES = {"uint8": (9, 2), "uint16": (11, 4), "float64": (6, 9)}  # of an array, of its elements


def save_mat(path: Path, name: str, array: NDArray[Any], field: str | None = None) -> None:
    """Write one compressed variable, or a structure with one field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = _array(name, array) if field is None else _struct(name, field, array)
    packed = zlib.compress(body)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def _head(kind: int, shape: tuple[int, ...], name: str) -> bytes:
    flags = _element(6, struct.pack("<II", kind, 0))
    dims = _element(5, struct.pack(f"<{len(shape)}i", *shape))
    return flags + dims + _element(1, name.encode())


def _array(name: str, array: NDArray[Any]) -> bytes:
    kind, stored = _CLASSES[array.dtype.name]
    content = _element(stored, np.asfortranarray(array).tobytes(order="F"))
    return _element(14, _head(kind, array.shape, name) + content)


def _struct(name: str, field: str, array: NDArray[Any]) -> bytes:
    length = struct.pack("<HHi", 5, 4, 32)  # the small form of an element
    names = _element(1, field.encode().ljust(32, b"\0"))
    return _element(14, _head(2, (1, 1), name) + length + names + _array("", array))
