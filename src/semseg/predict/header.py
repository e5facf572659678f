"""What a file says of its image before it is decoded: its size, and what reading will change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Lock

from PIL import ExifTags, Image

from semseg.core import archive
from semseg.core.checks import InputError, SemsegError

MAX_PIXELS = 100_000_000
"""Most pixels of an image unless told otherwise, 10,000 x 10,000: a small file may claim any size
(a decompression bomb), and its pixels would fill the memory."""

_TIFF = (".tif", ".tiff")
_ORIENTED = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # without them a PNG lies upright
_DEEPEST = 4  # bytes of a number; of two bands at least, so that 16-bit colours pass
_OVERHEAD = 1 << 26  # bytes for profiles, previews and the like
_lock = Lock()
_users = 0
_limit_of_pillow: int | None = None


def check_pixels(path: Path, size: tuple[int, int], limit: int) -> None:
    """Refuse an image of more pixels than ``limit``; ``size`` is its height and width."""
    height, width = size
    if height * width > limit:
        raise InputError(
            f"{path} has {height} x {width} pixels (height x width), {height * width:,} together, "
            f"and the limit is {limit:,}; if the file is to be trusted and the memory is enough, "
            f"give --max-pixels {height * width} (and --tile, or --raster for a TIFF)"
        )


def check_packed(path: Path, channels: int, limit: int) -> None:
    """Refuse a file in an archive that would unpack to more than an image of ``limit`` pixels.

    Raises:
        InputError: it would.
    """
    most = _OVERHEAD + limit * _DEEPEST * max(channels, 2)
    if archive.inside(path) and archive.is_file(path) and archive.file_size(path) > most:
        raise InputError(
            f"{path} unpacks to {archive.file_size(path):,} bytes, more than an image of {limit:,} "
            "pixels takes; if the archive is to be trusted, give a larger --max-pixels"
        )


def look(path: Path, channels: int, limit: int) -> list[str]:
    """Read the header of an image, of which 1 or 3 channels are wanted.

    Args:
        path: the file; may lie in an archive.
        channels: wanted.
        limit: most pixels.

    Returns:
        What :func:`semseg.data.images.read_image` changes in the file, in a few words each. None
        where the header is damaged: reading the image says how.

    Raises:
        FileError: the archive is damaged.
        InputError: the image is larger.
    """
    check_packed(path, channels, limit)
    try:
        with Image.open(archive.openable(path)) as image:
            check_pixels(path, (image.height, image.width), limit)
            return _notes(image, path, channels)
    except SemsegError:
        raise
    except Exception:  # damage; reading the image says it better
        return []


def look_at_bands(path: Path, channels: int, limit: int) -> None:
    """Read the header of an image that is read band by band, and refuse it if it is larger."""
    if path.suffix.lower() not in _TIFF:
        look(path, channels, limit)
        return
    check_packed(path, channels, limit)
    try:
        with import_module("tifffile").TiffFile(archive.openable(path)) as opened:
            series = opened.series[0]
            sides = [n for n, axis in zip(series.shape, series.axes, strict=True) if axis in "YX"]
    except Exception:  # damage, or no tifffile; reading the image says it better
        return
    if len(sides) == 2:
        check_pixels(path, (sides[0], sides[1]), limit)


def sizes(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Yield heights and widths of images, upright; files that cannot be read are left out.

    A PNG's word on its orientation is not asked for, because it may come behind the pixels.
    """
    for path in paths:
        with suppress(Exception), Image.open(archive.openable(path)) as image:
            asked = {} if image.format == "PNG" else image.getexif()
            turned = asked.get(ExifTags.Base.Orientation, 1) >= 5
            yield image.size if turned else image.size[::-1]


@contextmanager
def own_limit() -> Iterator[None]:
    """Lift Pillow's limit, which :func:`look` stands for, while the block runs; in any thread."""
    global _users, _limit_of_pillow
    with _lock:
        if not _users:
            _limit_of_pillow, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                Image.MAX_IMAGE_PIXELS = _limit_of_pillow


def _notes(image: Image.Image, path: Path, channels: int) -> list[str]:
    wanted = "RGB" if channels == 3 else "L"
    notes = [] if image.mode == wanted else [f"{image.mode} to {wanted}"]
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if deep and image.mode in ("RGB", "RGBA"):
        notes.append("16-bit colour scaled to 8 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        notes.append("alpha dropped")
    if _may_be_turned(image, path) and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        notes.append("turned upright by EXIF")
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # counting reads the other frames; whatever is wrong there, none is used
        notes.append("first of several frames")
    else:
        notes += [f"first of {frames} frames"] if frames > 1 else []
    return notes


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    # Pillow decodes a whole PNG to see whether an orientation comes behind its pixels
    return image.format != "PNG" or any(mark in archive.read_bytes(path) for mark in _ORIENTED)
