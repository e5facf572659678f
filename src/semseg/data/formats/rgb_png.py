"""``rgb``: a colour image, each class in its colour of the label map.

A colour that no class has is an error, never the nearest class: such pixels come from JPEG, from a
mask that was resized with interpolation or from an outline drawn for people to see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, id_type, register_format
from semseg.data.formats.png import SUFFIXES, MaskFile, save_png, single
from semseg.data.images import IMAGE_SUFFIXES, read_image

_SHOWN = 3
_NEAR = 48.0  # greatest distance of colours that noise of JPEG explains


@dataclass(frozen=True, kw_only=True)
class ColorFile(MaskFile):
    """A file whose pixels are colours."""

    def read(self, labels: LabelMap) -> NDArray[Any]:
        """Return the ids of the colours; transparency is dropped."""
        return ids_of(read_image(self.file), labels, self.source)


def read(path: Path) -> Sequence[Annotation]:
    """Return the one mask; its pixels are read when they are asked for."""
    return [ColorFile(image=path.name, size=None, source=str(path), file=path)]


def ids_of(colors: NDArray[np.uint8], labels: LabelMap, source: str) -> NDArray[Any]:
    """Return the raw ids of ``(H, W, 3)`` colours.

    Raises:
        InputError: classes share a colour, or a colour belongs to none.
    """
    check_colors(labels)
    table = _packed(np.array([label.color for label in labels.labels]))
    order = np.argsort(table)
    pixels = _packed(colors)
    place = np.searchsorted(table[order], pixels).clip(max=len(table) - 1)
    label = order[place]
    unknown = table[label] != pixels
    if unknown.any():
        raise InputError(f"{source}: {_describe(pixels[unknown], pixels.size, labels)}")
    raw = np.array([label.raw_id for label in labels.labels], id_type(labels))
    return np.asarray(raw[label])


def check_colors(labels: LabelMap) -> None:
    """Refuse a label map in which two labels share a colour."""
    names = defaultdict(list)
    for label in labels.labels:
        names[label.color].append(label.name)
    for color, shared in names.items():
        if len(shared) > 1:
            raise InputError(
                f"colours cannot tell {shared[0]!r} from {shared[1]!r}: both are {color}; give "
                "each its own colour"
            )


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write one mask.

    Raises:
        InputError: classes share a colour.
    """
    check_colors(labels)
    table = np.zeros((65536, 3), np.uint8)
    for label in labels.labels:
        table[label.raw_id] = label.color
    save_png(path, Image.fromarray(table[single(masks).ids]))


def _packed(colors: NDArray[Any]) -> NDArray[np.int64]:
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue)


def _describe(pixels: NDArray[np.int64], total: int, labels: LabelMap) -> str:
    """Say which colours belong to no class, and where they may come from."""
    found, counts = np.unique(pixels, return_counts=True)
    colors = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    known = np.array([label.color for label in labels.labels])
    near, distance = np.zeros(len(found), np.intp), np.full(len(found), np.inf)
    for i, color in enumerate(known):
        apart = np.sqrt(((colors - color) ** 2).sum(axis=1))
        closer = apart < distance
        near[closer], distance[closer] = i, apart[closer]
    shown = []
    for i in np.argsort(-counts, kind="stable")[:_SHOWN]:
        label = labels.labels[near[i]]
        color = tuple(colors[i].tolist())
        shown.append(f"{color} in {counts[i]} pixels, nearest {label.name!r} {label.color}")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    noise = len(found) > 2 * len(known) and counts[distance < _NEAR].sum() > 0.5 * len(pixels)
    advice = (
        "so many colours near those of classes look like JPEG or a resize with interpolation: "
        "export the masks again without loss"
        if noise
        else "add them as classes or as ignored, or correct the colours of the label map"
    )
    return (
        f"{len(pixels)} of {total} pixels have {len(found)} colours that no class has: "
        f"{'; '.join(shown)}{more}. {advice[0].upper()}{advice[1:]}"
    )


register_format(
    name="rgb",
    title="Colour PNG, colours of the label map",
    suffixes=(*SUFFIXES, *(suffix for suffix in IMAGE_SUFFIXES if suffix not in SUFFIXES)),
    read=read,
    write=write,
)
