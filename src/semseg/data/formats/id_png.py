"""``ids``: a grey image whose values are raw ids.

Written as PNG of 8 bits, of 16 bits if the label map has an id above 255. Any file of integers of
one channel is read; a palette gives its indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, id_type, register_format
from semseg.data.formats.png import SUFFIXES, MaskFile, save_png, single


def read(path: Path) -> Sequence[Annotation]:
    """Return the one mask; its pixels are read when they are asked for."""
    return [MaskFile(image=path.name, size=None, source=str(path), file=path)]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write one mask."""
    save_png(path, Image.fromarray(single(masks).ids.astype(id_type(labels))))


register_format(
    name="ids",
    title="Grey PNG of raw ids, 8 or 16 bits",
    suffixes=SUFFIXES,
    read=read,
    write=write,
)
