"""Looking at samples: reads their files and fills a :class:`~semseg.data.doctor.look.Look`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import SemsegError
from semseg.core.labels import LabelMap
from semseg.data.base import SegmentationDataset
from semseg.data.doctor.header import read_header
from semseg.data.doctor.look import ID_MODES, Case, Look
from semseg.data.doctor.measure import fit, reduced, shifts, smear, thumbnail
from semseg.data.images import read_image, read_mask

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""From an upright image back to how its file stores it."""


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at samples; sent to worker processes.

    Args:
        datasets: the splits that could be opened.
        labels: the classes, if they are known.
        channels: of the images.
        shifting: every so many-th sample has its mask shifted about.
    """

    datasets: dict[str, SegmentationDataset]
    labels: LabelMap | None
    channels: int
    shifting: int = 1

    def __call__(self, position: int, case: Case) -> Look:
        """Look at one sample; every mistake in it is noted, none raised."""
        look = Look(case)
        image, mask = self.read(look)
        grey = None
        if image is not None:
            look.image_size = (image.shape[0], image.shape[1])
            grey = _see_image(look, image)
        if mask is not None:
            look.mask_size = (mask.shape[0], mask.shape[1])
        elif look.mask is not None and look.mask_problem is None:  # colours
            look.mask_size = look.mask.size
        if grey is not None and mask is not None:
            self._see_fit(look, grey, mask, with_shifts=position % self.shifting == 0)
        return look

    def without_fit(self, case: Case) -> Look:
        """Look at one sample, but not at whether image and mask lie upon each other."""
        look = Look(case)
        image, mask = self.read(look)
        look.image_size = None if image is None else (image.shape[0], image.shape[1])
        look.mask_size = None if mask is None else (mask.shape[0], mask.shape[1])
        return look

    def read(self, look: Look) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Read image and mask of a sample, noting headers and problems; masks as they come."""
        case = look.case
        if case.image is not None:
            look.image, look.image_problem = read_header(case.image)
        if case.mask is not None:
            look.mask, look.mask_problem = read_header(case.mask)
        return self._pair(look) if case.plain else self._sample(look)

    def _pair(self, look: Look) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Read two files, each for itself."""
        case = look.case
        image: NDArray[Any] | None = None
        mask: NDArray[Any] | None = None
        if case.image is not None and look.image is not None:
            try:
                image = read_image(case.image, self.channels)
            except SemsegError as error:
                look.image_problem = str(error)
        colours = look.mask is not None and look.mask.mode not in ID_MODES
        if case.mask is not None and look.mask is not None and not colours:
            try:
                mask = read_mask(case.mask)
            except SemsegError as error:
                look.mask_problem = str(error)
        if mask is not None:
            values, counts = _count(mask)
            look.ids = dict(zip(values, counts, strict=True))
            look.smear = smear(mask)
            look.counts = None if self.labels is None else _train_counts(look.ids, self.labels)
        return image, mask

    def _sample(self, look: Look) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Take a sample as the dataset reads it."""
        if look.image_problem or look.mask_problem:
            return None, None
        dataset = self.datasets[look.case.split]
        try:
            sample = dataset[look.case.index]
        except SemsegError as error:
            look.mask_problem = str(error)
            return None, None
        image, mask = sample.image.permute(1, 2, 0).numpy(), sample.mask.numpy()
        known = dataset.labels
        counts = np.bincount(mask.ravel(), minlength=known.ignore_id + 1)
        shown = counts[: known.num_classes]
        look.counts = np.append(shown, mask.size - shown.sum())
        return image, mask

    def _see_fit(
        self, look: Look, grey: Image.Image, mask: NDArray[Any], with_shifts: bool
    ) -> None:
        """Compare the edges of the image with the borders of the mask."""
        orientation = look.image.orientation if look.image else 1
        if orientation in _ORIENTATIONS:
            stored = grey.transpose(_ORIENTATIONS[orientation])
            if (stored.height, stored.width) == look.mask_size:
                look.fit_stored = fit(*reduced(stored, mask))
        if look.image_size == look.mask_size:
            strength, small = reduced(grey, mask)
            look.fit = fit(strength, small)
            look.shifts = shifts(strength, small) if with_shifts else None


def _see_image(look: Look, image: NDArray[Any]) -> Image.Image | None:
    """Note what the pixels of an image say; return it in grey, if it is of 8 bits."""
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        return None
    shown = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
    look.histogram = np.array(shown.histogram(), dtype=np.int64).reshape(-1, 256)
    look.checksum = zlib.crc32(image.tobytes())
    look.grey = image.shape[2] == 1 or _equal_channels(image)
    grey = shown.convert("L")
    look.thumb = thumbnail(grey)
    return grey


def _equal_channels(image: NDArray[np.uint8]) -> bool:
    parts = (image[::16, ::16], image)  # most colour images show it at once
    return all(bool((part == part[..., :1]).all()) for part in parts)


def _count(mask: NDArray[Any]) -> tuple[list[int], list[int]]:
    if mask.dtype == np.uint8:
        histogram = np.array(Image.fromarray(mask).histogram())
        values = np.nonzero(histogram)[0]
        counts = histogram[values]
    else:
        values, counts = np.unique(mask, return_counts=True)
    return values.tolist(), counts.tolist()


def _train_counts(ids: dict[int, int], labels: LabelMap) -> NDArray[np.int64]:
    counts = np.zeros(labels.num_classes + 1, dtype=np.int64)
    train = {label.raw_id: label.train_id for label in labels.labels}
    for raw, pixels in ids.items():
        if raw in train:
            place = train[raw]
            counts[-1 if place is None else place] += pixels
    return counts
