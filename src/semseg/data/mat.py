"""Reading arrays from MATLAB files, as SBD, PASCAL-Context and NYUv2 publish their masks.

Only what those files use of the level 5 format: numeric arrays, and numeric fields of a structure,
plain or compressed. Source: MathWorks, "MAT-File Format", chapter 1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError

_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2
_BROKEN = (struct.error, zlib.error, ValueError, IndexError, KeyError, StopIteration)


def read_mat(path: Path, variable: str, field: str | None = None) -> NDArray[Any]:
    """Read one array of a MATLAB file.

    Args:
        path: a file of version 5, 6 or 7.
        variable: name of the variable.
        field: name of its field, if it is a structure.

    Returns:
        The array in MATLAB's orientation: the first axis counts rows.

    Raises:
        FileError: the file is missing, damaged, of version 7.3, or holds no such numbers.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}; copy it again") from error
    if data[:10] == b"MATLAB 7.3":
        raise FileError(f"{path} is a MATLAB 7.3 file (HDF5); save it with -v7 in MATLAB")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise FileError(f"{path} is not a MATLAB file of version 5 to 7; copy it again")
    names = []
    try:
        for kind, body in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, body = next(_elements(zlib.decompress(body), order))
            if kind != _MATRIX:
                continue
            name, value = _matrix(body, order, field)
            if name == variable and value is not None:
                return value
            names.append(name)
    except _BROKEN as error:
        raise FileError(f"{path} is damaged: {error or 'it ends early'}; copy it again") from error
    wanted = variable if field is None else f"{variable}.{field}"
    raise FileError(f"{path} has no numbers named {wanted}; it has {', '.join(names) or 'nothing'}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Give type and content of each data element."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, place)
        if kind >> 16:  # small form: both numbers in one word, the content in the next
            yield kind & 0xFFFF, data[place + 4 : place + 4 + (kind >> 16)]
            place += 8
            continue
        if place + 8 + size > len(data):
            raise ValueError("it ends early")
        yield kind, data[place + 8 : place + 8 + size]
        place += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _matrix(body: bytes, order: str, field: str | None) -> tuple[str, NDArray[Any] | None]:
    """Return name and numbers of an array, or of one field of a structure."""
    parts = _elements(body, order)
    flags, dims, name = (next(parts)[1] for _ in range(3))
    kind = struct.unpack_from(order + "I", flags)[0] & 0xFF
    shape = tuple(struct.unpack(f"{order}{len(dims) // 4}i", dims))
    text = name.decode("ascii")
    if kind == _STRUCT and field is not None:
        length = struct.unpack_from(order + "i", next(parts)[1])[0]
        joined = next(parts)[1]
        fields = [joined[i : i + length].split(b"\0")[0] for i in range(0, len(joined), length)]
        contents = [content for _, content in parts]
        found = contents[fields.index(field.encode())] if field.encode() in fields else None
        return text, None if found is None else _matrix(found, order, None)[1]
    if kind not in _CLASSES or field is not None:
        return text, None
    stored, content = next(parts)
    values = np.frombuffer(content, dtype=order + _TYPES[stored])
    return text, values.astype(_CLASSES[kind]).reshape(shape, order="F")
