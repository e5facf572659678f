"""What one look at one sample notes: all that the checks need, small enough to keep for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semseg.data.doctor.header import Header

ID_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of Pillow that hold one number per pixel."""


@dataclass(frozen=True, slots=True)
class Case:
    """Where one sample comes from.

    Args:
        split: its split.
        index: its position in the dataset, or -1 if the dataset cannot be opened.
        name: what messages call it where there are no files.
        image: file of the image, if there is one.
        mask: file of the mask, if there is one.
        plain: both are read by the rules of :mod:`semseg.data.images` and nothing else, so that
            the files can be judged one by one; else the dataset reads them.
    """

    split: str
    index: int
    name: str
    image: Path | None = None
    mask: Path | None = None
    plain: bool = False

    def file(self, of: Literal["image", "mask"]) -> str:
        """Return the file, or the name of the sample where it has none."""
        return str((self.image if of == "image" else self.mask) or self.name)


@dataclass(slots=True)
class Look:
    """What was seen of one sample; fields stay empty where something before them failed.

    Args:
        case: where the sample comes from.
        image: header of the image file.
        mask: header of the mask file.
        image_problem: why the image cannot be read.
        mask_problem: why the mask cannot be read.
        image_size: height and width of the upright image.
        mask_size: height and width of the mask.
        histogram: ``(C, 256)`` counts of values.
        grey: whether three channels hold the same.
        checksum: of the decoded image.
        thumb: see :func:`~semseg.data.doctor.measure.thumbnail`.
        ids: pixels of each raw id.
        counts: pixels of each train id, and of ignored ones last; unknown ids count for nothing.
        smear: see :func:`~semseg.data.doctor.measure.smear`.
        fit: see :func:`~semseg.data.doctor.measure.fit`.
        fit_stored: the same for the image as stored, without its EXIF orientation.
        shifts: see :func:`~semseg.data.doctor.measure.shifts`.
    """

    case: Case
    image: Header | None = None
    mask: Header | None = None
    image_problem: str | None = None
    mask_problem: str | None = None
    image_size: tuple[int, int] | None = None
    mask_size: tuple[int, int] | None = None
    histogram: NDArray[np.int64] | None = None
    grey: bool = False
    checksum: int | None = None
    thumb: NDArray[np.uint8] | None = None
    ids: dict[int, int] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    smear: float = 0.0
    fit: float | None = None
    fit_stored: float | None = None
    shifts: NDArray[np.float32] | None = None

    def header(self, of: Literal["image", "mask"]) -> Header | None:
        """Return the header of one of the files."""
        return self.image if of == "image" else self.mask

    def problem(self, of: Literal["image", "mask"]) -> str | None:
        """Return why one of the files cannot be used."""
        return self.image_problem if of == "image" else self.mask_problem
