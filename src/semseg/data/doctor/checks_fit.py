"""Checks of whether an image and its mask belong together and lie upon each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import SemsegError
from semseg.data.doctor.findings import Evidence, Finding, count
from semseg.data.doctor.look import Look
from semseg.data.doctor.measure import REACH, Grey, fit, reduced
from semseg.data.images import read_image, read_mask

_WEAK, _STRONG = 0.7, 0.75
"""Shares of the usual fit: below the first a mask may belong to another image, above the second an
image may be that one. Exchanged, it must also fit ``_BETTER`` times as well."""

_BETTER = 1.5

_MOST_COMPARED = 40
_LEAST_FOR_SHIFT = 5
_GAIN = 1.1  # how much better a shifted mask must fit
_FEW_IDS = 64
"""A mask has at most so many values, a photograph more."""


def sizes(evidence: Evidence) -> Iterator[Finding]:
    """Image and mask of different size, or of one that only the unrotated image has."""
    turned: list[int] = []
    other: list[int] = []
    upright: list[int] = []
    for i, look in enumerate(evidence.looks):
        if look.image is None or look.image_size is None or look.mask_size is None:
            continue
        rotated = look.image.orientation != 1
        if look.image_size == look.mask_size:
            if rotated:
                fits, stored = look.fit or 0.0, look.fit_stored or 0.0
                (turned if stored > fits else upright).append(i)
        else:
            (turned if rotated and look.image.size == look.mask_size else other).append(i)
    if turned:
        text = (
            f"{count(len(turned), 'image')} with an EXIF rotation that the mask does not have; "
            "rotate the pixels and remove the tag, so that every program shows both alike"
        )
        yield evidence.finding("exif_rotation", "error", text, turned, "image")
    if upright:
        text = (
            f"{count(len(upright), 'image')} upright by an EXIF tag only, which other programs "
            "ignore; rotate the pixels and remove the tag"
        )
        yield evidence.finding("exif_rotation", "warning", text, upright, "image")
    if other:
        first = evidence.looks[other[0]]
        assert first.image_size is not None
        assert first.mask_size is not None
        text = (
            f"{count(len(other), 'mask')} of another size than the image (the first "
            f"{first.mask_size[0]} x {first.mask_size[1]} for {first.image_size[0]} x "
            f"{first.image_size[1]}, height x width); bring them to the image's, by nearest pixel"
        )
        yield evidence.finding("size_differs", "error", text, other)


def roles(evidence: Evidence) -> Iterator[Finding]:
    """An image that looks like a mask, with a mask that looks like a photograph."""
    positions = evidence.where(
        lambda look: look.case.plain and _few_values(look) and _like_photograph(look)
    )
    if positions:
        text = (
            f"{count(len(positions), 'pair')} with image and mask exchanged: the image has few "
            "values and the mask many; put each into its folder"
        )
        yield evidence.finding("swapped_roles", "error", text, positions, "image")


def _few_values(look: Look) -> bool:
    if look.histogram is None:
        return False
    used = (look.histogram > 0).sum(axis=1)
    return 1 < int(used.max()) <= _FEW_IDS and look.grey


def _like_photograph(look: Look) -> bool:
    return look.mask is not None and (
        len(look.ids) > _FEW_IDS or (look.mask.mode.startswith("RGB") and _many_colours(look))
    )


def _many_colours(look: Look) -> bool:
    assert look.case.mask is not None
    try:
        with Image.open(look.case.mask) as image:
            return image.convert("RGB").getcolors(4 * _FEW_IDS) is None
    except OSError:
        return False


def exchanged(evidence: Evidence) -> Iterator[Finding]:
    """Two masks that each fit the other's image better than their own."""
    fits = {i: look.fit for i, look in enumerate(evidence.looks) if look.fit is not None}
    usual = median(fits.values()) if fits else 0.0
    weak = sorted((f, i) for i, f in fits.items() if f < _WEAK * usual)[:_MOST_COMPARED]
    held = {i: pair for _, i in weak if (pair := _reread(evidence, i)) is not None}
    found: list[int] = []
    for i, j in combinations(held, 2):
        (edges_i, mask_i), (edges_j, mask_j) = held[i], held[j]
        if i in found or j in found or mask_i.shape != mask_j.shape:
            continue
        crossed = (fit(edges_i, mask_j) or 0.0, fit(edges_j, mask_i) or 0.0)
        if min(crossed) > max(_STRONG * usual, _BETTER * fits[i], _BETTER * fits[j]):
            found += [i, j]
    if found:
        text = (
            f"{count(len(found), 'mask')} follow the edges of another image than their own, two by "
            "two: the masks seem to be exchanged; look at them"
        )
        yield evidence.finding("exchanged_masks", "warning", text, found)


def _reread(evidence: Evidence, position: int) -> tuple[Grey, NDArray[np.generic]] | None:
    case = evidence.looks[position].case
    if not case.plain or case.image is None or case.mask is None:
        return None
    try:
        image, mask = read_image(case.image), read_mask(case.mask)
    except SemsegError:
        return None
    return reduced(Image.fromarray(image).convert("L"), mask)


def shifted(evidence: Evidence) -> Iterator[Finding]:
    """Masks that would fit better if all were moved by the same few pixels."""
    for split in evidence.splits:
        held = {
            i: look.shifts
            for i, look in enumerate(evidence.looks)
            if look.case.split == split and look.shifts is not None
        }
        positions, tables = list(held), list(held.values())
        if len(tables) < _LEAST_FOR_SHIFT:
            continue
        peaks = [_peak(np.mean(part, axis=0)) for part in (tables, tables[::2], tables[1::2])]
        gain = float(np.mean([t[peaks[0]] / t[REACH, REACH] for t in tables if t[REACH, REACH]]))
        down, right = peaks[0][0] - REACH, peaks[0][1] - REACH
        near = all(abs(a - b) <= 1 for p in peaks for a, b in zip(p, peaks[0], strict=True))
        if max(abs(down), abs(right)) >= 2 and gain >= _GAIN and near:
            scale = _scale(evidence.looks[positions[0]])
            text = (
                f"the masks of {split} would fit {100 * (gain - 1):.0f} % better if moved by "
                f"{scale * down} pixels down and {scale * right} to the right; check the crop or "
                "padding that image and mask went through"
            )
            yield evidence.finding("shifted_masks", "warning", text, positions)


def _peak(table: NDArray[np.float32]) -> tuple[int, int]:
    row, column = divmod(int(table.argmax()), table.shape[1])
    return row, column


def _scale(look: Look) -> int:
    return max(1, max(look.image_size or (1,)) // 512)


CHECKS = (sizes, roles, exchanged, shifted)
