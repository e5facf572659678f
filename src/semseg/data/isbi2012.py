"""ISBI 2012: membranes of neurons in electron microscopy.

Layout: the challenge's ``train-volume.tif`` and ``train-labels.tif``, 30 slices of 512 x 512 each;
or the slices as single files, ``train/image/*.png`` and ``train/label/*.png`` with equal names.

Encoding: grey, 0 for membrane and 255 for cell.

Splits: the last six slices are val, the 24 before them train; neighbours in the volume look alike,
so none is drawn from between. The labels of ``test-volume.tif`` are not public.

Licence: for non-commercial segmentation software; publications cite Cardona et al. (PLoS Biology
8(10), 2010) and TrakEM2.

Citation: Arganda-Carreras, Turaga, Berger et al.: Crowdsourcing the creation of image segmentation
algorithms for connectomics. Frontiers in Neuroanatomy 9, 2015.

Source: https://imagej.net/events/isbi-2012-segmentation-challenge
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import FileError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import digest, register_dataset
from semseg.data.images import image_array
from semseg.data.pairs import Pair
from semseg.data.public import HeldOutSettings, PublicDataset, find_folder, find_pairs, missing

LABELS = LabelMap((Label("membrane", 0, 0, (0, 0, 0)), Label("cell", 255, 1, (255, 255, 255))))
"""Membrane and cell, as in the files."""


class ISBI2012Settings(HeldOutSettings):
    """What can be said about ISBI 2012."""

    channels: Literal[1, 3] = 1
    """How slices are read: 1 for grey, 3 for grey repeated, for networks that take colour."""


@register_dataset(
    "isbi2012",
    ISBI2012Settings,
    title="ISBI 2012, neuronal membranes",
    classes=LABELS.num_classes,
    licence="for non-commercial segmentation software",
    citation=(
        "Arganda-Carreras, Turaga, Berger et al.: Crowdsourcing the creation of image segmentation "
        "algorithms for connectomics. Frontiers in Neuroanatomy 9, 2015"
    ),
    source="https://imagej.net/events/isbi-2012-segmentation-challenge",
    layout="train-volume.tif and train-labels.tif, or train/image/ and train/label/",
    counts={"train": 24, "val": 6},
)
class ISBI2012(PublicDataset):
    """One split of the labelled slices of ISBI 2012.

    A slice of a volume has the path ``train-volume.tif/07``.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with the volumes, or with ``train``.
        settings: channels, and what train holds.

    Raises:
        FileError: a file is missing or damaged, or the volumes differ in length.
    """

    def __init__(self, split: str, root: Path, settings: ISBI2012Settings) -> None:
        volumes = [root / f"train-{kind}.tif" for kind in ("volume", "labels")]
        self.volumes = [volume for volume in volumes if volume.is_file()]
        if len(self.volumes) == 1:
            lacking = next(volume for volume in volumes if volume not in self.volumes)
            raise missing("isbi2012", f"{lacking} does not exist")
        pairs = _slices(*self.volumes) if self.volumes else _files(root)
        official = 30 if settings.whole_train and split == "train" else None
        super().__init__(
            "isbi2012",
            split,
            root,
            settings.part(pairs, split),
            LABELS,
            channels=settings.channels,
            official=official,
            notes=settings.notes,
        )

    def check(self, name: str) -> None:
        """Slices of a volume were counted; only single files can be missing."""
        if not self.volumes:
            super().check(name)

    def read_image(self, file: Path) -> NDArray[np.uint8]:
        """Return a slice as ``(H, W, channels)``."""
        if not self.volumes:
            return super().read_image(file)
        return image_array(_page(file), self.channels, file)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the numbers of a slice of the labels."""
        return np.array(_page(file)) if self.volumes else super().read_ids(file)

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, file sizes, slices and the label map."""
        if not self.volumes:
            return super().fingerprint()
        sizes = [(volume.name, volume.stat().st_size) for volume in self.volumes]
        return digest([*sizes, [image.name for image, _ in self.pairs]], self.labels)


def _files(root: Path) -> list[Pair]:
    """Return the single files in the order of their numbers, which is that of the volume."""
    images = find_folder("isbi2012", root / "train/image")
    masks = find_folder("isbi2012", root / "train/label")
    pairs = find_pairs("isbi2012", images, "*.png", lambda file: masks / file.name)
    return sorted(pairs, key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0].stem)])


def _slices(volume: Path, labels: Path) -> list[Pair]:
    counts = [_count(file) for file in (volume, labels)]
    if counts[0] != counts[1]:
        raise FileError(
            f"{volume} has {counts[0]} slices, but {labels} has {counts[1]}; copy both again"
        )
    return [(volume / f"{i:02}", labels / f"{i:02}") for i in range(counts[0])]


def _count(file: Path) -> int:
    try:
        with Image.open(file) as image:
            return int(getattr(image, "n_frames", 1))
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error}; copy it again") from error


def _page(file: Path) -> Image.Image:
    """Decode one slice of a volume."""
    try:
        with Image.open(file.parent) as image:
            image.seek(int(file.name))
            return image.copy()
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise FileError(f"{file} cannot be read: {error}; copy the volume again") from error
