"""What a file says about itself before its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
}


@dataclass(frozen=True, slots=True)
class Header:
    """Facts of one image file.

    Args:
        format: by its content, as Pillow names it.
        mode: Pillow's name of the pixels' form, e.g. ``"RGB"``.
        bits: of one channel of one pixel.
        size: height and width as stored.
        frames: pictures or pages in the file.
        orientation: of EXIF; 1 is upright.
        suits: whether the suffix is one of this format.
        lossy: whether pixels may have changed when it was written.
        transparent: whether there is an alpha channel or a transparent colour.
        palette: red, green, blue of each index, one after the other, if there is a palette.
    """

    format: str
    mode: str
    bits: int
    size: tuple[int, int]
    frames: int
    orientation: int
    suits: bool
    lossy: bool
    transparent: bool
    palette: tuple[int, ...] = ()


def read_header(path: Path) -> tuple[Header | None, str | None]:
    """Read the header of an image file.

    Returns:
        The header, or ``None`` and the reason in one clause.
    """
    try:
        if path.stat().st_size == 0:
            return None, f"{path} has no bytes; write it again or take it out of the dataset"
        with Image.open(path) as image:
            return _header(image, path), None
    except FileNotFoundError:
        return None, f"{path} does not exist; add it or take its partner out"
    except _DECODER_ERRORS as error:
        return None, f"{path} cannot be read: {error}; replace it or take it out of the dataset"


def _header(image: Image.Image, path: Path) -> Header:
    name = image.format or "?"
    return Header(
        format=name,
        mode=image.mode,
        bits=_bits(image),
        size=(image.height, image.width),
        frames=1 if name == "MPO" else getattr(image, "n_frames", 1),
        orientation=_orientation(image),
        suits=path.suffix.lower() in _SUFFIXES.get(name, (path.suffix.lower(),)),
        lossy=name in ("JPEG", "MPO") or (name == "WEBP" and _lossy_webp(path)),
        transparent="A" in image.mode or "a" in image.mode or "transparency" in image.info,
        palette=tuple(image.getpalette() or ()) if image.mode == "P" else (),
    )


def _bits(image: Image.Image) -> int:
    if image.mode == "1":
        return 1
    if image.mode.startswith("I;16"):
        return 16
    if image.mode in ("I", "F"):
        # Pillow opens 16-bit grey PNG files as I in some versions
        return 16 if image.format == "PNG" else 32
    # deeper colour becomes 8 bits when it is decoded; only the form in the file tells
    return 16 if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) else 8


def _orientation(image: Image.Image) -> int:
    # to look for EXIF behind the pixels Pillow would decode the whole PNG
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _lossy_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return b"VP8 " in file.read(64)
