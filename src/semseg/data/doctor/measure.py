"""Numbers that one image and its mask give, without any learning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import InputError

REACH = 8
"""Shifts of up to so many pixels are tried both ways."""

THUMB = 16
"""Side of the thumbnail that stands for an image when twins are looked for."""

_LONGEST = 512  # images are reduced to about this for what follows edges
_POINTS = 2000  # of a mask's borders, evenly chosen; enough for an average
_LEAST = 40

Grey = NDArray[np.float32]


def smear(mask: NDArray[Any]) -> float:
    """Return the share of the steps between neighbouring pixels that go on in the same direction.

    Ids are names, not amounts: from one region to another they step once. Where a mask was stored
    as JPEG or resized with interpolation, the step becomes a ramp. Clean masks of the public
    datasets have 0 to 0.02, smeared ones more than 0.3.

    Example:
        >>> smear(np.array([[1, 1, 7, 7]] * 4)), smear(np.array([[1, 3, 5, 7]] * 4))
        (0.0, 0.6666666666666666)
    """
    going_on = steps = 0
    wide = mask.astype(np.int16 if mask.dtype == np.uint8 else np.int64)
    for lines in (wide, wide.T):
        sign = np.sign(np.diff(lines, axis=1))
        going_on += int(np.count_nonzero(sign[:, 1:] * sign[:, :-1] > 0))
        steps += int(np.count_nonzero(sign))
    return going_on / steps if steps else 0.0


def reduced(grey: Image.Image, mask: NDArray[Any]) -> tuple[Grey, NDArray[Any]]:
    """Return an image's edges and its mask, both reduced by one whole factor if they are large.

    Args:
        grey: the image, of mode L.
        mask: ``(H, W)``, of the same size.

    Returns:
        Strength of the edge at each pixel, and the mask.
    """
    factor = max(1, max(grey.size) // _LONGEST)
    small = np.asarray(grey.reduce(factor) if factor > 1 else grey)
    picked = mask[factor // 2 :: factor, factor // 2 :: factor]
    height, width = min(small.shape[0], picked.shape[0]), min(small.shape[1], picked.shape[1])
    return edges(small[:height, :width]), picked[:height, :width]


def edges(grey: NDArray[np.uint8]) -> Grey:
    """Return the sum of the absolute central differences along both axes; 0 at the margin."""
    wide = grey.astype(np.float32)
    out = np.zeros_like(wide)
    out[1:-1, 1:-1] = np.abs(wide[1:-1, 2:] - wide[1:-1, :-2])
    out[1:-1, 1:-1] += np.abs(wide[2:, 1:-1] - wide[:-2, 1:-1])
    return out


def borders(mask: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return rows and columns of pixels at borders of a mask, some thousands at most.

    ``None`` if there are too few to average over, or no room to shift them.
    """
    height, width = mask.shape
    if min(height, width) <= 3 * REACH:
        return None
    edge = np.zeros(mask.shape, dtype=np.bool_)
    across, down = mask[:, :-1] != mask[:, 1:], mask[:-1] != mask[1:]
    edge[:, :-1] |= across
    edge[:, 1:] |= across
    edge[:-1] |= down
    edge[1:] |= down
    rows, columns = np.nonzero(edge[REACH:-REACH, REACH:-REACH])
    if len(rows) < _LEAST:
        return None
    step = -(-len(rows) // _POINTS)
    return rows[::step] + REACH, columns[::step] + REACH


def fit(strength: Grey, mask: NDArray[Any]) -> float | None:
    """Return how much stronger an image's edges are at the borders of a mask than elsewhere.

    1 is chance; masks of the public datasets have 1.2 to 9 on their own image.

    Raises:
        InputError: image and mask differ in size.
    """
    if strength.shape != mask.shape:
        raise InputError(f"edges are {strength.shape}, the mask is {mask.shape}; give one size")
    points = borders(mask)
    mean = float(strength.mean())
    if points is None or mean == 0:
        return None
    return float(strength[points].mean()) / mean


def shifts(strength: Grey, mask: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return :func:`fit` for all shifts of the mask, relative to their average.

    Returns:
        ``(2 REACH + 1, 2 REACH + 1)``; at ``[REACH + y, REACH + x]`` the mask is moved by y pixels
        down and x to the right. ``None`` where no fit can be told.
    """
    points = borders(mask)
    if points is None:
        return None
    flat, width = strength.ravel(), strength.shape[1]
    base = points[0] * width + points[1]
    steps = range(-REACH, REACH + 1)
    sums = [[float(flat[base + (y * width + x)].mean()) for x in steps] for y in steps]
    table = np.array(sums, dtype=np.float32)
    mean = float(table.mean())
    return table / mean if mean else None


def thumbnail(grey: Image.Image) -> NDArray[np.uint8]:
    """Return a grey image averaged to ``THUMB`` x ``THUMB`` pixels."""
    return np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))
