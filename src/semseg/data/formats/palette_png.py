"""``palette``: a PNG whose indices are raw ids and whose palette shows the classes' colours.

The form of Pascal VOC. Only the indices count when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, register_format
from semseg.data.formats.png import SUFFIXES, MaskFile, save_png, single


@dataclass(frozen=True, kw_only=True)
class PaletteFile(MaskFile):
    """A file that must have a palette."""

    def read(self, labels: LabelMap) -> NDArray[Any]:
        """Return the indices.

        Raises:
            FileError: it has none, or cannot be read.
        """
        ids = super().read(labels)  # damage is told there
        with Image.open(self.file) as image:
            if image.mode != "P":
                raise FileError(
                    f"{self.file} is {image.mode} where a palette is expected; read it as ids"
                )
        return ids


def read(path: Path) -> Sequence[Annotation]:
    """Return the one mask; its pixels are read when they are asked for."""
    return [PaletteFile(image=path.name, size=None, source=str(path), file=path)]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write one mask.

    Raises:
        InputError: the label map has an id above 255.
    """
    palette = labels.palette()
    if palette is None:
        top = max(label.raw_id for label in labels.labels)
        raise InputError(f"a palette holds ids up to 255, but the label map has {top}; write ids")
    image = Image.fromarray(single(masks).ids.astype(np.uint8))
    image.putpalette(palette)
    save_png(path, image)


register_format(
    name="palette",
    title="Palette PNG (Pascal VOC)",
    suffixes=SUFFIXES,
    read=read,
    write=write,
)
