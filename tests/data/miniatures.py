"""Miniatures of the public datasets: the official layout with a few tiny files.

Each writer fills a folder and is given the settings it is for. Masks hold chosen raw ids; what the
dataset must make of them is written beside, from the papers and official scripts, not computed by
the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.data.matlab import save_mat

SIZE = (5, 8)


@dataclass(frozen=True)
class Miniature:
    """One form of one dataset."""

    name: str
    write: Callable[[Path, tuple[int, ...]], None]
    """Writes the files below a folder; masks hold these raw ids in turn."""
    raw: tuple[int, ...]
    """Raw ids of files; each below becomes the train id at the same place."""
    train: tuple[int, ...]
    foreign: tuple[int, ...]
    """Ids that no file of the dataset holds."""
    settings: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=lambda: {"train": 3, "val": 3})
    names: dict[int, tuple[str, tuple[int, int, int]]] = field(default_factory=dict)
    """Name and colour of some train ids."""

    @property
    def id(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.settings.items())])


def pixels(ids: tuple[int, ...], turn: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    """Return a mask that holds the ids in turn, other for each image."""
    return np.resize(np.roll(np.array(ids, dtype), turn), SIZE)


def picture(path: Path, number: int, grey: bool = False) -> None:
    """Write an image file of one grey, which says its number and outlives JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = SIZE if grey else (*SIZE, 3)
    Image.fromarray(np.full(shape, 5 * (number % 50), np.uint8)).save(path)


def mask(path: Path, array: NDArray[Any], palette: bool = False) -> None:
    """Write a mask file of ids, or of colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image = image.convert("P")
        image.putdata(array.flatten().tolist())
        image.putpalette([255 - i // 3 for i in range(768)])
    image.save(path)


def listing(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n\n")


def voc(root: Path, ids: tuple[int, ...], sbd: str | None = None) -> None:
    names = {"train": [f"2007_{i:06}" for i in range(3)], "val": [f"2008_{i:06}" for i in range(3)]}
    names["trainval"] = names["train"] + names["val"]
    for split, held in names.items():
        listing(root / "ImageSets/Segmentation" / f"{split}.txt", held)
    added = [f"2009_{i:06}" for i in range(2)]
    for turn, name in enumerate(names["trainval"] + added):
        picture(root / "JPEGImages" / f"{name}.jpg", turn)
        if name not in added:
            mask(root / "SegmentationClass" / f"{name}.png", pixels(ids, turn), palette=True)
        # SBD has images of VOC val and train too
        if sbd == "png":
            mask(root / "SegmentationClassAug" / f"{name}.png", pixels(ids, turn))
        if sbd == "mat":
            file = root / "benchmark_RELEASE/dataset/cls" / f"{name}.mat"
            save_mat(file, "GTcls", pixels(ids, turn), field="Segmentation")
    if sbd == "mat":
        listing(root / "benchmark_RELEASE/dataset/train.txt", [added[0], names["val"][0]])
        listing(root / "benchmark_RELEASE/dataset/val.txt", [added[1], names["train"][0]])


def coco_stuff(root: Path, ids: tuple[int, ...]) -> None:
    for split in ("train", "val"):
        for i in range(3):
            name = f"{split == 'val'}{i:012}"
            picture(root / f"images/{split}2017/{name}.jpg", i)
            mask(root / f"annotations/{split}2017/{name}.png", pixels(ids, i))


def coco_panoptic(root: Path, ids: tuple[int, ...]) -> None:
    for split in ("train", "val"):
        entries = []
        for i in range(3):
            name = f"{i + 10 * (split == 'val'):012}"
            picture(root / f"{split}2017/{name}.jpg", i)
            # segment 1000 k + 70000 stands for category k; pixels without segment are black
            array = pixels(ids, i, np.int64)
            packed = np.where(array == 0, 0, array * 1000 + 70000)
            colors = np.stack([packed & 255, packed >> 8 & 255, packed >> 16], axis=-1)
            mask(root / f"annotations/panoptic_{split}2017/{name}.png", colors.astype(np.uint8))
            known = sorted(set(ids) - {0, 250}, reverse=True)
            segments = [{"id": k * 1000 + 70000, "category_id": k} for k in known]
            entries.append({"file_name": f"{name}.png", "segments_info": segments})
        categories = [{"id": 1, "name": "person"}, {"id": 200, "name": "rug-merged"}]
        text = json.dumps({"annotations": entries[::-1], "categories": categories})
        (root / f"annotations/panoptic_{split}2017.json").write_text(text)


def cityscapes(root: Path, ids: tuple[int, ...], kind: str = "gtFine") -> None:
    for split in ("train", "val", "train_extra"):
        for i in range(3):
            place = f"{split}/{split}city/{split}city_{i:06}_000019"
            picture(root / f"leftImg8bit/{place}_leftImg8bit.png", i)
            for what in ("labelIds", "labelTrainIds", "instanceIds"):
                turned = pixels(ids, i) if what == "labelIds" else pixels((255,))
                mask(root / f"{kind}/{place}_{kind}_{what}.png", turned)


def ade20k(root: Path, ids: tuple[int, ...]) -> None:
    for split, part in (("train", "training"), ("val", "validation")):
        for i in range(3):
            name = f"{part}/ADE_{split}_{i:08}"
            picture(root / f"images/{name}.jpg", i)
            mask(root / f"annotations/{name}.png", pixels(ids, i))


def mapillary(root: Path, ids: tuple[int, ...], version: str = "v1.2") -> None:
    entry = {"instances": False, "evaluate": True}
    labels = [
        {**entry, "readable": "Bird", "name": "animal--bird", "color": [165, 42, 42]},
        {**entry, "readable": "Unlabeled", "name": "void", "color": [0, 0, 0], "evaluate": False},
        {**entry, "readable": "Pole", "name": "object--pole", "color": [153, 153, 153]},
        {**entry, "readable": "Pole", "name": "object--pole-group", "color": [153, 153, 153]},
    ]
    inner = "labels" if version == "old" else f"{version}/labels"
    config = "config.json" if version == "old" else f"config_{version}.json"
    root.mkdir(exist_ok=True)
    (root / config).write_text(json.dumps({"labels": labels, "version": 1.1}))
    for part in ("training", "validation"):
        for i in range(3):
            name = f"{part}_{i}"
            picture(root / part / f"images/{name}.jpg", i)
            mask(root / part / inner / f"{name}.png", pixels(ids, i), palette=True)


def sun_rgbd(root: Path, ids: tuple[int, ...], shift: int = 0, folder: str = "label37") -> None:
    for part, count in (("train", 260), ("test", 2)):
        for i in range(1, count + 1):
            picture(root / f"image/{part}/img-{i:06}.jpg", i - 1)
            name = f"img-{i + shift:06}" if shift and part == "train" else f"{i:08}"
            mask(root / f"{folder}/{part}/{name}.png", pixels(ids, i - 1))


def nyu_v2(root: Path, ids: tuple[int, ...]) -> None:
    for k, split in enumerate(("train", "val", "test")):
        names = [f"{5000 + 10 * k + i}" for i in range(3)]
        listing(root / f"{split}.txt", names)
        for i, name in enumerate(names):
            picture(root / f"data/images/img_{name}.png", i)
            save_mat(root / f"segmentation/img_{name}.mat", "segmentation", pixels(ids, i))


def kitti(root: Path, ids: tuple[int, ...]) -> None:
    for i in range(10):
        picture(root / f"training/image_2/{i:06}_10.png", i)
        mask(root / f"training/semantic/{i:06}_10.png", pixels(ids, i))


def isbi_files(root: Path, ids: tuple[int, ...]) -> None:
    for i in range(30):
        picture(root / f"train/image/{i}.png", i, grey=True)
        mask(root / f"train/label/{i}.png", pixels(ids, i))


def isbi_volume(root: Path, ids: tuple[int, ...]) -> None:
    root.mkdir(exist_ok=True)
    for name, slices in (
        ("volume", [Image.fromarray(np.full(SIZE, 5 * i, np.uint8)) for i in range(30)]),
        ("labels", [Image.fromarray(pixels(ids, i)) for i in range(30)]),
    ):
        slices[0].save(root / f"train-{name}.tif", save_all=True, append_images=slices[1:])


def drive(root: Path, ids: tuple[int, ...]) -> None:
    for part, first in (("training", 21), ("test", 1)):
        for i in range(10):
            n = f"{first + i:02}"
            picture(root / part / f"images/{n}_{part}.tif", i)
            # a third value, 1, is outside the field of view in what the dataset gives
            turned = pixels(ids, i)
            mask(root / part / f"1st_manual/{n}_manual1.gif", np.where(turned == 1, 255, turned))
            view = np.where(turned == 1, 0, 255).astype(np.uint8)
            mask(root / part / f"mask/{n}_{part}_mask.gif", view)


def context_png(root: Path, ids: tuple[int, ...]) -> None:
    for k, split in enumerate(("train", "val")):
        names = [f"2008_{10 * k + i:06}" for i in range(3)]
        listing(root / f"ImageSets/SegmentationContext/{split}.txt", names)
        for i, name in enumerate(names):
            picture(root / f"JPEGImages/{name}.jpg", i)
            mask(root / f"SegmentationClassContext/{name}.png", pixels(ids, i))


def context_mat(root: Path, ids: tuple[int, ...]) -> None:
    for k, split in enumerate(("train", "val")):
        names = [f"2008_{10 * k + i:06}" for i in range(3)]
        listing(root / f"ImageSets/Main/{split}.txt", names)
        for i, name in enumerate(names):
            picture(root / f"JPEGImages/{name}.jpg", i)
            save_mat(root / f"trainval/{name}.mat", "LabelMap", pixels(ids, i, np.uint16))


def davis(root: Path, ids: tuple[int, ...], year: int = 2017) -> None:
    for split, sequences in (("train", ("bear", "bus")), ("val", ("cows",))):
        frames = [f"480p/{s}/{i:05}" for s in sequences for i in range(2)]
        for i, frame in enumerate(frames):
            picture(root / f"JPEGImages/{frame}.jpg", i)
            mask(root / f"Annotations/{frame}.png", pixels(ids, i), palette=year == 2017)
        if year == 2017:
            listing(root / f"ImageSets/2017/{split}.txt", list(sequences))
        else:
            lines = [f"/JPEGImages/{f}.jpg /Annotations/{f}.png" for f in frames]
            listing(root / f"ImageSets/480p/{split}.txt", lines)


def camvid(root: Path, ids: tuple[int, ...]) -> None:
    for split in ("train", "val"):
        names = [f"0016E5_{split}{i}.png" for i in range(3)]
        lines = [f"/SegNet/CamVid/{split}/{n} /SegNet/CamVid/{split}annot/{n}" for n in names]
        listing(root / f"{split}.txt", lines)
        for i, name in enumerate(names):
            picture(root / split / name, i)
            mask(root / f"{split}annot" / name, pixels(ids, i))


CAMVID_COLORS = {
    1: (192, 0, 128),
    2: (0, 128, 192),
    4: (128, 0, 0),
    21: (128, 128, 128),
    30: (0, 0, 0),
    31: (64, 192, 0),
    99: (1, 2, 3),
}
"""From label_colors.txt: Archway, Bicyclist, Building, Sky, Void, Wall; and one not there."""


def camvid_original(root: Path, ids: tuple[int, ...]) -> None:
    for split in ("train", "val"):
        names = [f"0016E5_{split}{i}" for i in range(3)]
        listing(root / f"{split}.txt", [f"/SegNet/CamVid/{split}/{n}.png" for n in names])
        for i, name in enumerate(names):
            picture(root / f"701_StillsRaw_full/{name}.png", i)
            colors = np.array([CAMVID_COLORS[k] for k in pixels(ids, i).flatten()], np.uint8)
            mask(root / f"LabeledApproved_full/{name}_L.png", colors.reshape(*SIZE, 3))
