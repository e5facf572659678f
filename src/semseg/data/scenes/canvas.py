"""A picture and its labels, painted together from shapes given by their distance functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FINE_CELLS = 48
COARSE_CELLS = 7


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the canvas with the coordinates of its pixel centres.

    Args:
        part: rows and columns.
        y: ``(h, 1)``, from 0 at the top edge of the picture to 1 at the bottom.
        x: ``(1, w)``, in the same unit, the height of the picture.
    """

    part: tuple[slice, slice]
    y: Array
    x: Array


class Canvas:
    """Image and labels of one scene.

    Args:
        height: in pixels.
        width: in pixels.
        rng: makes the textures.

    Attributes:
        image: ``(H, W, 3)`` float32, 0 … 255, red, green, blue.
        labels: ``(H, W)`` ``uint8``.
        fine: ``(H, W)`` texture about 0 with details of 1/48 of the height.
        coarse: likewise 1/7.
    """

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height = height
        self.width = width
        self.aspect = width / height
        self.image = np.empty((height, width, 3), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.fine = self.noise(rng, FINE_CELLS)
        self.coarse = self.noise(rng, COARSE_CELLS)
        self._y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
        self._x = ((np.arange(width, dtype=np.float32) + 0.5) / height)[None, :]

    def noise(self, rng: np.random.Generator, cells: int) -> Array:
        """Return ``(H, W)`` smooth noise in [-0.5, 0.5] with ``cells`` cells over the height."""
        columns = max(1, round(cells * self.aspect))
        knots = rng.random((cells + 1, columns + 1), dtype=np.float32) - 0.5
        rows, across = _even_weights(self.height, cells), _even_weights(self.width, columns)
        noise: Array = rows @ knots @ across.T
        return noise

    def window(
        self, left: float = 0, top: float = 0, right: float = np.inf, bottom: float = 1
    ) -> Window:
        """Return the pixels between the given coordinates and one pixel around them."""
        rows = slice(max(0, int(top * self.height) - 1), max(0, int(bottom * self.height) + 2))
        end = self.width if right == np.inf else max(0, int(right * self.height) + 2)
        columns = slice(max(0, int(left * self.height) - 1), end)
        return Window((rows, columns), self._y[rows], self._x[:, columns])

    def paint(self, window: Window, distance: Array, color: Array, label: int) -> None:
        """Paint a shape: pixels whose centre lies inside get the label, edges are blended.

        Args:
            window: where.
            distance: ``(h, w)`` signed distance to the edge, negative inside, unit as coordinates.
            color: broadcasts to ``(h, w, 3)``.
            label: class.
        """
        self.tint(window, np.clip(0.5 - distance * self.height, 0, 1), color)
        self.labels[window.part][distance < 0] = label

    def tint(self, window: Window, cover: Array, color: Array) -> None:
        """Blend a colour in, with weights ``(h, w)`` in [0, 1]; labels stay."""
        image = self.image[window.part]
        image += cover[..., None] * (color - image)


def weights(positions: Array, cells: int) -> Array:
    """Return ``(len(positions), cells + 1)`` weights that interpolate knots 0 … ``cells``.

    Smoothstep between neighbours; positions outside repeat periodically.
    """
    wrapped = np.mod(positions, cells).astype(np.float32)
    left = np.minimum(wrapped.astype(np.int64), cells - 1)
    share = wrapped - left
    share = share * share * (3 - 2 * share)
    rows = np.arange(len(positions))
    table = np.zeros((len(positions), cells + 1), np.float32)
    table[rows, left] = 1 - share
    table[rows, left + 1] = share
    return table


@lru_cache(maxsize=32)
def _even_weights(length: int, cells: int) -> Array:
    return weights((np.arange(length, dtype=np.float32) + 0.5) * cells / length, cells)


def box(window: Window, left: float, top: float, right: float, bottom: float) -> Array:
    """Return the distance to an upright rectangle (exact inside and beside its edges)."""
    across = np.abs(window.x - (left + right) / 2) - (right - left) / 2
    along = np.abs(window.y - (top + bottom) / 2) - (bottom - top) / 2
    return np.maximum(across, along).astype(np.float32)


def ellipse(window: Window, x: float, y: float, across: float, along: float) -> Array:
    """Return about the distance to an ellipse with the half axes ``across`` and ``along``."""
    radius = np.sqrt(((window.x - x) / across) ** 2 + ((window.y - y) / along) ** 2)
    return ((radius - 1) * min(across, along)).astype(np.float32)
