"""``yolo``: the text file of polygons that YOLO's segmentation takes for each image.

A line is ``id x y x y …``: the class's raw id, then corners as shares of width and height. Lines
are painted in their order. Boxes (four numbers) are no masks and are refused. The file does not
say the size of its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.files import write_text
from semseg.core.labels import LabelMap
from semseg.data.formats.base import Annotation, Mask, register_format
from semseg.data.formats.fields import flat_ring, read_text
from semseg.data.formats.fill import Ring, fill_window
from semseg.data.formats.png import single
from semseg.data.formats.shapes import Shape, Shapes, check_inside, layers


@dataclass(frozen=True, kw_only=True)
class Share(Shape):
    """A polygon in shares of the image.

    Args:
        ring: its corners, 0 … 1.
    """

    ring: Ring

    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels whose centres are inside."""
        height, width = canvas.shape
        ring = self.ring * (width, height)
        check_inside(ring, (height, width), self.source)
        window, inside = fill_window([ring], (height, width))
        canvas[window][inside] = value


def read(path: Path) -> Sequence[Annotation]:
    """Return the labels of the file's one image; an empty file has none."""
    source = str(path)
    shapes = [
        _shape(line.split(), f"{source}: line {number}")
        for number, line in enumerate(read_text(path).splitlines(), 1)
        if line.strip()
    ]
    return [Shapes(image=path.name, size=None, source=source, file=path, shapes=tuple(shapes))]


def write(
    path: Path, masks: Iterable[Mask], labels: LabelMap, background: str | None = None
) -> None:
    """Write the file of one image."""
    mask = single(masks)
    height, width = mask.ids.shape
    lines = []
    for raw_id, ring in layers(mask.ids, labels, background):
        shares = (ring / (width, height)).ravel().tolist()
        lines.append(f"{raw_id} {' '.join(f'{share:.10g}' for share in shares)}\n")
    write_text(path, "".join(lines))


def _shape(words: list[str], source: str) -> Shape:
    try:
        label, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise InputError(f"{source} is {' '.join(words)[:60]!r}; wanted id x y x y …") from error
    if len(numbers) == 4:
        raise InputError(f"{source} is a box, which is no mask; export polygons (segmentation)")
    ring = flat_ring(numbers, source)
    if ring.min() < -0.5 or ring.max() > 1.5:
        raise InputError(
            f"{source} has corners from {ring.min():g} to {ring.max():g}; wanted shares of width "
            "and height, 0 … 1"
        )
    return Share(label=label, source=source, ring=ring)


register_format(
    name="yolo",
    title="YOLO polygons",
    suffixes=(".txt",),
    read=read,
    write=write,
)
