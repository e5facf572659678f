"""The ``folder`` dataset with the files of labelling tools in place of masks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.core.labels import LabelMap
from semseg.data import build_dataset
from semseg.data.formats import Mask, label_format

CLASSES = """classes:
- {name: ground, color: [0, 0, 0]}
- {name: tree, id: 7, color: [0, 200, 0]}
- {name: void, id: 255, color: [255, 255, 255], ignore: true}
"""
IDS = {
    "train/a": np.array([[0, 7, 7], [0, 7, 255]], np.uint8),
    "train/b": np.array([[7, 0, 7, 0], [255, 255, 7, 7]], np.uint8),
    "val/c": np.array([[0, 0], [7, 0], [7, 7]], np.uint8),
}
PLACES = {  # where labels of each format are looked for first, for a split
    "labelme": ["labels/{split}", "images/{split}"],
    "yolo": ["labels/{split}"],
    "geojson": ["annotations/{split}", "labels/{split}"],
    "coco": ["annotations/instances_{split}2017.json", "labels/{split}.json", "annotations.json"],
    "coco_panoptic": ["annotations/panoptic_{split}.json"],
    "cvat": ["annotations/{split}.xml", "annotations.xml"],
    "rgb": ["masks/{split}"],
    "palette": ["masks/{split}", "labels/{split}"],
}
CASES = [(kind, place) for kind, places in PLACES.items() for place in places]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    for stem, ids in IDS.items():
        file = tmp_path / "images" / f"{stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*ids.shape, 3), 90, np.uint8)).save(file)
    return tmp_path


def label(root: Path, kind: str, place: str) -> None:
    """Write the labels of both splits in a format."""
    entry, labels = label_format(kind), LabelMap.from_yaml(root / "classes.yaml")
    if "{split}" not in place:
        masks = [Mask(f"{Path(stem).name}.png", ids) for stem, ids in IDS.items()]
        entry.write(root / place, masks, labels, "void")
        return
    for split in ("train", "val"):
        target = root / place.format(split=split)
        masks = [Mask(f"{Path(s).name}.png", i) for s, i in IDS.items() if s.startswith(split)]
        if entry.many:
            entry.write(target, masks, labels, "void")
            continue
        for mask in masks:
            file = target / Path(mask.image).with_suffix(entry.suffixes[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            entry.write(file, [mask], labels, "void")


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_labels_of_each_format_in_each_place(kind: str, place: str, root: Path) -> None:
    label(root, kind, place)
    settings = {"labels": "rgb"} if kind == "rgb" else {}  # colours are never guessed
    for split, stems in (("train", ["a", "b"]), ("val", ["c"])):
        dataset = build_dataset("folder", split, root, **settings)
        assert [Path(dataset.path(i)).stem for i in range(len(dataset))] == stems
        for i, stem in enumerate(stems):
            sample = dataset[i]
            expected = np.select(
                [IDS[f"{split}/{stem}"] == 7, IDS[f"{split}/{stem}"] == 255], [1, 255]
            )
            np.testing.assert_array_equal(sample.mask, expected)
            assert sample.size == expected.shape
            assert tuple(sample.image.shape) == (3, *expected.shape)
        if (kind, place) != ("palette", "masks/{split}"):
            assert dataset.notes == (
                f"labels of {split} are read from {root / place.format(split=split)} as {kind}",
            )


def test_stated_place_format_and_background(root: Path) -> None:
    label(root, "coco", "exports/{split}/all.json")
    for i in range(20):  # more files of labels, which are not looked at
        (root / "labels").mkdir(exist_ok=True)
        (root / f"labels/{i}.txt").write_text("no labels")
    settings = {"labels": "coco", "label_path": "exports/{split}/all.json"}
    dataset = build_dataset("folder", "train", root, **settings)
    assert dataset[0].mask.tolist() == [[0, 1, 1], [0, 1, 255]]  # void covers what is not labelled
    dataset = build_dataset("folder", "train", root, **settings, background="tree")
    assert dataset[0].mask.tolist() == [[0, 1, 1], [0, 1, 1]]
    with pytest.raises(InputError, match="setting background: class 'treee' is not in the label"):
        build_dataset("folder", "train", root, **settings, background="treee")
    with pytest.raises(
        FileError, match=r"label_path says .*gone/train\.json, which does not exist"
    ):
        build_dataset("folder", "train", root, label_path="gone/{split}.json")
    with pytest.raises(UnknownNameError, match="unknown label format 'coko'; did you mean 'coco"):
        build_dataset("folder", "train", root, **settings | {"labels": "coko"})


def test_lists_and_drawn_splits(root: Path) -> None:
    label(root, "coco", "annotations.json")
    for stem in IDS:
        (root / f"images/{stem}.png").rename(root / f"images/{Path(stem).name}.png")
    for split in ("train", "val"):
        (root / "images" / split).rmdir()
    drawn = {split: build_dataset("folder", split, root) for split in ("train", "val")}
    assert sum(map(len, drawn.values())) == 3
    assert "one image in five" in drawn["train"].notes[0]
    (root / "train.txt").write_text("b.png\n")
    (root / "val.txt").write_text("c\na.png\n")
    val = build_dataset("folder", "val", root)
    assert [Path(val.path(i)).stem for i in range(2)] == ["c", "a"]
    assert val[1].mask.tolist() == [[0, 1, 1], [0, 1, 255]]


def test_sizes_and_unknown_classes(root: Path) -> None:
    label(root, "labelme", "images/{split}")
    Image.new("RGB", (9, 9)).save(root / "images/train/b.png")
    dataset = build_dataset("folder", "train", root)
    with pytest.raises(
        InputError, match=r"b\.json is for an image of 2 x 4 \(height x width\), but"
    ):
        dataset[1]
    (root / "classes.yaml").write_text(CLASSES.replace("tree", "bush"))
    with pytest.raises(InputError, match=r"a\.json: class 'tree' is not in the label map"):
        build_dataset("folder", "train", root)


def test_image_without_labels(root: Path) -> None:
    label(root, "labelme", "labels/{split}")
    (root / "labels/train/b.json").unlink()
    with pytest.raises(FileError, match=r"b\.png has no labels in .*train, read as labelme; label"):
        build_dataset("folder", "train", root)
    label(root, "coco", "annotations/{split}.json")
    label(root, "coco", "annotations/also_{split}.json")
    (root / "labels").rename(root / "unused")
    with pytest.raises(InputError, match="may both hold the labels of 'train'; say which with lab"):
        build_dataset("folder", "train", root)


@pytest.mark.parametrize(
    ("kind", "place", "names"),
    [
        ("labelme", "labels/{split}", ["background", "ground", "tree"]),
        ("yolo", "labels/{split}", ["class_0", "class_7", "background"]),
        ("rgb", "masks/{split}", ["class_0", "class_1", "class_2"]),
    ],
)
def test_missing_classes_are_proposed(kind: str, place: str, names: list[str], root: Path) -> None:
    label(root, kind, place)
    (root / "classes.yaml").unlink()
    with pytest.raises(InputError, match=r"classes\.yaml does not exist\. Write this line") as info:
        build_dataset("folder", "train", root, labels=kind)
    (root / "classes.yaml").write_text("classes: " + str(info.value).partition("classes: ")[2])
    dataset = build_dataset("folder", "train", root, labels=kind)
    assert [label.name for label in dataset.labels.labels] == names
    dataset[1]


def test_many_colours_are_no_classes(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for stem in IDS:
        (root / f"masks/{stem}").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(root / f"masks/{stem}.png")
    (root / "classes.yaml").unlink()
    with pytest.raises(InputError, match="the first masks hold 81 colours, too many for classes"):
        build_dataset("folder", "train", root, labels="rgb")


def test_colours_are_never_guessed(root: Path) -> None:
    label(root, "rgb", "labels/{split}")
    with pytest.raises(
        InputError, match=r"train holds colours where ids or files of .*labels: rgb"
    ):
        build_dataset("folder", "train", root)


def test_fingerprint_cache_and_workers(root: Path) -> None:
    label(root, "coco", "annotations/{split}.json")
    dataset = build_dataset("folder", "train", root)
    first = dataset.fingerprint()
    copy = pickle.loads(pickle.dumps(dataset))  # what loader workers get
    assert copy.fingerprint() == first
    np.testing.assert_array_equal(copy[1].mask, dataset[1].mask)
    cached = build_dataset("folder", "train", root, cache=True)
    assert cached.fingerprint() == first
    np.testing.assert_array_equal(cached[1].mask, dataset[1].mask)
    assert build_dataset("folder", "train", root, background="tree").fingerprint() != first
    file = root / "annotations/train.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"info": "more"}))
    assert build_dataset("folder", "train", root).fingerprint() != first
