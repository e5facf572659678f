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

Masks in colours are read with ``labels: rgb``, by the colours in ``classes.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from semseg.core.checks import InputError, check_folder, ranges
from semseg.core.labels import LabelMap
from semseg.data.base import DATASETS, DatasetEntry, DatasetSettings, SegmentationDataset
from semseg.data.folder_files import SPLITS, images_alone, is_drawn, masked_images
from semseg.data.images import read_mask
from semseg.data.labelled import LabelledDataset, annotate, has_masks, label_map, label_source
from semseg.data.pairs import PairDataset

_MASKS_SHOWN = 20


class FolderSettings(DatasetSettings):
    """What can be said about a folder."""

    channels: Literal[1, 3] = 3
    """How images are read: 3 for RGB, 1 for grey."""

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
        labels = _labels(root / "classes.yaml", [mask for _, mask in pairs])
        super().__init__(root, split, pairs, labels, settings.channels, _notes(root))


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
    if settings.labels is None and settings.label_path is None and has_masks(root):
        return Folder(split, root, settings)
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


def _labels(path: Path, masks: Iterable[Path]) -> LabelMap:
    if path.is_file():
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
