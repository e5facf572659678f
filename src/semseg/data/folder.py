"""Your own data: a folder of images, a folder of masks and a ``classes.yaml``.

Layout, images and masks paired by their name without suffix (subfolders count as part of it)::

    root/classes.yaml
    root/images/train/…   root/masks/train/…
    root/images/val/…     root/masks/val/…

or one folder each, ``root/images`` and ``root/masks``, with ``root/train.txt`` and ``root/val.txt``
that list one name per line (with or without suffix) or an image and a mask file; or one folder each
and no lists, where one image in five becomes ``val`` by a hash of its name.

Instead of masks there may be the files of a labelling tool, in any format of
:mod:`semseg.data.formats` and in the place that :func:`semseg.data.labelled.label_source` finds::

    root/labels/train/….json         LabelMe, GeoJSON, or .txt of YOLO: one file per image
    root/annotations/train.json      COCO, or .xml of CVAT: one file for all images of a split
    root/annotations.json            or of all splits
    root/images/train/….json         LabelMe beside its images

The root may be a .zip or plain .tar of images and masks, or a folder in one
(``photos.zip/photos``); nothing is unpacked.

Masks in colours are read with ``labels: rgb``, by the colours in ``classes.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from semseg.core import archive
from semseg.core.archive import check_folder
from semseg.core.checks import InputError, ranges
from semseg.core.labels import LabelMap
from semseg.core.preprocess import ValueRange
from semseg.data.bands import read_any
from semseg.data.base import DATASETS, DatasetEntry, DatasetSettings, SegmentationDataset, digest
from semseg.data.folder_files import SPLITS, images_alone, is_drawn, masked_images
from semseg.data.images import read_mask
from semseg.data.labelled import LabelledDataset, annotate, has_masks, label_map, label_source
from semseg.data.pairs import PairDataset

_MASKS_SHOWN = 20


class FolderSettings(DatasetSettings):
    """What can be said about a folder."""

    channels: Annotated[int, Field(ge=1)] = 3
    """How images are read: 3 for RGB, 1 for grey; any other number means the bands as stored."""

    value_range: tuple[float, float] | None = None
    """``[low, high]`` of the numbers in image files, which become 0 … 255. It must be said for
    floats and 32-bit integers, and pays where 16-bit numbers use a part of their range."""

    nodata: float | None = None
    """The number of pixels without data, where a range is stated; the mask does not count there."""

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if self.nodata is not None and self.value_range is None:
            raise ValueError("nodata needs value_range")
        return self

    @property
    def values(self) -> ValueRange | None:
        """The stated range as a rule."""
        return None if self.value_range is None else ValueRange(*self.value_range, self.nodata)

    labels: str | None = None
    """Format of the labels, one of :func:`semseg.data.formats.list_formats`; told by the files if
    not given. Masks in colours are never guessed: they need ``rgb``."""

    label_path: str | None = None
    """File or folder of the labels, relative to the root; ``{split}`` stands for the split."""

    background: str | None = None
    """Class of what no shape covers, where labels are shapes; the class called background, or the
    first ignored one, if not given."""


class Folder(PairDataset):
    """One split of a folder of images and masks.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``images``, ``masks`` and ``classes.yaml``.
        settings: how to read it.

    Raises:
        FileError: a folder is missing, or an image has no mask or a mask no image.
        InputError: no image is left for the split, or ``classes.yaml`` is missing or wrong.
    """

    def __init__(self, split: str, root: Path, settings: FolderSettings) -> None:
        pairs = masked_images(root, split)
        labels = labels_of(root / "classes.yaml", [mask for _, mask in pairs])
        super().__init__(root, split, pairs, labels, settings.channels, _notes(root))


class BandFolder(Folder):
    """A folder of images with any number of bands or a stated range; see :class:`Folder`."""

    def __init__(self, split: str, root: Path, settings: FolderSettings) -> None:
        super().__init__(split, root, settings)
        self.values = settings.values

    def read_pixels(self, file: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Return the bands of a file, and where it holds no data."""
        return read_any(file, self.channels, self.values)

    def fingerprint(self) -> str:
        """Return the SHA-256 over what a folder's is over, and the range."""
        return digest([super().fingerprint(), repr(self.values)], self.labels)


class LabelledFolder(LabelledDataset):
    """One split of a folder of images and the files of a labelling tool; see :class:`Folder`."""

    def __init__(self, split: str, root: Path, settings: FolderSettings) -> None:
        images, folder = images_alone(root, split)
        source = label_source(root, split, settings.label_path)
        kind, annotations = annotate(images, folder, source, settings.labels)
        super().__init__(
            root,
            split,
            list(zip(images, annotations, strict=True)),
            label_map(root / "classes.yaml", annotations, kind),
            channels=settings.channels,
            background=settings.background,
            notes=(*_notes(root), f"labels of {split} are read from {source} as {kind}"),
        )


def open_folder(split: str, root: Path, settings: FolderSettings) -> SegmentationDataset:
    """Open one split of a folder, with masks or with the files of a labelling tool.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``images``, labels and ``classes.yaml``.
        settings: how to read it.

    Raises:
        FileError: a folder is missing, or an image has no labels.
        InputError: no image is left for the split, or ``classes.yaml`` is missing or wrong.
    """
    check_folder(root, "dataset root")
    check_folder(root / "images", "image folder")
    banded = settings.channels not in (1, 3) or settings.values is not None
    masked = BandFolder if banded else Folder
    stated = settings.labels is not None or settings.label_path is not None
    if archive.inside(root):
        if stated:
            raise InputError(
                f"{root} is in an archive, where only masks are read; unpack it for labels and "
                "label_path"
            )
        return masked(split, root, settings)
    if not stated and has_masks(root):
        return masked(split, root, settings)
    if masked is BandFolder:
        raise InputError(
            f"{root} has labels of a labelling tool, beside which images are read with 1 or 3 "
            f"channels and no value_range; write masks with semseg convert"
        )
    return LabelledFolder(split, root, settings)


DATASETS.add(
    "folder",
    DatasetEntry(
        name="folder",
        build=open_folder,
        settings=FolderSettings,
        title="A folder of images and masks",
        classes=None,
        licence="that of the data",
        citation=None,
        source="your own files",
        layout="images/, masks/ and classes.yaml",
        splits=SPLITS,
    ),
)


def _notes(root: Path) -> tuple[str, ...]:
    if not is_drawn(root):
        return ()
    return (
        f"{root} has no train and val folders and no train.txt and val.txt, so one image "
        "in five, chosen by a hash of its name, is val",
    )


def labels_of(path: Path, masks: Iterable[Path]) -> LabelMap:
    """Read a ``classes.yaml``.

    Raises:
        InputError: it is missing, and a line that would do for the masks is in the message; or it
            is wrong.
    """
    if archive.is_file(path):
        return LabelMap.from_yaml(path)
    ids: set[int] = set()
    for mask in islice(masks, _MASKS_SHOWN):
        ids.update(np.unique(read_mask(mask)).tolist())
    entries = [
        f"{{name: void, id: {i}, ignore: true}}"
        if i == 255 and len(ids) > 2
        else f"{{name: class_{i}, id: {i}}}"
        for i in sorted(ids)
    ]
    raise InputError(
        f"{path} does not exist; the first masks hold the ids {ranges(ids)}. Write this line into "
        f"it, with your own names: classes: [{', '.join(entries)}]"
    )
