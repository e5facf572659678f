"""Which files are meant, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image

from semseg.core.checks import FileError, InputError
from semseg.data.images import IMAGE_SUFFIXES

Source = str | Path | Sequence[str | Path]
"""A file, a folder, a glob pattern, or a list of files."""


def find_images(source: Source) -> list[Path]:
    """Return the images that ``source`` means, sorted by path; a list keeps its order.

    Args:
        source: a file; a folder, of which the images directly in it are taken; a glob pattern,
            in which ``**`` stands for any folders; or a list of files.

    Raises:
        FileError: a file or folder does not exist.
        InputError: no image is there.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise InputError("the list of images is empty")
        return [Path(path) for path in source]
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [path]
    if not glob.has_magic(str(source)):
        raise FileError(f"{source} does not exist; give an image, a folder or a pattern")
    matches = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
    found = [match for match in matches if match.is_file() and _is_image(match)]
    if not found:
        raise InputError(f"no image matches {source} ({_SUFFIXES}); put the pattern in quotes")
    return found


def output_names(images: Sequence[Path]) -> list[str]:
    """Return a name without suffix for each image: its stem, below the folder all have in common.

    Raises:
        InputError: two images would have one name.

    Example:
        >>> output_names([Path("a/x.jpg"), Path("a/b/x.png")])
        ['x', 'b/x']
    """
    absolute = [Path(os.path.abspath(path)) for path in images]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(root).with_suffix("").as_posix() for path in absolute]
    first: dict[str, Path] = {}
    for name, image in zip(names, images, strict=True):
        if name in first:
            raise InputError(
                f"{first[name]} and {image} would both become {name}.png; "
                "rename one, or predict them into different folders"
            )
        first[name] = image
    return names


def conversion_notes(path: Path, channels: int) -> list[str]:
    """Return what :func:`semseg.data.images.read_image` changes in a file, in a few words each."""
    with Image.open(path) as image:  # reads the header alone
        wanted = "RGB" if channels == 3 else "L"
        notes = [] if image.mode == wanted else [f"{image.mode} to {wanted}"]
        deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        if deep and image.mode in ("RGB", "RGBA"):
            notes.append("16-bit colour cut to 8 bits")
        if "A" in image.getbands() or "transparency" in image.info:
            notes.append("alpha dropped")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            notes.append("turned upright by EXIF")
        try:
            frames = getattr(image, "n_frames", 1)
        except Exception:  # counting reads the other frames; whatever is wrong there, none is used
            notes.append("first of several frames")
        else:
            notes += [f"first of {frames} frames"] if frames > 1 else []
    return notes


_SUFFIXES = " ".join(IMAGE_SUFFIXES)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.is_file() and _is_image(path))
    if not found:
        deeper = sum(1 for path in folder.rglob("*") if path.is_file() and _is_image(path))
        hint = f"; {deeper} lie in its sub-folders: give '{folder}/**/*'" if deeper else ""
        raise InputError(f"folder {folder} holds no image ({_SUFFIXES}){hint}")
    return found
