"""``coco_panoptic``: COCO's panoptic JSON with its folder of PNGs; segments of a class are merged.

The PNG of an image holds a segment id in each pixel, red + 256 green + 65536 blue; the JSON says
the category of each segment. The PNGs lie in a folder beside the JSON that is named like it. Id 0
is no segment: it becomes the background that was asked for, else the first ignored label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import FileError, InputError, ranges
from semseg.core.labels import Label, LabelMap
from semseg.data.formats.base import (
    Annotation,
    Key,
    Mask,
    Size,
    by_name,
    check_size,
    find_label,
    id_type,
    register_format,
)
from semseg.data.formats.coco import categories_of, category_of, read_categories, read_images
from semseg.data.formats.fields import field, image_name, read_json, size_of, typed, write_json
from semseg.data.formats.png import save_png
from semseg.data.images import read_image


@dataclass(frozen=True, kw_only=True)
class Panoptic(Annotation):
    """The segments of one image; ``file`` is the PNG of segment ids.

    Args:
        segments: the class of each segment.
    """

    segments: dict[int, Key]

    @property
    def keys(self) -> frozenset[Key]:
        """The classes of the segments."""
        return frozenset(self.segments.values())

    def ids(
        self, labels: LabelMap, size: Size | None = None, background: str | None = None
    ) -> NDArray[Any]:
        """Read the PNG; see :meth:`Annotation.ids`."""
        wanted = check_size(self.size, size, self.source)
        check_colors(self.file)
        red, green, blue = np.moveaxis(read_image(self.file).astype(np.int64), -1, 0)
        numbers = red + 256 * green + 65536 * blue
        check_size((numbers.shape[0], numbers.shape[1]), wanted, str(self.file))
        found, place = np.unique(numbers, return_inverse=True)
        if unknown := set(found.tolist()) - self.segments.keys() - {0}:
            raise InputError(
                f"{self.file} holds the segments {ranges(sorted(unknown)[:8])}, which "
                f"{self.source} does not list; the PNG and the JSON are of different exports"
            )
        raw = [
            find_label(labels, self.segments[number], f"{self.source}: segment {number}").raw_id
            if number
            else self._void(labels, background).raw_id
            for number in found.tolist()
        ]
        return np.asarray(np.array(raw, id_type(labels))[place.reshape(numbers.shape)])

    def _void(self, labels: LabelMap, background: str | None) -> Label:
        void = void_label(labels, background)
        if void is None:
            raise InputError(
                f"{self.source} has pixels of no segment, but the label map has no ignored class; "
                "add one, or say which class they are with background"
            )
        return void


def void_label(labels: LabelMap, background: str | None) -> Label | None:
    """Return the label of pixels without a segment."""
    if background is not None:
        return find_label(labels, background, "background")
    return next((label for label in labels.labels if label.ignored), None)


def check_colors(path: Path) -> None:
    """Refuse a PNG that does not hold three channels of 8 bits."""
    try:
        with Image.open(path) as image:
            mode = image.mode
    except OSError:
        return  # told where it is read
    if mode not in ("RGB", "RGBA"):
        raise FileError(f"{path} is {mode}; wanted the colours of segment ids (RGB)")


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the annotated images, in the file's order.

    Raises:
        FileError: the folder of PNGs is missing.
    """
    data, source = read_json(path), str(path)
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise FileError(f"{source} needs its PNGs in the folder {folder}, which does not exist")
    categories, images = read_categories(data, source), read_images(data, source)
    found: list[Annotation] = []
    for i, item in enumerate(field(data, "annotations", list, source)):
        number = field(typed(item, dict, source, f"annotation {i}"), "image_id", int, source)
        place = f"{source}: image {number}"
        if number not in images:
            raise InputError(f"{place} is annotated, but 'images' does not list it; add it")
        segments: dict[int, Key] = {}
        for segment in field(item, "segments_info", list, place):
            typed(segment, dict, place, "a segment")
            segments[field(segment, "id", int, place)] = category_of(segment, categories, place)
        image = images[number]
        file = image_name(field(item, "file_name", str, place), place)
        found.append(
            Panoptic(
                image=image_name(str(image.get("file_name", file)), place),
                size=size_of(image, place, "height", "width"),
                source=place,
                file=folder / file,
                segments=segments,
            )
        )
    return found


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write the JSON and the PNGs: one segment per class, its id one more than the raw id.

    Raises:
        InputError: two labels share a name.
    """
    void = void_label(labels, background)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, mask in enumerate(masks, 1):
        by_name(labels, mask.ids, "coco_panoptic")
        height, width = mask.ids.shape
        images.append({"id": number, "file_name": mask.image, "height": height, "width": width})
        numbers = mask.ids.astype(np.int64) + 1
        if void is not None:
            numbers[mask.ids == void.raw_id] = 0
        colors = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1)
        file = Path(mask.image).with_suffix(".png").as_posix()
        save_png(path.with_suffix("") / file, Image.fromarray(colors.astype(np.uint8)))
        segments = [_segment(one, numbers == one) for one in np.unique(numbers).tolist() if one > 0]
        annotations.append({"image_id": number, "file_name": file, "segments_info": segments})
    categories = [category | {"isthing": 0} for category in categories_of(labels)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def _segment(number: int, inside: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    item = {"id": number, "category_id": number - 1, "area": int(inside.sum())}
    return item | {"bbox": box, "iscrowd": 0}


register_format(
    name="coco_panoptic",
    title="COCO panoptic JSON and PNGs",
    suffixes=(".json",),
    many=True,
    marks=('"annotations"', '"images"', '"segments_info"'),
    read=read,
    write=write,
)
