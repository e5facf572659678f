"""Which files are meant, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from semseg.core import archive
from semseg.core.checks import FileError, InputError
from semseg.data.images import IMAGE_SUFFIXES

Source = str | Path | Sequence[str | Path]
"""A file, a folder, an archive, a glob pattern, a text file of paths, or a list of files."""


def find_images(source: Source) -> list[Path]:
    """Return the images that ``source`` means, sorted by path; a list keeps its order.

    Args:
        source: a file; a folder, of which the images directly in it are taken; a ``.zip`` or
            ``.tar`` archive, or a folder in it (``photos.zip/images``), of which all images below
            are; a glob pattern, in which ``**`` stands for any folders; a ``.txt`` file, or any
            file behind an ``@``, with a path on each line, looked up from the working folder and
            then from the list's own; or a list of files.

    Raises:
        FileError: a file or folder does not exist, or cannot be read.
        InputError: no image is there.
    """
    if not isinstance(source, str | Path):
        if not source:
            raise InputError("the list of images is empty")
        return [Path(path) for path in source]
    path, text = Path(source), str(source)
    try:
        if archive.inside(path):
            return _in_archive(path)
        if path.is_dir():
            return _in_folder(path)
        if path.exists():
            return _in_list(path) if path.suffix.lower() == ".txt" else [path]
        if text.startswith("@"):
            return _in_list(Path(text[1:]))
        if glob.has_magic(text):
            return _matching(text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"{error.filename or source} cannot be read: {reason}; allow reading it, or give "
            "other images"
        ) from error
    raise FileError(
        f"{source} does not exist; give an image, a folder, an archive, a video, a pattern or a "
        ".txt file of paths"
    )


def output_names(images: Sequence[Path]) -> list[str]:
    """Return a name without suffix for each image: its stem, below the folder all have in common.

    Raises:
        InputError: two images would have one name, or an image comes twice.

    Example:
        >>> output_names([Path("a/x.jpg"), Path("a/b/x.png")])
        ['x', 'b/x']
    """
    absolute = [Path(os.path.abspath(path)) for path in images]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(root).with_suffix("").as_posix() for path in absolute]
    first: dict[str, Path] = {}
    for name, image in zip(names, images, strict=True):
        if name in first and first[name] == image:
            raise InputError(f"{image} is listed twice; take one of them out of the list")
        if name in first:
            raise InputError(
                f"{first[name]} and {image} would both become {name}.png; "
                "rename one, or predict them into different folders"
            )
        first[name] = image
    return names


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


def _in_archive(path: Path) -> list[Path]:
    if archive.is_file(path):
        return [path]
    found = [file for file in archive.files_below(path) if _is_image(file)]
    if not found:
        archive.check_folder(path, "archive")  # says so where it is no folder at all
        raise InputError(f"archive {path} holds no image ({_SUFFIXES})")
    return found


def _in_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise FileError(f"list {path} does not exist; give a text file of paths") from None
    except UnicodeDecodeError as error:
        raise FileError(
            f"list {path} is not a text in UTF-8; give a file with the path of an image on each "
            "line"
        ) from error
    named = [Path(line.strip()) for line in lines if line.strip()]
    if not named:
        raise InputError(f"list {path} is empty; write the path of an image on each line")
    return [_from_list(image, path.parent) for image in named]


def _from_list(image: Path, folder: Path) -> Path:
    """Return the image below the list's folder if it is there and not where its path says."""
    below = folder / image
    return below if not archive.is_file(image) and archive.is_file(below) else image


def _matching(pattern: str) -> list[Path]:
    matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = [match for match in matches if match.is_file() and _is_image(match)]
    if not found:
        raise InputError(f"no image matches {pattern} ({_SUFFIXES}); put the pattern in quotes")
    return found
