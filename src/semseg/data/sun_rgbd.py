"""SUN RGB-D: indoor scenes, the colour images.

Layout, the official labels as single files::

    image/{train,test}/img-000001.jpg …
    label37/{train,test}/00000001.png …   (or semseg-label37, or labels)

A label belongs to the image of the same number; where those of train go on from 5,051, as in the
archive of labels, 5,050 is taken off.

Encoding: grey PNG; 0 is void and 1 to 37 are the classes. Some repositories pass on files from
which one was subtracted, so that void is 255 and classes are 0 to 36: then set ``void: 255``. The
first masks are looked at, and the wrong one of the two is refused.

Splits: officially 5,285 for training and 5,050 for testing, whose labels are public. Of the
training images every fifth run of 50 is val.

Licence: research use only.

Citation: Song, Lichtenberg, Xiao: SUN RGB-D: A RGB-D scene understanding benchmark suite. CVPR
2015.

Source: https://rgbd.cs.princeton.edu/; images and labels as single files:
https://github.com/ankurhanda/sunrgbd-meta-data
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from semseg.core.checks import InputError
from semseg.core.labels import Label, LabelMap
from semseg.data.base import register_dataset
from semseg.data.images import read_mask
from semseg.data.pairs import Pair
from semseg.data.public import HeldOutSettings, PublicDataset, class_table, find_folder, find_pairs

_CLASSES, _TEST = 37, 5050
_BLOCK, _LOOKED_AT = 50, 20


class SUNRGBDSettings(HeldOutSettings):
    """What can be said about SUN RGB-D."""

    void: Literal[0, 255] = 0
    """The id of void in the files: 0 with classes 1 to 37, or 255 with classes 0 to 36."""


@register_dataset(
    "sun_rgbd",
    SUNRGBDSettings,
    title="SUN RGB-D, 37 classes, colour images",
    classes=_CLASSES,
    licence="research use only",
    citation=(
        "Song, Lichtenberg, Xiao: SUN RGB-D: A RGB-D scene understanding benchmark suite. CVPR 2015"
    ),
    source="https://github.com/ankurhanda/sunrgbd-meta-data",
    layout="image/{train,test}/, label37/{train,test}/",
    splits=("train", "val", "test"),
    counts={"train": 4235, "val": 1050, "test": _TEST},
)
class SUNRGBD(PublicDataset):
    """One split of SUN RGB-D.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        root: the folder with ``image`` and ``label37``.
        settings: what void is, and what train holds.

    Raises:
        FileError: a file is missing; the message says where to get it.
        InputError: the masks hold the other of the two encodings.
    """

    def __init__(self, split: str, root: Path, settings: SUNRGBDSettings) -> None:
        part = "test" if split == "test" else "train"
        images = find_folder("sun_rgbd", root / "image" / part)
        folders = ("label37", "semseg-label37", "labels")
        masks = find_folder("sun_rgbd", *(root / name / part for name in folders))
        pairs = _numbered(images, masks)
        _check_encoding(pairs, settings.void)
        official: int | None = None
        notes: tuple[str, ...] = ()
        if split != "test":
            pairs, notes = settings.part(pairs, split, _BLOCK), settings.notes
            official = 5285 if settings.whole_train and split == "train" else None
        labels = label_map(settings.void)
        super().__init__("sun_rgbd", split, root, pairs, labels, official=official, notes=notes)


@cache
def label_map(void: int) -> LabelMap:
    """Return the 37 classes with the raw ids of files in which void is ``void``."""
    shift = 1 if void else 0
    table = class_table("nyu40")
    classes = [
        Label(c.name, c.raw_id - shift, c.train_id, c.color) for c in table.classes[:_CLASSES]
    ]
    return LabelMap((*classes, Label("void", void, None, (0, 0, 0))))


def _number(file: Path) -> int:
    return int(re.findall(r"\d+", file.stem)[-1])


def _renumbered(stem: str, number: int) -> str:
    """Return a name with another last number, as wide as before."""
    return re.sub(r"\d+$", lambda found: f"{number:0{len(found[0])}}", stem)


def _numbered(images: Path, masks: Path) -> list[Pair]:
    """Pair images and labels by their numbers, whatever stands before the number in a name."""
    first = min(masks.glob("*[0-9].png"), default=Path("00000001.png"))
    shift = _TEST if _number(first) > _TEST else 0
    return find_pairs(
        "sun_rgbd",
        images,
        "*[0-9].jpg",
        lambda file: masks / f"{_renumbered(first.stem, _number(file) + shift)}.png",
    )


def _check_encoding(pairs: list[Pair], void: int) -> None:
    """Refuse masks that cannot be of the encoding; one off by one would else go unnoticed."""
    foreign = 255 if void == 0 else _CLASSES
    for _, mask in pairs[:_LOOKED_AT]:
        if mask.is_file() and np.isin(foreign, read_mask(mask)):
            raise InputError(
                f"{mask} holds the id {foreign}, so void is {255 - void} in it and not {void}; "
                f"set void: {255 - void} for sun_rgbd"
            )
