"""Predictions as COCO run lengths and as polygons: exact, and as other programs read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.labels import Label, LabelMap
from semseg.data.formats import read_annotations
from semseg.data.images import read_mask
from semseg.predict import Predictor, predict_files
from semseg.predict.regions import coco_rle, polygons, to_json
from tests.predict.conftest import LABELS, scene


def blocks(seed: int) -> np.ndarray:
    """A mask of any size with many regions that touch at corners, and with holes."""
    draw = np.random.default_rng(seed)
    height, width, side = (int(n) for n in draw.integers((5, 5, 1), (60, 60, 9)))
    ids = draw.integers(0, 4, (height // side + 1, width // side + 1), dtype=np.uint8)
    return ids.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


# ---- run lengths -----------------------------------------------------------------------------


def test_what_pycocotools_gives() -> None:
    """Recorded from pycocotools 2.0.11: ``encode``, ``area`` and ``toBbox`` of two masks."""
    y, x = np.indices((40, 60))
    ring = ((y - 20) ** 2 + (x - 30) ** 2 < 15**2) & ~((y - 20) ** 2 + (x - 25) ** 2 < 6**2)
    found = coco_rle(ring.astype(np.uint8), LABELS, "a.png")["annotations"][1]
    assert found["segmentation"] == {
        "size": [40, 60],
        "counts": "_d0;k04M2M4MCE0:OH070K031M020N011O000000000000001N021L04b0000000001N101N2N101N3L"
        "3N3L[b0",
    }
    assert (found["area"], found["bbox"]) == (588, [16, 6, 29, 29])
    y, x = np.indices((7, 9))
    stripes = ((y + x) % 5 < 2) | (y == 3)
    found = coco_rle(stripes.astype(np.uint8), LABELS, "a.png")["annotations"][1]
    assert found["segmentation"]["counts"] == "021O02102O0001N0ON02102O00O"
    assert found["bbox"] == [0, 0, 9, 7]


def test_the_form_that_coco_has() -> None:
    found = coco_rle(np.array([[3, 3, 0]], np.uint8), LABELS, "b.jpg")
    assert found["images"] == [{"id": 1, "file_name": "b.jpg", "height": 1, "width": 3}]
    assert [(c["id"], c["name"]) for c in found["categories"]] == [
        (7, "road"), (26, "car"), (23, "sky"), (21, "tree"),
    ]  # fmt: skip
    road, tree = found["annotations"]
    assert (road["id"], road["category_id"], road["area"], road["bbox"]) == (1, 7, 1, [2, 0, 1, 1])
    assert (tree["id"], tree["category_id"], tree["area"], tree["bbox"]) == (2, 21, 2, [0, 0, 2, 1])
    assert {a["image_id"] for a in found["annotations"]} == {1}
    assert {a["iscrowd"] for a in found["annotations"]} == {0}


def test_ignored_pixels_are_of_no_class() -> None:
    mask = np.array([[255, 1]], np.uint8)
    assert [a["category_id"] for a in coco_rle(mask, LABELS, "a")["annotations"]] == [26]
    assert [f["properties"]["id"] for f in polygons(mask, LABELS, "a")["features"]] == [26]


# ---- polygons --------------------------------------------------------------------------------


def test_a_region_with_a_hole_and_one_in_it() -> None:
    mask = np.zeros((7, 8), np.uint8)
    mask[1:6, 1:6] = 2
    mask[2:5, 2:5] = 0
    mask[3, 3] = 2
    mask[6, 7] = 2
    found = polygons(mask, LABELS, "a.png")
    assert found["image"] == {"file_name": "a.png", "height": 7, "width": 8}
    shown = [
        (f["properties"], [len(ring) - 1 for ring in f["geometry"]["coordinates"]])
        for f in found["features"]
    ]
    assert shown == [
        ({"label": "road", "id": 7, "area": 56 - 25 - 1, "bbox": [0, 0, 8, 7]}, [6, 4]),
        ({"label": "road", "id": 7, "area": 8, "bbox": [2, 2, 3, 3]}, [4, 4]),
        ({"label": "sky", "id": 23, "area": 16, "bbox": [1, 1, 5, 5]}, [4, 4]),
        ({"label": "sky", "id": 23, "area": 1, "bbox": [3, 3, 1, 1]}, [4]),
        ({"label": "sky", "id": 23, "area": 1, "bbox": [7, 6, 1, 1]}, [4]),
    ]
    ring = found["features"][3]["geometry"]["coordinates"][0]
    assert ring == [[3, 3], [4, 3], [4, 4], [3, 4], [3, 3]]
    assert found["features"][2]["geometry"]["coordinates"][1][0] == [2, 2]


@pytest.mark.parametrize("seed", range(8))
def test_areas_and_boxes_are_those_of_the_pixels(seed: int) -> None:
    mask = blocks(seed)
    for one in polygons(mask, LABELS, "a")["features"]:
        x, y, width, height = one["properties"]["bbox"]
        assert one["properties"]["area"] <= width * height
        corners = np.array(one["geometry"]["coordinates"][0])
        assert corners.min(0).tolist() == [x, y]
        assert corners.max(0).tolist() == [x + width, y + height]
    for train_id, label in enumerate(LABELS.classes):
        features = polygons(mask, LABELS, "a")["features"]
        areas = [f["properties"]["area"] for f in features if f["properties"]["id"] == label.raw_id]
        assert sum(areas) == (mask == train_id).sum()


# ---- both come back --------------------------------------------------------------------------


@pytest.mark.parametrize("tell", [coco_rle, polygons])
@pytest.mark.parametrize("seed", range(8))
def test_masks_come_back(tell: object, seed: int, tmp_path: Path) -> None:
    """The readers of the labelling tools' formats give every pixel again."""
    mask = blocks(seed)
    file = tmp_path / "a.json"
    file.write_bytes(to_json(tell(mask, LABELS, "a.png")))  # type: ignore[operator]
    (found,) = read_annotations(file)
    assert found.image == "a.png"
    np.testing.assert_array_equal(found.ids(LABELS), LABELS.decode(mask))


def test_files_of_a_call(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(predictor, photos, out, ("ids", "rle", "polygons"))
    for i in range(3):
        wanted = read_mask(out / "ids" / f"p{i}.png")
        for file in (out / "rle" / f"p{i}.json", out / "polygons" / f"p{i}.geojson"):
            (found,) = read_annotations(file)
            assert found.image == f"p{i}.png"
            np.testing.assert_array_equal(found.ids(LABELS), wanted)
    record = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert record["outputs"]["polygons"] == str(out / "polygons" / "p0.geojson")
    (out / "rle" / "p1.json").write_text('{"images": [')
    assert predict_files(predictor, photos, out, ("rle", "polygons", "ids"), resume=True).kept == 2


def test_two_classes_of_one_channel() -> None:
    labels = LabelMap((Label("sky", 0, 0, (0, 0, 0)), Label("é", 9, 1, (1, 1, 1))))
    mask = np.array([[0, 1], [1, 1]], np.uint8)
    text = to_json(polygons(mask, labels, "a")).decode()
    assert '"label": "é", "id": 9, "area": 3' in text
    assert text.endswith("}\n")


def test_names_that_are_no_text(predictor: Predictor, tmp_path: Path) -> None:
    """A name with bytes that are not UTF-8 is escaped, and the file stays JSON."""
    Image.fromarray(scene(8, 8)).save(tmp_path / "a.png")
    mask = predictor(tmp_path / "a.png").mask
    data = to_json(coco_rle(mask, LABELS, "\udce9.png"))
    assert json.loads(data)["images"][0]["file_name"] == "\udce9.png"
