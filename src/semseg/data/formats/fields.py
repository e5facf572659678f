"""Reading JSON that others wrote: every message names the file and the place in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from semseg.core.checks import FileError, InputError
from semseg.core.files import write_text
from semseg.data.formats.base import Size
from semseg.data.formats.fill import Ring

_KINDS = {dict: "an object {…}", list: "a list", str: "a text", int: "a whole number"}


def read_text(path: Path) -> str:
    """Return a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileError: it is missing, cannot be read or is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        FileError: it is missing, cut short or not JSON.
        InputError: it holds something other than an object.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is not JSON, or is cut short: {error}"
        raise FileError(f"{path} {what}; export it again") from error
    content: dict[str, Any] = typed(data, dict, str(path), "content")
    return content


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(data, ensure_ascii=False))


def typed(value: Any, kind: type, source: str, what: str) -> Any:
    """Return ``value`` if it is of that kind, or raise InputError."""
    if isinstance(value, bool) or not isinstance(value, kind):
        shown = repr(value)
        raise InputError(
            f"{source}: {what} is {shown if len(shown) < 60 else shown[:57] + '...'}; "
            f"wanted {_KINDS[kind]}"
        )
    return value


def field(item: Mapping[str, Any], key: str, kind: type, source: str) -> Any:
    """Return ``item[key]`` of that kind, or raise InputError."""
    if key not in item:
        raise InputError(f"{source} has no {key!r}; wanted {_KINDS[kind]}")
    return typed(item[key], kind, source, repr(key))


def size_of(item: Mapping[str, Any], source: str, height: str, width: str) -> Size:
    """Return height and width.

    Raises:
        InputError: one is missing or is not a positive whole number.
    """
    if item.get(height) is None or item.get(width) is None:
        raise InputError(
            f"{source} does not say the size of its image; add {height!r} and {width!r}"
        )
    size = field(item, height, int, source), field(item, width, int, source)
    if min(size) < 1:
        raise InputError(f"{source} says an image of {size[0]} x {size[1]} pixels; correct it")
    return size


def image_name(name: str, source: str) -> str:
    """Return an image's name with forward slashes.

    Raises:
        InputError: it is empty, absolute or climbs out of its folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(f"{source} names the image {name!r}; wanted a name below its folder")
    return path.as_posix()


def ring_of(points: Any, source: str) -> Ring:
    """Return the corners of a polygon.

    Args:
        points: list of (x, y).
        source: the file and the shape, for messages.

    Raises:
        InputError: fewer than three corners, or something that is not a pair of numbers.
    """
    typed(points, list, source, "outline")
    for point in points:
        pair = isinstance(point, list | tuple) and len(point) == 2
        if not pair or not all(_number(value) for value in point):
            raise InputError(f"{source} has the corner {point!r}; wanted two numbers, x and y")
    if len(points) < 3:
        raise InputError(
            f"{source} has {len(points)} corners; a polygon needs at least 3: complete it or "
            "delete it"
        )
    return np.array(points, np.float64)


def flat_ring(numbers: Any, source: str) -> Ring:
    """Return the corners of a polygon given as x, y, x, y and so on."""
    typed(numbers, list, source, "outline")
    if len(numbers) % 2:
        raise InputError(f"{source} has {len(numbers)} numbers; wanted pairs of x and y")
    return ring_of(list(zip(numbers[0::2], numbers[1::2], strict=True)), source)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
