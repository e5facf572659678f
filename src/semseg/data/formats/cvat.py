"""``cvat``: the XML file "CVAT for images 1.1", for many images.

Polygons, boxes and masks are read and painted by their ``z_order``, equal ones in the order of the
file; tags of a whole image are passed over; lines, points, ellipses and cuboids are refused.
Classes are written as polygons, what lies in a hole above what surrounds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from semseg.core.checks import FileError, InputError
from semseg.core.files import write_text
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, Size, by_name, register_format
from semseg.data.formats.fields import image_name, read_text, ring_of
from semseg.data.formats.shapes import Polygon, Runs, Shape, Shapes, layers

_REFUSED = ("polyline", "points", "ellipse", "cuboid", "skeleton")


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the images that the file lists, in its order."""
    source, text = str(path), read_text(path)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise FileError(f"{path} is not XML, or is cut short: {error}; export it again") from error
    if root.tag != "annotations":
        raise InputError(f"{source} is <{root.tag}>; wanted <annotations>, 'CVAT for images 1.1'")
    if root.find("track") is not None:
        raise InputError(f"{source} holds tracks of a video; export it as 'CVAT for images 1.1'")
    return [_image(image, path) for image in root.iter("image")]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write all masks.

    Raises:
        InputError: two labels share a name.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    table = SubElement(SubElement(SubElement(root, "meta"), "job"), "labels")
    for label in labels.labels:
        entry = SubElement(table, "label")
        SubElement(entry, "name").text = label.name
        SubElement(entry, "color").text = "#{:02x}{:02x}{:02x}".format(*label.color)
        SubElement(entry, "attributes")
    for number, mask in enumerate(masks):
        names = by_name(labels, mask.ids, "cvat")
        height, width = (str(length) for length in mask.ids.shape)
        facts = {"id": str(number), "name": mask.image, "width": width, "height": height}
        image = SubElement(root, "image", facts)
        for order, (raw_id, ring) in enumerate(layers(mask.ids, labels, background)):
            points = ";".join(f"{x}.00,{y}.00" for x, y in ring.tolist())
            facts = {"label": names[raw_id].name, "source": "manual", "occluded": "0"}
            SubElement(image, "polygon", facts | {"points": points, "z_order": str(order)})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _image(image: Element, path: Path) -> Annotation:
    name = image_name(_text(image, "name", str(path)), str(path))
    place = f"{path}: image {name}"
    shapes: list[tuple[int, Shape]] = []
    for i, item in enumerate(image):
        where = f"{place}: {item.tag} {i}"
        if item.tag in _REFUSED:
            raise InputError(f"{where} has no area or is not supported; draw a polygon or a mask")
        if item.tag in _SHAPES:
            order = _whole(item, "z_order", where) if "z_order" in item.attrib else 0
            shapes.append((order, _SHAPES[item.tag](item, where)))
    shapes.sort(key=lambda one: one[0])
    return Shapes(
        image=name,
        size=_size(image, place),
        source=place,
        file=path,
        shapes=tuple(shape for _, shape in shapes),
    )


def _size(image: Element, source: str) -> Size:
    if "height" not in image.attrib or "width" not in image.attrib:
        raise InputError(f"{source} does not say the size of its image; add 'height' and 'width'")
    height, width = _whole(image, "height", source), _whole(image, "width", source)
    if min(height, width) < 1:
        raise InputError(f"{source} says an image of {height} x {width} pixels; correct it")
    return height, width


def _polygon(item: Element, source: str) -> Shape:
    text = _text(item, "points", source)
    points = [
        [_number(value, source) for value in pair.split(",")] for pair in text.split(";") if pair
    ]
    ring = ring_of(points, source)
    return Polygon(label=_text(item, "label", source), source=source, pieces=((ring,),))


def _box(item: Element, source: str) -> Shape:
    if float(item.get("rotation", "0")) != 0:
        raise InputError(f"{source} is rotated, which is not supported; draw a polygon")
    left, top, right, bottom = (
        _number(_text(item, key, source), source) for key in ("xtl", "ytl", "xbr", "ybr")
    )
    ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return Polygon(label=_text(item, "label", source), source=source, pieces=((ring,),))


def _mask(item: Element, source: str) -> Shape:
    left, top, width, height = (
        _whole(item, key, source) for key in ("left", "top", "width", "height")
    )
    text = _text(item, "rle", source)
    try:
        counts = np.array([int(word) for word in text.split(",")], np.int64)
    except ValueError as error:
        raise InputError(f"{source} has the runs {text[:40]!r}; wanted numbers") from error
    label = _text(item, "label", source)
    return Runs(label=label, source=source, counts=counts, size=(height, width), corner=(top, left))


_SHAPES = {"polygon": _polygon, "box": _box, "mask": _mask}


def _text(item: Element, key: str, source: str) -> str:
    value = item.get(key)
    if value is None:
        raise InputError(f"{source} has no {key!r}; export it again")
    return value


def _whole(item: Element, key: str, source: str) -> int:
    value = _text(item, key, source)
    try:
        return int(value)
    except ValueError as error:
        raise InputError(f"{source} has {key} = {value!r}; wanted a whole number") from error


def _number(text: str, source: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{source} has the coordinate {text!r}; wanted a number")
    return value


register_format(
    name="cvat",
    title="CVAT for images 1.1 (XML)",
    suffixes=(".xml",),
    many=True,
    read=read,
    write=write,
)
