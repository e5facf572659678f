"""``coco``: COCO's instances JSON, for many images; instances of a class are merged.

Polygons of an annotation are united; run lengths are read compressed and as numbers; crowds count
as their class. Where annotations overlap, the later one lies on top. Categories are matched to
classes by their names. One annotation per image and class is written: ``coco`` with compressed
runs, ``coco_counts`` with runs as numbers, ``coco_polygons`` with outlines, whose holes hang on a
line walked there and back. All give the pixels back exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Key, Mask, by_name, register_format
from semseg.data.formats.fields import (
    field,
    flat_ring,
    image_name,
    read_json,
    size_of,
    typed,
    write_json,
)
from semseg.data.formats.outline import Part, keyhole
from semseg.data.formats.runs import from_text, runs_of, to_text
from semseg.data.formats.shapes import Polygon, Runs, Shape, Shapes, parts_by_class


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the images that the file lists, in its order."""
    data, source = read_json(path), str(path)
    categories = read_categories(data, source)
    images = read_images(data, source)
    shapes: dict[Any, list[Shape]] = defaultdict(list)
    for i, item in enumerate(field(data, "annotations", list, source)):
        place = f"{source}: annotation {item.get('id', i) if isinstance(item, dict) else i}"
        typed(item, dict, source, f"annotation {i}")
        owner = field(item, "image_id", int, place)
        if owner not in images:
            raise InputError(f"{place} is of image {owner}, which 'images' does not list; add it")
        shapes[owner].append(_shape(item, categories, place))
    return [
        Shapes(
            image=image_name(field(image, "file_name", str, source), source),
            size=size_of(image, f"{source}: image {number}", "height", "width"),
            source=f"{source}: image {number}",
            file=path,
            shapes=tuple(shapes[number]),
        )
        for number, image in images.items()
    ]


def read_categories(data: dict[str, Any], source: str) -> dict[int, Key]:
    """Return what each category id stands for: its name, or the id where it has none."""
    found: dict[int, Key] = {}
    for i, item in enumerate(field(data, "categories", list, source)):
        number = field(typed(item, dict, source, f"category {i}"), "id", int, source)
        found[number] = item.get("name") or number
    return found


def read_images(data: dict[str, Any], source: str) -> dict[int, dict[str, Any]]:
    """Return the images of a file by their ids."""
    found: dict[int, dict[str, Any]] = {}
    for i, item in enumerate(field(data, "images", list, source)):
        number = field(typed(item, dict, source, f"image {i}"), "id", int, source)
        if number in found:
            raise InputError(f"{source} lists two images with id {number}; give each its own")
        found[number] = item
    return found


def category_of(item: dict[str, Any], categories: dict[int, Key], source: str) -> Key:
    """Return the class of an annotation."""
    number = field(item, "category_id", int, source)
    if number not in categories:
        raise InputError(f"{source} has category_id {number}, which 'categories' does not list")
    return categories[number]


def categories_of(labels: LabelMap) -> list[dict[str, Any]]:
    """Return the table of categories: one for each label, with its raw id."""
    return [{"id": x.raw_id, "name": x.name, "supercategory": ""} for x in labels.labels]


def _shape(item: dict[str, Any], categories: dict[int, Key], source: str) -> Shape:
    label, outline = category_of(item, categories, source), item.get("segmentation")
    if isinstance(outline, list):
        if not outline:
            raise InputError(f"{source} has an empty segmentation; delete it or export masks")
        pieces = tuple((flat_ring(piece, source),) for piece in outline)
        return Polygon(label=label, source=source, pieces=pieces)
    if not isinstance(outline, dict):
        raise InputError(f"{source} has no segmentation, perhaps only a box; export masks")
    size, counts = field(outline, "size", list, source), outline.get("counts")
    if len(size) != 2 or not all(type(value) is int and value > 0 for value in size):
        raise InputError(f"{source} has runs of size {size}; wanted [height, width]")
    if isinstance(counts, str):
        runs = from_text(counts, source)
    else:
        numbers = typed(counts, list, source, "'counts'")
        runs = np.array([typed(number, int, source, "a run") for number in numbers], np.int64)
    return WholeImage(label=label, source=source, counts=runs, size=tuple(size), by_columns=True)


class WholeImage(Runs):
    """Runs that must have the size of their image."""

    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels of the odd runs."""
        if self.size != canvas.shape:
            raise InputError(
                f"{self.source} has runs of size {list(self.size or ())}, but its image is "
                f"{list(canvas.shape)} ([height, width]); export it again"
            )
        super().paint(canvas, value)


def write(
    path: Path,
    masks: Iterable[Mask],
    labels: LabelMap,
    background: str | None = None,
    *,
    outline: Callable[[NDArray[np.bool_], list[Part]], Any],
) -> None:
    """Write all masks.

    Args:
        path: the JSON file.
        masks: images with their ids.
        labels: the classes; each becomes a category.
        background: name of the label that is left out.
        outline: how a class's pixels are told.

    Raises:
        InputError: two labels share a name.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, mask in enumerate(masks, 1):
        by_name(labels, mask.ids, "coco")
        height, width = mask.ids.shape
        images.append({"id": number, "file_name": mask.image, "height": height, "width": width})
        for raw_id, inside, parts in parts_by_class(mask.ids, labels, background):
            corners = np.concatenate([part.outer for part in parts])
            left, top = corners.min(axis=0).tolist()
            right, bottom = corners.max(axis=0).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": raw_id,
                    "segmentation": outline(inside, parts),
                    "area": int(inside.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": categories_of(labels)}
    write_json(path, content)


def _counts(inside: NDArray[np.bool_], parts: list[Part]) -> dict[str, Any]:
    return {"size": list(inside.shape), "counts": runs_of(inside.ravel(order="F")).tolist()}


def _compressed(inside: NDArray[np.bool_], parts: list[Part]) -> dict[str, Any]:
    return {"size": list(inside.shape), "counts": to_text(runs_of(inside.ravel(order="F")))}


def _polygons(inside: NDArray[np.bool_], parts: list[Part]) -> list[list[int]]:
    return [keyhole(part.rings).ravel().tolist() for part in parts]


for _name, _title, _outline, _marks in (
    ("coco", "COCO instances JSON, runs compressed", _compressed, ('"annotations"', '"images"')),
    ("coco_counts", "COCO instances JSON, runs as numbers", _counts, ()),
    ("coco_polygons", "COCO instances JSON, polygons", _polygons, ()),
):
    register_format(
        name=_name,
        title=_title,
        suffixes=(".json",),
        many=True,
        marks=_marks,
        read=read,
        write=partial(write, outline=_outline),
    )
