"""From outlines to pixels: which pixels a polygon covers.

Coordinates are those of the image's plane: pixel (row i, column j) is the square from (x, y) =
(j, i) to (j + 1, i + 1), so whole numbers are corners of pixels. A pixel belongs to a polygon when
its centre lies inside by the even-odd rule over all rings, the left and the upper edge included.
An outline traced along the edges of pixels (:mod:`semseg.data.formats.outline`) therefore gives
back exactly the pixels it was traced from: no centre lies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""``(n, 2)`` corners (x, y) of a closed outline; the last is joined to the first."""

Window = tuple[slice, slice]
"""Rows and columns of an image."""


def fill(rings: Sequence[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie inside an odd number of rings.

    Args:
        rings: outlines, each ``(n, 2)`` of x and y; what lies outside the image is cut.
        size: height and width.

    Returns:
        ``(H, W)``, true inside.

    Example:
        >>> fill([np.array([[1, 0], [3, 0], [3, 2], [1, 2]])], (2, 4)).astype(int)
        array([[0, 1, 1, 0],
               [0, 1, 1, 0]])
    """
    inside = np.zeros(size, np.bool_)
    window, part = fill_window(rings, size)
    inside[window] = part
    return inside


def fill_window(rings: Sequence[NDArray[Any]], size: tuple[int, int]) -> tuple[Window, Any]:
    """Return what :func:`fill` does as a window of the image and the pixels inside it."""
    height, width = size
    row, x = _crossings(rings, height)
    if not len(row):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.bool_)
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.intp)
    top, left = int(row.min()), int(column.min())
    bottom, right = int(row.max()) + 1, int(column.max())
    span = right - left + 1  # the last column is for what lies right of the last centre
    place = (row - top) * span + column - left
    count = np.bincount(place, minlength=(bottom - top) * span).reshape(-1, span)
    odd = (np.cumsum(count[:, :-1], axis=1) & 1).astype(np.bool_)
    return (slice(top, bottom), slice(left, right)), odd


def _crossings(
    rings: Sequence[NDArray[Any]], height: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return rows, and the x at which edges cross the line through their pixels' centres."""
    starts = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
    ends = np.concatenate([np.roll(np.asarray(ring, np.float64), -1, axis=0) for ring in rings])
    # every edge downwards, so that an edge and its reverse cross a row at the very same place
    turned = (starts[:, 1] > ends[:, 1])[:, None]
    upper, lower = np.where(turned, ends, starts), np.where(turned, starts, ends)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.intp)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.intp)
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (row + 0.5 - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    return row, upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])


def area(ring: NDArray[Any]) -> float:
    """Return the area inside a ring by the shoelace formula; positive if it runs clockwise.

    Clockwise as one sees it, with y pointing down.
    """
    x, y = np.asarray(ring, np.float64).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
