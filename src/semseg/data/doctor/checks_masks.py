"""Checks of how masks are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from semseg.core.labels import LabelMap
from semseg.data.doctor.findings import Evidence, Finding, count
from semseg.data.doctor.look import ID_MODES, Look

SMEARED = 0.15
"""More of :func:`~semseg.data.doctor.measure.smear` than this is no drawing's doing."""


def judged(look: Look) -> bool:
    """Whether a mask's numbers are worth judging: read by our rules and not lossy."""
    return bool(look.ids) and look.smear <= SMEARED and not (look.mask and look.mask.lossy)


def lossy(evidence: Evidence) -> Iterator[Finding]:
    """Masks stored as JPEG, or smeared by JPEG or interpolation before they were stored."""
    jpeg = evidence.where(lambda look: bool(look.case.plain and look.mask and look.mask.lossy))
    if jpeg:
        text = (
            f"{count(len(jpeg), 'mask')} stored with loss (JPEG or WebP), which changes ids; write "
            "PNG from the original labels, converting these files brings nothing back"
        )
        yield evidence.finding("jpeg_mask", "error", text, jpeg)
    smeared = evidence.where(
        lambda look: look.smear > SMEARED and not (look.mask and look.mask.lossy)
    )
    if smeared:
        text = (
            f"{count(len(smeared), 'mask')} with ramps of ids between regions: once a JPEG or "
            "resized with interpolation; make them anew, resizing by nearest pixel"
        )
        yield evidence.finding("smeared_mask", "error", text, smeared)


def colours(evidence: Evidence) -> Iterator[Finding]:
    """Masks that hold colours or alpha where one number per pixel is wanted."""
    colour: list[int] = []
    alpha: list[int] = []
    for i, look in enumerate(evidence.looks):
        header = look.mask
        if not look.case.plain or header is None or header.mode in ID_MODES or header.lossy:
            continue
        (alpha if "A" in header.mode.upper() else colour).append(i)
    if alpha:
        header = evidence.looks[alpha[0]].mask
        assert header is not None
        text = (
            f"{count(len(alpha), 'mask')} with an alpha channel ({header.mode}); store one channel "
            "of integer ids"
        )
        yield evidence.finding("alpha_mask", "error", text, alpha)
    if colour:
        text = (
            f"{count(len(colour), 'mask')} of colours where ids are expected"
            f"{_kind_of_colour(evidence.looks[colour[0]], evidence.labels)}"
        )
        yield evidence.finding("color_mask", "error", text, colour)


def _kind_of_colour(look: Look, labels: LabelMap | None) -> str:
    """Say what the colours of one mask are, and what to do."""
    assert look.case.mask is not None
    try:
        with Image.open(look.case.mask) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    except OSError:
        return ""
    if (pixels == pixels[:, :1]).all():
        return "; their three channels are equal: keep one of them"
    table = {label.color for label in labels.labels} if labels else set()
    held = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    if held <= table:
        return "; the colours are those of the classes: write the id of each instead"
    return f" ({len(held)} different ones); write the id of its class for each colour"


def depth(evidence: Evidence) -> Iterator[Finding]:
    """A few masks of 16 bits among masks of 8, or the other way round."""
    held = Counter(
        max(look.mask.bits, 8) for look in evidence.looks if look.mask and look.case.plain
    )
    if len(held) < 2:
        return
    usual = held.most_common(1)[0][0]
    positions = evidence.where(
        lambda look: bool(look.case.plain and look.mask and max(look.mask.bits, 8) != usual)
    )
    text = (
        f"{count(len(positions), 'mask')} of another bit depth than the usual {usual}; store all "
        "alike"
    )
    yield evidence.finding("mask_depth", "warning", text, positions)


def palette(evidence: Evidence) -> Iterator[Finding]:
    """Palettes that show the colours of the classes, but in another order than the ids."""
    labels = evidence.labels
    if labels is None:
        return
    positions = evidence.where(lambda look: judged(look) and _reordered(look, labels))
    if positions:
        text = (
            f"{count(len(positions), 'mask')} whose palette has the colours of the classes in "
            "another order: a program numbered the colours anew; write ids by colour, not by index"
        )
        yield evidence.finding("palette_order", "error", text, positions)


def _reordered(look: Look, labels: LabelMap) -> bool:
    table = look.mask.palette if look.mask else ()
    if not table:
        return False
    own = {label.raw_id: label.color for label in labels.labels}
    shown = {i: table[3 * i : 3 * i + 3] for i in look.ids if 3 * i + 3 <= len(table)}
    right = sum(color == own.get(i) for i, color in shown.items())
    of_others = sum(color != own.get(i) and color in own.values() for i, color in shown.items())
    return of_others >= 2 and of_others > right


CHECKS = (lossy, colours, depth, palette)
