"""Labels as shapes: how they are painted, and how masks become shapes again.

Shapes are painted in the order of their file, later ones on top; what none covers is background
(:func:`semseg.data.formats.base.uncovered`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap
from semseg.data.formats.base import (
    Annotation,
    Key,
    Size,
    check_size,
    find_label,
    id_type,
    uncovered,
)
from semseg.data.formats.fill import Ring, area, fill_window
from semseg.data.formats.outline import Corners, Part, trace
from semseg.data.formats.runs import Counts, from_runs

_UNCOVERED = -1
_SLACK = 1.0  # pixels that a corner may lie outside its image: tools round


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """One labelled shape of a file.

    Args:
        label: its class, as the file calls it.
        source: the file and the place in it, for messages.
    """

    label: Key
    source: str

    @abstractmethod
    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels it covers."""


@dataclass(frozen=True, kw_only=True)
class Polygon(Shape):
    """Outlines, filled by :mod:`semseg.data.formats.fill`; pieces lie over each other.

    Args:
        pieces: each one outer ring and the rings of its holes.
    """

    pieces: tuple[tuple[Ring, ...], ...]

    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels whose centres are inside."""
        height, width = canvas.shape
        for rings in self.pieces:
            for ring in rings:
                check_inside(ring, (height, width), self.source)
            window, inside = fill_window(rings, (height, width))
            canvas[window][inside] = value


@dataclass(frozen=True, kw_only=True)
class Runs(Shape):
    """A rectangle of the image in run lengths.

    Args:
        counts: see :mod:`semseg.data.formats.runs`.
        size: of the rectangle; ``None`` for the whole image.
        corner: its first row and column.
        by_columns: whether the pixels run down the columns, as COCO's do.
    """

    counts: Counts
    size: Size | None = None
    corner: tuple[int, int] = (0, 0)
    by_columns: bool = False

    def paint(self, canvas: NDArray[np.int32], value: int) -> None:
        """Write ``value`` into the pixels of the odd runs."""
        height, width = self.size or canvas.shape
        top, left = self.corner
        if min(top, left) < 0 or top + height > canvas.shape[0] or left + width > canvas.shape[1]:
            raise InputError(
                f"{self.source} covers rows {top} … {top + height - 1} and columns {left} … "
                f"{left + width - 1}, outside its image of {canvas.shape[0]} x {canvas.shape[1]} "
                "(height x width); is it of another size?"
            )
        flat = from_runs(self.counts, height * width, self.source)
        inside = flat.reshape(width, height).T if self.by_columns else flat.reshape(height, width)
        canvas[top : top + height, left : left + width][inside] = value


@dataclass(frozen=True, kw_only=True)
class Shapes(Annotation):
    """The shapes of one image, in the order in which they are painted."""

    shapes: tuple[Shape, ...]

    @property
    def keys(self) -> frozenset[Key]:
        """The classes of the shapes."""
        return frozenset(shape.label for shape in self.shapes)

    def ids(
        self, labels: LabelMap, size: Size | None = None, background: str | None = None
    ) -> NDArray[Any]:
        """Paint the shapes; see :meth:`Annotation.ids`."""
        canvas = np.full(check_size(self.size, size, self.source), _UNCOVERED, np.int32)
        for shape in self.shapes:
            shape.paint(canvas, find_label(labels, shape.label, shape.source).raw_id)
        empty = canvas == _UNCOVERED
        if empty.any():
            rest = uncovered(labels, background)
            if rest is None:
                raise InputError(
                    f"{self.source} leaves {empty.sum()} pixels without a class, and the label map "
                    "has no class 'background' and none that is ignored; add one, or say which "
                    "class they are with background"
                )
            canvas[empty] = rest.raw_id
        return canvas.astype(id_type(labels))


def check_inside(ring: Ring, size: Size, source: str) -> None:
    """Refuse an outline with a corner outside the image by more than one pixel."""
    height, width = size
    beyond = (ring < -_SLACK) | (ring > np.array([width, height]) + _SLACK)
    if beyond.any():
        x, y = ring[beyond.any(axis=1)][0]
        raise InputError(
            f"{source} has the corner x = {x:g}, y = {y:g}, outside its image of {height} x "
            f"{width} (height x width); is it for another image or in other units?"
        )


def parts_by_class(
    ids: NDArray[Any], labels: LabelMap, background: str | None
) -> Iterator[tuple[int, NDArray[np.bool_], list[Part]]]:
    """Trace each class but the background: raw id, its pixels, and their parts."""
    rest = uncovered(labels, background)
    for raw_id in np.unique(ids).tolist():
        if rest is None or raw_id != rest.raw_id:
            inside = ids == raw_id
            yield raw_id, inside, trace(inside)


def layers(
    ids: NDArray[Any], labels: LabelMap, background: str | None
) -> list[tuple[int, Corners]]:
    """Return outlines without holes that give the mask back when painted in their order.

    A part that lies in a hole of another has a smaller outline, so the greatest come first and
    whatever fills a hole is painted over it, the background too.
    """
    rest = uncovered(labels, background)
    found = [
        (raw_id, part.outer) for raw_id in np.unique(ids).tolist() for part in trace(ids == raw_id)
    ]
    if rest is not None:
        size = (ids.shape[0], ids.shape[1])
        covered = np.zeros(size, np.bool_)
        for raw_id, ring in found:
            if raw_id != rest.raw_id:
                window, inside = fill_window([ring], size)
                covered[window] |= inside
        # the pixel right of and below the first corner of an outline is of its part
        found = [
            (raw_id, ring)
            for raw_id, ring in found
            if raw_id != rest.raw_id or covered[ring[0][1], ring[0][0]]
        ]
    return sorted(found, key=lambda one: area(one[1]), reverse=True)
