"""``geojson``: polygons with holes for one image, in pixels.

Coordinates are x to the right and y downwards in pixels of the image, as QuPath writes them; maps
in degrees or metres are refused with their corner outside the image. The class of a feature is its
property ``label``, ``class``, ``name`` or ``category``, or QuPath's ``classification``. The size
and the name of the image are read from an ``image`` beside ``features``, where there is one.
Features are painted in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Key, Mask, by_name, register_format
from semseg.data.formats.fields import (
    field,
    image_name,
    read_json,
    ring_of,
    size_of,
    typed,
    write_json,
)
from semseg.data.formats.fill import Ring
from semseg.data.formats.outline import Corners
from semseg.data.formats.png import single
from semseg.data.formats.shapes import Polygon, Shape, Shapes, parts_by_class

_PROPERTIES = ("label", "class", "name", "category")


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the file's one image."""
    data, source = read_json(path), str(path)
    if data.get("type") != "FeatureCollection":
        raise InputError(f"{source} is of type {data.get('type')!r}; wanted a FeatureCollection")
    image, size, name = data.get("image"), None, path.name
    if image is not None:
        typed(image, dict, source, "'image'")
        size = size_of(image, f"{source}: image", "height", "width")
        name = image_name(str(image.get("file_name", name)), source)
    shapes = [
        _shape(typed(item, dict, source, f"feature {i}"), f"{source}: feature {i}")
        for i, item in enumerate(field(data, "features", list, source))
    ]
    return [Shapes(image=name, size=size, source=source, file=path, shapes=tuple(shapes))]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write one mask: a MultiPolygon for each class.

    Raises:
        InputError: two labels share a name.
    """
    mask = single(masks)
    names = by_name(labels, mask.ids, "geojson")
    features = []
    for raw_id, _, parts in parts_by_class(mask.ids, labels, background):
        outlines = [[_closed(ring) for ring in part.rings] for part in parts]
        features.append(
            {
                "type": "Feature",
                "properties": {"label": names[raw_id].name, "id": raw_id},
                "geometry": {"type": "MultiPolygon", "coordinates": outlines},
            }
        )
    height, width = mask.ids.shape
    image = {"file_name": mask.image, "height": height, "width": width}
    write_json(path, {"type": "FeatureCollection", "image": image, "features": features})


def _closed(ring: Corners) -> list[list[int]]:
    """Return corners with the first one again at the end, as GeoJSON wants them."""
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]


def _shape(item: dict[str, Any], source: str) -> Shape:
    geometry = field(item, "geometry", dict, source)
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(f"{source} is a {kind}; wanted a Polygon or MultiPolygon")
    coordinates = field(geometry, "coordinates", list, source)
    polygons = [coordinates] if kind == "Polygon" else coordinates
    pieces = []
    for polygon in polygons:
        rings = [_ring(ring, source) for ring in typed(polygon, list, source, "polygon")]
        if not rings:
            raise InputError(f"{source} has a polygon without an outline; delete it")
        pieces.append(tuple(rings))
    return Polygon(label=_class(item, source), source=source, pieces=tuple(pieces))


def _ring(points: Any, source: str) -> Ring:
    corners = typed(points, list, source, "outline")
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners = corners[:-1]
    # a height may follow x and y
    return ring_of([p[:2] if isinstance(p, list) else p for p in corners], source)


def _class(item: dict[str, Any], source: str) -> Key:
    properties = item.get("properties") or {}
    typed(properties, dict, source, "'properties'")
    nested = properties.get("classification")
    if isinstance(nested, dict) and isinstance(nested.get("name"), str):
        return str(nested["name"])
    for key in _PROPERTIES:
        if isinstance(properties.get(key), str):
            return str(properties[key])
    raise InputError(
        f"{source} has no class; wanted one of the properties {', '.join(_PROPERTIES)}"
    )


register_format(
    name="geojson",
    title="GeoJSON polygons in pixels (QuPath)",
    suffixes=(".geojson", ".json"),
    marks=('"FeatureCollection"',),
    read=read,
    write=write,
)
