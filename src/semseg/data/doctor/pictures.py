"""Pictures of samples for the page, also of those that are damaged."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import SemsegError
from semseg.core.label import default_color
from semseg.core.labels import LabelMap
from semseg.data.doctor.look import Look
from semseg.data.doctor.looker import Looker

_WIDTH = 240


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample on the page.

    Args:
        title: name of the sample.
        panels: data URIs of image, mask and both upon each other; what cannot be shown is left out.
    """

    title: str
    panels: dict[str, str]


def show(looker: Looker, look: Look) -> Shown:
    """Read a sample again and draw it."""
    again = Look(look.case)
    image, mask = looker.read(again)
    panels: dict[str, Image.Image] = {}
    if image is not None and image.dtype == np.uint8 and image.shape[2] in (1, 3):
        flat = image[..., 0] if image.shape[2] == 1 else image
        panels["image"] = Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
    drawn = _stored_colours(look) if mask is None else _colour(mask, looker.labels, look)
    if drawn is not None:
        panels["mask"] = drawn
        base = panels.get("image")
        if base is not None and base.size == drawn.size:
            panels["both"] = Image.blend(base, drawn, 0.5)
    return Shown(look.case.name, {name: _data_uri(picture) for name, picture in panels.items()})


def _stored_colours(look: Look) -> Image.Image | None:
    if look.case.mask is None or look.mask is None:
        return None
    try:
        with Image.open(look.case.mask) as image:
            return image.convert("RGB")
    except OSError:
        return None


def _colour(mask: NDArray[Any], labels: LabelMap | None, look: Look) -> Image.Image:
    """Return a mask in the colours of its classes, or of its numbers if they are not known."""
    if labels is not None:
        try:
            known = labels.encode(mask) if look.case.plain else mask
            return Image.fromarray(labels.colorize(known))
        except SemsegError:
            pass
    table = np.array([default_color(i) for i in range(256)], dtype=np.uint8)
    return Image.fromarray(table[mask.astype(np.int64) % 256])


def _data_uri(picture: Image.Image) -> str:
    if picture.width > _WIDTH:
        height = max(1, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize((_WIDTH, height), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
