"""Masks as files and as pictures; numpy and Pillow only.

Every function returns a Pillow image. Masks are train ids, as predictions hold them; files hold raw
ids, through the label map. Images are ``(H, W, C)`` ``uint8``, RGB or grey.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from semseg.core.checks import InputError
from semseg.core.labels import LabelMap

WRONG = (214, 39, 40)
"""Colour of wrong pixels in :func:`error_map`: red, on grey for every kind of colour vision."""

Pixels = NDArray[np.uint8]


def ids_png(mask: NDArray[Any], labels: LabelMap) -> Image.Image:
    """Return the raw ids: 8-bit grey, or 16-bit where an id is above 255.

    Args:
        mask: ``(H, W)`` train ids.
        labels: their raw ids.

    Raises:
        InputError: the mask does not belong to the label map.
    """
    return Image.fromarray(labels.decode(mask))


def palette_png(mask: NDArray[Any], labels: LabelMap) -> Image.Image:
    """Return the raw ids as a palette image: the numbers of :func:`ids_png`, seen in colour.

    Raises:
        InputError: raw ids above 255, which no palette holds.
    """
    palette = labels.palette()
    if palette is None:
        raise InputError("a palette holds the ids 0 … 255, the label map has larger; write ids")
    image = Image.fromarray(labels.decode(mask))
    image.putpalette(palette)
    return image


def color_png(mask: NDArray[Any], labels: LabelMap) -> Image.Image:
    """Return the colours of the classes as RGB; ignored pixels are black."""
    return Image.fromarray(labels.colorize(mask))


def confidence_png(confidence: NDArray[np.float32]) -> Image.Image:
    """Return ``(H, W)`` values in [0, 1] as 8-bit grey, 255 for 1."""
    return Image.fromarray(np.rint(confidence * 255).astype(np.uint8))


def overlay(
    image: Pixels,
    mask: NDArray[Any],
    labels: LabelMap,
    alpha: float = 0.5,
    outlines: bool = True,
) -> Image.Image:
    """Return the image tinted with the colours of the classes.

    Args:
        image: ``(H, W, C)`` or ``(H, W)`` ``uint8``.
        mask: ``(H, W)`` train ids; ignored pixels stay as they are.
        labels: their colours.
        alpha: share of the colour, 0 … 1.
        outlines: draw the borders between classes in full colour.

    Raises:
        InputError: sizes that differ, or ``alpha`` out of range.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is the share of the colour, 0 … 1; got {alpha}")
    base = _rgb(image, mask)
    color = labels.colorize(mask)
    mixed = np.array(Image.blend(Image.fromarray(base), Image.fromarray(color), alpha))
    if outlines:
        edge = boundaries(mask)
        mixed[edge] = color[edge]
    ignored = mask == labels.ignore_id
    mixed[ignored] = base[ignored]
    return Image.fromarray(mixed)


def boundaries(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return ``(H, W)``: pixels whose right or lower neighbour is of another class."""
    edge = np.zeros(mask.shape, dtype=np.bool_)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def error_map(
    image: Pixels, prediction: NDArray[Any], truth: NDArray[Any], ignore_id: int = 255
) -> Image.Image:
    """Return the image in pale grey, what is wrong in red, what is ignored in black.

    Args:
        image: ``(H, W, C)`` or ``(H, W)`` ``uint8``.
        prediction: ``(H, W)`` train ids.
        truth: ``(H, W)`` train ids and ``ignore_id``.
        ignore_id: of the label map.

    Raises:
        InputError: sizes that differ.
    """
    base = _rgb(image, prediction)
    _rgb(image, truth)
    grey = np.asarray(Image.fromarray(base).convert("L"))
    pale = 64 + grey // 4 * 3  # so that black is left to what is ignored
    shown = np.repeat(pale[..., None], 3, axis=2)
    shown[prediction != truth] = WRONG
    shown[truth == ignore_id] = 0
    return Image.fromarray(shown)


def legend(labels: LabelMap, width: int = 960, size: int = 14) -> Image.Image:
    """Return a swatch and the name of each class, in rows of at most ``width`` pixels.

    Args:
        labels: names and colours.
        width: of the picture.
        size: height of the letters in pixels.
    """
    font = ImageFont.load_default(size)
    row, gap = size + 12, size
    places: list[tuple[float, int]] = []
    x, y = 0.0, 0
    for name in labels.names:
        needed = size + 6 + font.getlength(name)
        if x and x + needed > width:
            x, y = 0.0, y + row
        places.append((x, y))
        x += needed + gap
    picture = Image.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(picture)
    for (left, top), name, color in zip(places, labels.names, labels.colors, strict=True):
        box = (left, top + 6, left + size, top + 6 + size)
        draw.rectangle(box, fill=tuple(map(int, color)), outline="gray")
        middle = top + 6 + size / 2
        draw.text((left + size + 6, middle), name, fill="black", font=font, anchor="lm")
    return picture


def panels(
    image: Pixels, truth: NDArray[Any], prediction: NDArray[Any], labels: LabelMap
) -> dict[str, Image.Image]:
    """Return image, truth, prediction and errors by their names, all of one size.

    Args:
        image: ``(H, W, C)`` or ``(H, W)`` ``uint8``.
        truth: ``(H, W)`` train ids and the ignore id.
        prediction: ``(H, W)`` train ids.
        labels: their colours.

    Raises:
        InputError: sizes that differ.
    """
    return {
        "image": Image.fromarray(_rgb(image, truth)),
        "truth": color_png(truth, labels),
        "prediction": color_png(prediction, labels),
        "error": error_map(image, prediction, truth, labels.ignore_id),
    }


def strip(
    image: Pixels,
    truth: NDArray[Any],
    prediction: NDArray[Any],
    labels: LabelMap,
    titles: bool = True,
) -> Image.Image:
    """Return the four :func:`panels` side by side, with their names above if ``titles``."""
    shown = panels(image, truth, prediction, labels)
    width, height = shown["image"].size
    gap = max(4, width // 60)
    letters = max(11, width // 28)
    top = letters + 8 if titles else 0
    picture = Image.new("RGB", (4 * width + 3 * gap, height + top), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(letters)
    for i, (title, panel) in enumerate(shown.items()):
        left = i * (width + gap)
        picture.paste(panel, (left, top))
        if titles:
            draw.text((left, top / 2), title, fill="black", font=font, anchor="lm")
    return picture


def _rgb(image: Pixels, mask: NDArray[Any]) -> Pixels:
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"image is {image.shape[0]} x {image.shape[1]} (height x width), the mask is "
            f"{mask.shape[0]} x {mask.shape[1]}; bring them to one size first"
        )
    if image.ndim == 3 and image.shape[2] != 3:  # of more bands the first three are shown
        image = image[..., :3] if image.shape[2] > 3 else image[..., 0]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("RGB"))
