"""Bad files: every message names the file, what is wrong in it and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import SemsegError, UnknownNameError
from semseg.core.labels import Label, LabelMap
from semseg.data.formats import detect_format, label_format, read_annotations
from tests.data.formats.support import PLAIN

SIZE = (4, 5)


def message(kind: str, path: Path, content: Any, size: tuple[int, int] | None = None) -> str:
    """Return what is said when a file is read and drawn; the file must be named."""
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SemsegError) as info:
        [annotation.ids(PLAIN, size) for annotation in label_format(kind).read(path)]
    assert str(path) in str(info.value)
    assert "\n" not in str(info.value)
    return str(info.value).replace(str(path), "FILE")


def labelme(**changes: Any) -> dict[str, Any]:
    shape = {"label": "leaf", "shape_type": "polygon", "points": [[0, 0], [4, 0], [4, 3]]}
    shape |= {key: changes.pop(key) for key in [*changes] if key in ("label", "points", "mask")}
    shape |= {"shape_type": changes.pop("shape_type", "polygon")}
    return {"shapes": [shape], "imageHeight": 4, "imageWidth": 5, "imagePath": "a.jpg"} | changes


LABELME = [
    (
        labelme(label="leav"),
        "FILE: shape 0: class 'leav' is not in the label map (did you mean 'le",
    ),
    (labelme(points=[[0, 0], [1, 1]]), "FILE: shape 0 has 2 corners; a polygon needs at least 3"),
    (labelme(points=[[0, 0], [9, 0], [1, 1]]), "x = 9, y = 0, outside its image of 4 x 5 (height"),
    (
        labelme(points=[[0, 0], [1, "x"], [1, 1]]),
        "FILE: shape 0 has the corner [1, 'x']; wanted tw",
    ),
    (labelme(points=[[0, 0], [1], [1, 1]]), "has the corner [1]; wanted two numbers, x and y"),
    (labelme(points=[[0, 0], [float("nan"), 0], [1, 1]]), "has the corner [nan, 0]; wanted two nu"),
    (labelme(points=3), "FILE: shape 0: 'points' is 3; wanted a list"),
    (labelme(shape_type="line"), "FILE: shape 0 is a line, which has no area; draw a polygon"),
    (labelme(shape_type="circle"), "FILE: shape 0 is a circle of 3 points; wanted 2"),
    (labelme(imageHeight=None), "FILE does not say the size of its image; add 'imageHeight' and '"),
    (labelme(imageHeight="4"), "FILE: 'imageHeight' is '4'; wanted a whole number"),
    (labelme(imageWidth=0), "FILE says an image of 4 x 0 pixels; correct it"),
    (labelme(shapes={}), "FILE: 'shapes' is {}; wanted a list"),
    (labelme(shapes=[7]), "FILE: shape 0 is 7; wanted an object {…}"),
    (
        labelme(shape_type="mask", points=[[0, 0], [1, 1]], mask="!"),
        "a mask that is no PNG in base",
    ),
    ({}, "FILE does not say the size"),
    ([], "FILE: content is []; wanted an object {…}"),
    ("", "FILE is empty; export it again"),
    (json.dumps(labelme())[:-9], "FILE is not JSON, or is cut short: Expecting"),
]


@pytest.mark.parametrize(("content", "part"), LABELME)
def test_labelme(content: Any, part: str, tmp_path: Path) -> None:
    assert part in message("labelme", tmp_path / "a.json", content)


def test_wrong_size_and_wrong_encoding(tmp_path: Path) -> None:
    said = message("labelme", tmp_path / "a.json", labelme(), (5, 4))
    assert "FILE is for an image of 4 x 5 (height x width), but the image is 5 x 4; give" in said
    (tmp_path / "b.json").write_bytes(b'{"label": "B\xe4ume"}')
    assert "FILE is not text in UTF-8 (byte 12); save it" in message(
        "labelme", tmp_path / "b.json", None
    )
    assert message("labelme", tmp_path / "c.json", None) == "FILE does not exist"


def coco(annotation: dict[str, Any], **changes: Any) -> dict[str, Any]:
    one = {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 3]]}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}],
        "categories": [{"id": 3, "name": "leaf"}, {"id": 4, "name": "laef"}],
        "annotations": [one | annotation],
    } | changes


def runs(counts: Any, size: list[int] | None = None) -> dict[str, Any]:
    return {"segmentation": {"size": size or [4, 5], "counts": counts}}


COCO = [
    (coco({"category_id": 9}), "FILE: annotation 5 has category_id 9, which 'categories' does not"),
    (coco({"category_id": 4}), "annotation 5: class 'laef' is not in the label map (did you mean"),
    (coco({"image_id": 2}), "annotation 5 is of image 2, which 'images' does not list; add it"),
    (
        coco({"segmentation": [[0, 0, 1, 1]]}),
        "annotation 5 has 2 corners; a polygon needs at least",
    ),
    (coco({"segmentation": [[0, 0, 1, 1, 2]]}), "annotation 5 has 5 numbers; wanted pairs of x an"),
    (coco({"segmentation": [[0, 0, 1, 1, 2, 50]]}), "x = 2, y = 50, outside its image of 4 x 5"),
    (coco({"segmentation": []}), "annotation 5 has an empty segmentation; delete it"),
    (coco({"segmentation": None}), "annotation 5 has no segmentation, perhaps only a box"),
    (coco(runs([4, 2])), "annotation 5 has runs of 6 pixels together, but its image has 20"),
    (coco(runs([-1, 21])), "annotation 5 has a run of -1 pixels; export it again"),
    (coco(runs("4?X")), "annotation 5 has compressed runs that are cut short"),
    (coco(runs("4 2")), "annotation 5 has ' ' in its compressed runs; export it again"),
    (coco(runs([4, 16], [5, 4])), "has runs of size [5, 4], but its image is [4, 5] ([height, w"),
    (coco(runs([20], [20])), "annotation 5 has runs of size [20]; wanted [height, width]"),
    (coco({}, images=[{"id": 1, "file_name": "a.jpg"}]), "image 1 does not say the size of its im"),
    (coco({}, images=2 * coco({})["images"]), "FILE lists two images with id 1; give each its own"),
    (coco({}, images=[{"id": 1, "file_name": "../a"}]), "names the image '../a'; wanted a name b"),
    (coco({}, categories=None), "FILE: 'categories' is None; wanted a list"),
    ({"images": []}, "FILE has no 'categories'; wanted a list"),
]


@pytest.mark.parametrize(("content", "part"), COCO)
def test_coco(content: Any, part: str, tmp_path: Path) -> None:
    assert part in message("coco", tmp_path / "a.json", content)


def cvat(shape: str, size: str = 'width="5" height="4"') -> str:
    return f'<annotations><image id="0" name="a.png" {size}>{shape}</image></annotations>'


CVAT = [
    (cvat('<polygon label="leav" points="0,0;1,0;1,1"/>'), "polygon 0: class 'leav' is not in"),
    (cvat('<polygon label="leaf" points="0,0;1,0"/>'), "image a.png: polygon 0 has 2 corners"),
    (cvat('<polygon label="leaf" points="0,0;1,x;1,1"/>'), "polygon 0 has the coordinate 'x'; wan"),
    (cvat('<polygon label="leaf" points="0,0;1,0;1,9"/>'), "x = 1, y = 9, outside its image"),
    (cvat('<polygon points="0,0;1,0;1,1"/>'), "image a.png: polygon 0 has no 'label'"),
    (cvat('<polyline label="leaf" points="0,0;1,0"/>'), "polyline 0 has no area or is not support"),
    (cvat('<mask label="leaf" rle="1,x" left="0" top="0" width="2" height="2"/>'), "the runs '1,x"),
    (
        cvat('<mask label="leaf" rle="4" left="4" top="0" width="2" height="2"/>'),
        "columns 4 … 5, o",
    ),
    (
        cvat('<mask label="leaf" rle="3" left="0" top="0" width="2" height="2"/>'),
        "runs of 3 pixels",
    ),
    (cvat('<box label="leaf" xtl="0" ytl="0" xbr="2" ybr="2" rotation="9"/>'), "is rotated, which"),
    (cvat("", 'width="5"'), "FILE: image a.png does not say the size of its image; add 'height'"),
    (cvat("", 'width="5" height="x"'), "image a.png has height = 'x'; wanted a whole number"),
    ("<annotations><track/></annotations>", "FILE holds tracks of a video; export it as"),
    ("<annotation/>", "FILE is <annotation>; wanted <annotations>, 'CVAT for images 1.1'"),
    (cvat("")[:-5], "FILE is not XML, or is cut short:"),
]


@pytest.mark.parametrize(("content", "part"), CVAT)
def test_cvat(content: str, part: str, tmp_path: Path) -> None:
    assert part in message("cvat", tmp_path / "a.xml", content)


YOLO = [
    (
        "3 0 0 1 0 1 1\r\n9 0 0 1 0 1 1",
        "FILE: line 2: class id 9 is not in the label map (known: 0",
    ),
    ("3 0.5 0.5 0.1 0.1", "FILE: line 1 is a box, which is no mask; export polygons"),
    ("\n3 0 0 1 0 1", "FILE: line 2 has 5 numbers; wanted pairs of x and y"),
    ("3 0 0", "FILE: line 1 has 1 corners; a polygon needs at least 3"),
    ("3 0 0 5 0 5 4", "FILE: line 1 has corners from 0 to 5; wanted shares of width and height"),
    ("3 0 0 1.4 0 1 1", "FILE: line 1 has the corner x = 7, y = 0, outside its image"),
    ("leaf 0 0 1 0 1 1", "FILE: line 1 is 'leaf 0 0 1 0 1 1'; wanted id x y x y …"),
    ("3 0 0 1 nan 1 1", "FILE: line 1 has the corner (1.0, nan); wanted two numbers"),
]


@pytest.mark.parametrize(("content", "part"), YOLO)
def test_yolo(content: str, part: str, tmp_path: Path) -> None:
    assert part in message("yolo", tmp_path / "a.txt", content, SIZE)


def test_yolo_without_a_size(tmp_path: Path) -> None:
    said = message("yolo", tmp_path / "a.txt", "3 0 0 1 0 1 1")
    assert said == "FILE does not say the size of its image; give the folder of images"


def geojson(kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    feature = {"type": "Feature", "properties": properties, "geometry": geometry}
    return {"type": "FeatureCollection", "features": [feature]}


TRIANGLE = [[[0, 0], [4, 0], [4, 4], [0, 0]]]
GEOJSON = [
    (geojson("Polygon", TRIANGLE), "FILE: feature 0 has no class; wanted one of the properties la"),
    (geojson("Polygon", TRIANGLE, label="leav"), "FILE: feature 0: class 'leav' is not in the"),
    (geojson("LineString", [[0, 0]], label="leaf"), "FILE: feature 0 is a LineString; wanted a Po"),
    (geojson("Polygon", [[[0, 0], [1, 0], [0, 0]]], label="leaf"), "feature 0 has 2 corners"),
    (geojson("Polygon", [[[6.5, 50], [6, 50], [6, 51]]], label="leaf"), "x = 6.5, y = 50, outside"),
    (geojson("Polygon", [], label="leaf"), "feature 0 has a polygon without an outline"),
    ({"type": "Feature"}, "FILE is of type 'Feature'; wanted a FeatureCollection"),
    (geojson("Polygon", TRIANGLE) | {"image": {"height": 4}}, "FILE: image does not say the size"),
]


@pytest.mark.parametrize(("content", "part"), GEOJSON)
def test_geojson(content: Any, part: str, tmp_path: Path) -> None:
    assert part in message("geojson", tmp_path / "a.geojson", content, SIZE)


# ---- masks -----------------------------------------------------------------------------------


def save(path: Path, array: Any) -> Path:
    Image.fromarray(np.array(array, np.uint8)).save(path)
    return path


def test_ids_and_palette(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", [[0, 3, 9, 9]])
    assert "FILE: holds the ids 9 (2 pixels)" in message("ids", file, None)
    assert "FILE is L where a palette is expected; read it as ids" in message("palette", file, None)
    save(file, [[0, 3]])
    said = message("ids", file, None, (2, 1))
    assert "FILE is for an image of 1 x 2 (height x width), but the image is 2 x 1" in said
    file.write_bytes(file.read_bytes()[:40])
    assert "mask FILE cannot be read:" in message("palette", file, None)


def test_colours_of_no_class(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", [[[0, 0, 0], [10, 200, 31], [10, 200, 31], [90, 0, 0]]])
    assert message("rgb", file, None) == (
        "FILE: 3 of 4 pixels have 2 colours that no class has: (10, 200, 31) in 2 pixels, nearest "
        "'leaf' (10, 200, 30); (90, 0, 0) in 1 pixels, nearest 'stem' (1, 2, 3). Add them as "
        "classes or as ignored, or correct the colours of the label map"
    )


def test_colours_of_jpeg_are_suspected(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (8, 8)).repeat(6, axis=0).repeat(6, axis=1)
    colors = np.array([(10, 200, 30), (0, 0, 0)], np.uint8)[ids]
    file = tmp_path / "a.jpg"
    Image.fromarray(colors).save(file, quality=90)
    said = message("rgb", file, None)
    assert "look like JPEG or a resize with interpolation: export the masks again" in said
    assert " more. So many colours near those of classes" in said


def test_colours_that_classes_share(tmp_path: Path) -> None:
    labels = LabelMap((Label("a", 0, 0, (1, 1, 1)), Label("b", 1, 1, (1, 1, 1))))
    (annotation,) = label_format("rgb").read(save(tmp_path / "a.png", [[[1, 1, 1]]]))
    with pytest.raises(SemsegError, match="cannot tell 'a' from 'b': both are"):
        annotation.ids(labels)


def panoptic(folder: Path, array: Any, **changes: Any) -> Path:
    image = {"id": 1, "file_name": "a.jpg", "height": 1, "width": 2} | changes
    segment = {"id": 4, "category_id": 3}
    entry = {"image_id": 1, "file_name": "a.png", "segments_info": [segment]}
    content = coco({}, images=[image], annotations=[entry])
    (folder / "p.json").write_text(json.dumps(content))
    (folder / "p").mkdir(exist_ok=True)
    save(folder / "p/a.png", array)
    return folder / "p.json"


def test_panoptic(tmp_path: Path) -> None:
    file = panoptic(tmp_path, [[[4, 0, 0], [5, 0, 0]]])
    said = message("coco_panoptic", file, None)
    assert "p/a.png holds the segments 5, which FILE: image 1 does not list; the PNG" in said
    said = message("coco_panoptic", panoptic(tmp_path, [[[4, 0, 0]] * 2], width=3), None, (1, 2))
    assert "FILE: image 1 is for an image of 1 x 3 (height x width), but the image is 1 x 2" in said
    with pytest.raises(SemsegError, match=r"a\.png is L; wanted the colours of segment ids"):
        read_annotations(panoptic(tmp_path, [[4, 4]]))[0].ids(PLAIN)
    (tmp_path / "p/a.png").unlink()
    (tmp_path / "p").rmdir()
    assert "FILE needs its PNGs in the folder" in message("coco_panoptic", file, None)


# ---- finding ---------------------------------------------------------------------------------


def test_what_cannot_be_found_or_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown label format 'labelm'; did you mean 'labe"):
        read_annotations(tmp_path, "labelm")
    with pytest.raises(SemsegError, match=r"none does not exist; give a file of labels or a fol"):
        detect_format(tmp_path / "none")
    with pytest.raises(SemsegError, match=r"holds no file of labels; known: coco, "):
        detect_format(tmp_path)
    with pytest.raises(SemsegError, match=r"holds no \.json files; give their folder"):
        read_annotations(tmp_path, "labelme")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SemsegError, match=r"a\.json is none of the formats coco, .* say which one"):
        detect_format(tmp_path)


def test_two_files_for_one_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[3]])
    save(tmp_path / "a.tif", [[3]])
    with pytest.raises(SemsegError, match=r"a\.png and .*a\.tif both label the image a; keep one"):
        read_annotations(tmp_path, "ids")
