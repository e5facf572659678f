"""The one rule that turns any image file into an array, and any mask file into ids.

Images:
    - Orientation: an EXIF orientation is applied; of several frames or pages the first is taken.
    - Channels: 3 wanted from grey repeats it; 1 wanted from colour takes the luma of ITU-R 601.
      Palettes, CMYK, YCbCr and other colour spaces become RGB.
    - Transparency: alpha is dropped, colours stay as stored; nothing is blended onto a background.
    - Depth: 16 bits, grey or colour, are scaled over their full range, ``round(v / 257)``; of TIFF
      files that hold colours in planes the high byte is kept, or they are refused. 32-bit integers
      and floats have no known range and are refused; :mod:`semseg.data.bands` reads them by a
      stated one.

Masks: the stored number of each pixel. A palette gives its indices, never its colours; colour
images are refused. A GIF always has a palette, so one of greys alone counts as a grey image.
Nothing is ever interpolated.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from semseg.core import archive
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import ValueRange
from semseg.data.deep import WORDS, deep_kind, join_bytes, turn_bytes, words_of
from semseg.data.png import read_png

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # all lossless

_WORDS = ValueRange(0, 65535)

_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image(path: str | Path, channels: int = 3) -> NDArray[np.uint8]:
    """Read an image file by the rule above.

    Args:
        path: any format Pillow reads.
        channels: 3 for RGB or 1 for grey.

    Returns:
        ``(H, W, channels)``.

    Raises:
        FileError: the file is missing, damaged, not an image, or of a depth without a known range.
        InputError: another number of channels is wanted.
    """
    pixels = read_png(Path(path))
    if pixels is None:
        return image_array(open_upright(Path(path), "image"), channels, path)
    if pixels.ndim == channels == 3:
        return pixels
    return image_array(Image.fromarray(pixels), channels, path)


def image_array(
    image: Image.Image, channels: int = 3, path: str | Path = "given"
) -> NDArray[np.uint8]:
    """Turn a decoded, upright image into ``(H, W, channels)`` by the rule above.

    Args:
        image: any mode of Pillow.
        channels: 3 for RGB or 1 for grey.
        path: its file, for messages.

    Raises:
        FileError: a depth without a known range.
        InputError: another number of channels is wanted.
    """
    if channels not in (1, 3):
        raise InputError(f"images are read with 1 or 3 channels, got channels={channels}")
    if image.mode == "F":
        raise FileError(
            f"image {path} holds floats of unknown range; convert it to 8 or 16 bit, or set "
            "value_range (dataset folder)"
        )
    if image.mode.startswith("I"):  # I, I;16, I;16B, ...
        grey = _to_8_bit(np.asarray(image), path)
        return np.repeat(grey[..., None], channels, axis=2)
    if (words := words_of(image)) is not None:
        image = Image.fromarray(_WORDS(words[..., :3] if words.shape[2] > 2 else words[..., 0]))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    wanted = "L" if channels == 1 else "RGB"
    pixels = np.array(image if image.mode == wanted else image.convert(wanted))
    return pixels[..., None] if channels == 1 else pixels


def image_size(path: str | Path) -> tuple[int, int]:
    """Return height and width of an image file, upright, without decoding its pixels.

    Raises:
        FileError: the file is missing, damaged or not an image.
    """
    try:
        with Image.open(archive.openable(Path(path))) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size
    except FileNotFoundError as error:
        raise FileError(f"image {path} does not exist") from error
    except FileError:
        raise
    except _DECODER_ERRORS as error:
        raise FileError(
            f"image {path} cannot be read: {error}; replace the file or take it out of the dataset"
        ) from error
    return (width, height) if turned else (height, width)


def read_mask(path: str | Path) -> NDArray[Any]:
    """Read a mask file: the numbers as stored.

    Returns:
        ``(H, W)`` ``uint8``, ``uint16`` or ``int32``.

    Raises:
        FileError: the file is missing, damaged, not an image, or holds colours instead of ids.
    """
    indices = read_png(Path(path), indices=True)
    if indices is not None and indices.ndim == 2:
        return indices
    image = open_upright(Path(path), "mask")
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in ("P", "L") or image.mode.startswith("I"):
        mask = np.array(image)
        # byte order of the machine, which is what torch takes
        return mask.astype(mask.dtype.newbyteorder("="), copy=False)
    raise FileError(
        f"mask {path} is {image.mode} where ids are expected; convert it to one channel of "
        "integer ids (8 or 16 bit grey, or a palette), each colour to the id of its class, or read "
        "it by the colours of the classes (format rgb)"
    )


def open_upright(path: Path, what: str) -> Image.Image:
    """Decode a file wholly, so that damage shows here and not at some later access.

    Returns:
        The image; of 16-bit colours, which have 8 bits in it, :func:`semseg.data.deep.words_of`
        gives the whole.

    Raises:
        FileError: the file is missing, damaged or not an image; ``what`` begins the message.
    """
    try:
        with Image.open(archive.openable(path)) as image:
            kind = deep_kind(image, path)
            upright = _decoded(image)
        if kind is not None:
            with Image.open(archive.openable(path)) as again:
                turn_bytes(again, kind)
                upright.info[WORDS] = join_bytes(kind, upright, _decoded(again))
        return upright
    except FileNotFoundError as error:
        raise FileError(f"{what} {path} does not exist") from error
    except FileError:
        raise
    except _DECODER_ERRORS as error:
        raise FileError(
            f"{what} {path} cannot be read: {error}; replace the file or take it out of the dataset"
        ) from error


def _decoded(image: Image.Image) -> Image.Image:
    image.load()
    if image.format == "GIF" and image.mode == "P" and _is_grey(image):
        return image.convert("L")
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 1
    return ImageOps.exif_transpose(image) if turned else image  # it copies even if not


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette()).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _to_8_bit(values: NDArray[Any], path: str | Path) -> NDArray[np.uint8]:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise FileError(
            f"image {path} holds 32-bit values {values.min()} … {values.max()} of unknown range; "
            "convert it to 8 or 16 bit, or set value_range (dataset folder)"
        )
    return _WORDS(values)
