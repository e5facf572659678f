"""What the mask formats share: one file of pixels for one image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from semseg.core.files import write_atomic
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, Size, check_size
from semseg.data.images import MASK_SUFFIXES, read_mask

SUFFIXES = (".png", *(suffix for suffix in MASK_SUFFIXES if suffix != ".png"))


@dataclass(frozen=True, kw_only=True)
class MaskFile(Annotation):
    """A file whose pixels are ids."""

    def ids(
        self, labels: LabelMap, size: Size | None = None, background: str | None = None
    ) -> NDArray[Any]:
        """Read the file; see :meth:`Annotation.ids`."""
        ids = self.read(labels)
        check_size((ids.shape[0], ids.shape[1]), size, self.source)
        labels.encode(ids, self.source)  # refuses unknown ids
        return ids

    def read(self, labels: LabelMap) -> NDArray[Any]:
        """Return the ids in the file."""
        return read_mask(self.file)


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG whole or not at all."""
    write_atomic(path, lambda partial: image.save(partial, "PNG"))


def single(masks: Iterable[Mask]) -> Mask:
    """Return the one mask that a file of one image holds."""
    (mask,) = masks
    return mask
