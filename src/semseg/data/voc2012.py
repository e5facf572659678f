"""PASCAL VOC 2012 segmentation, and its training set augmented by SBD.

Layout: the folder ``VOC2012`` of the development kit::

    JPEGImages/*.jpg   SegmentationClass/*.png   ImageSets/Segmentation/{train,val,trainval}.txt

Encoding: palette PNG; 0 is background, 1 to 20 are the objects, 255 is the border that counts for
nothing.

Splits: train 1,464, val 1,449, trainval 2,913. With ``augmented``, train is VOC train and all of
SBD without VOC val: 10,582 images. Masks of VOC train stay VOC's own; the others are
``SegmentationClassAug/*.png`` (SBD as PNG, the form most papers' authors pass on) or SBD's own
``cls/*.mat``, which have no border. The labels of the test split are not public.

Licence: images under Flickr's terms of use.

Citation: Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC)
Challenge. IJCV 88(2), 2010. SBD: Hariharan, Arbelaez, Bourdev, Maji, Malik: Semantic contours from
inverse detectors. ICCV 2011.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, VOCtrainval_11-May-2012.tar; SBD:
http://home.bharathh.info/pubs/codes/SBD/download.html, benchmark.tgz.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.mat import read_mat
from semseg.data.pairs import Pair
from semseg.data.public import PublicDataset, find_folder, missing, read_list

LABELS = LabelMap.from_names(
    [
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
        *("sheep", "sofa", "train", "tvmonitor"),
    ],
    ignore={255: "border"},
)
"""Background and the 20 objects, in the VOC colours."""

_AUGMENTED = 10582


class VOC2012Settings(DatasetSettings):
    """What can be said about VOC 2012."""

    augmented: bool = False
    """Train on VOC train and SBD without VOC val."""
    sbd: Path | None = None
    """Folder ``benchmark_RELEASE`` of SBD; default: below root. Not read if there is
    ``SegmentationClassAug``."""


@register_dataset(
    "voc2012",
    VOC2012Settings,
    title="PASCAL VOC 2012, 21 classes, also augmented by SBD",
    classes=LABELS.num_classes,
    licence="Flickr's terms of use",
    citation=(
        "Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) "
        "Challenge. IJCV 88(2), 2010"
    ),
    source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    layout="JPEGImages/, SegmentationClass/, ImageSets/Segmentation/",
    splits=("train", "val", "trainval"),
    counts={"train": 1464, "val": 1449, "trainval": 2913},
)
class VOC2012(PublicDataset):
    """One split of VOC 2012.

    Args:
        split: ``"train"``, ``"val"`` or ``"trainval"``.
        root: the folder ``VOC2012``, or one of the two above it.
        settings: whether train is augmented.

    Raises:
        FileError: a file is missing; the message says where to get it.
        InputError: a list is empty, or another split than train is to be augmented.
    """

    def __init__(self, split: str, root: Path, settings: VOC2012Settings) -> None:
        images = find_folder(
            "voc2012",
            root / "JPEGImages",
            root / "VOC2012/JPEGImages",
            root / "VOCdevkit/VOC2012/JPEGImages",
        )
        base = images.parent
        pairs = _own(base, split)
        augmented = settings.augmented and split == "train"
        if settings.augmented and split == "trainval":
            raise InputError(
                "voc2012 augmented has the splits train and val; trainval holds val images"
            )
        if augmented:
            pairs += _added(base, settings.sbd, {image.stem for image, _ in pairs})
        official = _AUGMENTED if augmented else None
        super().__init__("voc2012", split, base, pairs, LABELS, official=official)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the ids of a PNG of VOC or of a MATLAB file of SBD."""
        if file.suffix == ".mat":
            return read_mat(file, "GTcls", "Segmentation")
        return super().read_ids(file)


def _own(base: Path, split: str) -> list[Pair]:
    names = read_list("voc2012", base / "ImageSets/Segmentation" / f"{split}.txt")
    return [
        (base / "JPEGImages" / f"{n}.jpg", base / "SegmentationClass" / f"{n}.png") for n in names
    ]


def _added(base: Path, sbd: Path | None, train: set[str]) -> list[Pair]:
    """Return SBD without the images of VOC train and val."""
    known = train | set(read_list("voc2012", base / "ImageSets/Segmentation/val.txt"))
    folder, suffix = base / "SegmentationClassAug", ".png"
    if folder.is_dir():
        names = {file.stem for file in folder.glob("*.png")}
    else:
        places = (base / "benchmark_RELEASE",) if sbd is None else (sbd,)
        found = [p / x for p in places for x in ("dataset", ".") if (p / x / "cls").is_dir()]
        if not found:
            raise missing(
                "voc2012",
                f"neither {folder} nor SBD at {places[0]} exists, one of which augmented needs "
                "(http://home.bharathh.info/pubs/codes/SBD/download.html)",
            )
        folder, suffix = found[0] / "cls", ".mat"
        lists = (read_list("voc2012", found[0] / f"{part}.txt") for part in ("train", "val"))
        names = {name for part in lists for name in part}
    return [
        (base / "JPEGImages" / f"{name}.jpg", folder / f"{name}{suffix}")
        for name in sorted(names - known)
    ]
