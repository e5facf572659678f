"""Checks of images: depth, colours, content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from semseg.data.doctor.findings import Evidence, Finding, count
from semseg.data.doctor.look import Look

_FEW = 0.2
"""What fewer samples than this share have in common is taken for a mistake."""

_USUAL_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "I", "F")


def bit_depth(evidence: Evidence) -> Iterator[Finding]:
    """Some images of 16 bits among images of 8, or the other way round."""
    held = Counter(look.image.bits for look in evidence.looks if look.image)
    held[8] += held.pop(1, 0)
    if len(held) < 2:
        if 16 in held:
            text = "all images have 16 bits per channel, which are scaled to 8"
            yield Finding("bit_depth", "note", text)
        return
    usual = held.most_common(1)[0][0]
    positions = evidence.where(
        lambda look: look.image is not None and max(look.image.bits, 8) != usual
    )
    text = (
        f"{count(len(positions), 'image')} of another bit depth than the usual {usual}; their "
        "brightness may be scaled differently: store all alike"
    )
    yield evidence.finding("bit_depth", "warning", text, positions, "image")


def colour_space(evidence: Evidence) -> Iterator[Finding]:
    """CMYK and the like: every program turns them into other colours."""
    positions = evidence.where(
        lambda look: (
            look.image is not None
            and look.image.mode not in _USUAL_MODES
            and not look.image.mode.startswith("I;16")
        )
    )
    if positions:
        header = evidence.looks[positions[0]].image
        assert header is not None
        text = (
            f"{count(len(positions), 'image')} in {header.mode}, which programs turn into "
            "different colours; store RGB"
        )
        yield evidence.finding("colour_space", "warning", text, positions, "image")


def transparency(evidence: Evidence) -> Iterator[Finding]:
    """Images with alpha among images without: what is hidden becomes visible."""
    positions = evidence.where(lambda look: look.image is not None and look.image.transparent)
    if positions:
        text = (
            f"{count(len(positions), 'image')} with transparency, which is dropped: colours "
            "under it become visible; store RGB as it should be seen"
        )
        yield evidence.finding("alpha_image", "warning", text, positions, "image")


def grey_images(evidence: Evidence) -> Iterator[Finding]:
    """A few grey images among colour ones, or a few coloured among grey ones."""
    seen = evidence.where(lambda look: look.thumb is not None and not _blank(look))
    if evidence.channels != 3 or len(seen) < 5:
        return
    grey = [i for i in seen if evidence.looks[i].grey]
    colour = [i for i in seen if not evidence.looks[i].grey]
    few, what, others = (
        (grey, "grey", "colour") if len(grey) <= len(colour) else (colour, "colour", "grey")
    )
    if 0 < len(few) <= _FEW * len(seen):
        text = (
            f"{count(len(few), f'{what} image')} among {len(seen) - len(few):,} {others} ones; "
            "check that they are of the same kind"
        )
        yield evidence.finding("grey_image", "warning", text, few, "image")


def blank_images(evidence: Evidence) -> Iterator[Finding]:
    """Images of one value: a dead camera, a failed conversion."""
    positions = evidence.where(_blank)
    if positions:
        text = (
            f"{count(len(positions), 'image')} all black, all white or of one colour; take them "
            "out or find the original"
        )
        yield evidence.finding("blank_image", "warning", text, positions, "image")


def _blank(look: Look) -> bool:
    """Whether all but one in a thousand pixels have the same value."""
    if look.histogram is None:
        return False
    total = look.histogram[0].sum()
    return bool((look.histogram.max(axis=1) >= 0.999 * total).all())


CHECKS = (bit_depth, colour_space, transparency, grey_images, blank_images)
