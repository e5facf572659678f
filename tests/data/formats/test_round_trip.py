"""Every format gives back every pixel of every mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.labels import LabelMap
from semseg.data.formats import Mask, detect_format, label_format, list_formats
from semseg.data.formats.runs import from_text, runs_of, to_text
from tests.data.formats.support import MAPS, PLAIN, RINGS, WIDE, write

KINDS = [
    "coco",
    "coco_counts",
    "coco_panoptic",
    "coco_polygons",
    "cvat",
    "geojson",
    "ids",
    "labelme",
    "palette",
    "rgb",
    "yolo",
]


def test_the_formats_are_these() -> None:
    assert list_formats() == KINDS


def cases() -> list[tuple[str, str]]:
    return [(kind, name) for kind in KINDS for name in MAPS if (kind, name) != ("palette", "wide")]


@pytest.mark.parametrize(("kind", "name"), cases())
def test_random_masks_come_back(kind: str, name: str, tmp_path: Path) -> None:
    labels, rng = MAPS[name], np.random.default_rng(1)
    ids = np.array([label.raw_id for label in labels.labels], np.uint16)
    masks = [
        Mask(
            f"sub/{i}.jpg",
            rng.choice(ids, tuple(rng.integers(1, 15, 2)), p=rng.dirichlet(np.full(len(ids), 0.4))),
        )
        for i in range(25)
    ]
    back = write(kind, tmp_path, masks, labels)
    for mask, annotation in zip(masks, back, strict=True):
        height, width = mask.ids.shape
        read = annotation.ids(labels, (height, width))
        np.testing.assert_array_equal(read, mask.ids)
        assert read.dtype == (np.uint16 if labels is WIDE else np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_rings_in_rings_come_back(kind: str, turned: bool, tmp_path: Path) -> None:
    raw = np.array([0, 3, 200, 255], np.uint8)[RINGS[::-1].T if turned else RINGS]
    (annotation,) = write(kind, tmp_path, [Mask("a.png", raw)], PLAIN)
    np.testing.assert_array_equal(annotation.ids(PLAIN, (9, 9)), raw)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_background_alone_come_back(kind: str, tmp_path: Path) -> None:
    empty = np.zeros((3, 5), np.uint8)
    (annotation,) = write(kind, tmp_path, [Mask("a.png", empty)], PLAIN)
    np.testing.assert_array_equal(annotation.ids(PLAIN, (3, 5)), empty)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("coco_counts", "coco_polygons")])
def test_what_is_written_is_detected(kind: str, tmp_path: Path) -> None:
    masks = [Mask("a.png", np.array([[0, 3], [200, 255]], np.uint8))]
    write(kind, tmp_path, masks, PLAIN)
    assert detect_format(tmp_path) == kind


# ---- what the files hold ---------------------------------------------------------------------


def test_modes_of_the_pngs(tmp_path: Path) -> None:
    raw = np.array([[0, 3], [200, 255]], np.uint8)
    for kind, mode in (("palette", "P"), ("ids", "L"), ("rgb", "RGB")):
        label_format(kind).write(tmp_path / f"{kind}.png", [Mask("a", raw)], PLAIN, None)
        with Image.open(tmp_path / f"{kind}.png") as image:
            assert image.mode == mode
            expected = np.array([[(0, 0, 0), (10, 200, 30)], [(1, 2, 3), (255, 255, 255)]])
            if kind != "ids":
                np.testing.assert_array_equal(image.convert("RGB"), expected)
    label_format("ids").write(
        tmp_path / "b.png", [Mask("a", np.array([[3, 700]], np.uint16))], WIDE, None
    )
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode.startswith("I;16")


def test_content_of_coco(tmp_path: Path) -> None:
    raw = np.array([[0, 3, 3, 0], [0, 3, 0, 200]], np.uint8)
    contents = {}
    for kind in ("coco", "coco_counts", "coco_polygons"):
        label_format(kind).write(tmp_path / "a.json", [Mask("sub/a.jpg", raw)], PLAIN, None)
        contents[kind] = json.loads((tmp_path / "a.json").read_text())
    data = contents["coco"]
    assert data["images"] == [{"id": 1, "file_name": "sub/a.jpg", "height": 2, "width": 4}]
    assert data["categories"][1] == {"id": 3, "name": "leaf", "supercategory": ""}
    facts = {"id": 1, "image_id": 1, "category_id": 3, "area": 3, "bbox": [1, 0, 2, 2]}
    first = data["annotations"][0]
    assert first == facts | {"iscrowd": 0, "segmentation": {"size": [2, 4], "counts": "233"}}
    counts = [c["annotations"][0]["segmentation"] for c in contents.values()]
    assert counts[1] == {"size": [2, 4], "counts": [2, 3, 3]}
    assert counts[2] == [[1, 0, 3, 0, 3, 1, 2, 1, 2, 2, 1, 2]]
    assert [a["category_id"] for a in data["annotations"]] == [3, 200]  # no background


def test_content_of_yolo(tmp_path: Path) -> None:
    raw = np.array([[0, 3, 3, 0], [0, 3, 3, 0]], np.uint8)
    label_format("yolo").write(tmp_path / "a.txt", [Mask("a.jpg", raw)], PLAIN, None)
    assert (tmp_path / "a.txt").read_text() == "3 0.25 0 0.75 0 0.75 1 0.25 1\n"


def test_content_of_labelme(tmp_path: Path) -> None:
    raw = np.zeros((4, 5), np.uint8)
    raw[1:3, 1:4] = 3
    label_format("labelme").write(tmp_path / "a.json", [Mask("x/a.jpg", raw)], PLAIN, None)
    data = json.loads((tmp_path / "a.json").read_text())
    assert (data["imagePath"], data["imageHeight"], data["imageWidth"]) == ("a.jpg", 4, 5)
    (shape,) = data["shapes"]
    assert (shape["label"], shape["shape_type"]) == ("leaf", "polygon")
    assert shape["points"] == [[1.5, 1.5], [3.5, 1.5], [3.5, 2.5], [1.5, 2.5]]


def test_panoptic_pngs_hold_segment_ids(tmp_path: Path) -> None:
    raw = np.array([[3, 65535], [700, 3]], np.uint16)
    label_format("coco_panoptic").write(tmp_path / "a.json", [Mask("s/a.jpg", raw)], WIDE, None)
    with Image.open(tmp_path / "a/s/a.png") as image:
        red, green, blue = np.moveaxis(np.asarray(image, np.int64), -1, 0)
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, raw.astype(int) + 1)
    (entry,) = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert entry["file_name"] == "s/a.png"
    facts = {"id": 4, "category_id": 3, "area": 2, "bbox": [0, 0, 2, 2], "iscrowd": 0}
    assert entry["segments_info"][0] == facts


def test_a_line_of_pixels_and_one_pixel_in_labelme(tmp_path: Path) -> None:
    raw = np.zeros((5, 6), np.uint8)
    raw[0, 0] = raw[2, 1:5] = raw[4, 5] = raw[3, 5] = 200
    (annotation,) = write("labelme", tmp_path, [Mask("a.png", raw)], PLAIN)
    np.testing.assert_array_equal(annotation.ids(PLAIN), raw)


# ---- run lengths -----------------------------------------------------------------------------

# made with pycocotools 2.0.11, mask.encode
PYCOCO = [
    ([[1, 1], [1, 1]], "04"),
    ([[0, 0], [0, 0]], "4"),
    ([[1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]], "0160K2"),
]


@pytest.mark.parametrize(("mask", "text"), PYCOCO)
def test_text_of_runs_is_that_of_coco(mask: list[list[int]], text: str) -> None:
    runs = runs_of(np.array(mask, bool).ravel(order="F"))
    assert to_text(runs) == text
    np.testing.assert_array_equal(from_text(text, "a"), runs)


def test_text_of_a_disc_is_that_of_coco() -> None:
    y, x = np.mgrid[:90, :70]
    disc = (y - 45) ** 2 + (x - 30) ** 2 < 400
    assert to_text(runs_of(disc.ravel(order="F"))) == (
        "UP1=[24L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4LSg1"
    )


def test_text_of_long_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        runs = rng.integers(0, 10 ** rng.integers(1, 8), rng.integers(1, 30))
        np.testing.assert_array_equal(from_text(to_text(runs), "a"), runs)


def test_names_that_labels_share_cannot_be_written(tmp_path: Path) -> None:
    labels = LabelMap.from_names(["a"], ignore={7: "void", 8: "void"})
    mask = Mask("a.png", np.array([[0, 7, 8]], np.uint8))
    for kind in ("labelme", "coco", "coco_panoptic", "cvat", "geojson"):
        with pytest.raises(ValueError, match=rf"{kind} tells classes by name, but ids 7 and 8 are"):
            write(kind, tmp_path, [mask], labels)
    write("yolo", tmp_path, [mask], labels)
