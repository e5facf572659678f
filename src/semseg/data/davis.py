"""DAVIS 2016 and 2017, every frame as an image: objects against background.

Layout::

    JPEGImages/480p/SEQUENCE/*.jpg   Annotations/480p/SEQUENCE/*.png
    ImageSets/{2016,2017}/{train,val}.txt   (or ImageSets/480p/{train,val}.txt, the first release)

Encoding: grey PNG with 0 and 255 (2016) or palette PNG with 0 and the numbers of the objects of the
sequence (2017). A number says nothing about what the object is, so all objects are one class.

Splits: 2016: train 30 sequences, 2,079 frames; val 20, 1,376. 2017: train 60, 4,219; val 30, 2,023.
The labels of the test splits are not public. Without ``ImageSets``, as where single sequences were
copied, all sequences are one train split and there is no val.

Licence: BSD.

Citation: Perazzi, Pont-Tuset, McWilliams, Van Gool, Gross, Sorkine-Hornung: A benchmark dataset and
evaluation methodology for video object segmentation. CVPR 2016. 2017: Pont-Tuset, Perazzi, Caelles,
Arbelaez, Sorkine-Hornung, Van Gool: The 2017 DAVIS challenge on video object segmentation.
arXiv:1704.00675.

Source: https://davischallenge.org/davis2017/code.html, "TrainVal - Images and Annotations (480p)"
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.pairs import Pair
from semseg.data.public import PublicDataset, find_folder, find_pairs, read_list

_MOST_OBJECTS = 10  # of one sequence of DAVIS 2017
_OBJECT = (128, 0, 0)

LABELS = LabelMap(
    (
        Label("background", 0, 0, (0, 0, 0)),
        Label("object", 255, 1, _OBJECT),
        *(Label(f"object {i}", i, 1, _OBJECT) for i in range(1, _MOST_OBJECTS + 1)),
    )
)
"""Background and object; predictions are written as 0 and 255."""

_FRAMES = {
    2016: {"train": 2079, "val": 1376},
    2017: {"train": 4219, "val": 2023},
}


class DAVISSettings(DatasetSettings):
    """What can be said about DAVIS."""

    year: Literal[2016, 2017] = 2017
    """Which sequences."""
    resolution: Literal["480p", "Full-Resolution", "1080p"] = "480p"
    """Which folder of frames; the full one is called Full-Resolution in the 2017 release."""


@register_dataset(
    "davis",
    DAVISSettings,
    title="DAVIS 2016 and 2017, objects against background",
    classes=LABELS.num_classes,
    licence="BSD",
    citation=(
        "Perazzi, Pont-Tuset, McWilliams, Van Gool, Gross, Sorkine-Hornung: A benchmark dataset "
        "and evaluation methodology for video object segmentation. CVPR 2016"
    ),
    source="https://davischallenge.org/davis2017/code.html",
    layout="JPEGImages/, Annotations/, ImageSets/",
    counts=_FRAMES[2017],
)
class DAVIS(PublicDataset):
    """All frames of the sequences of one split of DAVIS.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        settings: year and resolution.

    Raises:
        FileError: a file is missing; the message says where to get it.
    """

    def __init__(self, split: str, root: Path, settings: DAVISSettings) -> None:
        year, resolution = settings.year, settings.resolution
        images = find_folder("davis", root / "JPEGImages" / resolution)
        masks = find_folder("davis", root / "Annotations" / resolution)
        notes: tuple[str, ...] = ()
        if (root / "ImageSets").is_dir() or split == "val":
            lists = root / "ImageSets"
            words = read_list(
                "davis", lists / str(year) / f"{split}.txt", lists / resolution / f"{split}.txt"
            )
            # a sequence, or each of its frames as /JPEGImages/480p/SEQUENCE/00000.jpg
            names = dict.fromkeys(Path(w).parent.name if "/" in w else w for w in words)
        else:
            names = dict.fromkeys(sorted(x.name for x in masks.iterdir() if x.is_dir()))
            notes = (f"{root} has no ImageSets, so all its sequences are train",)
        pairs: list[Pair] = []
        for name in names:
            frames = find_folder("davis", images / name)
            pairs += find_pairs(
                "davis",
                frames,
                "*.jpg",
                lambda file: masks / file.parent.name / f"{file.stem}.png",
            )
        official = _FRAMES[year][split]
        super().__init__("davis", split, root, pairs, LABELS, official=official, notes=notes)
