"""Datasets made of image files with a mask file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from semseg.core import archive
from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.base import Sample, SegmentationDataset, digest
from semseg.data.images import read_image, read_mask

Pair = tuple[Path, Path]
"""Image file and mask file."""


class PairDataset(SegmentationDataset):
    """Image files with mask files.

    Args:
        root: the folder that names in the fingerprint are relative to.
        split: name of the split.
        pairs: image and mask files, in the order of the positions.
        labels: what the ids in the mask files mean.
        channels: 3 or 1.
        notes: what a user should know about how the files were found.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        pairs: Sequence[Pair],
        labels: LabelMap,
        channels: int = 3,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.root = root
        self.split = split
        self.pairs = list(pairs)
        self.labels = labels
        self.channels = channels
        self.notes = notes

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def path(self, index: int) -> str:
        """Return the image's file."""
        return str(self.pairs[index][0])

    def __getitem__(self, index: int) -> Sample:
        """Read one pair; errors name the file."""
        image_file, mask_file = self.pairs[index]
        image, missing = self.read_pixels(image_file)
        mask = self.read_ids(mask_file)
        size = (image.shape[0], image.shape[1])
        if mask.shape != size:
            raise InputError(
                f"{image_file} is {size[0]} x {size[1]} (height x width), but its mask {mask_file} "
                f"is {mask.shape[0]} x {mask.shape[1]}; give both the same size and orientation"
            )
        encoded = self.labels.encode(mask, mask_file)
        if missing is not None:
            encoded[missing] = self.labels.ignore_id
        return Sample(
            image=tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            mask=tv_tensors.Mask(torch.from_numpy(encoded)),
            path=str(image_file),
            size=size,
        )

    def read_pixels(self, file: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return an image file, and where it holds no data, which counts for nothing."""
        return self.read_image(file), None

    def read_image(self, file: Path) -> NDArray[np.uint8]:
        """Return an image file as ``(H, W, channels)``."""
        return read_image(file, self.channels)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the raw ids of a mask file, ``(H, W)``; other encodings override this."""
        return read_mask(file)

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes and the label map."""
        files = sorted(
            (self._name(file), archive.file_size(file)) for pair in self.pairs for file in pair
        )
        return digest(files, self.labels)

    def _name(self, file: Path) -> str:
        """Return a file's path from the root, or its own name where it lies elsewhere."""
        inside = file.is_relative_to(self.root)
        return file.relative_to(self.root).as_posix() if inside else file.name
