"""Checks for images that stand in the dataset twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from semseg.data.doctor.findings import Evidence, Finding, count

_ALIKE = 0.997
"""Least correlation of two thumbnails for a second look."""

_NEAR = 3.0
"""Largest mean difference of two thumbnails, in grey levels."""

_CLOSE_SIDE = 32
_CLOSE = 16
"""Twins differ by less grey levels in 99 of 100 pixels of the second look. What was resized and
compressed again differs by about 10, neighbouring frames of a video by 24 and more."""

_BLOCK = 2000
_MOST_LOOKS = 400


def twins(evidence: Evidence) -> Iterator[Finding]:
    """The same picture in two splits, so that the score is measured on what was learned."""
    exact, near, inside = _pairs(evidence)
    for check, severity, pairs, text in (
        ("duplicate", "error", exact, "in two splits: the score is measured on what was learned"),
        ("near_duplicate", "warning", near, "in two splits, resized or compressed anew"),
        ("repeated_image", "warning", inside, "more than once in one split"),
    ):
        if pairs:
            positions = [i for pair in pairs for i in pair]
            message = f"{count(len(pairs), 'image')} {text}; keep one of each"
            unique = list(dict.fromkeys(positions))
            yield evidence.finding(
                check, "error" if severity == "error" else "warning", message, unique, "image"
            )


def _pairs(evidence: Evidence) -> tuple[list[tuple[int, int]], ...]:
    exact: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    looked = 0
    for i, j in candidates(evidence):
        a, b = evidence.looks[i], evidence.looks[j]
        same = a.checksum == b.checksum and a.image_size == b.image_size
        if a.case.split == b.case.split:
            if same:
                inside.append((i, j))
        elif same:
            exact.append((i, j))
        elif looked < _MOST_LOOKS:
            looked += 1
            if _same_picture(a.case.image, b.case.image):
                near.append((i, j))
    return exact, near, inside


def candidates(evidence: Evidence) -> Iterator[tuple[int, int]]:
    """Yield positions of two samples whose thumbnails hardly differ; the first comes first."""
    # what is of one colour resembles everything of one colour
    held = {
        i: look.thumb
        for i, look in enumerate(evidence.looks)
        if look.thumb is not None and look.thumb.std() > 1
    }
    if not held:
        return
    known = list(held)
    thumbs = np.stack(list(held.values())).reshape(len(known), -1)
    flat: NDArray[np.float32] = thumbs.astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    for start in range(0, len(known), _BLOCK):
        rows = flat[start : start + _BLOCK]
        alike = rows @ flat[start:].T > _ALIKE
        for a, b in zip(*np.nonzero(np.triu(alike, 1)), strict=True):
            i, j = start + int(a), start + int(b)
            difference = np.abs(thumbs[i].astype(np.int16) - thumbs[j]).mean()
            if difference < _NEAR:
                yield known[i], known[j]


def _same_picture(first: Path | None, second: Path | None) -> bool:
    """Compare two images at a size at which moved things show."""
    if first is None or second is None:
        return False
    pictures = []
    for path in (first, second):
        try:
            with Image.open(path) as image:
                grey = ImageOps.exif_transpose(image).convert("L")
        except OSError:
            return False
        small = grey.resize((_CLOSE_SIDE, _CLOSE_SIDE), Image.Resampling.BOX)
        pictures.append(np.asarray(small, dtype=np.int16))
    return bool(np.percentile(np.abs(pictures[0] - pictures[1]), 99) < _CLOSE)


CHECKS = (twins,)
