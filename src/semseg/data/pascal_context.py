"""PASCAL-Context: things and stuff of the VOC 2010 images.

Layout: the folder ``VOC2010`` with ``JPEGImages`` and the annotations in one of two forms::

    trainval/*.mat and ImageSets/Main/{train,val}.txt                                (official)
    SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt (as PNG)

Encoding: the official files hold 459 labels, of which 59 are classes and all others become
background. The PNG hold 0 for background and 1 to 59, in the order of the 459, which is
alphabetical. Beware of the list ``59_labels.txt`` and of some toolboxes, which put the 20 objects
of VOC first: networks trained with those number the classes otherwise.

Splits: train 4,998, val 5,105, the lists of VOC 2010.

Licence: images under Flickr's terms of use; none is stated for the annotations.

Citation: Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille: The role of context for object
detection and semantic segmentation in the wild. CVPR 2014.

Source: https://cs.stanford.edu/~roozbeh/pascal-context/, trainval.tar.gz; images:
http://host.robots.ox.ac.uk/pascal/VOC/voc2010/
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.mat import read_mat
from semseg.data.public import PublicDataset, class_table, find_folder, read_list

# numbers of the 59 classes among the 459 of labels.txt
_AMONG_459 = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113),
    *(115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324),
    *(326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_LABELS = 459


class PascalContextSettings(DatasetSettings):
    """What can be said about PASCAL-Context."""

    background: bool = True
    """Whether what is none of the 59 classes is a class (60) or counts for nothing (59)."""


@register_dataset(
    "pascal_context",
    PascalContextSettings,
    title="PASCAL-Context, 59 classes and background",
    classes=60,
    licence="Flickr's terms of use",
    citation=(
        "Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille: The role of context for object "
        "detection and semantic segmentation in the wild. CVPR 2014"
    ),
    source="https://cs.stanford.edu/~roozbeh/pascal-context/",
    layout="JPEGImages/, trainval/ or SegmentationClassContext/, ImageSets/",
    counts={"train": 4998, "val": 5105},
)
class PascalContext(PublicDataset):
    """One split of PASCAL-Context.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder ``VOC2010`` with the annotations in it.
        settings: what background is.

    Raises:
        FileError: a file is missing; the message says where to get it.
        InputError: a list is empty.
    """

    def __init__(self, split: str, root: Path, settings: PascalContextSettings) -> None:
        images = find_folder("pascal_context", root / "JPEGImages")
        masks = find_folder("pascal_context", root / "trainval", root / "SegmentationClassContext")
        official = masks.name == "trainval"
        lists = root / "ImageSets" / ("Main" if official else "SegmentationContext")
        names = read_list("pascal_context", lists / f"{split}.txt")
        suffix = ".mat" if official else ".png"
        pairs = [(images / f"{name}.jpg", masks / f"{name}{suffix}") for name in names]
        labels = label_map(official, settings.background)
        super().__init__("pascal_context", split, root, pairs, labels)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the ids of a PNG, or the official numbers among 459."""
        if file.suffix == ".mat":
            return read_mat(file, "LabelMap").astype("uint16")
        return super().read_ids(file)


@cache
def label_map(official: bool, background: bool) -> LabelMap:
    """Return the classes with the raw ids of the official files, or with those of the PNG."""
    first, *classes = class_table("pascal_context").classes
    shift = 0 if background else 1
    raw = _AMONG_459 if official else range(1, 60)
    none = 0 if background else None
    # all other numbers are the same as 0; in the PNG there are none
    others = sorted({*range(1, _LABELS + 1)} - {*raw}) if official else []
    return LabelMap(
        (
            Label(first.name, 0, none, first.color),
            *(
                Label(c.name, i, (c.train_id or 0) - shift, c.color)
                for c, i in zip(classes, raw, strict=True)
            ),
            *(Label(f"other {i}", i, none, first.color) for i in others),
        )
    )
