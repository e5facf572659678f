"""Files as labelling tools write them, small and by hand."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.labels import LabelMap
from semseg.data.formats import Annotation, label_format, read_annotations
from tests.data.formats.support import PLAIN

LABELS = LabelMap.from_names(["background", "a", "b"], ignore={255: "void"})


def read(kind: str, path: Path, content: object) -> Annotation:
    """Write a file, read it in a format and return its only entry."""
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    (entry,) = label_format(kind).read(path)
    return entry


def square(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def flat(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


# ---- LabelMe ---------------------------------------------------------------------------------


def labelme(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {"shapes": list(shapes), "imageHeight": 5, "imageWidth": 6, "imagePath": "..\\x\\q.JPG"}


def test_labelme_shapes(tmp_path: Path) -> None:
    inside = np.array([[0, 1], [1, 0]], bool)
    buffer = io.BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    mask = {
        "label": "b",
        "shape_type": "mask",
        "points": [[4, 3], [5, 4]],
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }
    box = {"label": "a", "shape_type": "rectangle", "points": [[2.2, 2.9], [0.7, 0.1]]}
    entry = read("labelme", tmp_path / "q.json", labelme(box, mask))
    assert (entry.image, entry.size) == ("q.JPG", (5, 6))
    assert entry.keys == {"a", "b"}
    expected = np.zeros((5, 6), np.uint8)
    expected[0:3, 0:3] = 1  # from the pixel of one corner to that of the other
    expected[3, 5] = expected[4, 4] = 2
    np.testing.assert_array_equal(entry.ids(LABELS), expected)


def test_labelme_circle_and_order(tmp_path: Path) -> None:
    circle = {"label": "a", "shape_type": "circle", "points": [[2, 2], [4, 2]]}
    dot = {"label": "b", "points": [[2, 2], [2, 2], [2, 2]]}  # old files have no shape_type
    ids = read("labelme", tmp_path / "q.json", labelme(circle, dot)).ids(LABELS)
    expected = np.zeros((5, 6), np.uint8)
    expected[1:4, 0:5] = expected[0:5, 1:4] = 1
    expected[2, 2] = 2
    np.testing.assert_array_equal(ids, expected)
    ids = read("labelme", tmp_path / "q.json", labelme(dot, circle)).ids(LABELS)
    assert ids[2, 2] == 1  # the later shape lies on top


# ---- COCO ------------------------------------------------------------------------------------


def coco(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "p/q.jpg", "height": 4, "width": 5}],
        "categories": [{"id": 90, "name": "a"}, {"id": 4, "name": "b"}],
        "annotations": [{"image_id": 7, "iscrowd": 0} | one for one in annotations],
    }


def test_coco_forms_of_a_segmentation(tmp_path: Path) -> None:
    two = [flat(square(0, 0, 2, 1)), flat(square(3, 2, 5, 4))]
    numbers = {"size": [4, 5], "counts": [4, 2, 14]}
    entry = read(
        "coco",
        tmp_path / "q.json",
        coco(
            {"category_id": 90, "segmentation": two},
            {"category_id": 4, "segmentation": numbers, "iscrowd": 1},
        ),
    )
    assert entry.image == "p/q.jpg"
    expected = np.zeros((4, 5), np.uint8)
    expected[0, 0:2] = expected[2:4, 3:5] = 1
    expected[0:2, 1] = 2  # runs go down the columns; the later annotation lies on top
    np.testing.assert_array_equal(entry.ids(LABELS), expected)
    data = coco({"category_id": 4, "segmentation": {"size": [4, 5], "counts": "42>"}})
    np.testing.assert_array_equal(
        read("coco", tmp_path / "q.json", data).ids(LABELS), np.where(expected == 2, 2, 0)
    )


def test_coco_parts_of_one_annotation_are_united(tmp_path: Path) -> None:
    two = [flat(square(0, 0, 3, 3)), flat(square(1, 1, 4, 4))]
    data = coco({"category_id": 90, "segmentation": two})
    ids = read("coco", tmp_path / "q.json", data).ids(LABELS)
    assert ids.sum() == 9 + 9 - 4


def test_coco_categories_without_names_are_ids(tmp_path: Path) -> None:
    data = coco({"category_id": 2, "segmentation": [flat(square(0, 0, 1, 1))]})
    data["categories"] = [{"id": 2}]
    entry = read("coco", tmp_path / "q.json", data)
    assert entry.keys == {2}
    assert entry.ids(LABELS)[0, 0] == 2


# ---- CVAT ------------------------------------------------------------------------------------

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <image id="0" name="q.png" width="6" height="4">
    <tag label="night" source="manual"></tag>
    <box label="b" xtl="0.00" ytl="0.00" xbr="3.00" ybr="2.00" z_order="2"></box>
    <polygon label="a" points="0.00,0.00;6.00,0.00;6.00,3.00;0.00,3.00" z_order="1"></polygon>
    <mask label="a" rle="1, 2, 1" left="2" top="0" width="2" height="2" z_order="3"></mask>
  </image>
</annotations>"""


def test_cvat_shapes_lie_in_their_order(tmp_path: Path) -> None:
    entry = read("cvat", tmp_path / "q.xml", CVAT)
    assert (entry.image, entry.size, entry.keys) == ("q.png", (4, 6), {"a", "b"})
    expected = np.zeros((4, 6), np.uint8)
    expected[0:3] = 1
    expected[0:2, 0:3] = 2
    expected[0, 3] = expected[1, 2] = 1
    np.testing.assert_array_equal(entry.ids(LABELS), expected)


# ---- YOLO ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r\n"])
def test_yolo_line_endings(end: str, tmp_path: Path) -> None:
    lines = ["1 0 0 0.5 0 0.5 1 0 1", "2 0.25 0.0 1 0.0 1 0.5 0.25 0.5", ""]
    (tmp_path / "q.txt").write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    (entry,) = label_format("yolo").read(tmp_path / "q.txt")
    expected = [[1, 2, 2, 2], [1, 1, 0, 0]]
    np.testing.assert_array_equal(entry.ids(LABELS, (2, 4)), expected)


def test_empty_yolo_file_is_background(tmp_path: Path) -> None:
    assert not read("yolo", tmp_path / "q.txt", "").ids(LABELS, (2, 4)).any()


# ---- GeoJSON ---------------------------------------------------------------------------------


def feature(coordinates: object, kind: str = "Polygon", **properties: object) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def closed(points: list[list[float]]) -> list[list[float]]:
    return [*points, points[0]]


def test_geojson_holes_parts_and_names_of_classes(tmp_path: Path) -> None:
    outer, hole = closed(square(0, 0, 4, 4)), closed(square(1, 1, 3, 3))
    content = {
        "type": "FeatureCollection",
        "features": [
            feature([outer, hole], label="a"),
            feature(
                [[closed(square(4, 0, 5, 1))], [[[4, 3, 9.5], [5, 3, 9.5], [5, 4, 0], [4, 4, 0]]]],
                "MultiPolygon",
                classification={"name": "b", "color": [1, 2, 3]},
            ),
        ],
    }
    entry = read("geojson", tmp_path / "q.geojson", content)
    assert (entry.image, entry.size) == ("q.geojson", None)
    expected = np.ones((4, 5), np.uint8)
    expected[1:3, 1:3] = expected[:, 4] = 0
    expected[0, 4] = expected[3, 4] = 2
    np.testing.assert_array_equal(entry.ids(LABELS, (4, 5)), expected)


# ---- background ------------------------------------------------------------------------------


def test_what_no_shape_covers(tmp_path: Path) -> None:
    line = "1 0 0 0.5 0 0.5 1 0 1"

    def rest(labels: LabelMap, background: str | None = None) -> int:
        return int(read("yolo", tmp_path / "q.txt", line).ids(labels, (1, 2), background)[0, 1])

    assert rest(LABELS) == 0
    assert rest(LABELS, "void") == 255
    assert rest(LABELS, "b") == 2
    assert rest(LabelMap.from_names(["sky", "a"], ignore={9: "void"})) == 9
    with pytest.raises(ValueError, match=r"q\.txt leaves 1 pixels without a class, and the label"):
        rest(LabelMap.from_names(["sky", "a"]))
    with pytest.raises(ValueError, match=r"class 'vod' is not in the label map .*'void'"):
        rest(LABELS, "vod")


# ---- folders ---------------------------------------------------------------------------------


def test_a_folder_is_read_in_order_with_its_subfolders(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.png", ".hidden/c.png", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.array([[3, 200]], np.uint8)).save(tmp_path / name)
    found = read_annotations(tmp_path, "ids")
    assert [one.image for one in found] == ["a.png", "b.png", "sub/a.png"]
    assert found[0].ids(PLAIN).tolist() == [[3, 200]]
