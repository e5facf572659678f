"""``labelme``: the JSON file that LabelMe writes for each image.

Read by LabelMe's own rule (``labelme/utils/shape.py``, versions 3 to 5), so that masks equal those
of its converter: a corner is the pixel that holds it, and the line between corners belongs to the
shape. Polygons, rectangles, circles and masks are read; lines and points have no area and are
refused. Shapes are written as polygons through the centres of the outermost pixels, which this
rule gives back exactly.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, by_name, register_format
from semseg.data.formats.fields import field, read_json, ring_of, size_of, typed, write_json
from semseg.data.formats.fill import Ring
from semseg.data.formats.outline import Corners
from semseg.data.formats.png import single
from semseg.data.formats.runs import runs_of
from semseg.data.formats.shapes import Runs, Shape, Shapes, check_inside, layers

_CORNERS = {"rectangle": 2, "circle": 2, "mask": 2}


@dataclass(frozen=True, kw_only=True)
class Drawn(Shape):
    """A shape that Pillow draws, filled and with its outline.

    Args:
        kind: polygon, rectangle or circle.
        points: its corners; of a circle the centre and a point on it.
    """

    kind: str
    points: Ring

    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels inside and on the outline."""
        height, width = canvas.shape
        if self.kind != "circle":
            check_inside(self.points, (height, width), self.source)
        picture = Image.new("1", (width, height))
        draw, corners = ImageDraw.Draw(picture), [(x, y) for x, y in self.points.tolist()]
        if self.kind == "polygon":
            draw.polygon(corners, outline=1, fill=1)
        elif self.kind == "rectangle":
            (left, right), (top, bottom) = np.sort(self.points.T).tolist()
            draw.rectangle([left, top, right, bottom], outline=1, fill=1)
        else:
            (x, y), radius = corners[0], math.dist(*corners)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
        canvas[np.asarray(picture)] = value


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the file's one image, which is named as the file is."""
    data, source = read_json(path), str(path)
    size = size_of(data, source, "imageHeight", "imageWidth")
    shapes = [
        _shape(typed(item, dict, source, f"shape {i}"), f"{source}: shape {i}")
        for i, item in enumerate(field(data, "shapes", list, source))
    ]
    stated = data.get("imagePath")
    suffix = PureWindowsPath(stated).suffix if isinstance(stated, str) else ""
    image = path.with_suffix(suffix or ".jpg").name
    return [Shapes(image=image, size=size, source=source, file=path, shapes=tuple(shapes))]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write the file of one image, which is expected beside it.

    Raises:
        InputError: two labels share a name.
    """
    mask = single(masks)
    names = by_name(labels, mask.ids, "labelme")
    shapes: list[dict[str, Any]] = [
        {
            "label": names[raw_id].name,
            "points": _centres(ring),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for raw_id, ring in layers(mask.ids, labels, background)
    ]
    height, width = mask.ids.shape
    content: dict[str, Any] = {"version": "5.2.1", "flags": {}, "shapes": shapes}
    content |= {"imagePath": Path(mask.image).name, "imageData": None}
    write_json(path, content | {"imageHeight": height, "imageWidth": width})


def _shape(item: dict[str, Any], source: str) -> Shape:
    label, kind = field(item, "label", str, source), item.get("shape_type", "polygon")
    points = field(item, "points", list, source)
    if kind == "polygon":
        ring = ring_of(points, source)
        return Drawn(label=label, source=source, kind=kind, points=ring)
    if kind not in _CORNERS:
        raise InputError(
            f"{source} is a {kind}, which has no area; draw a polygon, rectangle, circle or mask"
        )
    if len(points) != _CORNERS[kind]:
        raise InputError(f"{source} is a {kind} of {len(points)} points; wanted {_CORNERS[kind]}")
    ring = ring_of([*points, points[0]], source)[:2]
    if kind != "mask":
        return Drawn(label=label, source=source, kind=kind, points=ring)
    inside = _decoded(field(item, "mask", str, source), source)
    left, top = ring[0].astype(int).tolist()
    size = (inside.shape[0], inside.shape[1])
    counts = runs_of(inside.ravel())
    return Runs(label=label, source=source, counts=counts, size=size, corner=(top, left))


def _decoded(text: str, source: str) -> NDArray[np.bool_]:
    """Return the mask of a shape: a PNG in base 64."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            values = np.asarray(image)
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{source} has a mask that is no PNG in base 64; label it again"
        ) from error
    if values.ndim != 2:
        raise InputError(f"{source} has a mask of colours; wanted one channel")
    return values > 0


def _centres(ring: Corners) -> list[list[float]]:
    """Return the centres of the pixels inside along an outline that runs clockwise."""
    step = np.sign(np.roll(ring, -1, axis=0) - ring)  # along each line, one of four directions
    start = ring + _INSIDE[step[:, 0] + 1, step[:, 1] + 1]
    end = np.roll(ring, -1, axis=0) - step + _INSIDE[step[:, 0] + 1, step[:, 1] + 1]
    path = np.stack([start, end], axis=1).reshape(-1, 2)
    path = path[(path != np.roll(path, -1, axis=0)).any(axis=1)]
    if len(path) < 3:  # of one pixel or one line
        path = np.resize(path if len(path) else start[:1], (3, 2))
    return (path + 0.5).tolist()  # type: ignore[no-any-return] # numpy says Any


# from the first corner of a step to the pixel to the right of it, by direction (x + 1, y + 1)
_INSIDE = np.zeros((3, 3, 2), np.int64)
_INSIDE[1, 2] = (-1, 0)  # downwards
_INSIDE[0, 1] = (-1, -1)  # to the left
_INSIDE[1, 0] = (0, -1)  # upwards

register_format(
    name="labelme",
    title="LabelMe JSON",
    suffixes=(".json",),
    marks=('"shapes"',),
    read=read,
    write=write,
)
