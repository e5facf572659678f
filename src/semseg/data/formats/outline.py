"""From pixels to outlines: tracing along the edges of pixels.

The corners of an outline are corners of pixels, in the coordinates of
:mod:`semseg.data.formats.fill`, which inverts it exactly. Pixels that touch only at a corner are
separate parts (four neighbours), so no part's outer ring crosses itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semseg.data.formats.fill import area, fill

Corners = NDArray[np.int64]
"""``(n, 2)`` corners of pixels (x, y), joined by horizontal and vertical lines in turn."""


@dataclass(frozen=True, slots=True)
class Part:
    """One connected part of a region.

    Args:
        outer: its outer ring, clockwise as one sees it.
        holes: the rings of its holes, the other way round.
    """

    outer: Corners
    holes: tuple[Corners, ...] = ()

    @property
    def rings(self) -> tuple[Corners, ...]:
        """The outer ring and the holes."""
        return (self.outer, *self.holes)


def trace(mask: NDArray[np.bool_]) -> list[Part]:
    """Return the parts of a region, the greatest outer ring first.

    Args:
        mask: ``(H, W)``, true inside.

    Example:
        >>> part, = trace(np.array([[0, 1, 1], [0, 1, 1]], bool))
        >>> part.outer.tolist()
        [[1, 0], [3, 0], [3, 2], [1, 2]]
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rings = _rings(window)
    outer = sorted((ring for ring in rings if area(ring) > 0), key=area, reverse=True)
    holes = [ring for ring in rings if area(ring) < 0]
    owned: list[list[Corners]] = [[] for _ in outer]
    if holes:
        part_at = np.full(window.shape, -1)
        for i, ring in enumerate(outer):  # greatest first, so a part inside a hole comes on top
            part_at[fill([ring], window.shape)] = i
        for ring in holes:
            # a hole runs counterclockwise; its least corner in reading order is the upper left
            # one, where the pixel above is of the part
            x, y = ring[0]
            owned[part_at[y - 1, x]].append(ring)
    offset = np.array([columns[0], rows[0]])
    return [
        Part(ring + offset, tuple(hole + offset for hole in inner))
        for ring, inner in zip(outer, owned, strict=True)
    ]


def keyhole(rings: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Join rings into one by lines that are walked there and back, which the even-odd rule ignores.

    So a format without holes can hold a part with holes, exactly.
    """
    outer, *holes = rings
    start = outer[:1]
    pieces = [outer, *(piece for hole in holes for piece in (start, hole, hole[:1]))]
    return np.concatenate([*pieces, start] if holes else pieces)


def _rings(mask: NDArray[np.bool_]) -> list[Corners]:
    """Trace the boundary of a mask; every ring starts at its first corner in reading order."""
    inside = np.pad(mask, 1)
    ul, ur, ll, lr = inside[:-1, :-1], inside[:-1, 1:], inside[1:, :-1], inside[1:, 1:]
    touching = (ul == lr) & (ur == ll) & (ul != ur)  # two pixels that meet in one point
    single = ul ^ ur ^ ll ^ lr
    y, x = np.nonzero(single | touching)
    twice = touching[y, x]
    # a corner where two pixels touch is two corners, copy 0 and copy 1
    y, x = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice)
    copy = np.zeros(len(y), np.int64)
    copy[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # of the horizontal lines copy 0 has the one to the left; of the vertical lines it has the
    # one upwards if the upper left pixel is inside, so that each copy goes round its own pixel
    across = np.lexsort((copy, x, y))
    down = np.lexsort((np.where(ul[y, x], copy, 1 - copy), y, x))
    partner_across, partner_down = _pairs(across), _pairs(down)
    # walk from the upper left corner of a ring to the right: clockwise for outer rings
    rings: list[Corners] = []
    left = np.ones(len(y), np.bool_).tolist()
    to_right, to_below = partner_across.tolist(), partner_down.tolist()
    for start in range(len(left)):
        if not left[start]:
            continue
        walk, at = [], start
        while left[at]:
            left[at] = False
            walk.append(at)
            at = to_right[at]
            left[at] = False
            walk.append(at)
            at = to_below[at]
        ring = np.stack([x[walk], y[walk]], axis=1)
        # a hole has its outside below the first corner: it is walked the other way round
        rings.append(ring if lr[y[start], x[start]] else _turned(ring))
    return rings


def _turned(ring: Corners) -> Corners:
    return np.concatenate([ring[:1], ring[:0:-1]])


def _pairs(order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each corner the other end of its line: neighbours in the order, two and two."""
    other = np.empty_like(order)
    other[order[0::2]] = order[1::2]
    other[order[1::2]] = order[0::2]
    return other
