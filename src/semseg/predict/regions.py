"""Predictions as text: COCO's run lengths of each class, and outlines of each connected region.

Both tell every pixel exactly, so that masks come back from them (``semseg convert``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.label import Label
from semseg.core.labels import LabelMap
from semseg.data.formats.outline import Corners, trace
from semseg.data.formats.runs import runs_of, to_text


def coco_rle(mask: NDArray[Any], labels: LabelMap, name: str) -> dict[str, Any]:
    """Return the classes of one image as a COCO dataset, which ``pycocotools.coco.COCO`` opens.

    Args:
        mask: ``(H, W)`` train ids.
        labels: names and raw ids; these are the ids of the categories.
        name: of the image's file.

    Returns:
        ``images`` with one entry, ``categories``, and in ``annotations`` one entry for each class
        that is there: compressed run lengths down the columns, area, and box (x, y, width, height).

    Example:
        >>> found = coco_rle(np.array([[0, 1]]), LabelMap.from_names(["sky", "road"]), "a.png")
        >>> found["annotations"][1]["segmentation"], found["annotations"][1]["category_id"]
        ({'size': [1, 2], 'counts': '11'}, 1)
    """
    height, width = mask.shape
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": label.raw_id,
            "segmentation": {
                "size": [height, width],
                "counts": to_text(runs_of(inside.ravel(order="F"))),
            },
            "area": int(inside.sum()),
            "bbox": _box(inside),
            "iscrowd": 0,
        }
        for number, (label, inside) in enumerate(_classes(mask, labels), 1)
    ]
    return {
        "images": [{"id": 1, "file_name": name, "height": height, "width": width}],
        "categories": [
            {"id": label.raw_id, "name": label.name, "supercategory": ""}
            for label in labels.classes
        ],
        "annotations": annotations,
    }


def polygons(mask: NDArray[Any], labels: LabelMap, name: str) -> dict[str, Any]:
    """Return the regions of one image as GeoJSON in pixels.

    Corners are corners of pixels, x to the right and y down, from the upper left corner of the
    image. Pixels that touch at a corner alone are of two regions.

    Args:
        mask: ``(H, W)`` train ids.
        labels: names and raw ids.
        name: of the image's file.

    Returns:
        A ``FeatureCollection`` with name and size of the ``image``, and for each region a
        ``Polygon``: the outer ring, clockwise as one sees it, then those of its holes. Properties
        are ``label``, raw ``id``, ``area`` in pixels without the holes, and ``bbox`` (x, y, width,
        height). Regions of a class stand together, the largest outline first.

    Example:
        >>> found = polygons(np.zeros((2, 3), int), LabelMap.from_names(["sky"]), "a.png")
        >>> found["features"][0]["geometry"]["coordinates"]
        [[[0, 0], [3, 0], [3, 2], [0, 2], [0, 0]]]
    """
    height, width = mask.shape
    features = []
    for label, inside in _classes(mask, labels):
        for part in trace(inside):
            low, high = part.outer.min(axis=0), part.outer.max(axis=0)
            properties = {
                "label": label.name,
                "id": label.raw_id,
                "area": sum(_area(ring) for ring in part.rings),
                "bbox": [*low.tolist(), *(high - low).tolist()],
            }
            rings = [_closed(ring) for ring in part.rings]
            geometry = {"type": "Polygon", "coordinates": rings}
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    image = {"file_name": name, "height": height, "width": width}
    return {"type": "FeatureCollection", "image": image, "features": features}


def to_json(content: dict[str, Any]) -> bytes:
    """Return one line of JSON in UTF-8; names that are no text are escaped."""
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _classes(mask: NDArray[Any], labels: LabelMap) -> Iterator[tuple[Label, NDArray[np.bool_]]]:
    """Yield each class that is there, with its pixels."""
    for train_id in np.unique(mask).tolist():
        if train_id != labels.ignore_id:
            yield labels.classes[train_id], mask == train_id


def _box(inside: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _area(ring: Corners) -> int:
    """Return the pixels inside an outline; below 0 for a hole, which runs the other way round."""
    x, y = ring.T
    return int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) // 2


def _closed(ring: Corners) -> list[list[int]]:
    """Return corners with the first one again at the end, as GeoJSON wants them."""
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]
